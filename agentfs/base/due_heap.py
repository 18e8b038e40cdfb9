"""A heap of items that can also leave it before they come up."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["DueHeap"]

Item = TypeVar("Item")


class DueHeap(Generic[Item]):
    """Items by their key, least first, equal keys by their number.

    A heap from which nothing is taken but the top: what was removed stays in it until it comes up
    or until half of the heap is such dead wood. So adding, removing and looking cost O(log n), and
    the heap has at most twice as many entries as there are items, and 64 more.
    """

    __slots__ = ("_heap", "_items")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._items: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    @property
    def entries(self) -> int:
        """How many entries the heap has, dead wood included."""
        return len(self._heap)

    def add(self, key: float, number: int, item: Item) -> None:
        """Put `item` in; `number` is its own. It keeps its key when it comes again."""
        self._items[number] = item
        heapq.heappush(self._heap, (key, number))
        self._trim()

    def discard(self, number: int) -> None:
        self._items.pop(number, None)
        self._trim()

    def first(self) -> Item | None:
        """The item with the least key, left in place; None if there is none."""
        heap, items = self._heap, self._items
        while heap:
            item = items.get(heap[0][1])
            if item is not None:
                return item
            heapq.heappop(heap)
        return None

    def _trim(self) -> None:
        if len(self._heap) > 2 * len(self._items) + 64:
            self._heap = list({entry for entry in self._heap if entry[1] in self._items})
            heapq.heapify(self._heap)
