"""The load average of the process table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agentfs.model.process import State
from agentfs.process.events import StateChanged
from agentfs.store.event_log import Record

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["LoadAverage"]


class LoadAverage:
    """The number of running processes, averaged with a weight that fades over 1, 5, 15 minutes.

    Worked out at every change of that number, so nothing has to take samples.
    """

    SPANS = (60.0, 300.0, 900.0)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._averages = [0.0] * len(self.SPANS)
        self._running = 0
        self._since = kernel.clock.monotonic()
        kernel.events.listen(self._heard, StateChanged)

    def _heard(self, record: Record) -> None:
        match record.event:
            case StateChanged(old="running") | StateChanged(new="running"):
                self._advance()
                step = 1 if record.event.new == "running" else -1
                self._running = max(0, self._running + step)

    def _advance(self) -> None:
        now = self._kernel.clock.monotonic()
        passed, self._since = now - self._since, now
        for index, span in enumerate(self.SPANS):
            kept = math.exp(-passed / span)
            self._averages[index] = self._averages[index] * kept + self._running * (1 - kept)

    def read(self) -> list[float]:
        """The three averages."""
        self._advance()
        self._running = sum(process.state is State.RUNNING for process in self._kernel.table)
        return list(self._averages)
