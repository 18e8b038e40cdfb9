"""What programs use, and how much they may: by control group, else by rlimits and ancestry."""

from __future__ import annotations

import os
from collections.abc import Callable

from agentfs.process.cgroups import ControlGroups
from agentfs.process.model import Process
from agentfs.process.rlimits import OPEN_FILES, Usage, below, lay_on, limits_for, usage_of

__all__ = ["Measures"]


def _own_limits(process: Process) -> tuple[int | None, int | None]:
    return process.limits.max_memory_mb, process.limits.max_cpu_seconds


class Measures:
    """`limits_of` gives the (MiB of memory, seconds of processor time) that the programs of a
    process may use together; None is no limit. `on_limits` calls get the process whose limits were
    applied."""

    groups: ControlGroups

    def __init__(self) -> None:
        self.limits_of: Callable[[Process], tuple[int | None, int | None]] = _own_limits
        self.on_limits: list[Callable[[Process], object]] = []

    def members(self, process: Process) -> list[int]:
        """The OS pids of the programs at work for `process`."""
        if process.ospid is None:
            return []
        if self.groups.available and not process.attached:
            return self.groups.members(process.pid)
        return below(process.ospid)

    def usage(self, process: Process) -> Usage:
        """What the programs of `process` use together, since the present one was started: resident
        memory in MiB, processor time in seconds. Where there is no control group, children that
        nobody waited for are not in the time."""
        used = usage_of(self.members(process))
        if process.ospid is None or process.attached or not self.groups.available:
            return used
        seconds = self.groups.cpu_seconds(process.pid)
        return used if seconds is None else Usage(used.memory_mb, seconds)

    def limits_at_start(self, process: Process) -> list[tuple[int, int, int]]:
        """The rlimits of its next program: each single one it starts gets them."""
        memory, seconds = self.limits_of(process)
        return [OPEN_FILES, *limits_for(None if self.groups.has_memory else memory, seconds)]

    def open_group(self, process: Process) -> int:
        """Make its control group, with its limit on memory, and open it for the next program."""
        entry = self.groups.open(process.pid)
        if self.groups.has_memory:
            try:
                self.groups.limit_memory(process.pid, self.limits_of(process)[0])
            except OSError:
                os.close(entry)
                raise
        return entry

    def apply_limits(
        self, process: Process, memory_mb: int | None, cpu_seconds: int | None
    ) -> bool:
        """Have these limits hold for the programs at work for `process`; None is no limit.

        False if some keep the lower limits that they had until they are started again: only who
        has CAP_SYS_RESOURCE may raise those of a program at work.
        """
        in_group = self.groups.has_memory and not process.attached
        if in_group:
            self.groups.limit_memory(process.pid, memory_mb)
        limits = limits_for(None if in_group else memory_mb, cpu_seconds)
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
