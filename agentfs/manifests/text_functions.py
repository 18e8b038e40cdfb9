"""Functions of texts and numbers in templates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from agentfs.manifests.fuel import EvaluationError, Fuel, weigh
from agentfs.manifests.json_values import Function, as_number, as_text, shown, to_text
from agentfs.manifests.list_functions import picked

__all__ = [
    "absolute",
    "begins",
    "ends",
    "formatted",
    "fromjson",
    "indent",
    "integer",
    "join",
    "lines",
    "number",
    "of_text",
    "power",
    "replace",
    "rounded",
    "split",
    "string",
    "stripping",
    "truncate",
    "truth",
]

_NUMBER_FORMAT = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?\d{0,3}[,_]?(?:\.\d{1,3})?[bcdeEfFgGosxX%]?")


_FIELD = re.compile(r"\{\{|\}\}|\{(\w*)(?::([^{}]*))?\}|[{}]\S{0,20}")


def of_text(change: Callable[[str], str]) -> Function:
    def function(fuel: Fuel, value: Any) -> str:
        text = as_text(value)
        fuel.make(2 * len(text))
        return change(text)

    return function


def stripping(strip: Callable[[str, str | None], str]) -> Function:
    def function(fuel: Fuel, value: Any, characters: str | None = None) -> str:
        text = as_text(value)
        fuel.make(len(text))
        some = 1 if characters is None else len(as_text(characters))
        fuel.scan(len(text) * min(some, 64) + some)
        return strip(text, characters)

    return function


def begins(fuel: Fuel, value: Any, what: Any) -> bool:
    return as_text(value).startswith(as_text(what))


def ends(fuel: Fuel, value: Any, what: Any) -> bool:
    return as_text(value).endswith(as_text(what))


def join(fuel: Fuel, items: Any, between: Any = "", attribute: str | None = None) -> str:
    """The items as one text. As in Python, the text between may come first: `", ".join(list)`."""
    if isinstance(items, str) and isinstance(between, list):
        items, between = between, items
    texts = [to_text(fuel, each) for each in picked(fuel, items, attribute)]
    fuel.make(len(as_text(between)) * len(texts))
    return str(between).join(texts)


def split(fuel: Fuel, value: Any, between: str | None = None, most: int = -1) -> list[str]:
    text = as_text(value)
    fuel.scan(len(text))
    pieces = len(text) // 2 + 1 if between is None else text.count(as_text(between)) + 1
    if most < 0 or pieces < most:
        fuel.values(pieces)
    fuel.make(len(text))
    return text.split(between, most)


def lines(fuel: Fuel, value: Any) -> list[str]:
    fuel.values(len(as_text(value)))
    return str(value).splitlines()


def replace(fuel: Fuel, value: Any, old: str, new: str, most: int = -1) -> str:
    text = as_text(value)
    fuel.scan(len(text))
    times = text.count(as_text(old))
    if most >= 0:
        times = min(times, most)
    fuel.make(len(text) + max(0, times * (len(as_text(new)) - len(old))))
    return text.replace(old, new, most)


def truncate(fuel: Fuel, value: Any, length: int = 255, end: str = "…") -> str:
    """At most `length` characters; if some were cut, `end` is the last of them."""
    text = as_text(value)
    if len(text) <= length:
        return text
    fuel.make(max(0, int(length)))
    return text[: max(0, length - len(end))] + end[: max(0, length)]


def indent(fuel: Fuel, value: Any, width: int = 4, first: bool = False) -> str:
    """Each line but the first one further in."""
    text = as_text(value)
    fuel.scan(len(text))
    fuel.make(len(text) + (text.count("\n") + 1) * max(0, int(width)))
    moved = text.replace("\n", "\n" + " " * width)
    return " " * width + moved if first else moved


def _no_constant(name: str) -> None:
    raise EvaluationError(f"fromjson: {name} is no JSON")


def fromjson(fuel: Fuel, value: Any) -> Any:
    text = as_text(value)
    fuel.make(len(text))
    fuel.scan(len(text))
    read = json.loads(text, parse_constant=_no_constant)
    weigh(read, fuel)
    return read


def string(fuel: Fuel, value: Any = "") -> str:
    return to_text(fuel, value)


def formatted(fuel: Fuel, value: Any, *more: Any, **named: Any) -> str:
    """A number by Python's format (`"{:.2f}"`, `".2f"`), or a text with `{}`, `{0}`, `{name}`."""
    if not isinstance(value, str):
        return _field(fuel, value, as_text(more[0]) if more else "")
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
            texts.append(_field(fuel, more[int(name[:9])], field[2] or ""))
        elif name in named:
            texts.append(_field(fuel, named[name], field[2] or ""))
        else:
            raise EvaluationError(f"format: there is no value for `{field[0][:40]}`")
    texts.append(value[at:])
    fuel.make(sum(map(len, texts)))
    return "".join(texts)


def _field(fuel: Fuel, value: Any, how: str) -> str:
    if not how:
        return to_text(fuel, value)
    if not _NUMBER_FORMAT.fullmatch(how):
        raise EvaluationError(f"format: `{how[:40]}` is none; for example .2f, 05d or ,")
    fuel.make(1000)
    return format(as_number(value), how)


def integer(fuel: Fuel, value: Any = 0, instead: Any = ...) -> Any:
    try:
        if isinstance(value, str):
            if len(value) > 400:
                raise ValueError
            return fuel.integer(int(value))
        return fuel.integer(int(as_number(value)))
    except (ValueError, OverflowError, EvaluationError):
        if instead is ...:
            raise EvaluationError(f"int: {shown(value)} is no whole number") from None
        return instead


def number(fuel: Fuel, value: Any = 0.0, instead: Any = ...) -> Any:
    try:
        number = float(value if isinstance(value, str) and len(value) <= 400 else as_number(value))
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, OverflowError, EvaluationError):
        if instead is ...:
            raise EvaluationError(f"float: {shown(value)} is no number") from None
        return instead
    return number


def absolute(fuel: Fuel, value: Any) -> Any:
    return abs(as_number(value))


def rounded(fuel: Fuel, value: Any, digits: int = 0, method: str = "common") -> Any:
    """To so many digits behind the point; without digits a whole number. method: common, ceil or
    floor."""
    number = as_number(value)
    if not -300 <= digits <= 300:
        raise EvaluationError("round: digits are -300 to 300")
    if method == "common":
        return round(number, digits) if digits else round(number)
    if method not in ("ceil", "floor"):
        raise EvaluationError("round: method is common, ceil or floor")
    found = (math.ceil if method == "ceil" else math.floor)(number * 10**digits) / 10**digits
    return found if digits > 0 else int(found)


def power(fuel: Fuel, base: Any, exponent: Any) -> Any:
    base, exponent = as_number(base), as_number(exponent)
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        fuel.scan(0)
        if base.bit_length() * exponent > 2048:
            raise EvaluationError("the power is too large")
        return fuel.integer(base**exponent)
    found = float(base) ** float(exponent)
    if isinstance(found, complex) or not math.isfinite(found):
        raise EvaluationError("the power is no finite number")
    return found


def truth(fuel: Fuel, value: Any = False) -> bool:
    return bool(value)
