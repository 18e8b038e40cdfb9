"""Who may still write through an open file, when one of its descriptors is closed.

Linux tells us of every close(2) of a descriptor, and of the end of the open file only when it is
too late to refuse anything. So at each close we look: does the process that opened the file, or one
that descends from it, still have a descriptor of it? /proc/PID/fdinfo names the inode, which a file
that is written once has for itself (see `Inodes`): that is the same through every mount point and
in every name space. A descriptor that is being closed is out of its table by then, and a process
that exits has no table any more; both wait for our answer, so nobody we look for gets away (tried;
see tests/system/test_one_open.py).

What cannot be seen is a descriptor on its way through a socket, or in a process that is no relative
or that we may not look into: `UNSURE`.
"""

from __future__ import annotations

import ctypes
import enum
import os
import platform
import socket
import time
from dataclasses import dataclass, field

import trio

from agentfs.mount.mounttable import Mounts

__all__ = ["Ending", "Family", "Target", "ending", "system_call"]


class Ending(enum.Enum):
    """What the close of a descriptor means for an open file."""

    HELD = "somebody has another descriptor"
    KILLED = "a signal ended the last one who had it"
    LAST = "nobody has it any more"
    UNSURE = "somebody may have it whom we cannot see"


# How long is looked for who has a file: with 20,000 descriptors it takes 0.2 s.
LOOK_SECONDS = 1.0
# Descriptors that are looked at in the event loop, 5 µs each.
AT_ONCE = 32
# A process with more, which closes a descriptor of its own, is spared the look: it costs 8 µs each.
MANY = 1024

PF_EXITING = 0x4  # linux/sched.h
PF_SIGNALED = 0x400

# Calls that close descriptors: close, dup2, dup3, close_range, execve, execveat, exit, exit_group,
# and io_uring_enter (asm/unistd*.h).
_CLOSING = {
    "x86_64": frozenset((b"3", b"33", b"292", b"436", b"59", b"322", b"60", b"231", b"426")),
    "aarch64": frozenset((b"57", b"24", b"436", b"221", b"281", b"93", b"94", b"426")),
}.get(platform.machine(), frozenset())

# A thread that has just sent us a request is asleep after some µs, under load later.
PAUSES_SECONDS = (0.0, 0.0002, 0.001, 0.005, 0.02)

_syscall = ctypes.CDLL(None).syscall
_syscall.restype = ctypes.c_long
_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine(), 0)

# CONFIG_PROC_CHILDREN: all distributions have it.
_TELLS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


@dataclass(slots=True)
class Family:
    """The process whose thread opened a file, and those that may have inherited it from there: not
    the `older`, the children that it had before."""

    members: set[int] = field(default_factory=set)
    older: set[int] = field(default_factory=set)
    blind: bool = False  # somebody could not be looked at

    @classmethod
    def of(cls, tid: int) -> Family:
        """That of a thread that is opening a file now."""
        pid = _group(tid)
        if not pid or not _TELLS_CHILDREN:
            return cls(blind=True)
        try:
            return cls({pid}, set(_children(pid) or ()))
        except OSError:
            return cls({pid}, blind=True)

    def grow(self) -> None:
        """Find who is new, and forget who is gone. Asked at every close, it misses nobody: whoever
        has the file and ends is still there, with its children, until we have answered."""
        try:
            self._grow()
        except OSError:
            self.blind = True

    def _grow(self) -> None:
        found: set[int] = set()
        waiting = list(self.members)
        while waiting:
            pid = waiting.pop()
            children = () if pid in found else _children(pid)
            if children is not None:
                found.add(pid)
                waiting += [child for child in children if child not in self.older]
        self.members = found


@dataclass(frozen=True, slots=True)
class Target:
    """The inode of an open file: its number, and the mounts of its device. `opens`: how many open
    files it has that could be meant; `writing`: those that can write."""

    number: int
    mounts: Mounts
    opens: int = 1
    writing: bool = True


async def ending(family: Family, target: Target) -> Ending:
    """What it means that a descriptor of an open file was closed, now.

    Whoever is in execve(2) closes descriptors under a lock that /proc/PID/stat, /proc/PID/syscall
    and kcmp(2) wait for. So nothing of that is asked in the event loop, and for a moment only: when
    we have answered, the lock is free.
    """
    found = _at_once(family, target)
    if found is not None:
        return found
    with trio.move_on_after(LOOK_SECONDS):
        return await trio.to_thread.run_sync(_ending, family, target, abandon_on_cancel=True)
    return Ending.UNSURE


def _at_once(family: Family, target: Target) -> Ending | None:
    """The same without a thread, which takes longer than all the rest: where few descriptors are to
    be looked at, and nobody is ending; else None. Reads nothing that waits for the lock."""
    try:
        family.grow()
        few = sum(map(_descriptors, family.members)) <= AT_ONCE
        if family.blind or not family.members or target.opens != 1 or not few:
            return None
        seen = _look(list(family.members), target)
        if seen.found:
            return Ending.HELD
        if seen.partly or any(map(_is_ending, family.members)):
            return None
    except OSError:
        return None
    return Ending.LAST


def _ending(family: Family, target: Target) -> Ending:
    try:
        family.grow()
        return _judge(family, target)
    except OSError:
        return Ending.UNSURE  # we have no descriptor left to look with, for one


def _judge(family: Family, target: Target) -> Ending:
    if not family.members:
        return Ending.UNSURE
    unsure = family.blind
    looked: list[int] = []
    for pid in family.members:
        size = _descriptors(pid)
        if size > MANY and _is_closing(pid):
            unsure = True  # one of its own, and it hardly has two
            continue
        looked.append(pid)
    seen = _look(looked, target)
    if seen.found:
        # Of several open files of this inode (a second open of /dev/stdout) it may be another's.
        return Ending.HELD if len(seen.found) == target.opens else Ending.UNSURE
    if _was_killed(family.members):
        return Ending.KILLED
    return Ending.UNSURE if unsure or seen.partly else Ending.LAST


@dataclass(slots=True)
class _Seen:
    """`found`: a descriptor, as (process, number), of each open file of the inode; `partly`: there
    may be more than can be seen."""

    found: list[tuple[int, int]] = field(default_factory=list)
    partly: bool = False


def _look(pids: list[int], target: Target) -> _Seen:
    """Look for descriptors of `target` in processes."""
    seen = _Seen()
    for pid in pids:
        try:
            table = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
            try:
                _look_into(pid, table, target, seen)
            finally:
                os.close(table)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, and what it had is closed
        except OSError:
            seen.partly = True
        if len(seen.found) >= target.opens:
            break
    return seen


def _look_into(pid: int, process: int, target: Target, seen: _Seen) -> None:
    descriptors = os.open("fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=process)
    try:
        names = os.listdir(descriptors)
    finally:
        os.close(descriptors)
    wanted = b"\nino:\t%d\n" % target.number
    for name in names:
        try:
            info = _read(f"fdinfo/{name}", process)
        except FileNotFoundError:
            continue  # closed while we looked
        if wanted in info:
            flags = int(_line(info, b"flags"), 8)
            reading = flags & os.O_ACCMODE == os.O_RDONLY and target.writing
            if reading or flags & os.O_PATH:
                continue
            ours = target.mounts.has(process, _line(info, b"mnt_id"))
            if ours:
                if not any(_is_same(pid, int(name), *other) for other in seen.found):
                    seen.found.append((pid, int(name)))
                if len(seen.found) >= target.opens:
                    return
            elif ours is None:
                seen.partly = True  # of a mount in another name space than the process's
        elif _line(info, b"mnt_id") == _SOCKETS:
            seen.partly = True  # a descriptor may be on its way through it
        elif b"\nino:" not in info:
            seen.partly = True  # Linux before 5.14


def _is_same(pid: int, descriptor: int, other_pid: int, other: int) -> bool:
    """Whether two descriptors are of one open file: kcmp(2). Yes if nobody can say."""
    result = _syscall(_KCMP, pid, other_pid, 0, descriptor, other) if _KCMP else 0
    return result in (0, -1)


def _line(text: bytes, key: bytes) -> bytes:
    """What a line `key:\tvalue` says."""
    return text.partition(key + b":")[2].partition(b"\n")[0].strip()


def _sockets() -> bytes:
    """The mnt_id that all sockets have."""
    with socket.socket(socket.AF_UNIX) as one:
        return _line(_read(f"/proc/self/fdinfo/{one.fileno()}"), b"mnt_id")


def _read(path: str, directory: int | None = None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


# -- how a process ends ------------------------------------------------------------------------


@dataclass(slots=True)
class _State:
    """What /proc/PID/stat says. `exiting`: it has not finished, but has no open files any more;
    `killed`: a signal ended it."""

    exiting: bool
    killed: bool

    @classmethod
    def of(cls, pid: int) -> _State | None:
        """None if it is gone."""
        try:
            if not _is_ending(pid):
                return cls(exiting=False, killed=False)
            fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        flags, threads, status = int(fields[6]), int(fields[17]), int(fields[49])
        over = fields[0] in (b"Z", b"X") and threads <= 1
        exiting = bool(flags & PF_EXITING) and not over
        # The status is that of the whole process; to who may not look it is 0. The flag is there
        # for all to see, but a thread has it too when another one ends the process.
        alone = status == 0 and threads <= 1 and bool(flags & PF_SIGNALED)
        return cls(exiting, bool(status & 0x7F) or alone)


def _is_ending(pid: int) -> bool:
    """Whether a process exits: it has no memory any more, and may have no table of files."""
    return b"\nVmSize:" not in _read(f"/proc/{pid}/status")


def _was_killed(pids: set[int]) -> bool:
    """Whether the close is that of a process which a signal has ended. If anybody else may be the
    one who closes, it is not: what was written is rather taken than lost."""
    states = {pid: _State.of(pid) for pid in pids}
    ends = [state for state in states.values() if state is not None and state.exiting]
    if not any(state.killed for state in ends) or not all(state.killed for state in ends):
        return False
    for pid, state in states.items():
        if state is not None and not state.exiting and _may_be_closing(pid):
            return False
    return True


def _may_be_closing(pid: int) -> bool:
    """Whether some thread of the process is in a call that closes descriptors; yes if in doubt."""
    for pause in PAUSES_SECONDS:
        calls = {system_call(thread) for thread in _threads(pid)}
        if b"" in calls or calls & _CLOSING or not _CLOSING:
            return True
        if b"running" not in calls:
            return False
        time.sleep(pause)
    return False


def _is_closing(pid: int) -> bool:
    return any(system_call(thread) in _CLOSING for thread in _threads(pid))


def system_call(tid: int) -> bytes:
    """The number of the call that a thread is in; `running` if it runs, empty if nobody says."""
    try:
        return _read(f"/proc/{tid}/syscall").partition(b" ")[0].strip()
    except OSError:
        return b""


# -- what is quickly told of a process ---------------------------------------------------------


def _group(tid: int) -> int:
    """The process of a thread; 0 if it is gone, or not to be seen from here."""
    if tid <= 0:
        return 0
    try:
        os.close(os.pidfd_open(tid))  # only of the thread that has the process's number
    except OSError:
        pass
    else:
        return tid
    try:
        status = _read(f"/proc/{tid}/status")
    except OSError:
        return 0  # gone, or nobody can look
    return int(_line(status, b"Tgid") or 0)


def _threads(pid: int) -> list[int]:
    """The threads of a process; none if it is gone."""
    try:
        if os.stat(f"/proc/{pid}/task").st_nlink <= 3:  # `.`, `..`, and one
            return [pid]
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _descriptors(pid: int) -> int:
    """How many descriptors a process has; 0 if it is gone, or Linux does not say so (6.2)."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def _children(pid: int) -> list[int] | None:
    """The children of a process; None if it is gone."""
    threads = _threads(pid)
    if not threads:
        return None
    found: list[int] = []
    for thread in threads:
        try:
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


_SOCKETS = _sockets()
