"""How long each request, and each other step of the event loop, holds the loop: measured always.

A step that does not give up its turn holds up everybody. Two times count: the time at work, and the
time blocked in a call. The time in which the loop's thread was ready, and the machine gave the
processor to others, does not count: Linux adds it up for each thread (`schedstat`, the second
number). Reading it takes 2 µs, so it is read every few ms, and again when something took long. By
those few ms a hold may be said to be too short; it is never said to be longer than it was.
"""

from __future__ import annotations

import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate

import trio

__all__ = ["BOUNDS", "NOTICED", "LoopHold", "Row", "Watchdog"]

log = logging.getLogger(__name__)

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Seconds: the histogram's upper bounds. We promise 0.02, and tell what is above 0.05."""

NOTICED = 0.05
"""Seconds from which on a hold is an event and a line in the log."""

PAUSE = 5.0
"""Seconds between two events: of all holds in between the longest is told, and how many."""

_SHORT = BOUNDS[0]
_LONG = BOUNDS[3]  # from here on it is worth the look at what the machine did
_LOOK_EVERY = 0.005


@dataclass(slots=True)
class Row:
    """The histogram of one kind of step: how many were within each bound, and their seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    def buckets(self) -> Iterator[tuple[str, int]]:
        """As Prometheus has them: (bound, how many were at most that long)."""
        return zip([*map(str, BOUNDS), "+Inf"], accumulate(self.counts), strict=True)


@dataclass(frozen=True, slots=True)
class LoopHold:
    """A step held the loop for `seconds`, at work for `busy` of them and else blocked in a call.
    `others` have held it as well since the last one that was told of."""

    kind: str
    work: str
    seconds: float
    busy: float
    others: int = 0

    def __str__(self) -> str:
        more = f"; {self.others} others since the last" if self.others else ""
        return f"{self.work} held the loop for {self.seconds:.3f} s, {self.busy:.3f} at work{more}"


class Watchdog(trio.abc.Instrument):
    """Install with `run`. `rows` has the histogram of each kind, by name.

    `tell(hold)` is called for the longest hold of every five seconds, in a task of its own.
    """

    def __init__(self, tell: Callable[[LoopHold], object] = lambda hold: None) -> None:
        self.rows: dict[str, Row] = {}
        self.tell = tell
        self.longest: LoopHold | None = None
        """Of all since the start."""
        self._news: LoopHold | None = None
        self._others = 0
        self._found = trio.Event()
        self._began = 0.0
        self._inside = 0.0  # of the step under way: what its requests took
        self._schedstat: int | None = None
        self._look_again = 0.0
        self._delay = self._busy = 0.0

    def report_to(self, tell: Callable[[LoopHold], object]) -> None:
        """From now on `tell` is called."""
        self.tell = tell

    # -- measuring -------------------------------------------------------------------------------

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        now = time.monotonic()
        self._began, self._inside = now, 0.0
        if now >= self._look_again:
            self._look(now)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        held = time.monotonic() - self._began - self._inside
        kind = task.name
        if kind.startswith("pyfuse"):  # each worker has a number
            kind = "device"
        self._count(kind, task.name, held)

    def took(self, kind: str, work: object, began: float) -> float:
        """A piece of work of this `kind` began then (time.monotonic) and ends now; the rest of the
        step around it is counted without it. Returns its seconds. str(work) is asked only where
        that took long."""
        held = time.monotonic() - began
        self._inside += held
        row = self.rows.get(kind)
        if row is None or held >= _SHORT:
            self._count(kind, work, held)
        else:
            row.counts[0] += 1
            row.seconds += held
        return held

    def _count(self, kind: str, work: object, held: float) -> None:
        row = self.rows.get(kind)
        if row is None:
            row = self.rows[kind] = Row()
        if held < _SHORT:
            row.counts[0] += 1
        else:
            if held >= _LONG:
                held = self._hold(kind, work, held)
            row.counts[bisect_right(BOUNDS, held)] += 1
        row.seconds += held

    def _hold(self, kind: str, work: object, held: float) -> float:
        """How long it held the loop, without the machine's part."""
        delay, busy = self._delay, self._busy
        self._look(time.monotonic())
        if self._schedstat is None:  # this Linux does not count it: what was blocked is not told
            held = min(held, self._busy - busy)
        held = max(0.0, held - (self._delay - delay))
        if held >= NOTICED:
            hold = LoopHold(kind, str(work), held, min(held, self._busy - busy))
            if self.longest is None or held > self.longest.seconds:
                self.longest = hold
            if self._news is None or held > self._news.seconds:
                self._news = hold
            self._others += 1
            self._found.set()
        return held

    def _look(self, now: float) -> None:
        """Read how long this thread was at work, and how long it waited for the processor."""
        self._look_again = now + _LOOK_EVERY
        if self._schedstat is not None:
            self._delay = int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
        self._busy = time.thread_time()

    # -- telling ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Measure, and tell, until cancelled."""
        with suppress(OSError):
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._began, self._inside = time.monotonic(), 0.0
        self._look(self._began)
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                await self._found.wait()
                self._tell()
                await trio.sleep(PAUSE)
        finally:
            with suppress(KeyError):  # trio takes one away that failed
                trio.lowlevel.remove_instrument(self)
            self._tell()
            if self._schedstat is not None:
                os.close(self._schedstat)
                self._schedstat = None

    def _tell(self) -> None:
        news, others = self._news, self._others - 1
        self._found = trio.Event()
        self._news, self._others = None, 0
        if news is not None:
            hold = LoopHold(news.kind, news.work, news.seconds, news.busy, others)
            log.warning("%s", hold)
            self.tell(hold)
