"""Python functions that tests offer as tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal


def area(width: float, height: float, unit: Literal["m2", "ha"] = "m2") -> float:
    """The area of a rectangle.

    Args:
        width: in metres
        height: in metres
            too
    """
    print("this goes to the errors")
    return float(width * height / (1 if unit == "m2" else 10_000))


def nothing() -> None:
    """Does nothing."""


def count(most: int) -> Iterator[str]:
    """Counts, a line at a time."""
    for number in range(most):
        yield f"{number}\n"


def bad() -> None:
    """Fails."""
    raise ValueError("no such city")
