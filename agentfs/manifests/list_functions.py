"""Functions of lists and maps in templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cmp_to_key
from typing import Any

from agentfs.manifests.fuel import EvaluationError, Fuel, same
from agentfs.manifests.json_values import (
    Function,
    as_map,
    as_number,
    as_text,
    compare,
    items_of,
    kind_of,
    to_json,
)

__all__ = [
    "batch",
    "contains",
    "count",
    "every",
    "find",
    "first",
    "get",
    "in_order",
    "index",
    "keys",
    "last",
    "least",
    "length",
    "numbers",
    "pairs",
    "picked",
    "some",
    "to_list",
    "to_map",
    "total",
    "turned",
    "unique",
    "values",
    "zipped",
]


def to_list(fuel: Fuel, value: Any = "") -> list[Any]:
    """The items of a list, the keys of a map, the characters of a text."""
    items = items_of(value)
    fuel.values(len(items))
    fuel.spend(len(items) // 16)
    return list(items)


def length(fuel: Fuel, value: Any) -> int:
    return len(items_of(value))


def count(fuel: Fuel, value: Any, what: Any = ...) -> int:
    """The length; or how often `what` is in a list or text."""
    if what is ...:
        return length(fuel, value)
    if isinstance(value, str):
        fuel.scan(len(value) + len(as_text(what)))
        return value.count(what)
    return sum(same(each, what, fuel) for each in items_of(value))


def find(fuel: Fuel, value: Any, what: Any) -> int:
    """Where `what` begins in a text, or is in a list; -1 if it is not there."""
    if isinstance(value, str):
        fuel.scan(len(value) + len(as_text(what)))
        return value.find(what)
    return next((at for at, each in enumerate(items_of(value)) if same(each, what, fuel)), -1)


def index(fuel: Fuel, value: Any, what: Any) -> int:
    at = find(fuel, value, what)
    if at < 0:
        raise EvaluationError("index: it is not in there")
    return at


def contains(fuel: Fuel, value: Any, what: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(what, str) and what in value
    return find(fuel, value, what) >= 0


def total(fuel: Fuel, items: Any, start: Any = 0, attribute: str | None = None) -> Any:
    total = as_number(start)
    for each in picked(fuel, items, attribute):
        total += as_number(each)
    return fuel.integer(total) if isinstance(total, int) else total


def least(sign: int) -> Function:
    def function(fuel: Fuel, *values: Any, attribute: str | None = None, default: Any = ...) -> Any:
        items = items_of(values[0]) if len(values) == 1 else list(values)
        best, of_best = default, ...
        for each, key in zip(items, picked(fuel, items, attribute), strict=True):
            if of_best is ...:
                best, of_best = each, key
                continue
            order = compare(fuel, key, of_best)
            if order is None:
                raise EvaluationError(f"{kind_of(key)} and {kind_of(of_best)} have no order")
            if order * sign < 0:
                best, of_best = each, key
        if best is ...:
            raise EvaluationError("there is nothing in the list")
        return best

    return function


def every(fuel: Fuel, items: Any) -> bool:
    fuel.spend(len(items_of(items)) // 16)
    return all(items)


def some(fuel: Fuel, items: Any) -> bool:
    fuel.spend(len(items_of(items)) // 16)
    return any(items)


def in_order(
    fuel: Fuel, items: Any, reverse: bool = False, attribute: str | None = None
) -> list[Any]:
    keys = picked(fuel, items, attribute)
    things = to_list(fuel, items)

    def order(one: int, other: int) -> int:
        found = compare(fuel, keys[one], keys[other])
        if found is None:
            kinds = f"{kind_of(keys[one])} and {kind_of(keys[other])}"
            raise EvaluationError(f"{kinds} have no order")
        return found

    in_order = sorted(range(len(things)), key=cmp_to_key(order), reverse=reverse)
    return [things[at] for at in in_order]


def turned(fuel: Fuel, value: Any) -> Any:
    fuel.values(len(items_of(value)))
    return value[::-1] if isinstance(value, str) else list(value)[::-1]


def unique(fuel: Fuel, items: Any = "", attribute: str | None = None) -> list[Any]:
    """The items without those that are there before."""
    seen: set[str] = set()
    kept = []
    for each, key in zip(to_list(fuel, items), picked(fuel, items, attribute), strict=True):
        mark = to_json(fuel, float(key) if type(key) is int and abs(key) < 2**53 else key)
        if mark not in seen:
            seen.add(mark)
            kept.append(each)
    return kept


def to_map(fuel: Fuel, pairs: Any = "", **more: Any) -> dict[str, Any]:
    """A map of a map, or of a list of pairs."""
    found = pairs.items() if isinstance(pairs, Mapping) else items_of(pairs)
    fuel.values(len(pairs) + len(more))
    fuel.spend(len(pairs))
    return {as_text(key): value for key, value in found} | more


def numbers(fuel: Fuel, start: int, stop: int | None = None, step: int = 1) -> list[int]:
    numbers = range(start) if stop is None else range(start, stop, step)
    size = max(0, (numbers[-1] - numbers[0]) // numbers.step + 1) if numbers else 0
    fuel.values(size)
    fuel.spend(size)
    return list(numbers)


def zipped(fuel: Fuel, *lists: Any) -> list[list[Any]]:
    shortest = min((len(items_of(each)) for each in lists), default=0)
    fuel.values(shortest * (len(lists) + 1))
    fuel.spend(shortest)
    return [list(each) for each in zip(*lists, strict=False)]


def first(fuel: Fuel, items: Any) -> Any:
    for each in items_of(items):
        return each
    raise EvaluationError("first: there is nothing in it")


def last(fuel: Fuel, items: Any) -> Any:
    if not items_of(items):
        raise EvaluationError("last: there is nothing in it")
    return items[-1] if isinstance(items, str | list) else next(reversed(list(items)))


def keys(fuel: Fuel, value: Any) -> list[str]:
    return to_list(fuel, as_map(value))


def values(fuel: Fuel, value: Any) -> list[Any]:
    return to_list(fuel, list(as_map(value).values()))


def pairs(fuel: Fuel, value: Any) -> list[list[Any]]:
    """A list of [key, value]."""
    fuel.values(3 * len(as_map(value)))
    fuel.spend(len(value))
    return [[key, each] for key, each in value.items()]


def get(fuel: Fuel, value: Any, key: Any, instead: Any = None) -> Any:
    if value is None:
        return instead
    return as_map(value).get(as_text(key), instead)


def batch(fuel: Fuel, items: Any, size: int) -> list[list[Any]]:
    """Lists of at most `size` items."""
    things = to_list(fuel, items)
    if int(size) < 1:
        raise EvaluationError("batch: a size of 1 or more was expected")
    fuel.values(2 * len(things))
    return [things[at : at + size] for at in range(0, len(things), size)]


def _attribute(fuel: Fuel, value: Any, path: list[str]) -> Any:
    fuel.spend(len(path))
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part[:9]) < len(value):
            value = value[int(part[:9])]
        else:
            return None
    return value


def picked(fuel: Fuel, items: Any, attribute: str | None) -> list[Any]:
    """The items; or of each the field `attribute`, with dots for fields of fields."""
    things = to_list(fuel, items)
    fuel.spend(len(things) // 4)
    if attribute is None:
        return things
    fuel.scan(len(as_text(attribute)) * 64)
    path = attribute.split(".")
    return [_attribute(fuel, each, path) for each in things]
