"""What programs use, and how much they may: by control group, else by rlimits and ancestry."""

from __future__ import annotations

import os
from collections.abc import Callable

from agentfs.machine.census import Census, forks_for, tasks_of
from agentfs.machine.cgroups import ControlGroups
from agentfs.machine.grants import Grants
from agentfs.machine.kin import Kin
from agentfs.machine.rlimits import (
    OPEN_FILES,
    Bounds,
    Limit,
    Usage,
    below,
    lay_on,
    limits_for,
    usage_of,
)
from agentfs.model.process import Process

__all__ = ["Measures"]


class Measures:
    """Of all programs. `kin` knows who descends from which program, where there are no control
    groups."""

    def __init__(self, groups: ControlGroups, kin: Kin, grants: Grants) -> None:
        self._groups = groups
        self._kin = kin
        self._grants = grants
        self._applied: list[Callable[[Process], object]] = []

    def listen(self, call: Callable[[Process], object]) -> None:
        """Call `call` with each process at work whose limits are changed, after they were."""
        self._applied.append(call)

    def limits_of(self, process: Process) -> Bounds:
        """What the programs of `process` may have together."""
        return self._grants.bounds(process)

    def members(self, process: Process) -> list[int]:
        """The OS pids of the programs at work for `process`."""
        if process.ospid is None:
            return []
        if self._groups.available and not process.attached:
            return self._groups.members(process.pid)
        return self.with_orphans(process, below(process.ospid))

    def with_orphans(self, process: Process, found: list[int]) -> list[int]:
        """What was just found below the program of `process`, and what it has left behind, as far
        as is known."""
        if process.ospid is None or process.attached:
            return found
        self._kin.saw(process.ospid, found)
        return list(dict.fromkeys([*found, *self._kin.of(process.ospid)]))

    def usage(self, process: Process) -> Usage:
        """What the programs of `process` use together, since the present one was started: resident
        memory in MiB, processor time in seconds. Where there is no control group, children that
        nobody waited for are not in the time."""
        used = usage_of(self.members(process))
        if process.ospid is None or process.attached or not self._groups.available:
            return used
        seconds = self._groups.cpu_seconds(process.pid)
        return used if seconds is None else Usage(used.memory_mb, seconds)

    def tasks(self, process: Process) -> int:
        """How many processes and threads the programs of `process` are."""
        if process.ospid is None:
            return 0
        if self._groups.available and not process.attached:
            return self._groups.tasks(process.pid)
        return tasks_of(self.members(process))

    def limits_at_start(self, process: Process) -> list[Limit]:
        """The rlimits of its next program: each single one it starts gets them."""
        may = self.limits_of(process)
        memory = None if self._groups.has_memory else may.memory_mb
        return [OPEN_FILES, *limits_for(memory, may.cpu_seconds)]

    def forks_at_start(self, process: Process) -> Callable[[], list[Limit]]:
        """The one on its number, if no control group has that: for a thread, as it looks through
        the machine, 20 µs a process."""
        most = self.limits_of(process).pids
        if self._groups.has_pids or most is None or process.uid == 0:
            return list
        return lambda: [forks_for(most, Census().of_user(process.uid))]

    def open_group(self, process: Process) -> list[int]:
        """Make its control groups, with its limits, and open them for the next program."""
        entries = self._groups.open(process.pid)
        may = self.limits_of(process)
        try:
            if self._groups.has_memory:
                self._groups.limit_memory(process.pid, may.memory_mb)
            if self._groups.has_pids:
                self._groups.limit_pids(process.pid, may.pids)
        except OSError:
            for entry in entries:
                os.close(entry)
            raise
        return entries

    def apply_limits(self, process: Process, may: Bounds) -> bool:
        """Have these limits hold for the programs at work for `process`. Raises OSError.

        False if some keep the lower limits that they had until they are started again: only a
        daemon with CAP_SYS_RESOURCE may raise those of a program at work.
        """
        in_group = self._groups.has_memory and not process.attached
        if in_group:
            self._groups.limit_memory(process.pid, may.memory_mb)
        if self._groups.has_pids and not process.attached:
            self._groups.limit_pids(process.pid, may.pids)
        limits = limits_for(None if in_group else may.memory_mb, may.cpu_seconds)
        everywhere = True
        for ospid in self.members(process):
            try:
                lay_on(ospid, limits)
            except ProcessLookupError:
                continue  # it has ended
            except PermissionError:
                everywhere = False
        for call in self._applied:
            call(process)
        return everywhere
