"""The bounds of an evaluation: its steps, the size of what it makes, and its errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "LARGEST",
    "MOST_DEPTH",
    "EvaluationError",
    "Fuel",
    "FuelError",
    "MissingError",
    "TemplateError",
    "brief",
    "same",
    "weigh",
]

STEPS = 30_000
"""Steps of an evaluation. Measured at 0.3 to 0.5 µs each: below 15 ms of the event loop."""

SIZE = 1 << 20
"""Characters that an evaluation may make, and 8 for each value. Those that are only passed on do
not count."""

LARGEST = 2 << 20
"""The same of a whole value with all that is passed on in it: weighed in 10 ms."""

MOST_DEPTH = 60
"""Maps and lists within each other, as in YAML documents."""

LONGEST_INTEGER = 1024
"""Bits of an integer; the field's JSON readers stop at 64 or at 1024 (a double's exponent)."""


LONGEST_WORDS = 300
"""Characters of the words of an error, which may have something of the text in them."""


def brief(words: str) -> str:
    """The words, or their beginning."""
    return words if len(words) <= LONGEST_WORDS else f"{words[:LONGEST_WORDS]}…"


class TemplateError(ValueError):
    """A template or expression that cannot be read. `line` and `column` of its text, from 1."""

    def __init__(self, words: str, line: int = 1, column: int = 1) -> None:
        super().__init__(brief(words))
        self.words = brief(words)
        self.line = line
        self.column = column


class EvaluationError(Exception):
    """An evaluation that has no value; `str()` gives words for a person."""


class MissingError(EvaluationError):
    """Something that a template names is not there. `name`: what it names, with dots."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(words)
        self.name = name


class FuelError(EvaluationError):
    """An evaluation that takes too many steps, or makes too much."""


class Fuel:
    """What an evaluation, or several together, may still use."""

    __slots__ = ("size", "steps")

    def __init__(self, steps: int = STEPS, size: int = SIZE) -> None:
        self.steps = steps
        self.size = size

    def spend(self, steps: int) -> None:
        """Count steps. Raises FuelError."""
        self.steps -= steps
        if self.steps < 0:
            raise FuelError("takes too many steps: let a program or a function do this")

    def values(self, count: int) -> None:
        """Count values of a list or map, before it is made. Raises FuelError."""
        self.make(8 * count)

    def make(self, size: int) -> None:
        """Count characters, before they are made. Raises FuelError."""
        self.size -= size
        if self.size < 0:
            raise FuelError("makes too much: let a program or a function do this")

    def scan(self, size: int) -> None:
        """Count looking through so many characters, which Python does by the thousand."""
        self.spend(1 + size // 1024)

    def integer(self, number: int) -> int:
        """The number, if it is not too long. Raises FuelError."""
        if number.bit_length() > LONGEST_INTEGER:
            raise FuelError(f"a number of more than {LONGEST_INTEGER} bits")
        return number


def weigh(value: Any, fuel: Fuel) -> tuple[int, int]:
    """How many values and characters a value has in it, as often as they are there: a list that has
    the same list twice in each of 60 levels is small in memory, and 2**60 values in JSON. Raises
    FuelError."""
    level = [value]
    depth, count, left = -1, 0, fuel.size
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise FuelError(f"makes lists or maps within each other more than {MOST_DEPTH} deep")
        count += len(level)
        below: list[Any] = []
        for each in level:
            kind = type(each)
            if kind is str:
                left -= len(each)
            elif kind is list:
                left -= 8 * len(each)
            elif kind is dict:
                left -= 8 * len(each) + sum(map(len, each))
            else:
                continue
            if left < 0:
                fuel.make(fuel.size + 1)  # raises
            if kind is not str:
                below += each if kind is list else each.values()
        level = below
    characters = fuel.size - left - 8 * (count - 1)
    fuel.size = left
    return count, characters


def same(one: Any, other: Any, fuel: Fuel) -> bool:
    """Whether two values are equal as JSON: `1` is `1.0`, but not `true`. Raises FuelError."""
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        fuel.spend(1)
        if isinstance(one, str) and isinstance(other, str):
            fuel.scan(min(len(one), len(other)))
        if isinstance(one, bool) or isinstance(other, bool):
            if one is not other:
                return False
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            fuel.spend(len(one))
            pairs.extend(zip(one, other, strict=True))
        elif isinstance(one, Mapping) and isinstance(other, Mapping):
            if len(one) != len(other) or any(key not in other for key in one):
                return False
            fuel.spend(len(one))
            pairs.extend((value, other[key]) for key, value in one.items())
        elif one != other:
            return False
    return True
