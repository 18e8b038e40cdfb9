"""Functions of templates and expressions: `f(x, …)`, `x | f(…)`, and for some `x.f(…)`.

Each gets the fuel first, and counts on it before it makes or looks through anything. Values are
JSON; what Python raises for a wrong type is caught by the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentfs.manifests.fuel import EvaluationError, Fuel, same
from agentfs.manifests.json_values import Function, as_number, compare, items_of, to_json
from agentfs.manifests.list_functions import (
    batch,
    contains,
    count,
    every,
    find,
    first,
    get,
    in_order,
    index,
    keys,
    last,
    least,
    length,
    numbers,
    pairs,
    picked,
    some,
    to_list,
    to_map,
    total,
    turned,
    unique,
    values,
    zipped,
)
from agentfs.manifests.text_functions import (
    absolute,
    begins,
    ends,
    formatted,
    fromjson,
    indent,
    integer,
    join,
    lines,
    number,
    of_text,
    power,
    replace,
    rounded,
    split,
    string,
    stripping,
    truncate,
    truth,
)

__all__ = ["CLOCK", "FUNCTIONS", "METHODS", "PASSING", "TESTS", "TOLERANT"]


def _default(fuel: Fuel, value: Any = None, instead: Any = "", falsy: bool = False) -> Any:
    return instead if value is None or (falsy and not value) else value


def _coalesce(fuel: Fuel, *values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _required(fuel: Fuel, value: Any) -> Any:
    if value is None:
        raise EvaluationError("is null, and required")
    return value


def _copy(fuel: Fuel, value: Any) -> Any:
    return value  # nothing can change a value


def _map_filter(
    fuel: Fuel, items: Any, name: str | None = None, *more: Any, attribute: str | None = None
) -> list[Any]:
    """A field of each item, `map(attribute="a.b")`; or a function of each, `map("upper")`."""
    things = picked(fuel, items, attribute)
    if name is None:
        return things
    function = FUNCTIONS.get(name)
    if function is None:
        raise EvaluationError(f"map: there is no function `{name[:40]}`")
    fuel.spend(3 * len(things))
    return [function(fuel, each, *more) for each in things]


def _selecting(wanted: bool, by_attribute: bool) -> Function:
    def passing(fuel: Fuel, items: Any, attribute: str | None, test: Any) -> list[Any]:
        name, more = (test[0], test[1:]) if test else ("truthy", ())
        check = TESTS.get(name)
        if check is None:
            raise EvaluationError(f"there is no test `{str(name)[:40]}`")
        keys = picked(fuel, items, attribute)
        fuel.spend(len(keys))
        passed = [bool(check(fuel, key, *more)) is wanted for key in keys]
        return [each for each, yes in zip(items_of(items), passed, strict=True) if yes]

    if by_attribute:
        return lambda fuel, items, attribute, *test: passing(fuel, items, attribute, test)
    return lambda fuel, items, *test: passing(fuel, items, None, test)


FUNCTIONS: dict[str, Function] = {
    "abs": absolute,
    "all": every,
    "any": some,
    "batch": batch,
    "bool": truth,
    "capitalize": of_text(str.capitalize),
    "coalesce": _coalesce,
    "contains": contains,
    "copy": _copy,
    "count": count,
    "d": _default,
    "default": _default,
    "dict": to_map,
    "endswith": ends,
    "find": find,
    "first": first,
    "float": number,
    "format": formatted,
    "fromjson": fromjson,
    "get": get,
    "indent": indent,
    "index": index,
    "int": integer,
    "isempty": lambda fuel, value=None: value is None or value in ("", [], {}),
    "isnone": lambda fuel, value=None: value is None,
    "items": pairs,
    "join": join,
    "keys": keys,
    "last": last,
    "len": length,
    "length": length,
    "lines": lines,
    "list": to_list,
    "lower": of_text(str.lower),
    "lstrip": stripping(str.lstrip),
    "map": _map_filter,
    "max": least(-1),
    "min": least(1),
    "pow": power,
    "range": numbers,
    "reject": _selecting(False, False),
    "rejectattr": _selecting(False, True),
    "replace": replace,
    "required": _required,
    "reverse": turned,
    "reversed": turned,
    "round": rounded,
    "rstrip": stripping(str.rstrip),
    "select": _selecting(True, False),
    "selectattr": _selecting(True, True),
    "set": unique,
    "sort": in_order,
    "sorted": in_order,
    "split": split,
    "startswith": begins,
    "str": string,
    "string": string,
    "strip": stripping(str.strip),
    "sum": total,
    "title": of_text(str.title),
    "tojson": to_json,
    "trim": stripping(str.strip),
    "truncate": truncate,
    "tuple": to_list,
    "unique": unique,
    "upper": of_text(str.upper),
    "values": values,
    "zip": zipped,
}


_METHODS = """copy count endswith find format get index items join keys lower lstrip replace rstrip
split startswith strip upper values"""


METHODS = frozenset(_METHODS.split())
"""Those that may be written `x.f(…)`, as in Python."""


CLOCK: dict[str, Function] = {
    "now": lambda fuel: None,
    "timestamp": lambda fuel: None,
    "utcnow": lambda fuel: None,
}
"""Functions of `ctx.now`: a run's next step is the same whenever it is evaluated."""


PASSING = frozenset(
    {"coalesce", "copy", "d", "default", "first", "get", "last", "max", "min", "required"}
)
"""Those that make nothing: what they give was there before."""


TOLERANT = frozenset({"coalesce", "d", "default", "isempty", "isnone"})
"""Those for which something missing is null."""


def _ordered(fits: Callable[[int], bool]) -> Function:
    def test(fuel: Fuel, value: Any, other: Any) -> bool:
        order = compare(fuel, value, other)
        return order is not None and fits(order)

    return test


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _divisible(fuel: Fuel, value: Any, by: Any) -> bool:
    return bool(as_number(value) % as_number(by) == 0)


def _equal(fuel: Fuel, value: Any, other: Any) -> bool:
    return same(value, other, fuel)


TESTS: dict[str, Function] = {
    "boolean": lambda fuel, value: isinstance(value, bool),
    "defined": lambda fuel, value: value is not ...,
    "divisibleby": _divisible,
    "empty": lambda fuel, value: value is None or value in ("", [], {}),
    "eq": _equal,
    "equalto": _equal,
    "even": lambda fuel, value: as_number(value) % 2 == 0,
    "false": lambda fuel, value: value is False,
    "float": lambda fuel, value: isinstance(value, float),
    "ge": _ordered(lambda order: order >= 0),
    "gt": _ordered(lambda order: order > 0),
    "in": lambda fuel, value, where: contains(fuel, where, value),
    "integer": lambda fuel, value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": lambda fuel, value: isinstance(value, list | str | Mapping),
    "le": _ordered(lambda order: order <= 0),
    "list": lambda fuel, value: isinstance(value, list),
    "lt": _ordered(lambda order: order < 0),
    "mapping": lambda fuel, value: isinstance(value, Mapping),
    "ne": lambda fuel, value, other: not same(value, other, fuel),
    "none": lambda fuel, value: value is None,
    "number": lambda fuel, value: _is_number(value),
    "odd": lambda fuel, value: as_number(value) % 2 == 1,
    "sequence": lambda fuel, value: isinstance(value, list | str),
    "string": lambda fuel, value: isinstance(value, str),
    "true": lambda fuel, value: value is True,
    "truthy": lambda fuel, value: bool(value),
    "undefined": lambda fuel, value: value is ...,
}
"""What may stand behind `is`. `...` is something missing."""
