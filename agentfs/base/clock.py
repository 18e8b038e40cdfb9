"""Time: the one clock of the kernel, and the timers that hang on it.

Nothing else in the kernel reads a clock or sleeps, so a test that injects a clock decides what time
it is.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import trio

__all__ = [
    "Clock",
    "ManualClock",
    "SystemClock",
    "Timer",
    "Timers",
    "TrioClock",
    "change_time",
    "rfc3339",
]

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Two readings: `now` for what people read and the store keeps, `monotonic` for waiting."""

    def now(self) -> float:
        """Seconds since 1970 UTC. Can be stepped."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point. Never goes back."""


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class TrioClock:
    """Trio's clock, which a `MockClock` can drive; starts at `epoch` on the wall."""

    def __init__(self, epoch: float = 1_800_000_000.0) -> None:
        self._offset = epoch - trio.current_time()

    def now(self) -> float:
        return trio.current_time() + self._offset

    def monotonic(self) -> float:
        return trio.current_time()


class ManualClock:
    """A clock that stands still until a test moves it, for code that does not wait."""

    def __init__(self, epoch: float = 1_800_000_000.0) -> None:
        self._wall = epoch
        self._monotonic = 0.0

    def now(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` go by."""
        self._wall += seconds
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forth or back, as an administrator does: no time goes by."""
        self._wall += seconds


def rfc3339(seconds: float) -> str:
    """A wall-clock time as the whole tree writes it: `2026-11-21T09:00:00.123Z`."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def change_time(now: float, before: int) -> int:
    """The wall-clock time as an st_mtime in ns, strictly after `before`: the page cache goes by
    it, and a clock stands still between two readings or is stepped back."""
    return max(int(now * 1e9), before + 1)


class Timer:
    """A call that is still to come. `cancel()` any number of times."""

    __slots__ = ("_call", "when")

    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self._call = None

    @property
    def active(self) -> bool:
        """Whether it is still to be called."""
        return self._call is not None

    def fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Timers:
    """Calls to make later, soonest first. `run` makes them; `run_due` is one turn of it.

    A cancelled timer stays in the heap until it is due or the heap has doubled since it was last
    cleaned, so cancelling costs nothing and the heap has at most twice the live timers, and 64.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._limit = 64
        self._order = itertools.count()
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return sum(timer.active for _, _, timer in self._heap)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call `call()` in the event loop `seconds` from now."""
        timer = Timer(self._clock.monotonic() + max(0.0, seconds), call)
        self._compact()
        heapq.heappush(self._heap, (timer.when, next(self._order), timer))
        if self._heap[0][2] is timer:
            self._sooner.set()
        return timer

    def _compact(self) -> None:
        if len(self._heap) >= self._limit:
            self._heap = [entry for entry in self._heap if entry[2].active]
            heapq.heapify(self._heap)
            self._limit = 2 * len(self._heap) + 64

    def run_due(self) -> float:
        """Make every call that is due; return the seconds until the next one (inf: none)."""
        while self._heap:
            wait = self._heap[0][0] - self._clock.monotonic()
            if wait > 0:
                return wait
            timer = heapq.heappop(self._heap)[2]
            try:
                timer.fire()
            except Exception:
                log.exception("a timer failed")
        return float("inf")

    async def run(self) -> None:
        """Make the calls as they fall due, until cancelled."""
        while True:
            self._sooner = trio.Event()
            wait = self.run_due()
            with trio.move_on_after(wait):
                await self._sooner.wait()
