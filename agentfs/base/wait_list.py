"""Callers that wait for something that comes in pieces, each piece for one of them.

Waking all of them for each piece would cost the more, the more there are.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["WaitList"]

Call = Callable[[], object]


class WaitList:
    """First come, first called. A call that was made is not in the list any more; but until it is
    back, by `join`, or has gone, by `leave`, one piece counts as its own."""

    __slots__ = ("_called", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Call, None] = {}
        self._called: dict[Call, None] = {}

    def __len__(self) -> int:
        """How many wait, without those that were called."""
        return len(self._waiting)

    @property
    def called(self) -> int:
        """How many were called and are not back yet."""
        return len(self._called)

    @property
    def first(self) -> Call | None:
        """The one that is called next; None if nobody waits."""
        return next(iter(self._waiting), None)

    @property
    def idle(self) -> bool:
        """Whether there is no call, made or waiting."""
        return not (self._waiting or self._called)

    def join(self, call: Call) -> None:
        """Wait, at the end of the list; if `call` waits already, it keeps its place."""
        self._called.pop(call, None)
        self._waiting[call] = None

    def leave(self, call: Call) -> None:
        """Wait no more."""
        self._called.pop(call, None)
        self._waiting.pop(call, None)

    def put_first(self, call: Call) -> None:
        """Wait again, in the place of the first that it had left."""
        self._waiting = {call: None, **self._waiting}

    def call(self, pieces: int) -> None:
        """There are so many pieces: make a call for each that is not somebody's already."""
        while self._waiting and len(self._called) < pieces:
            first = next(iter(self._waiting))
            del self._waiting[first]
            self._called[first] = None
            first()

    def call_everybody(self) -> None:
        """Make every call: something concerns all of them."""
        self.call(len(self._waiting) + len(self._called))
