"""Functions of templates and expressions: `f(x, …)`, `x | f(…)`, and for some `x.f(…)`.

Each gets the fuel first, and counts on it before it makes or looks through anything. Values are
JSON; what Python raises for a wrong type is caught by the evaluation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cmp_to_key
from typing import Any

from agentfs.manifests.fuel import EvaluationError, Fuel, same, weigh

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "PASSING",
    "TESTS",
    "TOLERANT",
    "Function",
    "compare",
    "kind_of",
    "to_text",
]

Function = Callable[..., Any]

_NUMBER_FORMAT = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?\d{0,3}[,_]?(?:\.\d{1,3})?[bcdeEfFgGosxX%]?")
_FIELD = re.compile(r"\{\{|\}\}|\{(\w*)(?::([^{}]*))?\}|[{}]\S{0,20}")

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
    return _tojson(fuel, value)


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


def _list(fuel: Fuel, value: Any = None) -> list[Any]:
    """The items of a list, the keys of a map, the characters of a text."""
    if value is None:
        return []
    items = _items_of(value)
    fuel.values(len(items))
    fuel.spend(len(items) // 16)
    return list(items)


def _items_of(value: Any) -> Any:
    if isinstance(value, list | str | Mapping):
        return value
    raise EvaluationError(f"a list was expected, not {kind_of(value)}")


def _map(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise EvaluationError(f"a map was expected, not {kind_of(value)}")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise EvaluationError(f"a text was expected, not {kind_of(value)}")


def _number(value: Any) -> int | float:
    if isinstance(value, int | float):
        return value
    raise EvaluationError(f"a number was expected, not {kind_of(value)}")


def _of_text(change: Callable[[str], str]) -> Function:
    def function(fuel: Fuel, value: Any) -> str:
        text = _text(value)
        fuel.make(2 * len(text))
        return change(text)

    return function


def _stripping(strip: Callable[[str, str | None], str]) -> Function:
    def function(fuel: Fuel, value: Any, characters: str | None = None) -> str:
        text = _text(value)
        fuel.make(len(text))
        some = 1 if characters is None else len(_text(characters))
        fuel.scan(len(text) * min(some, 64) + some)
        return strip(text, characters)

    return function


def _default(fuel: Fuel, value: Any = None, instead: Any = "", falsy: bool = False) -> Any:
    return instead if value is None or (falsy and not value) else value


def _coalesce(fuel: Fuel, *values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _required(fuel: Fuel, value: Any) -> Any:
    if value is None:
        raise EvaluationError("is null, and required")
    return value


def _length(fuel: Fuel, value: Any) -> int:
    return len(_items_of(value))


def _count(fuel: Fuel, value: Any, what: Any = ...) -> int:
    """The length; or how often `what` is in a list or text."""
    if what is ...:
        return _length(fuel, value)
    if isinstance(value, str):
        fuel.scan(len(value) + len(_text(what)))
        return value.count(what)
    return sum(same(each, what, fuel) for each in _items_of(value))


def _find(fuel: Fuel, value: Any, what: Any) -> int:
    """Where `what` begins in a text, or is in a list; -1 if it is not there."""
    if isinstance(value, str):
        fuel.scan(len(value) + len(_text(what)))
        return value.find(what)
    return next((at for at, each in enumerate(_items_of(value)) if same(each, what, fuel)), -1)


def _index(fuel: Fuel, value: Any, what: Any) -> int:
    at = _find(fuel, value, what)
    if at < 0:
        raise EvaluationError("index: it is not in there")
    return at


def _contains(fuel: Fuel, value: Any, what: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(what, str) and what in value
    return _find(fuel, value, what) >= 0


def _startswith(fuel: Fuel, value: Any, what: Any) -> bool:
    return _text(value).startswith(_text(what))


def _endswith(fuel: Fuel, value: Any, what: Any) -> bool:
    return _text(value).endswith(_text(what))


def _join(fuel: Fuel, items: Any, between: Any = "", attribute: str | None = None) -> str:
    """The items as one text. As in Python, the text between may come first: `", ".join(list)`."""
    if isinstance(items, str) and isinstance(between, list):
        items, between = between, items
    texts = [to_text(fuel, each) for each in _picked(fuel, items, attribute)]
    fuel.make(len(_text(between)) * len(texts))
    return str(between).join(texts)


def _split(fuel: Fuel, value: Any, between: str | None = None, most: int = -1) -> list[str]:
    text = _text(value)
    fuel.scan(len(text))
    pieces = len(text) // 2 + 1 if between is None else text.count(_text(between)) + 1
    if most < 0 or pieces < most:
        fuel.values(pieces)
    fuel.make(len(text))
    return text.split(between, most)


def _lines(fuel: Fuel, value: Any) -> list[str]:
    fuel.values(len(_text(value)))
    return str(value).splitlines()


def _replace(fuel: Fuel, value: Any, old: str, new: str, most: int = -1) -> str:
    text = _text(value)
    fuel.scan(len(text))
    times = text.count(_text(old))
    if most >= 0:
        times = min(times, most)
    fuel.make(len(text) + max(0, times * (len(_text(new)) - len(old))))
    return text.replace(old, new, most)


def _truncate(fuel: Fuel, value: Any, length: int = 255, end: str = "…") -> str:
    """At most `length` characters; if some were cut, `end` is the last of them."""
    text = _text(value)
    if len(text) <= length:
        return text
    fuel.make(max(0, int(length)))
    return text[: max(0, length - len(end))] + end[: max(0, length)]


def _indent(fuel: Fuel, value: Any, width: int = 4, first: bool = False) -> str:
    """Each line but the first one further in."""
    text = _text(value)
    fuel.scan(len(text))
    fuel.make(len(text) + (text.count("\n") + 1) * max(0, int(width)))
    moved = text.replace("\n", "\n" + " " * width)
    return " " * width + moved if first else moved


def _tojson(fuel: Fuel, value: Any, indent: int | None = None) -> str:
    weigh(value, fuel)
    if indent is not None and not 0 <= int(indent) <= 8:
        raise EvaluationError("tojson: indent is 0 to 8")
    text = json.dumps(_plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
    fuel.make(len(text))
    return text


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _no_constant(name: str) -> None:
    raise EvaluationError(f"fromjson: {name} is no JSON")


def _fromjson(fuel: Fuel, value: Any) -> Any:
    text = _text(value)
    fuel.make(len(text))
    fuel.scan(len(text))
    read = json.loads(text, parse_constant=_no_constant)
    weigh(read, fuel)
    return read


def _str(fuel: Fuel, value: Any = "") -> str:
    return to_text(fuel, value)


def _int(fuel: Fuel, value: Any = 0, instead: Any = ...) -> Any:
    try:
        if isinstance(value, str):
            if len(value) > 400:
                raise ValueError
            return fuel.integer(int(value))
        return fuel.integer(int(_number(value)))
    except (ValueError, OverflowError, EvaluationError):
        if instead is ...:
            raise EvaluationError(f"int: {_shown(value)} is no whole number") from None
        return instead


def _float(fuel: Fuel, value: Any = 0.0, instead: Any = ...) -> Any:
    try:
        number = float(value if isinstance(value, str) and len(value) <= 400 else _number(value))
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, OverflowError, EvaluationError):
        if instead is ...:
            raise EvaluationError(f"float: {_shown(value)} is no number") from None
        return instead
    return number


def _shown(value: Any) -> str:
    return f"`{value[:40]}`" if isinstance(value, str) else kind_of(value)


def _bool(fuel: Fuel, value: Any = False) -> bool:
    return bool(value)


def _abs(fuel: Fuel, value: Any) -> Any:
    return abs(_number(value))


def _round(fuel: Fuel, value: Any, digits: int = 0, method: str = "common") -> Any:
    """To so many digits behind the point; without digits a whole number. method: common, ceil or
    floor."""
    number = _number(value)
    if not -300 <= digits <= 300:
        raise EvaluationError("round: digits are -300 to 300")
    if method == "common":
        return round(number, digits) if digits else round(number)
    if method not in ("ceil", "floor"):
        raise EvaluationError("round: method is common, ceil or floor")
    found = (math.ceil if method == "ceil" else math.floor)(number * 10**digits) / 10**digits
    return found if digits > 0 else int(found)


def _pow(fuel: Fuel, base: Any, exponent: Any) -> Any:
    base, exponent = _number(base), _number(exponent)
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        fuel.scan(0)
        if base.bit_length() * exponent > 2048:
            raise EvaluationError("the power is too large")
        return fuel.integer(base**exponent)
    found = float(base) ** float(exponent)
    if isinstance(found, complex) or not math.isfinite(found):
        raise EvaluationError("the power is no finite number")
    return found


def _sum(fuel: Fuel, items: Any, start: Any = 0, attribute: str | None = None) -> Any:
    total = _number(start)
    for each in _picked(fuel, items, attribute):
        total += _number(each)
    return fuel.integer(total) if isinstance(total, int) else total


def _least(sign: int) -> Function:
    def function(fuel: Fuel, *values: Any, attribute: str | None = None, default: Any = ...) -> Any:
        items = _items_of(values[0]) if len(values) == 1 else list(values)
        best, of_best = default, ...
        for each, key in zip(items, _picked(fuel, items, attribute), strict=True):
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


def _all(fuel: Fuel, items: Any) -> bool:
    fuel.spend(len(_items_of(items)) // 16)
    return all(items)


def _any(fuel: Fuel, items: Any) -> bool:
    fuel.spend(len(_items_of(items)) // 16)
    return any(items)


def _sort(fuel: Fuel, items: Any, reverse: bool = False, attribute: str | None = None) -> list[Any]:
    keys = _picked(fuel, items, attribute)
    things = _list(fuel, items)

    def order(one: int, other: int) -> int:
        found = compare(fuel, keys[one], keys[other])
        if found is None:
            kinds = f"{kind_of(keys[one])} and {kind_of(keys[other])}"
            raise EvaluationError(f"{kinds} have no order")
        return found

    in_order = sorted(range(len(things)), key=cmp_to_key(order), reverse=reverse)
    return [things[at] for at in in_order]


def _reverse(fuel: Fuel, value: Any) -> Any:
    fuel.values(len(_items_of(value)))
    return value[::-1] if isinstance(value, str) else list(value)[::-1]


def _unique(fuel: Fuel, items: Any = None, attribute: str | None = None) -> list[Any]:
    """The items without those that are there before."""
    if items is None:
        return []
    seen: set[str] = set()
    kept = []
    for each, key in zip(_list(fuel, items), _picked(fuel, items, attribute), strict=True):
        mark = _tojson(fuel, float(key) if type(key) is int and abs(key) < 2**53 else key)
        if mark not in seen:
            seen.add(mark)
            kept.append(each)
    return kept


def _dict(fuel: Fuel, pairs: Any = None, **more: Any) -> dict[str, Any]:
    """A map of a map, or of a list of pairs."""
    if pairs is None:
        return more
    found = pairs.items() if isinstance(pairs, Mapping) else _items_of(pairs)
    fuel.values(len(pairs) + len(more))
    fuel.spend(len(pairs))
    return {_text(key): value for key, value in found} | more


def _range(fuel: Fuel, start: int, stop: int | None = None, step: int = 1) -> list[int]:
    numbers = range(start) if stop is None else range(start, stop, step)
    size = max(0, (numbers[-1] - numbers[0]) // numbers.step + 1) if numbers else 0
    fuel.values(size)
    fuel.spend(size)
    return list(numbers)


def _zip(fuel: Fuel, *lists: Any) -> list[list[Any]]:
    shortest = min((len(_items_of(each)) for each in lists), default=0)
    fuel.values(shortest * (len(lists) + 1))
    fuel.spend(shortest)
    return [list(each) for each in zip(*lists, strict=False)]


def _first(fuel: Fuel, items: Any) -> Any:
    for each in _items_of(items):
        return each
    raise EvaluationError("first: there is nothing in it")


def _last(fuel: Fuel, items: Any) -> Any:
    if not _items_of(items):
        raise EvaluationError("last: there is nothing in it")
    return items[-1] if isinstance(items, str | list) else next(reversed(list(items)))


def _keys(fuel: Fuel, value: Any) -> list[str]:
    return _list(fuel, _map(value))


def _values(fuel: Fuel, value: Any) -> list[Any]:
    return _list(fuel, list(_map(value).values()))


def _items(fuel: Fuel, value: Any) -> list[list[Any]]:
    """A list of [key, value]."""
    fuel.values(3 * len(_map(value)))
    fuel.spend(len(value))
    return [[key, each] for key, each in value.items()]


def _get(fuel: Fuel, value: Any, key: Any, instead: Any = None) -> Any:
    if value is None:
        return instead
    return _map(value).get(_text(key), instead)


def _copy(fuel: Fuel, value: Any) -> Any:
    return value  # nothing can change a value


def _batch(fuel: Fuel, items: Any, size: int) -> list[list[Any]]:
    """Lists of at most `size` items."""
    things = _list(fuel, items)
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


def _picked(fuel: Fuel, items: Any, attribute: str | None) -> list[Any]:
    """The items; or of each the field `attribute`, with dots for fields of fields."""
    things = _list(fuel, items)
    fuel.spend(len(things) // 4)
    if attribute is None:
        return things
    fuel.scan(len(_text(attribute)) * 64)
    path = attribute.split(".")
    return [_attribute(fuel, each, path) for each in things]


def _map_filter(
    fuel: Fuel, items: Any, name: str | None = None, *more: Any, attribute: str | None = None
) -> list[Any]:
    """A field of each item, `map(attribute="a.b")`; or a function of each, `map("upper")`."""
    things = _picked(fuel, items, attribute)
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
        keys = _picked(fuel, items, attribute)
        fuel.spend(len(keys))
        passed = [bool(check(fuel, key, *more)) is wanted for key in keys]
        return [each for each, yes in zip(_items_of(items), passed, strict=True) if yes]

    if by_attribute:
        return lambda fuel, items, attribute, *test: passing(fuel, items, attribute, test)
    return lambda fuel, items, *test: passing(fuel, items, None, test)


def _format(fuel: Fuel, value: Any, *more: Any, **named: Any) -> str:
    """A number by Python's format (`"{:.2f}"`, `".2f"`), or a text with `{}`, `{0}`, `{name}`."""
    if not isinstance(value, str):
        return _formatted(fuel, value, _text(more[0]) if more else "")
    texts: list[str] = []
    at, number = 0, 0
    for field in _FIELD.finditer(value):
        fuel.spend(1)
        texts.append(value[at : field.start()])
        at = field.end()
        if field[0] in ("{{", "}}"):
            texts.append(field[0][0])
            continue
        name = str(number) if field[1] == "" else field[1] or ""
        number += field[1] == ""
        if name.isdecimal() and int(name[:9]) < len(more):
            texts.append(_formatted(fuel, more[int(name[:9])], field[2] or ""))
        elif name in named:
            texts.append(_formatted(fuel, named[name], field[2] or ""))
        else:
            raise EvaluationError(f"format: there is no value for `{field[0][:40]}`")
    texts.append(value[at:])
    fuel.make(sum(map(len, texts)))
    return "".join(texts)


def _formatted(fuel: Fuel, value: Any, how: str) -> str:
    if not how:
        return to_text(fuel, value)
    if not _NUMBER_FORMAT.fullmatch(how):
        raise EvaluationError(f"format: `{how[:40]}` is none; for example .2f, 05d or ,")
    fuel.make(1000)
    return format(_number(value), how)


FUNCTIONS: dict[str, Function] = {
    "abs": _abs,
    "all": _all,
    "any": _any,
    "batch": _batch,
    "bool": _bool,
    "capitalize": _of_text(str.capitalize),
    "coalesce": _coalesce,
    "contains": _contains,
    "copy": _copy,
    "count": _count,
    "d": _default,
    "default": _default,
    "dict": _dict,
    "endswith": _endswith,
    "find": _find,
    "first": _first,
    "float": _float,
    "format": _format,
    "fromjson": _fromjson,
    "get": _get,
    "indent": _indent,
    "index": _index,
    "int": _int,
    "isempty": lambda fuel, value=None: value is None or value in ("", [], {}),
    "isnone": lambda fuel, value=None: value is None,
    "items": _items,
    "join": _join,
    "keys": _keys,
    "last": _last,
    "len": _length,
    "length": _length,
    "lines": _lines,
    "list": _list,
    "lower": _of_text(str.lower),
    "lstrip": _stripping(str.lstrip),
    "map": _map_filter,
    "max": _least(-1),
    "min": _least(1),
    "pow": _pow,
    "range": _range,
    "reject": _selecting(False, False),
    "rejectattr": _selecting(False, True),
    "replace": _replace,
    "required": _required,
    "reverse": _reverse,
    "reversed": _reverse,
    "round": _round,
    "rstrip": _stripping(str.rstrip),
    "select": _selecting(True, False),
    "selectattr": _selecting(True, True),
    "set": _unique,
    "sort": _sort,
    "sorted": _sort,
    "split": _split,
    "startswith": _startswith,
    "str": _str,
    "string": _str,
    "strip": _stripping(str.strip),
    "sum": _sum,
    "title": _of_text(str.title),
    "tojson": _tojson,
    "trim": _stripping(str.strip),
    "truncate": _truncate,
    "tuple": _list,
    "unique": _unique,
    "upper": _of_text(str.upper),
    "values": _values,
    "zip": _zip,
}

_METHODS = """copy count endswith find format get index items join keys lower lstrip replace rstrip
split startswith strip upper values"""

METHODS = frozenset(_METHODS.split())
"""Those that may be written `x.f(…)`, as in Python."""

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
    return bool(_number(value) % _number(by) == 0)


def _equal(fuel: Fuel, value: Any, other: Any) -> bool:
    return same(value, other, fuel)


TESTS: dict[str, Function] = {
    "boolean": lambda fuel, value: isinstance(value, bool),
    "defined": lambda fuel, value: value is not ...,
    "divisibleby": _divisible,
    "empty": lambda fuel, value: value is None or value in ("", [], {}),
    "eq": _equal,
    "equalto": _equal,
    "even": lambda fuel, value: _number(value) % 2 == 0,
    "false": lambda fuel, value: value is False,
    "float": lambda fuel, value: isinstance(value, float),
    "ge": _ordered(lambda order: order >= 0),
    "gt": _ordered(lambda order: order > 0),
    "in": lambda fuel, value, where: _contains(fuel, where, value),
    "integer": lambda fuel, value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": lambda fuel, value: isinstance(value, list | str | Mapping),
    "le": _ordered(lambda order: order <= 0),
    "list": lambda fuel, value: isinstance(value, list),
    "lt": _ordered(lambda order: order < 0),
    "mapping": lambda fuel, value: isinstance(value, Mapping),
    "ne": lambda fuel, value, other: not same(value, other, fuel),
    "none": lambda fuel, value: value is None,
    "number": lambda fuel, value: _is_number(value),
    "odd": lambda fuel, value: _number(value) % 2 == 1,
    "sequence": lambda fuel, value: isinstance(value, list | str),
    "string": lambda fuel, value: isinstance(value, str),
    "true": lambda fuel, value: value is True,
    "truthy": lambda fuel, value: bool(value),
    "undefined": lambda fuel, value: value is ...,
}
"""What may stand behind `is`. `...` is something missing."""
