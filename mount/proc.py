"""Threads, processes and their open files, as /proc and pidfds tell of them.

A program that is in execve(2) closes files under a lock, and each of them that is ours is closed
only when we have answered. Linux waits for that lock where it is asked for the call that a thread
is in (`system_call`), for /proc/PID/stat, and by kcmp(2). The event loop may ask that of one thread
only: the one whose request it is about to answer, which stands in another call. Of all others it is
asked in threads, for a moment (`LOOKS`, and `machine/promptly.py`). All the rest is told at once.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from contextlib import suppress

import trio

from agentfs.machine.proc import field, read_file, thread_group

__all__ = [
    "LOOKS",
    "TELLS_CHILDREN",
    "PendingSignals",
    "begins_with",
    "children",
    "command_line",
    "deliverable",
    "descriptors",
    "field",
    "flags_of",
    "how_many_descriptors",
    "is_ending",
    "process_and_parent",
    "process_of",
    "system_call",
    "threads",
]

TELLS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""CONFIG_PROC_CHILDREN: all distributions have it."""

PAGE = 4096

STATUS = 16 * 1024
"""Bytes of /proc/TID/status that are read at once. It has 1.5 KB, and more with many groups."""

LOOKED_AT = 64
"""Threads whose /proc/TID/status is kept open: as many descriptors of ours."""

LOOKS = trio.CapacityLimiter(40)
"""Of the threads for looks that may hang. Everything else that is done in threads goes on, however
many do."""

# Of /proc/TID/status. A look among heirs reads that of every process: 35 µs each so, 110 with all
# of its lines taken apart.
_SIGNALS = re.compile(
    rb"\nState:\t(?P<state>.).*\nSigPnd:\t(?P<own>\w+)\nShdPnd:\t(?P<shared>\w+)"
    rb"\nSigBlk:\t(?P<blocked>\w+)\nSigIgn:\t(?P<ignored>\w+)\n",
    re.DOTALL,
)


def begins_with(path: str, directory: int | None = None) -> bytes:
    """The first page of a file of /proc, by a path relative to an open `directory`: 3 calls to
    Linux, where Python's own `open` makes 9. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, PAGE)
    finally:
        os.close(descriptor)


# -- threads ---------------------------------------------------------------------------------------


def system_call(tid: int) -> list[bytes]:
    """The call that a thread is in: its number, six arguments, the stack and the program counter;
    `running` if it is in none. Raises OSError if it is gone, or if we may not look."""
    return begins_with(f"/proc/{tid}/syscall").split()


def process_of(tid: int) -> int:
    """The process of a thread; 0 if it is gone, or not to be seen from here."""
    if tid <= 0:
        return 0
    try:
        os.close(os.pidfd_open(tid))  # only of the thread that has the process's number
    except OSError:
        pass
    else:
        return tid
    return thread_group(tid)


def process_and_parent(tid: int) -> tuple[int, int]:
    """The process of a thread, and the parent of that; zeros if it is gone."""
    with suppress(OSError):
        status = read_file(f"/proc/{tid}/status")
        return int(field(status, b"Tgid") or 0), int(field(status, b"PPid") or 0)
    return 0, 0


def deliverable(tid: int) -> int | None:
    """The signals (bit n-1 for signal n) that wait for a thread and that it neither blocks nor
    ignores; None if the thread is gone or ending."""
    try:
        return _deliverable(read_file(f"/proc/{tid}/status"))
    except OSError:
        return None


class PendingSignals:
    """The same, of threads that are looked at again and again: for the last `LOOKED_AT` of them
    /proc/TID/status is kept open, which takes half of the time (12 and 7 µs). A descriptor is of
    one thread: once that is gone it says so, whoever has its number by then."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, int] = OrderedDict()

    def deliverable(self, tid: int) -> int | None:
        """As the function."""
        descriptor = self._open.get(tid)
        try:
            if descriptor is not None:
                self._open.move_to_end(tid)
                try:
                    return self._look(descriptor, tid)
                except ProcessLookupError:  # the number may be of another thread now
                    self._open.pop(tid)
                    os.close(descriptor)
            descriptor = os.open(f"/proc/{tid}/status", os.O_RDONLY)
        except OSError:
            return None
        self._open[tid] = descriptor
        if len(self._open) > LOOKED_AT:
            os.close(self._open.popitem(last=False)[1])
        try:
            return self._look(descriptor, tid)
        except OSError:
            return None

    @staticmethod
    def _look(descriptor: int, tid: int) -> int | None:
        status = os.pread(descriptor, STATUS, 0)
        return deliverable(tid) if len(status) == STATUS else _deliverable(status)

    def close(self) -> None:
        """Keep nothing open any more."""
        while self._open:
            os.close(self._open.popitem()[1])


def _deliverable(status: bytes) -> int | None:
    found = _SIGNALS.search(status)
    if found is None or found["state"] in (b"Z", b"X"):
        return None
    pending = int(found["own"], 16) | int(found["shared"], 16)
    return pending & ~(int(found["blocked"], 16) | int(found["ignored"], 16))


# -- processes -------------------------------------------------------------------------------------


def threads(pid: int) -> list[int]:
    """The threads of a process; none if it is gone. Raises OSError if we may not look."""
    try:
        if os.stat(f"/proc/{pid}/task").st_nlink <= 3:  # `.`, `..`, and one
            return [pid]
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int] | None:
    """The children of a process; None if it is gone. Raises OSError if we may not look."""
    its_threads = threads(pid)
    if not its_threads:
        return None
    found: list[int] = []
    for thread in its_threads:
        try:
            found += map(int, read_file(f"/proc/{pid}/task/{thread}/children").split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def command_line(pid: int) -> bytes:
    """The first page of it; empty if the process is gone."""
    with suppress(OSError):
        return begins_with(f"/proc/{pid}/cmdline")
    return b""


def descriptors(pid: int) -> list[int]:
    """The descriptors of a process. Raises OSError if it is gone, or if we may not look."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/fdinfo")]


def flags_of(pid: int, descriptor: int, inode: int) -> int | None:
    """The flags of a descriptor, if it is one of a file with this inode number."""
    if descriptor >= 1 << 20:  # a pointer, or a negative number
        return None
    with suppress(OSError):
        said = begins_with(f"/proc/{pid}/fdinfo/{descriptor}")
        if b"\nino:\t%d\n" % inode in said:
            return int(field(said, b"flags"), 8)
    return None


def how_many_descriptors(pid: int) -> int:
    """How many descriptors a process has; 0 if it is gone, or Linux does not say so (6.2)."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def is_ending(pid: int) -> bool:
    """Whether a process exits: it has no memory any more, and may have no table of files. Raises
    OSError if it is gone."""
    return b"\nVmSize:" not in read_file(f"/proc/{pid}/status")
