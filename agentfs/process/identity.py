"""Finds out for whom a thread acts: from the machine, and never from what the thread says.

An agent's programs carry its process with them: in their control group, where the daemon can make
groups, and in their ancestry, with the daemon as sub-reaper, and a reaper above it that outlives it
(`agentfs.machine.reaper`), so that a program that lost its parents descends from one of them: it is
its agent's where that is remembered (`agentfs.machine.kin`), else a stranger, never the operator.
Both are looked at: root, and the daemon's user where groups are delegated to it, can leave a group,
or enter another's, but nobody chooses whom it descends from. Where the two disagree, the ancestry
is right.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from agentfs.machine.proc import parent_of, thread_group, thread_mark
from agentfs.machine.programs import Programs
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.process.events import GroupRefused
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground

__all__ = ["Identity"]

Found = int | None

NOBODY = 0
"""Instead of a pid: nobody that there is."""

# How long an answer for a thread holds: it may be moved to another control group.
RECENT_SECONDS = 0.05
MAX_RECENT = 4096

# Deeper than any real ancestry; a bound for a /proc that changes while it is read.
MAX_GENERATIONS = 256


class Identity:
    """Resolves a thread id to a principal."""

    def __init__(self, ground: Ground, table: ProcessTable, programs: Programs, owner: int) -> None:
        self._table = table
        self._programs = programs
        self._events = ground.events
        self._owners = {owner, 0}
        self._daemon = os.getpid()
        # By thread id; with what tells the thread from a later one that was given its id.
        self._recent: dict[int, tuple[float, int, Found]] = {}
        # (pid, mark) of programs that are no agent's and do not descend from the daemon. They
        # never will: a program that loses its parent gets one of its ancestors. A program that
        # is attached counts as one that came.
        self._outside: set[tuple[int, int]] = set()
        self._as_of = -1
        self._told: set[tuple[int, int]] = set()  # (whose, in whose group) that were told of

    def resolve(self, tid: int, uid: int, gid: int) -> Principal:
        """The principal of thread `tid`, which made a call with these credentials.

        Costs 2 µs for a thread that called a moment ago; else a read of /proc/TID/cgroup and a look
        at each generation up to one that is known, 4 to 13 µs each. Waits for nobody: a child that
        is being launched descends from us, and is known by its launch.
        """
        found = self._lately(tid)
        if found is not None:
            process = self._table.find(found)
            if found == INIT and process is not None:
                return Principal(Kind.OPERATOR, INIT, process.name, uid, gid)
            if process is not None and process.state.alive:
                return Principal(Kind.AGENT, process.pid, process.name, uid, gid, process.behalf)
            return Principal(Kind.STRANGER, None, "a stranger", uid, gid)
        if uid in self._owners:
            init = self._table.find(INIT)
            return Principal(Kind.OPERATOR, INIT, init.name if init else "init", uid, gid)
        return Principal(Kind.USER, None, f"user {uid}", uid, gid)

    def _lately(self, tid: int) -> Found:
        """What `_agent_of` says, or said a moment ago if no program came or went since."""
        now = time.monotonic()
        if self._as_of != self._programs.generation or len(self._recent) > MAX_RECENT:
            self._recent.clear()
            self._outside.clear()
            self._as_of = self._programs.generation
        mark = thread_mark(tid)
        known = self._recent.get(tid)
        if known is not None and known[1] == mark and now - known[0] < RECENT_SECONDS:
            return known[2]
        found = self._agent_of(tid)
        self._recent[tid] = (now, mark, found)
        return found

    def _agent_of(self, tid: int) -> Found:
        """The agent process that the thread belongs to; NOBODY: it descends from the daemon, or
        from the reaper of an earlier one; None: it is no agent's."""
        if tid <= 0:
            return NOBODY
        group = self._programs.pid_of_thread(tid)
        above = self._above(tid)
        if group in (None, INIT, above):  # who enters the group of process 1 is not the operator
            return above
        if not above:  # an orphan, or what the operator put there
            return group
        if (above, group) not in self._told:
            self._told.add((above, group))
            names = [found.name for pid in (above, group) if (found := self._table.find(pid))]
            if len(names) == 2:
                self._events.emit(GroupRefused(above, *names))
        return above

    def _above(self, tid: int) -> Found:
        """The agent process whose program the thread descends from, else as `_agent_of`."""
        launched = self._programs.launch_of(tid)
        if launched is not None:
            return launched
        passed: list[tuple[int, int]] = []
        for ospid, mark in _ancestors(tid):
            if (ospid, mark) in self._outside:
                break
            process = self._table.by_ospid(ospid)
            if process is not None and self._programs.is_that_of(process, ospid, mark):
                self._programs.met(process, (one for one, _ in passed))
                return process.pid
            for known in (self._programs.launch_of(ospid), self._programs.served_by(ospid, mark)):
                if known is not None:
                    return known
            if ospid == self._daemon or (ospid, mark) in self._programs.reapers:
                return self._left_by(passed[-1]) if passed else NOBODY
            passed.append((ospid, mark))
        self._outside.update(passed)
        return None

    def _left_by(self, orphan: tuple[int, int]) -> int:
        """Whose (pid, mark) was before it lost its parents, where that is remembered."""
        program = self._programs.find(self._programs.kin.root_of(*orphan))
        return NOBODY if program is None or program.attached else program.pid


def _ancestors(tid: int) -> Iterator[tuple[int, int]]:
    """(pid, mark) of the thread's process, its parent, and so on to init: see `parent_of`.

    A thread that is gone meanwhile yields the daemon: a thread that cannot be told is a stranger.
    """
    pid = thread_group(tid)
    for _ in range(MAX_GENERATIONS):
        try:
            parent, mark = parent_of(pid)
        except OSError:  # EINVAL: of 0, which is no process
            yield os.getpid(), -1
            return
        yield pid, mark
        if parent <= 0:
            return
        pid = parent
