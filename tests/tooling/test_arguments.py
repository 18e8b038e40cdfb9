"""Arguments are checked against hostile schemas, and hostile arguments against any, in bounded
time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from agentfs.toolbox.arguments import BadArgumentsError, BadSchemaError, Schemas, read

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def check(schema: Any, arguments: object) -> None:
    Schemas().check(json.dumps(schema).encode(), read(json.dumps(arguments).encode()))


def test_arguments_that_fit_pass() -> None:
    check(CITY, {"city": "Paris", "days": [1, 2]})


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({}, "at /: 'city' is a required property"),
        ({"city": 5}, "at /city: 5 is not of type 'string'"),
        ({"city": "x", "days": [1, "2"]}, "at /days/1: '2' is not of type 'integer'"),
        ({"city": "x", "a/b": 1}, "at /: Additional properties are not allowed"),
    ],
)
def test_a_refusal_names_the_place(arguments: object, place: str) -> None:
    with pytest.raises(BadArgumentsError, match="^" + place.replace("(", r"\(")):
        check(CITY, arguments)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"x"',
        b"\xff",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"a": ' + b"9" * 100_000 + b"}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_other_than_an_object_of_json_is_refused(text: bytes) -> None:
    with pytest.raises(BadArgumentsError):
        read(text)


def test_a_long_argument_is_not_quoted_whole() -> None:
    with pytest.raises(BadArgumentsError) as refused:
        check({"properties": {"a": {"type": "integer"}}}, {"a": "x" * 1_000_000})
    assert len(str(refused.value)) < 300


def doubled(depth: int) -> dict[str, Any]:
    """A schema of `depth` definitions, each with the one before it twice."""
    defs: dict[str, Any] = {"a0": {"type": "object"}}
    for each in range(1, depth):
        defs[f"a{each}"] = {"allOf": [{"$ref": f"#/$defs/a{each - 1}"}] * 2}
    return {"$defs": defs, "$ref": f"#/$defs/a{depth - 1}"}


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, {"a": "a" * 40 + "b"}),
        (doubled(40), {}),
        ({"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"}, {}),
    ],
    ids=["regular expression", "doubled references", "reference to itself"],
)
def test_a_check_without_end_is_ended(schema: Any, arguments: object) -> None:
    began = time.process_time()
    with pytest.raises(BadArgumentsError, match=r"takes longer|nested too deeply"):
        check(schema, arguments)
    assert time.process_time() - began < 5.0
    check(CITY, {"city": "and the next one is checked"})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"properties": {"a": {"pattern": "("}}},
        {"$ref": "http://127.0.0.1:1/schema"},
        {"$ref": "#/nowhere"},
        [],
    ],
    ids=str,
)
def test_a_schema_that_is_none_is_the_tools_fault(schema: Any) -> None:
    with pytest.raises(BadSchemaError):
        check(schema, {"a": "x"})


def test_nothing_is_fetched_for_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*given: object) -> None:
        raise AssertionError(given)

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    with pytest.raises(BadSchemaError, match="reference"):
        check({"$ref": "https://example.com/schema"}, {})
