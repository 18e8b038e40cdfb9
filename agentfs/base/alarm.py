"""One timer for the earliest of many times."""

from __future__ import annotations

from collections.abc import Callable

from agentfs.base.clock import Clock, Timer, Timers

__all__ = ["Alarm"]

# The wall clock can be stepped while a timer runs: look again after this many seconds.
LONGEST_WAIT = 60.0
# After a failure of the store, and against a timer that fires a rounding error too early.
RETRY, SHORTEST_WAIT = 1.0, 0.001


class Alarm:
    """Calls `due()` when it is time. `due()` returns when it wants to be called again, or None.
    `now` reads the time: the wall clock, if it is left out."""

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        due: Callable[[], float | None],
        now: Callable[[], float] | None = None,
    ) -> None:
        self._now = now or clock.now
        self._timers = timers
        self._due = due
        self._when = 0.0
        self._timer: Timer | None = None

    def set(self, when: float | None) -> None:
        """Call `due()` at that time; if it is set to an earlier one, that stays."""
        if when is None:
            return
        if self._timer is not None and self._timer.active:
            if self._when <= when:
                return
            self._timer.cancel()
        wait = when - self._now()
        shortest = SHORTEST_WAIT if wait > -RETRY else RETRY
        self._when = when
        self._timer = self._timers.call_later(min(max(wait, shortest), LONGEST_WAIT), self._ring)

    def _ring(self) -> None:
        self.set(self._due())
