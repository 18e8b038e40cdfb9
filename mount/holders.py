"""The processes that may still write through an open file, when one of its descriptors is closed.

Linux tells us of every close(2) of a descriptor, and of the end of the open file only when it is
too late to refuse anything. So at each close we look: does the process that opened the file, or one
that descends from it, still have a descriptor of it? /proc/PID/fdinfo names the inode, which a file
that is written once has for itself (see `Inodes`): that is the same through every mount point and
in every name space. A descriptor that is being closed is out of its table by then, and a process
that exits has no table any more; both wait for our answer, so nobody we look for gets away (tried;
see tests/system/test_one_open.py).

A descriptor cannot be seen on its way through a socket, in a process that is no relative, or in one
that we may not look into: `UNSURE`.
"""

from __future__ import annotations

import ctypes
import enum
import os
import platform
import socket
from dataclasses import dataclass, field

import trio

from agentfs.mount import proc
from agentfs.mount.calls import is_closing, may_be_closing
from agentfs.mount.mounttable import Mounts

__all__ = ["Ending", "Family", "Sought", "ending"]


class Ending(enum.Enum):
    """The meaning of the close of a descriptor for an open file."""

    HELD = "somebody has another descriptor"
    KILLED = "a signal ended the last one who had it"
    LAST = "nobody has it any more"
    UNSURE = "somebody may have it whom we cannot see"


# How long it is looked who has a file: with 20,000 descriptors it takes 0.2 s.
LOOK_SECONDS = 1.0
# Descriptors that are looked at in the event loop, 5 µs each.
AT_ONCE = 32
# A process with more, which closes a descriptor of its own, is spared the look: it costs 8 µs each.
MANY = 1024

PF_EXITING = 0x4  # linux/sched.h
PF_SIGNALED = 0x400

_syscall = ctypes.CDLL(None).syscall
_syscall.restype = ctypes.c_long
_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine(), 0)


@dataclass(slots=True)
class Family:
    """The process whose thread opened a file, and those that may have inherited it from there. The
    `older`, children that it had before, cannot."""

    members: set[int] = field(default_factory=set)
    older: set[int] = field(default_factory=set)
    blind: bool = False  # somebody could not be looked at

    @classmethod
    def of(cls, tid: int) -> Family:
        """That of a thread that is opening a file now."""
        pid = proc.process_of(tid)
        if not pid or not proc.TELLS_CHILDREN:
            return cls(blind=True)
        try:
            return cls({pid}, set(proc.children(pid) or ()))
        except OSError:
            return cls({pid}, blind=True)

    def grow(self) -> None:
        """Find who is new, and forget who is gone. Asked at every close, it misses nobody: a
        process that has the file and ends is still there, with its children, until we have
        answered."""
        try:
            self._grow()
        except OSError:
            self.blind = True

    def _grow(self) -> None:
        found: set[int] = set()
        waiting = list(self.members)
        while waiting:
            pid = waiting.pop()
            children = () if pid in found else proc.children(pid)
            if children is not None:
                found.add(pid)
                waiting += [child for child in children if child not in self.older]
        self.members = found


@dataclass(frozen=True, slots=True)
class Sought:
    """The inode of an open file: its number, and the mounts of its device. `opens`: how many open
    files it has that could be meant; `writing`: those that can write."""

    number: int
    mounts: Mounts
    opens: int = 1
    writing: bool = True


async def ending(family: Family, sought: Sought) -> Ending:
    """The meaning of the close, now, of a descriptor of an open file.

    A process in execve(2) closes descriptors under a lock that some of the looks wait for (see
    `proc`). So those are not made in the event loop, and they are waited for a moment only: when we
    have answered, the lock is free.
    """
    found = _at_once(family, sought)
    if found is not None:
        return found
    with trio.move_on_after(LOOK_SECONDS):
        return await trio.to_thread.run_sync(
            _ending, family, sought, abandon_on_cancel=True, limiter=proc.LOOKS
        )
    return Ending.UNSURE


def _at_once(family: Family, sought: Sought) -> Ending | None:
    """The same without a thread, which takes longer than all the rest: where few descriptors are to
    be looked at, and nobody is ending; else None. Reads nothing that waits for the lock."""
    try:
        family.grow()
        few = sum(map(proc.how_many_descriptors, family.members)) <= AT_ONCE
        if family.blind or not family.members or sought.opens != 1 or not few:
            return None
        search = _Search(sought)
        search.look(list(family.members))
        if search.found:
            return Ending.HELD
        if search.partly or any(map(proc.is_ending, family.members)):
            return None
    except OSError:
        return None
    return Ending.LAST


def _ending(family: Family, sought: Sought) -> Ending:
    try:
        family.grow()
        return _judge(family, sought)
    except OSError:
        return Ending.UNSURE  # we have no descriptor left to look with, for one


def _judge(family: Family, sought: Sought) -> Ending:
    if not family.members:
        return Ending.UNSURE
    unsure = family.blind
    looked: list[int] = []
    for pid in family.members:
        if proc.how_many_descriptors(pid) > MANY and is_closing(pid):
            unsure = True  # one of its own, and it hardly has two
            continue
        looked.append(pid)
    search = _Search(sought)
    search.look(looked)
    if search.found:
        # Of several open files of this inode (a second open of /dev/stdout) it may be another's.
        return Ending.HELD if len(search.found) == sought.opens else Ending.UNSURE
    if _was_killed(family.members):
        return Ending.KILLED
    return Ending.UNSURE if unsure or search.partly else Ending.LAST


# -- who has a descriptor ------------------------------------------------------------------------


class _Search:
    """A search for descriptors of `sought`.

    found: a descriptor, as (process, number), of each open file of the inode.
    partly: there may be more than can be seen.
    """

    def __init__(self, sought: Sought) -> None:
        self._sought = sought
        self._wanted = b"\nino:\t%d\n" % sought.number
        self.found: list[tuple[int, int]] = []
        self.partly = False

    @property
    def _over(self) -> bool:
        return len(self.found) >= self._sought.opens

    def look(self, pids: list[int]) -> None:
        """Look at processes until all open files are found."""
        for pid in pids:
            try:
                table = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    self._look_into(pid, table)
                finally:
                    os.close(table)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended, and what it had is closed
            except OSError:
                self.partly = True
            if self._over:
                break

    def _look_into(self, pid: int, process: int) -> None:
        descriptors = os.open("fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=process)
        try:
            names = os.listdir(descriptors)
        finally:
            os.close(descriptors)
        for name in names:
            try:
                info = proc.begins_with(f"fdinfo/{name}", process)
            except FileNotFoundError:
                continue  # closed while we looked
            if self._wanted in info:
                self._see(pid, process, int(name), info)
                if self._over:
                    return
            elif _OF_SOCKETS in info:
                self.partly = True  # a descriptor may be on its way through it
            elif b"\nino:" not in info:
                self.partly = True  # Linux before 5.14

    def _see(self, pid: int, process: int, descriptor: int, info: bytes) -> None:
        """A descriptor of an inode of that number, on whatever device."""
        flags = int(proc.field(info, b"flags"), 8)
        reading = flags & os.O_ACCMODE == os.O_RDONLY and self._sought.writing
        if reading or flags & os.O_PATH:
            return
        ours = self._sought.mounts.has(process, proc.field(info, b"mnt_id"))
        if ours is None:
            self.partly = True  # of a mount in another name space than the process's
        elif ours and not any(_is_same(pid, descriptor, *other) for other in self.found):
            self.found.append((pid, descriptor))


def _is_same(pid: int, descriptor: int, other_pid: int, other: int) -> bool:
    """Whether two descriptors are of one open file: kcmp(2). Yes if nobody can say."""
    result = _syscall(_KCMP, pid, other_pid, 0, descriptor, other) if _KCMP else 0
    return result in (0, -1)


def _of_sockets() -> bytes:
    """The line of fdinfo that says the mount of all sockets."""
    with socket.socket(socket.AF_UNIX) as one:
        info = proc.begins_with(f"/proc/self/fdinfo/{one.fileno()}")
    return b"\nmnt_id:\t%s\n" % proc.field(info, b"mnt_id")


_OF_SOCKETS = _of_sockets()


# -- how a process ends ------------------------------------------------------------------------


@dataclass(slots=True)
class _End:
    """What /proc/PID/stat says. `exiting`: it has not finished, but has no open files any more;
    `killed`: a signal ended it."""

    exiting: bool
    killed: bool

    @classmethod
    def of(cls, pid: int) -> _End | None:
        """None if it is gone."""
        try:
            if not proc.is_ending(pid):
                return cls(exiting=False, killed=False)
            fields = proc.begins_with(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        flags, threads, status = int(fields[6]), int(fields[17]), int(fields[49])
        over = fields[0] in (b"Z", b"X") and threads <= 1
        exiting = bool(flags & PF_EXITING) and not over
        # The status is that of the whole process; it is 0 if we may not look. The flag is there
        # for all to see, but a thread has it too when another one ends the process.
        alone = status == 0 and threads <= 1 and bool(flags & PF_SIGNALED)
        return cls(exiting, bool(status & 0x7F) or alone)


def _was_killed(pids: set[int]) -> bool:
    """Whether the close is that of a process which a signal has ended. It is not if any other may
    be the one that closes: a message is rather taken than lost."""
    states = {pid: _End.of(pid) for pid in pids}
    ends = [state for state in states.values() if state is not None and state.exiting]
    if not any(state.killed for state in ends) or not all(state.killed for state in ends):
        return False
    for pid, state in states.items():
        if state is not None and not state.exiting and may_be_closing(pid):
            return False
    return True
