"""When an ended program is started again: its policy, the back-off, the limit."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from agentfs.base.clock import Timer
from agentfs.model.process import Process, Restart
from agentfs.process.settings import ProcessSettings
from agentfs.store.ground import Ground

__all__ = ["Restarts"]

JITTER = 0.1
"""The most that is added to a delay, as a part of it, so that what failed together does not come
back together."""


class Restarts:
    """Remembers the attempts of each process within the window, and the next one's timer.

    Attempts are not stored: a daemon that starts again gives everybody a fresh count.
    """

    def __init__(self, ground: Ground) -> None:
        self._timers = ground.timers
        self._clock = ground.clock
        self._settings = ground.settings
        self._attempts: dict[int, deque[float]] = {}
        self._waiting: dict[int, Timer] = {}
        self.jitter: Callable[[], float] = random.random

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {"attempts": len(self._attempts), "waiting": len(self._waiting)}

    @staticmethod
    def wanted(process: Process, code: int | None) -> bool:
        """Whether the policy has it started again after it ended with `code` (None: unknown,
        which is a failure; 0 is none)."""
        if not process.exec or process.restart is Restart.NEVER:
            return False
        return process.restart is Restart.ALWAYS or code != 0

    def next_delay(self, process: Process) -> float | None:
        """Count an attempt; the seconds to wait before it, None if there were too many."""
        numbers = self._settings.of(ProcessSettings)
        now = self._clock.monotonic()
        attempts = self._attempts.setdefault(process.pid, deque())
        while attempts and attempts[0] <= now - numbers.restart_window:
            attempts.popleft()
        if len(attempts) >= numbers.restart_attempts:
            return None
        exponent = min(len(attempts), 64)
        attempts.append(now)
        delay = min(numbers.restart_backoff * 2.0**exponent, numbers.restart_backoff_max)
        return delay * (1 + JITTER * self.jitter())

    def attempts(self, pid: int) -> int:
        """How many there were within the window."""
        return len(self._attempts.get(pid, ()))

    def due(self, pid: int) -> float | None:
        """The wall-clock time of the next attempt; None if none is to come."""
        timer = self._waiting.get(pid)
        if timer is None:
            return None
        return self._clock.now() + timer.when - self._clock.monotonic()

    def schedule(self, process: Process, delay: float, call: Callable[[], object]) -> None:
        """Make `call` in `delay` seconds, unless cancelled."""
        self.cancel(process.pid)

        def due() -> None:
            self._waiting.pop(process.pid, None)
            call()

        self._waiting[process.pid] = self._timers.call_later(delay, due)

    def pending(self, pid: int) -> bool:
        """Whether an attempt is to come."""
        return pid in self._waiting

    def cancel(self, pid: int) -> None:
        """No next attempt for now."""
        timer = self._waiting.pop(pid, None)
        if timer is not None:
            timer.cancel()

    def forget(self, pid: int) -> None:
        """It ended for good."""
        self.cancel(pid)
        self._attempts.pop(pid, None)
