"""How many processes and threads programs have, where no control group counts and bounds them.

RLIMIT_NPROC, the bound of each program then, is compared with *all* that the user has, started by
anybody, and does not bind root. So it is laid above what the others of the user have, moved with
that, and what a process has by itself is counted, too: one that has more than it may is ended. The
machine is looked through (20 µs a process) only when it has `STEP` tasks more than the last time;
that it has is one line of /proc, read every second."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from contextlib import suppress

from agentfs.machine.census import Census, forks_for
from agentfs.machine.proc import read_file
from agentfs.machine.programs import Programs
from agentfs.machine.rlimits import Limit, lay_on
from agentfs.model.process import Process
from agentfs.process.events import ResourceExceeded
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground

__all__ = ["HeadCount"]

INTERVAL = 1.0
STEP = 32

End = Callable[[Process, str, float, int, str], None]
"""End a process for a limit: its name, what is used, what holds, by which signal."""


def _tasks_of_the_machine() -> int:
    return int(read_file("/proc/loadavg").split()[3].partition(b"/")[2])


class HeadCount:
    """Follows `max_pids` of every process with a program: with a pids controller it tells when the
    machine refused a fork, without one it counts itself."""

    def __init__(self, ground: Ground, table: ProcessTable, programs: Programs, end: End) -> None:
        self._table = table
        self._programs = programs
        self._events = ground.events
        self._timers = ground.timers
        self._end = end
        self._tasks = 0  # of the machine, when it was looked through
        self._running = False
        self._refused: dict[int, int] = {}  # forks that were refused, by process, at the last look
        self._told: set[int] = set()  # those that were told of, and go on
        self._due = False
        programs.measures.listen(self._limits_changed)

    def begin(self) -> None:
        """There is a program: look every second whether there are many more."""
        if not self._running and not self._programs.groups.has_pids:
            self._running = True
            self._timers.call_later(INTERVAL, self._look)

    def scan(self) -> None:
        """Look at all: a round of the maid."""
        if self._programs.groups.has_pids:
            self._ask_the_machine()
        else:
            self.begin()
            self.count()

    def _limits_changed(self, process: Process) -> None:
        """One look for all that change at once."""
        if not self._due and not self._programs.groups.has_pids:
            self._due = True
            self._timers.call_later(0, self.count)

    def _look(self) -> None:
        self._running = False
        if not self._followed():
            return
        self.begin()
        now = _tasks_of_the_machine()
        self._tasks = min(self._tasks, now)
        if now - self._tasks >= STEP:
            self.count()

    def _followed(self) -> list[Process]:
        return [
            process
            for process in self._table
            if process.ospid not in (None, os.getpid())
            and process.state.alive
            and not process.stopping
            and not process.attached
        ]

    def count(self) -> None:
        """Look the machine through: end those that have more than they may, leave all others
        room."""
        self._due = False
        followed = self._followed()
        if not followed:
            return
        self._tasks = _tasks_of_the_machine()
        census, groups = Census(), self._programs.groups
        for process in followed:
            assert process.ospid is not None
            most, uid = self._programs.measures.limits_of(process).pids, process.uid
            if groups.available:
                ours = groups.members(process.pid)
            else:
                ours = self._programs.measures.with_orphans(process, census.below(process.ospid))
            used = census.tasks(ours)
            if most is not None and used > most:
                self._end(process, "max_pids", used, most, "KILL")
            elif uid != 0:
                _lay(ours, forks_for(most, census.of_user(uid) - census.tasks(ours, uid)))

    def _ask_the_machine(self) -> None:
        """Tell of those whose forks were refused since the last look; again when none was in
        between."""
        refused: dict[int, int] = {}
        told = set()
        for process in self._followed():
            refused[process.pid] = now = self._programs.groups.refused_forks(process.pid)
            if now > self._refused.get(process.pid, 0):
                told.add(process.pid)
                most = self._programs.measures.limits_of(process).pids
                if process.pid not in self._told and most is not None:
                    self._events.emit(
                        ResourceExceeded(process.pid, process.name, "max_pids", most, most)
                    )
        self._refused, self._told = refused, told


def _lay(ospids: Iterable[int], limit: Limit) -> None:
    """A hard limit that a program gave itself stays."""
    number, soft, hard = limit
    for ospid in ospids:
        with suppress(OSError, ValueError):
            hard = resource.prlimit(ospid, number)[1]
            lay_on(ospid, [(number, soft if hard < 0 else min(soft, hard), hard)])
