"""What programs use, and how much they may: by control group, else by rlimits and ancestry."""

from __future__ import annotations

import os
from collections.abc import Callable

from agentfs.machine.census import Census, forks_for, tasks_of
from agentfs.machine.cgroups import ControlGroups
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


def _own_limits(process: Process) -> Bounds:
    limits = process.limits
    return Bounds(limits.max_memory_mb, limits.max_cpu_seconds, limits.max_pids)


class Measures:
    """`limits_of` gives what the programs of a process may have together. `on_limits` calls get the
    process whose limits were applied. `kin`: who descends from which program, where there are no
    control groups."""

    groups: ControlGroups

    def __init__(self) -> None:
        self.limits_of: Callable[[Process], Bounds] = _own_limits
        self.on_limits: list[Callable[[Process], object]] = []
        self.kin = Kin()

    def members(self, process: Process) -> list[int]:
        """The OS pids of the programs at work for `process`."""
        if process.ospid is None:
            return []
        if self.groups.available and not process.attached:
            return self.groups.members(process.pid)
        return self.with_orphans(process, below(process.ospid))

    def with_orphans(self, process: Process, found: list[int]) -> list[int]:
        """What was just found below the program of `process`, and what it has left behind, as far
        as is known."""
        if process.ospid is None or process.attached:
            return found
        self.kin.saw(process.ospid, found)
        return list(dict.fromkeys([*found, *self.kin.of(process.ospid)]))

    def usage(self, process: Process) -> Usage:
        """What the programs of `process` use together, since the present one was started: resident
        memory in MiB, processor time in seconds. Where there is no control group, children that
        nobody waited for are not in the time."""
        used = usage_of(self.members(process))
        if process.ospid is None or process.attached or not self.groups.available:
            return used
        seconds = self.groups.cpu_seconds(process.pid)
        return used if seconds is None else Usage(used.memory_mb, seconds)

    def tasks(self, process: Process) -> int:
        """How many processes and threads the programs of `process` are."""
        if process.ospid is None:
            return 0
        if self.groups.available and not process.attached:
            return self.groups.tasks(process.pid)
        return tasks_of(self.members(process))

    def limits_at_start(self, process: Process) -> list[Limit]:
        """The rlimits of its next program: each single one it starts gets them."""
        may = self.limits_of(process)
        memory = None if self.groups.has_memory else may.memory_mb
        return [OPEN_FILES, *limits_for(memory, may.cpu_seconds)]

    def forks_at_start(self, process: Process) -> Callable[[], list[Limit]]:
        """The one on its number, if no control group has that: for a thread, as it looks through
        the machine, 20 µs a process."""
        most = self.limits_of(process).pids
        if self.groups.has_pids or most is None or process.uid == 0:
            return list
        return lambda: [forks_for(most, Census().of_user(process.uid))]

    def open_group(self, process: Process) -> list[int]:
        """Make its control groups, with its limits, and open them for the next program."""
        entries = self.groups.open(process.pid)
        may = self.limits_of(process)
        try:
            if self.groups.has_memory:
                self.groups.limit_memory(process.pid, may.memory_mb)
            if self.groups.has_pids:
                self.groups.limit_pids(process.pid, may.pids)
        except OSError:
            for entry in entries:
                os.close(entry)
            raise
        return entries

    def apply_limits(self, process: Process, may: Bounds) -> bool:
        """Have these limits hold for the programs at work for `process`. Raises OSError.

        False if some keep the lower limits that they had until they are started again: only who
        has CAP_SYS_RESOURCE may raise those of a program at work.
        """
        in_group = self.groups.has_memory and not process.attached
        if in_group:
            self.groups.limit_memory(process.pid, may.memory_mb)
        if self.groups.has_pids and not process.attached:
            self.groups.limit_pids(process.pid, may.pids)
        limits = limits_for(None if in_group else may.memory_mb, may.cpu_seconds)
        everywhere = True
        for ospid in self.members(process):
            try:
                lay_on(ospid, limits)
            except ProcessLookupError:
                continue  # it has ended
            except PermissionError:
                everywhere = False
        for call in self.on_limits:
            call(process)
        return everywhere
