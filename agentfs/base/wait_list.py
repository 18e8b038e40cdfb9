"""A line of those who wait for something that comes in pieces, each for one of them.

Waking everybody for each piece would cost as much as there are who wait.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Line"]

Call = Callable[[], object]


class Line:
    """First come, first called. Who is called has left the line; until it says what came of it, by
    `join` or `leave`, one piece counts as its own."""

    __slots__ = ("_called", "_standing")

    def __init__(self) -> None:
        self._standing: dict[Call, None] = {}
        self._called: dict[Call, None] = {}

    def __len__(self) -> int:
        """How many stand in it, without those that were called."""
        return len(self._standing)

    @property
    def idle(self) -> bool:
        """Whether there is nobody, called or not."""
        return not (self._standing or self._called)

    def join(self, call: Call) -> None:
        """Stand in it, at the end unless one stands in it already."""
        self._called.pop(call, None)
        self._standing[call] = None

    def leave(self, call: Call) -> None:
        """Stand in it no more."""
        self._called.pop(call, None)
        self._standing.pop(call, None)

    def call(self, pieces: int) -> None:
        """There are so many: call as many as can have one."""
        while self._standing and len(self._called) < pieces:
            first = next(iter(self._standing))
            del self._standing[first]
            self._called[first] = None
            first()

    def call_everybody(self) -> None:
        """There is something that concerns all."""
        self.call(len(self._standing) + len(self._called))
