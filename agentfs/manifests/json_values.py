"""Values of templates: JSON, as text and in an order, and of which kind each is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from agentfs.manifests.fuel import EvaluationError, Fuel, same, weigh

__all__ = [
    "Function",
    "as_map",
    "as_number",
    "as_text",
    "compare",
    "items_of",
    "kind_of",
    "shown",
    "to_json",
    "to_text",
]

Function = Callable[..., Any]


_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a map",
}


def kind_of(value: Any) -> str:
    """A word for the kind of a value, with its article."""
    return _KINDS.get(type(value), "a map")


def to_text(fuel: Fuel, value: Any) -> str:
    """A value within a text: a text as it is, anything else as JSON."""
    if isinstance(value, str):
        fuel.make(len(value))
        return value
    return to_json(fuel, value)


def compare(fuel: Fuel, one: Any, other: Any) -> int | None:
    """Below 0, 0 or above 0, as `one` comes before `other`; None if they have no order."""
    fuel.spend(1)
    if isinstance(one, bool) != isinstance(other, bool):
        return None
    if isinstance(one, str) and isinstance(other, str):
        fuel.scan(min(len(one), len(other)))
    elif isinstance(one, list) and isinstance(other, list):
        for left, right in zip(one, other, strict=False):
            if not same(left, right, fuel):
                return compare(fuel, left, right)
        return len(one) - len(other)
    elif not (isinstance(one, int | float) and isinstance(other, int | float)):
        return None
    return int(one > other) - int(one < other)


def items_of(value: Any) -> Any:
    if isinstance(value, list | str | Mapping):
        return value
    raise EvaluationError(f"a list was expected, not {kind_of(value)}")


def as_map(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise EvaluationError(f"a map was expected, not {kind_of(value)}")


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise EvaluationError(f"a text was expected, not {kind_of(value)}")


def as_number(value: Any) -> int | float:
    if isinstance(value, int | float):
        return value
    raise EvaluationError(f"a number was expected, not {kind_of(value)}")


def shown(value: Any) -> str:
    return f"`{value[:40]}`" if isinstance(value, str) else kind_of(value)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def to_json(fuel: Fuel, value: Any, indent: int | None = None) -> str:
    weigh(value, fuel)
    if indent is not None and not 0 <= int(indent) <= 8:
        raise EvaluationError("tojson: indent is 0 to 8")
    text = json.dumps(_plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
    fuel.make(len(text))
    return text
