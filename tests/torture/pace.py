"""A clock that can be wrong, and fast: what the daemon's kernel reads and waits by, in a test.

Only the kernel's time runs fast: timers, reminders, the maid's rounds, and every date. Programs,
the reads that wait for them and the disk go by the machine's clock, so a parked read looks as often
as ever, and a daemon with a clock that is 2,000 times as fast is an idle one all the same.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import trio

__all__ = ["arm_clock"]

WAITING = ("agentfs.base.clock", "agentfs.base.due_work", "agentfs.process.maid")
"""The modules that wait for a time of the kernel's clock."""


class Dial(Protocol):
    """Whoever may turn the clock, from another process: see `failpoints.Panel`."""

    @property
    def offset(self) -> float: ...

    @property
    def rate(self) -> float: ...


class Pace:
    """Goes on without a jump when the rate changes; whoever waits then waits by the new one. That
    is noticed when the clock is read next, as any call on the mount does."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._rate = 1.0
        self._real = self._mine = time.monotonic()  # when the rate was changed, by both clocks
        self._loop = threading.get_ident()
        self._waits: dict[trio.CancelScope, float] = {}  # and when they end, by this clock

    def monotonic(self) -> float:
        real = time.monotonic()
        mine = self._mine + (real - self._real) * self._rate
        if self._rate != self._dial.rate and threading.get_ident() == self._loop:
            self._real, self._mine, self._rate = real, mine, self._dial.rate
            for scope, end in self._waits.items():
                scope.deadline = trio.current_time() + (end - mine) / self._rate
        return mine

    def now(self) -> float:
        return time.time() + self._dial.offset + (self.monotonic() - time.monotonic())

    # -- what the kernel's modules have as `trio` --------------------------------------------------

    def current_time(self) -> float:
        return self.monotonic()

    def move_on_after(self, seconds: float) -> contextlib.AbstractContextManager[trio.CancelScope]:
        return self.move_on_at(self.monotonic() + seconds)

    @contextlib.contextmanager
    def move_on_at(self, end: float) -> Iterator[trio.CancelScope]:
        left = (end - self.monotonic()) / self._rate
        with trio.move_on_after(max(0.0, left)) as scope:
            self._waits[scope] = end
            try:
                yield scope
            finally:
                del self._waits[scope]

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def arm_clock(dial: Dial) -> None:
    """Let the kernel in this process go by `dial`. To be called in the event loop's thread."""
    from agentfs.base import clock

    pace = Pace(dial)
    clock.SystemClock.now = staticmethod(pace.now)  # type: ignore[assignment]
    clock.SystemClock.monotonic = staticmethod(pace.monotonic)  # type: ignore[assignment]
    for name in WAITING:
        vars(importlib.import_module(name))["trio"] = pace
