"""A heap of items that can also leave it before they come up."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import inf
from typing import Generic, TypeVar

__all__ = ["DueHeap"]

Item = TypeVar("Item")


class DueHeap(Generic[Item]):
    """Items by their key, least first, equal keys by their number.

    A heap from which nothing is taken but the top: what was removed stays in it until it comes up
    or until half of the heap is such dead wood. So adding, removing and looking cost O(log n), and
    the heap has at most twice as many entries as there are items, and 64 more.
    """

    __slots__ = ("_heap", "_keys", "items", "soonest")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._keys: dict[int, float] = {}  # of the items: an entry with another is dead wood
        self.items: dict[int, Item] = {}
        """By their number. To look at."""
        self.soonest = inf
        """No key is less. To look at; where nothing is due, that is all that looking costs."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items.values())

    @property
    def entries(self) -> int:
        """How many entries the heap has, dead wood included."""
        return len(self._heap)

    def add(self, key: float, number: int, item: Item) -> None:
        """Put `item` in; `number` is its own while it is there."""
        self.items[number] = item
        self._keys[number] = key
        heapq.heappush(self._heap, (key, number))
        if key < self.soonest:
            self.soonest = key

    def discard(self, number: int) -> None:
        self.items.pop(number, None)
        self._keys.pop(number, None)
        if len(self._heap) > 2 * len(self.items) + 64:
            self._trim()

    def key_of(self, number: int) -> float:
        """The key of an item; infinite if there is no such item."""
        return self._keys.get(number, inf)

    def first(self) -> Item | None:
        """The item with the least key, left in place; None if there is none."""
        heap, items = self._heap, self.items
        while heap:
            key, number = heap[0]
            if self._keys.get(number) == key:
                self.soonest = key
                return items[number]
            heapq.heappop(heap)
        self.soonest = inf
        return None

    def due(self, now: float) -> Item | None:
        """The same, if its key is at most `now`; else None."""
        if self.soonest > now:
            return None
        first = self.first()
        return None if self.soonest > now else first

    def _trim(self) -> None:
        self._heap = [(key, number) for number, key in self._keys.items()]
        heapq.heapify(self._heap)
