"""Overheard: copies of what siblings say to each other, for their parent to look at. They are no
mail.

They are beside every mailbox and its bounds, in memory only, the newest of each parent. A reader is
no more than a place among them, so one that is slow, or that there is not, delays nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["KEPT", "KEPT_BYTES", "Copies", "Copy", "Overheard"]

KEPT = 100
"""Copies that are kept for a parent."""

KEPT_BYTES = 256 * 1024
"""Bytes that they have together; the newest is kept whatever its size."""


class Copy(NamedTuple):
    """One message as its receiver reads it: its number, when it was sent (wall clock, seconds), by
    whom and to whom."""

    seq: int
    time: float
    sender: str
    receiver: str
    content: bytes


@dataclass(slots=True, eq=False)
class Copies:
    """Those of one parent. `count` is how many there were since the daemon runs; the newest of them
    are `kept`. `over`: the parent was removed, nothing comes any more."""

    kept: deque[Copy] = field(default_factory=deque)
    count: int = 0
    bytes: int = 0
    over: bool = False
    readers: set[Callable[[], object]] = field(default_factory=set)

    @property
    def oldest(self) -> int:
        """The place, from 0, of the first that is kept; `count` if none is."""
        return self.count - len(self.kept)

    def add(self, copy: Copy) -> None:
        """Keep one more; the oldest fall out."""
        self.kept.append(copy)
        self.count += 1
        self.bytes += len(copy.content)
        while len(self.kept) > KEPT or (self.bytes > KEPT_BYTES and len(self.kept) > 1):
            self.bytes -= len(self.kept.popleft().content)
        if self.readers:
            self.wake()

    def end(self) -> None:
        """Nothing is kept any more, and nothing comes."""
        self.kept.clear()
        self.bytes = 0
        self.over = True
        self.wake()

    def wake(self) -> None:
        """Tell the readers that there is something to see."""
        for reader in tuple(self.readers):
            reader()


class Overheard:
    """The copies of every parent, by its name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Copies] = {}

    def of(self, parent: str) -> Copies:
        """Those of an agent that exists."""
        found = self._by_name.get(parent)
        if found is None:
            found = self._by_name[parent] = Copies()
        return found

    def add(self, parent: str, copy: Copy) -> None:
        """Keep one more of an agent that exists."""
        copies = self._by_name.get(parent) or self.of(parent)
        copies.add(copy)

    def removed(self, name: str) -> None:
        """The agent is no more."""
        copies = self._by_name.pop(name, None)
        if copies is not None:
            copies.end()
