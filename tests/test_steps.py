"""The library for steps of workflows in Python: what it makes of an input, and of a result."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import pydantic
import pytest

from agentfs import steps
from agentfs.steps import BadValue, CodeFolder, StepFunction, schema


@dataclasses.dataclass
class Order:
    id: int
    prices: list[float]
    note: str = ""


class Row(TypedDict):
    name: str
    size: NotRequired[int]


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(pydantic.BaseModel):
    name: str
    price: float


def of(function: Any) -> StepFunction:
    return StepFunction(function, function.__name__)


def call(function: Any, given: Any) -> Any:
    return function(**of(function).arguments(given))


def test_an_input_goes_to_parameters_by_name_and_to_a_single_one_as_a_whole() -> None:
    def add(a: int, b: int = 2) -> int:
        return a + b

    def one(order: Order) -> int:
        return order.id

    def rest(a: int, **more: int) -> int:
        return a + sum(more.values())

    def nothing() -> int:
        return 5

    assert call(add, {"a": 1}) == 3
    assert call(add, {"a": 1, "b": 5}) == 6
    assert call(one, {"order": {"id": 3, "prices": []}}) == 3
    assert call(one, {"id": 4, "prices": [1, 2.5]}) == 4
    assert call(one, {"id": 4, "prices": [], "ambient": 1, "input": {}}) == 4
    assert call(rest, {"a": 1, "x": 2, "y": 3}) == 6
    assert call(nothing, None) == call(nothing, {}) == call(nothing, 7) == 5


@pytest.mark.parametrize(
    ("declared", "given", "made"),
    [
        (int, 2**70, 2**70),
        (float, 3, 3),
        (str | None, None, None),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (set[str], ["a", "a"], {"a"}),
        (dict[str, int], {"items": 1, "get": 2}, {"items": 1, "get": 2}),
        (Literal["a", 1], 1, 1),
        (Colour, "red", Colour.RED),
        (Order, {"id": 1, "prices": [2]}, Order(1, [2])),
        (list[Row], [{"name": "a"}], [{"name": "a"}]),
        (Point, {"x": 1}, Point(1)),
        (datetime.date, "2026-11-30", datetime.date(2026, 11, 30)),
        (decimal.Decimal, "0.1", decimal.Decimal("0.1")),
        (Path, "/tmp", Path("/tmp")),
        (Annotated[int, "seconds"], 1, 1),
        (Item, {"name": "tea", "price": "2.5"}, Item(name="tea", price=2.5)),
        (Any, {"x": [None]}, {"x": [None]}),
    ],
)
def test_what_is_declared_is_made_of_json(declared: Any, given: Any, made: Any) -> None:
    assert steps.kind_of(declared).check(given, "$") == made


@pytest.mark.parametrize(
    ("declared", "given", "words"),
    [
        (int, True, "$: a whole number was expected, not true"),
        (int, "1", '$: a whole number was expected, not "1"'),
        (bool, 1, "$: true or false was expected, not 1"),
        (list[int], [1, "x"], '$[1]: a whole number was expected, not "x"'),
        (tuple[int, str], [1], "$: a list of 2 was expected, not [1]"),
        (dict[str, list[int]], {"a": [None]}, "$.a[0]: a whole number was expected, not null"),
        (int | None, "x", "$: a whole number was expected"),
        (Literal["a"], "b", '$: one of "a" was expected, not "b"'),
        (Literal[1], True, "$: one of 1 was expected, not true"),
        (Colour, "green", '$: one of "red", "blue" was expected, not "green"'),
        (Order, {"id": 1, "price": []}, "$: prices is missing, price is not known"),
        (Order, [], "$: an object was expected, not []"),
        (Row, {"size": "1"}, "$: name is missing"),
        (Row, {"name": "a", "size": "1"}, '$.size: a whole number was expected, not "1"'),
        (datetime.date, "tomorrow", "$: a text that is a date was expected"),
        (list[Item], [{"name": "tea", "price": "x"}], "$[0].price: Input should be a valid number"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(declared: Any, given: Any, words: str) -> None:
    with pytest.raises(BadValue) as refused:
        steps.kind_of(declared).check(given, "$")
    assert str(refused.value).startswith(words)


def test_a_parameter_is_found_in_the_one_output_that_has_it() -> None:
    def add(a: int, b: int = 5) -> int:
        return a + b

    assert call(add, {"first": {"a": 1}, "second": {"b": 2}, "input": {}}) == 3
    assert call(add, {"a": 3, "first": {"a": 1, "b": 1}, "second": {"b": 2}}) == 8
    with pytest.raises(BadValue, match="a is missing"):
        call(add, {"first": {"a": 1}, "second": {"a": 2}})


def test_arguments_that_are_missing_are_named() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(BadValue, match="b is missing"):
        of(add).arguments({"a": 1, "c": 2})
    with pytest.raises(BadValue, match="an object with a, b was expected, not 5"):
        of(add).arguments(5)


def test_a_result_is_checked_and_becomes_json() -> None:
    def order() -> Order:
        return Order(1, [2.0])

    def when() -> Any:
        return {"day": datetime.date(2026, 1, 2), "who": {"b", "a"}, "p": Point(1), "c": Colour.RED}

    def wrong() -> int:
        return "x"

    assert json.loads(of(order).output(order())) == {"id": 1, "prices": [2.0], "note": ""}
    assert json.loads(of(when).output(when()))["who"] == ["a", "b"]
    with pytest.raises(BadValue, match="whole number"):
        of(wrong).output(wrong())
    for bad in (float("nan"), object(), "x" * 2**20):
        with pytest.raises(BadValue, match="the result"):
            of(when).output(bad)


def test_types_that_nobody_can_check_are_a_fault_of_the_function() -> None:
    def odd(what: type) -> None: ...
    def many(*what: int) -> None: ...

    with pytest.raises(TypeError, match="no check"):
        of(odd)
    with pytest.raises(TypeError, match="by its name"):
        of(many)


def test_a_signature_is_a_json_schema() -> None:
    def total(prices: list[float], vat: float = 0.19, colour: Colour | None = None) -> float:
        """Add up."""
        return 0.0

    found = schema(total)
    assert found["required"] == ["prices"]
    assert found["properties"]["prices"] == {"type": "array", "items": {"type": "number"}}
    assert found["properties"]["colour"]["anyOf"][0] == {"enum": ["red", "blue"]}
    assert (found["additionalProperties"], found["description"]) == (False, "Add up.")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("walk_shop", None)
    (tmp_path / "walk_shop.py").write_text(
        textwrap.dedent(
            """
            from agentfs.steps import step

            @step
            def total(prices: list[float]) -> float:
                return sum(prices)

            def helper(): ...

            class Till:
                def setup(self):
                    self.sum = 100

                @step
                def add(self, amount: int) -> int:
                    self.sum += amount
                    return self.sum

                def open(self): ...
            """
        )
    )
    return tmp_path


def test_only_steps_of_the_folder_can_be_named(folder: Path) -> None:
    library = CodeFolder(str(folder))
    assert library.of({"fn": "walk_shop:total"}).function([1, 2]) == 3
    assert library.of({"fn": "walk_shop.total"}).name == "walk_shop.total"
    for name, words in {
        "walk_shop:helper": "no step",
        "walk_shop:nothing": "has no nothing",
        "os:system": "there is no module os in",
        "missing:total": "there is no module missing",
        "total": "no MODULE:NAME",
        "": "no MODULE:NAME",
    }.items():
        with pytest.raises(ImportError, match=words):
            library.of({"fn": name})
    with pytest.raises(ImportError, match="no step"):
        library.of({"service": "walk_shop:Till", "method": "open"})


def test_a_service_is_set_up_once(folder: Path) -> None:
    library = CodeFolder(str(folder))
    add = {"service": "walk_shop:Till", "method": "add"}
    assert [library.of(add).function(amount=5) for _ in range(2)] == [105, 110]


def test_a_changed_module_is_noticed(folder: Path) -> None:
    library = CodeFolder(str(folder))
    library.of({"fn": "walk_shop:total"})
    assert not library.changed()
    os.utime(folder / "walk_shop.py", ns=(1, 1))
    assert library.changed()


def test_the_command_prints_a_schema_and_says_what_is_wrong(folder: Path) -> None:
    command = [sys.executable, "-m", "agentfs.steps", str(folder)]
    done = subprocess.run([*command, "--schema", "walk_shop:total"], capture_output=True, text=True)
    assert json.loads(done.stdout)["required"] == ["prices"]
    done = subprocess.run([*command, "--schema", "walk_shop:x"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "has no x" in done.stderr
