"""Runs whose nodes may begin and lack something: a place of an executor, a concurrency key, a rate.

They wait in queues, by what they lack. If that is free, the next ones look, and if one of them gets
it, one more: so a place that is free is used, and not everybody looks at it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

from agentfs.base.clock import Clock, Timer, Timers
from agentfs.base.due_heap import DueHeap
from agentfs.workflow.live import LiveRun

__all__ = ["Lacking"]

AT_ONCE = 4
"""Runs that look at once for what is free."""

OWN = frozenset({"nodes", "paused"})
"""What nodes lack that their own run gives back."""


class Lacking:
    """The queues, in memory: a new daemon has every run look once. `look` is told a run that may
    go on, and says whether it did lack that."""

    def __init__(self, clock: Clock, timers: Timers, look: Callable[[int, str], bool]) -> None:
        self._clock = clock
        self._timers = timers
        self._look = look
        self._queues: dict[str, DueHeap[int]] = {}
        self._tickets = itertools.count(1)
        self._wakes: dict[str, Timer] = {}

    def queue(self, live: LiveRun) -> None:
        """A commit of a run is made: it waits for what it lacks now. One that got something of the
        kind waits behind the others; one that did not keeps its place."""
        for what in live.blocked.keys() - OWN:
            if what in live.served or what not in live.tickets:
                live.tickets[what] = next(self._tickets)
            queue = self._queues.setdefault(what, DueHeap())
            queue.add(live.tickets[what], live.run.id, live.run.id)
        for what in live.served:
            self.wake(what, 1)
        live.served.clear()
        for what, seconds in live.wanted.items():
            self._wake_later(what, seconds)
        live.wanted.clear()

    def wake(self, what: str, most: int = AT_ONCE) -> None:
        """Something is free, or may be."""
        queue = self._queues.get(what)
        while queue is not None and most:
            number = queue.first()
            if number is None:
                del self._queues[what]
                return
            queue.discard(number)
            most -= self._look(number, what)

    def wake_all_of(self, prefix: str) -> None:
        """The same of everything whose name begins so."""
        for what in [what for what in self._queues if what.startswith(prefix)]:
            self.wake(what)

    def _wake_later(self, what: str, seconds: float) -> None:
        """Something is free in so many seconds; infinity is unknown."""
        if seconds == float("inf"):
            return
        timer = self._wakes.get(what)
        if timer is not None and timer.active:
            if timer.when <= self._clock.monotonic() + seconds:
                return
            timer.cancel()
        self._wakes[what] = self._timers.call_later(seconds, partial(self._due, what))

    def _due(self, what: str) -> None:
        self._wakes.pop(what, None)
        self.wake(what)
