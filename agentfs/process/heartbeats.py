"""Heartbeats: a process that declared an interval and lets three go by without one has hung."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agentfs.clock import Clock, Timer, Timers
from agentfs.config import Settings
from agentfs.process.model import Process, State

__all__ = ["Heartbeats"]

log = logging.getLogger(__name__)


class Heartbeats:
    """One timer a process that declared an interval; `hung(process)` is called when it is over."""

    def __init__(
        self, timers: Timers, clock: Clock, settings: Settings, hung: Callable[[Process], object]
    ) -> None:
        self._timers = timers
        self._clock = clock
        self._settings = settings
        self._hung = hung
        self._last: dict[int, float] = {}
        self._watches: dict[int, Timer] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def begin(self, process: Process) -> None:
        """Its program was started: that counts as a beat."""
        if process.heartbeat > 0:
            self.stop(process.pid)
            self.beat(process)
            self._watch(process, self._allowed(process))

    def beat(self, process: Process) -> None:
        """It is well. One that declared no interval may say so too."""
        if process.heartbeat > 0:
            self._last[process.pid] = self._clock.monotonic()

    def last(self, pid: int) -> float | None:
        """Seconds since the last beat."""
        beat = self._last.get(pid)
        return None if beat is None else self._clock.monotonic() - beat

    def stop(self, pid: int) -> None:
        """Its program has ended."""
        self._last.pop(pid, None)
        timer = self._watches.pop(pid, None)
        if timer is not None:
            timer.cancel()

    def _allowed(self, process: Process) -> float:
        return process.heartbeat * self._settings.now.processes.heartbeats_missed

    def _watch(self, process: Process, seconds: float) -> None:
        self._watches[process.pid] = self._timers.call_later(seconds, lambda: self._due(process))

    def _due(self, process: Process) -> None:
        """A beat since then moves the end of its patience; beats themselves cost no timer."""
        if process.state in (State.SLEEPING, State.BLOCKED):  # it cannot, or is about to end
            self.beat(process)
        rest = self._last[process.pid] + self._allowed(process) - self._clock.monotonic()
        if rest > 0:
            self._watch(process, rest)
            return
        self.stop(process.pid)
        log.warning("process %d, %s, missed its heartbeats", process.pid, process.name)
        self._hung(process)
