"""Vectors: finding what is meant, where a model of a provider makes vectors of texts.

A vector is kept as the bytes of 32-bit floats, of length 1, and beside it a bit for the sign of
each number. How many bits differ tells roughly how far two vectors are apart: so all of a memory
are compared in that way (0.1 µs each), and the best of them exactly.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from operator import mul
from typing import Protocol, TypeVar

__all__ = ["CLOSE", "Embed", "Vector", "best_first", "joined", "nearest"]

K = TypeVar("K")

CLOSE = 200
"""Vectors that are compared exactly."""

_DAMPING = 60
"""Of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009): first places say a little more."""


class Embed(Protocol):
    """Asks a model for vectors of texts, in the name and at the cost of process `pid`. Raises
    KernelError."""

    async def __call__(
        self, pid: int, model: str, texts: Sequence[str]
    ) -> Sequence[Sequence[float]]: ...


class Vector:
    """A vector of length 1. `data` and `signs` are how it is kept."""

    def __init__(self, numbers: Iterable[float]) -> None:
        given = array("f", numbers)
        length = math.sqrt(sum(map(mul, given, given))) or 1.0
        self._numbers = array("f", (each / length for each in given))

    @property
    def data(self) -> bytes:
        return self._numbers.tobytes()

    @property
    def signs(self) -> bytes:
        bits = 0
        for number in self._numbers:
            bits = bits << 1 | (number > 0)
        return bits.to_bytes(-(-len(self._numbers) // 8), "big")

    def likeness(self, data: bytes) -> float:
        """From -1 to 1; of a vector of another length -1."""
        other = array("f")
        if len(data) != len(self._numbers) * other.itemsize:
            return -1.0
        other.frombytes(data)
        return float(sum(map(mul, self._numbers, other)))


def nearest(vector: Vector, signs: Iterable[tuple[int, bytes]], most: int) -> list[int]:
    """Those whose signs differ least from the vector's, by number."""
    own, size = int.from_bytes(vector.signs, "big"), len(vector.signs)
    apart = (
        ((int.from_bytes(each, "big") ^ own).bit_count(), number)
        for number, each in signs
        if len(each) == size
    )
    return [number for _, number in heapq.nsmallest(most, apart)]


def joined(*orders: Sequence[K]) -> dict[K, float]:
    """How good each is, from 0 to 1, that stands in some of these orders: 1 is the first of all."""
    best = len(orders) / (_DAMPING + 1)
    found: dict[K, float] = {}
    for order in orders:
        for place, each in enumerate(order, start=1):
            found[each] = found.get(each, 0.0) + 1 / (_DAMPING + place) / best
    return found


def best_first(scores: Mapping[K, float]) -> list[tuple[K, float]]:
    """By score; of those alike the first stays the first."""
    return sorted(scores.items(), key=lambda each: -each[1])
