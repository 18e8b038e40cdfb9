"""Ends processes whose programs together use more memory or processor time than they may, or are
more than they may be (`headcount`).

What the machine does for each single program by itself is in `rlimits`; this is for their sum, and
looks at it with every round of the maid, once a second where memory is limited and no control group
does it, and for the time as often as it could run out: after what is left divided by the number of
processors, at least a quarter of a second.
"""

from __future__ import annotations

import errno
import logging
import os

from agentfs.base.clock import Timer
from agentfs.base.errors import KernelError
from agentfs.machine.programs import Programs
from agentfs.model.process import Process
from agentfs.process.events import ProcessRestarted, ProcessSpawned, ResourceExceeded
from agentfs.process.headcount import HeadCount
from agentfs.process.signals import Signals
from agentfs.process.table import ProcessTable
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Consumption"]

log = logging.getLogger(__name__)

MEMORY_INTERVAL = 1.0
LEAST_INTERVAL = 0.25


class Consumption(Part):
    """Follows every process that has a limit and a program."""

    def __init__(
        self, ground: Ground, table: ProcessTable, programs: Programs, signals: Signals
    ) -> None:
        self._table = table
        self._programs = programs
        self._signals = signals
        self._store = ground.store
        self._events = ground.events
        self._timers = ground.timers
        self._next: dict[int, Timer] = {}
        self._processors = os.cpu_count() or 1
        programs.measures.listen(self.check)
        ground.events.listen(self._heard, ProcessSpawned, ProcessRestarted)
        self._heads = HeadCount(ground, table, programs, self.end)

    def __len__(self) -> int:
        return len(self._next)

    def tidy(self) -> None:
        """Look at all of them."""
        for process in self._table:
            if process.ospid is not None or process.pid in self._next:
                self.check(process)
        self._heads.scan()

    def check(self, process: Process) -> None:
        """End `process` if its programs have used up what they may, else look again in time."""
        timer = self._next.pop(process.pid, None)
        if timer is not None:
            timer.cancel()
        if not process.state.alive or process.stopping or process.ospid in (None, os.getpid()):
            return
        self._heads.begin()
        memory, seconds, _ = self._programs.measures.limits_of(process)
        if memory is None and seconds is None:
            return
        used = self._programs.measures.usage(process)
        if seconds is not None and used.cpu_seconds >= seconds:
            self.end(process, "max_cpu_seconds", used.cpu_seconds, seconds, "TERM")
        elif memory is not None and used.memory_mb > memory:
            self.end(process, "max_memory_mb", used.memory_mb, memory, "KILL")
        else:
            left = None if seconds is None else seconds - used.cpu_seconds
            self._look_again(process, memory, left)

    def _look_again(self, process: Process, memory: int | None, left: float | None) -> None:
        waits = [] if left is None else [left / self._processors]
        if memory is not None and not self._programs.groups.has_memory:
            waits.append(MEMORY_INTERVAL)
        if waits:
            self._next[process.pid] = self._timers.call_later(
                max(LEAST_INTERVAL, min(waits)), lambda: self._due(process)
            )

    def _due(self, process: Process) -> None:
        self._next.pop(process.pid, None)
        if self._table.find(process.pid) is process:
            self.check(process)

    def end(
        self, process: Process, name: str, used: float, most: float, signal: str = "KILL"
    ) -> None:
        """For good; its last output says why. It needs no room on the disk."""
        reason = f"limit: {name}, {round(used, 2)} of {most} used"
        log.warning("process %d, %s: %s", process.pid, process.name, reason)
        try:
            with self._store.transaction():
                self._table.update(process, stopping=True, reason=reason)
                self._events.emit(
                    ResourceExceeded(process.pid, process.name, name, round(used, 2), float(most))
                )
                self._signals.send(process, signal)
        except KernelError as failure:
            if failure.errno != errno.ENOSPC:
                raise
            self._signals.send_unrecorded(process, signal)

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ProcessSpawned | ProcessRestarted):
            process = self._table.find(record.event.pid)
            if process is not None:
                self.check(process)
