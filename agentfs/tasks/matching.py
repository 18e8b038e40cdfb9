"""Whether a worker is capable of what a task requires, and in words why none is.

Numbers: the worker has to have at least as much. Levels: low, medium, high, or in the order that
the worker's `{level: LEVEL, of: [LOWEST, …]}` says; at least the one that is required. Lists: all
that is required has to be there. Everything else has to be equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["fits", "unmatched"]

LEVELS = ("low", "medium", "high")

Properties = Mapping[str, Any]

_MISSING = object()


def fits(required: Properties, capable: Properties) -> bool:
    """Whether all that is required is there."""
    return all(_meets(value, capable.get(name, _MISSING)) for name, value in required.items())


def unmatched(required: Properties, workers: Sequence[Properties]) -> str:
    """Why none of these capabilities will do, in words; "" if one will."""
    if not workers:
        return "there is no worker"
    if any(fits(required, capable) for capable in workers):
        return ""
    lacking = [
        f"needs {_said(name, value)}: {why}"
        for name, value in required.items()
        if (why := _lack(name, value, workers))
    ]
    if lacking:
        return "; ".join(lacking)
    wanted = ", ".join(_said(name, value) for name, value in required.items())
    return f"no worker has all of it: {wanted}"


def _lack(name: str, value: Any, workers: Iterable[Properties]) -> str:
    """Why nobody has this one; "" if somebody has."""
    there = [capable[name] for capable in workers if name in capable]
    if not there:
        return "no worker has it"
    if any(_meets(value, each) for each in there):
        return ""
    best = _best(value, there)
    return f"the best has {_text(best)}" if _is_ordered(value, best) else f"one has {_text(best)}"


def _meets(value: Any, has: Any) -> bool:
    if has is _MISSING:
        return False
    if isinstance(has, dict):
        return _rank(value, has["of"]) is not None and _at_least(value, has["level"], has["of"])
    if isinstance(has, list):
        return all(each in has for each in (value if isinstance(value, list) else [value]))
    if isinstance(value, list):
        return all(_equal(each, has) for each in value)
    if _is_number(value) and _is_number(has):
        return bool(has >= value)
    if value in LEVELS and has in LEVELS:
        return _at_least(value, has, LEVELS)
    return _equal(value, has)


def _best(value: Any, there: Sequence[Any]) -> Any:
    comparable = [each for each in there if _is_ordered(value, each)]
    if not comparable:
        return there[0]
    return max(comparable, key=_height)


def _height(has: Any) -> float:
    if isinstance(has, dict):
        return float(_rank(has["level"], has["of"]) or 0)
    return float(LEVELS.index(has) if has in LEVELS else has)


def _is_ordered(value: Any, has: Any) -> bool:
    if isinstance(has, dict):
        return _rank(value, has["of"]) is not None
    if _is_number(value) and _is_number(has):
        return True
    return isinstance(value, str) and isinstance(has, str) and value in LEVELS and has in LEVELS


def _at_least(value: Any, has: Any, order: Sequence[Any]) -> bool:
    wanted, there = _rank(value, order), _rank(has, order)
    return wanted is not None and there is not None and there >= wanted


def _rank(value: Any, order: Sequence[Any]) -> int | None:
    return next((place for place, each in enumerate(order) if _equal(value, each)), None)


def _equal(one: Any, other: Any) -> bool:
    """True is not 1."""
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _said(name: str, value: Any) -> str:
    return name if value is True else f"{name} {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str(value["level"])
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
