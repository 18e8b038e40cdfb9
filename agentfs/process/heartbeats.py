"""Heartbeats: a process that declared an interval and lets three go by without one has hung.

What counts are intervals without a beat, one after the other, and only those that the event loop
saw: while it stood (the daemon was stopped, a disk hung) no beat could be taken, and what waits is
taken before anybody is judged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from agentfs.base.clock import Timer
from agentfs.model.process import Process, State
from agentfs.process.settings import ProcessSettings
from agentfs.store.ground import Ground

__all__ = ["Heartbeats"]

log = logging.getLogger(__name__)

STOOD = 1.0
"""Seconds (at most half an interval) by which a look may come late: if it is more, the loop stood.
One turn of a busy loop takes less than a tenth of that. By the machine's own time also where a test
makes up another: whether a loop stands is no question of what the clock says."""


@dataclass(slots=True)
class _Watch:
    """How a process does: its last beat, and how many intervals went by without one since."""

    beat: float
    timer: Timer
    missed: int = 0
    seen: float = 0.0  # the last beat that a look has taken into account


class Heartbeats:
    """One timer a process that declared an interval. `hung(process, seconds)` is called when its
    patience is over: so long it was silent."""

    def __init__(self, ground: Ground, hung: Callable[[Process, float], object]) -> None:
        self._timers = ground.timers
        self._clock = ground.clock
        self._settings = ground.settings
        self._hung = hung
        self._watches: dict[int, _Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def begin(self, process: Process) -> None:
        """Its program was started: that counts as a beat."""
        if process.heartbeat > 0:
            self.stop(process.pid)
            now = self._clock.monotonic()
            self._watches[process.pid] = _Watch(now, self._look_at(process, now), seen=now)

    def beat(self, process: Process) -> None:
        """It is well. One that declared no interval may say so too."""
        watch = self._watches.get(process.pid)
        if watch is not None:
            watch.beat = self._clock.monotonic()

    def last(self, pid: int) -> float | None:
        """Seconds since the last beat."""
        watch = self._watches.get(pid)
        return None if watch is None else self._clock.monotonic() - watch.beat

    def stop(self, pid: int) -> None:
        """Its program has ended."""
        watch = self._watches.pop(pid, None)
        if watch is not None:
            watch.timer.cancel()

    def _look_at(self, process: Process, since: float) -> Timer:
        """Look when the interval that began at `since` is over."""
        due = since + process.heartbeat
        wait = max(0.0, due - self._clock.monotonic())
        by_machine = time.monotonic() + wait
        return self._timers.call_later(wait, lambda: self._due(process, due, by_machine))

    def _due(self, process: Process, due: float, by_machine: float) -> None:
        """An interval is over. Beats themselves cost no timer."""
        watch, now = self._watches[process.pid], self._clock.monotonic()
        late = min(now - due, time.monotonic() - by_machine)
        if process.state in (State.SLEEPING, State.BLOCKED):  # it cannot, or is about to end
            watch.beat = now
        if late > min(STOOD, process.heartbeat / 2):
            watch.missed, begin = 0, now
        elif watch.beat != watch.seen:
            watch.missed, begin = 0, watch.beat
        else:
            watch.missed, begin = watch.missed + 1, due
        watch.seen = watch.beat
        if watch.missed < self._settings.of(ProcessSettings).heartbeats_missed:
            watch.timer = self._look_at(process, begin)
            return
        self.stop(process.pid)
        silent = now - watch.beat
        log.warning("process %d, %s, missed its heartbeats", process.pid, process.name)
        self._hung(process, silent)
