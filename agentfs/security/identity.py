"""Who a thread acts for, found out from the machine and never from what it says.

An agent's programs carry its process with them: in their control group where the daemon can make
groups, which no program can leave; elsewhere in their ancestry, with the daemon as sub-reaper, so
that a program that lost its parents descends from the daemon and is a stranger, not the operator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from agentfs.process.programs import Programs
from agentfs.process.table import ProcessTable
from agentfs.security.principal import INIT, Kind, Principal

__all__ = ["Identity"]

# Deeper than any real ancestry; a bound for a /proc that changes while it is read.
MAX_GENERATIONS = 256


class Identity:
    """Resolves a thread id to a principal."""

    def __init__(self, table: ProcessTable, programs: Programs, owner: int) -> None:
        self._table = table
        self._programs = programs
        self._owners = {owner, 0}
        self._daemon = os.getpid()

    async def resolve(self, tid: int, uid: int, gid: int) -> Principal:
        """The principal of thread `tid`, which made a call with these credentials.

        Costs a read of /proc/TID/cgroup or one of /proc/TID/stat a generation, 10 µs each. Waits
        only while a program is being launched, so that its first call finds it registered.
        """
        found = self._agent_of(tid)
        if found is None and self._programs.launching:
            await self._programs.wait_launched()
            found = self._agent_of(tid)
        if isinstance(found, int):
            process = self._table.find(found)
            if process is not None and process.state.alive:
                return Principal(Kind.AGENT, process.pid, process.name, uid, gid)
            found = False
        if found is False:
            return Principal(Kind.STRANGER, None, "a stranger", uid, gid)
        if uid in self._owners:
            init = self._table.find(INIT)
            return Principal(Kind.OPERATOR, INIT, init.name if init else "init", uid, gid)
        return Principal(Kind.USER, None, f"user {uid}", uid, gid)

    def _agent_of(self, tid: int) -> int | bool | None:
        """The agent process that the thread belongs to; False: it descends from the daemon or
        from an agent that is no more; None: it is no agent's."""
        if tid <= 0:
            return False
        group = self._programs.pid_of_thread(tid)
        if group is not None:
            return group
        for ospid, start in _ancestors(tid):
            process = self._table.by_ospid(ospid)
            if process is not None and process.os_start == start:
                return process.pid
            launched = self._programs.launch_of(ospid)
            if launched is not None:
                return launched
            if ospid == self._daemon:
                return False
        return None


def _ancestors(tid: int) -> Iterator[tuple[int, int]]:
    """(pid, start time in clock ticks) of the thread's process, its parent, and so on to init.

    A thread that is gone meanwhile yields the daemon: whoever cannot be told is a stranger.
    """
    try:
        pid = _thread_group(tid)
        for _ in range(MAX_GENERATIONS):
            parent, start = _stat(pid)
            yield pid, start
            if parent <= 0:
                return
            pid = parent
    except (OSError, ValueError, IndexError):
        yield os.getpid(), -1


def _thread_group(tid: int) -> int:
    with open(f"/proc/{tid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Tgid:"):
                return int(line[5:])
    raise ValueError(tid)


def _stat(pid: int) -> tuple[int, int]:
    """(parent, start time) from /proc/PID/stat; the name may hold spaces and parentheses."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[19])
