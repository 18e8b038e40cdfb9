"""Whose program a connection of the gateway is: from the machine, and never from what it says.

Of a unix socket Linux gives a pidfd of the process that connected. Of a TCP connection it gives the
inode number of the client's socket, and the control group that it was made in; the process is the
one that has the socket open. Then it is told as every caller of the tree is: by its control group
and by whom it descends from, and where the two disagree, the ancestry is right (see `Identity`).

Where control groups are sure they are enough: for every user but root and the daemon's own, who may
leave groups, or enter another's. Of those a connection is refused whose process is gone, or does
not let us look: nobody is charged for what somebody else did.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from functools import partial
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.holders import find_holder
from agentfs.machine.proc import PIDFD_GET_INFO, PIDFD_INFO_EXIT
from agentfs.machine.programs import Programs
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.identity import Identity
from agentfs.process.table import ProcessTable

__all__ = ["Callers"]

PIDFD_INFO_PID = 1 << 0  # linux/pidfd.h
PIDFD_INFO_CGROUPID = 1 << 2
NO_GID = -1

LOOKS_AT_ONCE = 4
LOOK_SECONDS = 10.0
"""A look at all processes takes some ms; it hangs as long as one of them is in execve(2) and waits
for a disk that does not answer."""


class Callers:
    """Tells the process of a connection. The mount's owner, or root, is the operator outside of
    every agent: process 1."""

    def __init__(self, table: ProcessTable, identity: Identity, programs: Programs) -> None:
        self._table = table
        self._identity = identity
        self._programs = programs
        self._mighty = {0, os.geteuid()}  # they may leave their groups
        self._looks = trio.CapacityLimiter(LOOKS_AT_ONCE)

    async def who(self, asked: dict[str, Any], pidfd: int = -1) -> Process:
        """The process that `asked`, a packet of `agentfs.gateway.peers`, is about. Raises EACCES
        for anybody else, and if nobody can tell; ETIMEDOUT."""
        if tcp := asked.get("tcp"):
            return await self._of_tcp(int(tcp["inode"]), int(tcp["uid"]), tcp.get("cgroup"))
        unix = asked["unix"]
        return self._of_unix(int(unix["pid"]), int(unix["uid"]), pidfd)

    # -- unix ------------------------------------------------------------------------------------

    def _of_unix(self, ospid: int, uid: int, pidfd: int) -> Process:
        if pidfd < 0:  # a Linux that gives none: as good as the number is
            return self._standing(self._identity.resolve(ospid, uid, NO_GID))
        known, group = _told_by(pidfd)
        if known:
            process = self._of_living(known, pidfd, uid)
            if process is not None:
                return process
            _, group = _told_by(pidfd)
        return self._of_group(group, uid)

    # -- TCP -------------------------------------------------------------------------------------

    async def _of_tcp(self, inode: int, uid: int, group: int | None) -> Process:
        groups = self._programs.groups
        likely = [program.ospid for program in self._programs]
        if groups.available and group is not None:
            owner = groups.pid_of_id(group)
            if uid not in self._mighty:  # an agent of that user is in its group, and nobody else
                if owner is None:
                    raise _refused(f"user {uid} is no agent")
                return self._alive(owner)
            likely = likely if owner is None else groups.members(owner)
        with trio.move_on_after(LOOK_SECONDS):
            holder = await trio.to_thread.run_sync(
                partial(find_holder, inode, likely), limiter=self._looks, abandon_on_cancel=True
            )
            if holder is None:
                return self._of_group(group, uid)
            process = self._of_living(holder.ospid, holder.pidfd, uid)
            return self._of_group(group, uid) if process is None else process
        raise KernelError(
            errno.ETIMEDOUT, "the program that has connected cannot be told: a look at it hangs"
        )

    # -- both ------------------------------------------------------------------------------------

    def _of_living(self, ospid: int, pidfd: int, uid: int) -> Process | None:
        """Whose a process is; None if it ended meanwhile: its number may be another's."""
        principal = self._identity.resolve(ospid, uid, NO_GID)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return None if poll.poll(0) else self._standing(principal)

    def _of_group(self, group: int | None, uid: int) -> Process:
        """Whose a process is that cannot be looked at."""
        groups = self._programs.groups
        owner = groups.pid_of_id(group) if groups.available and group else None
        if owner is None or uid in self._mighty:
            raise _refused("the program that has connected is gone, or cannot be looked at")
        return self._alive(owner)

    def _standing(self, principal: Principal) -> Process:
        if principal.is_agent:
            assert principal.pid is not None
            return self._alive(principal.pid)
        if principal.is_operator:
            return self._alive(INIT)
        raise _refused(f"{principal.name} may not use models")

    def _alive(self, pid: int) -> Process:
        process = self._table.find(pid)
        if process is None or not process.state.alive:
            raise _refused("the process of this program has ended")
        return process


def _refused(words: str) -> KernelError:
    return KernelError(errno.EACCES, words, rule="caller")


def _told_by(pidfd: int) -> tuple[int, int | None]:
    """(pid, control group) of a pidfd: 0 if the process has ended, None where Linux does not say
    (6.13; of one that was waited for, 6.15). Raises nothing."""
    answer = bytearray(64)
    wanted = PIDFD_INFO_PID | PIDFD_INFO_CGROUPID | PIDFD_INFO_EXIT
    struct.pack_into("=Q", answer, 0, wanted)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, answer)
    except OSError:
        return _number_of(pidfd), None
    mask, group, pid = struct.unpack_from("=QQi", answer)
    return pid if mask & PIDFD_INFO_PID else 0, group if mask & PIDFD_INFO_CGROUPID else None


def _number_of(pidfd: int) -> int:
    """The pid of a pidfd by its fdinfo, as every Linux says it; 0 if it has ended."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return max(0, int(line.split()[1]))
    return 0
