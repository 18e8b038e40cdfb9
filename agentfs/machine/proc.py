"""What the machine says about its processes: /proc/PID/stat and pidfds. Knows nothing of agents.

A process that is in execve(2) closes its close-on-exec files under a lock (`exec_update_lock`), and
a file of our tree among them is closed only when we have answered. Linux 6.18 takes that lock for
/proc/PID/stat, as it always did for `syscall`, `environ` and the like. An event loop that asks for
one of them then waits for ever, and everybody else with it (tried; see
tests/process/test_execve.py). /proc/PID/status and `cmdline` and pidfds take no lock.

So `read_status` is for all that need neither the start time nor the exit code. A process may enter
execve right after it was asked whether it `is_in_execve`: `read_stat` takes its look `promptly`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agentfs.machine.promptly import promptly

__all__ = [
    "TICKS",
    "UNTOLD",
    "ProcStat",
    "all_pids",
    "began_by",
    "boot_id",
    "code_of_zombie",
    "descended",
    "exit_code",
    "field",
    "is_in_execve",
    "is_stopped",
    "lost_exit_code",
    "mark_of",
    "own_stat",
    "parent_of",
    "read_file",
    "read_stat",
    "read_status",
    "thread_group",
    "thread_mark",
]

# linux/pidfd.h: struct pidfd_info begins with the mask of what is asked for and what was answered;
# exit_code, a wait status, is the last of its first 64 bytes (Linux 6.15).
PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
PIDFD_INFO_PID = 1 << 0
PIDFD_INFO_EXIT = 1 << 3


def _tells() -> tuple[bool, bool]:
    """Whether a pidfd tells the parent, and whether each process has an inode of its own."""
    try:
        pidfd, other = os.pidfd_open(os.getpid()), os.eventfd(0)
    except OSError:  # a sandbox has none, nor has Valgrind
        return False, False
    try:
        marks = os.fstat(pidfd).st_ino != os.fstat(other).st_ino
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, bytearray(64))
    except OSError:
        return False, marks
    finally:
        os.close(pidfd)
        os.close(other)
    return marks, marks


_TELLS_PARENTS, _TELLS_MARKS = _tells()

UNTOLD = -1
"""The start time of a process that is in execve."""

PAUSE = 0.0002

TICKS = os.sysconf("SC_CLK_TCK")
"""The clock ticks of a second: Linux counts the start of processes and their processor time in
them."""

ENOUGH = 4096
"""The bytes that nearly every file of a process fits into."""

PF_EXITING = 0x4  # linux/sched.h: it is closing its files, or has done so


@dataclass(frozen=True, slots=True)
class ProcStat:
    """A line of /proc/PID/stat. `name` is the file that was executed last, 15 bytes of it at most;
    `start` in clock ticks since boot; `status` as wait(2) gives it."""

    name: str
    state: str
    ppid: int
    group: int
    session: int
    exiting: bool
    start: int
    status: int

    @property
    def ended(self) -> bool:
        return self.state in "ZX"

    def began(self, start: int) -> bool:
        """Whether it is the process that began at `start`, as far as can be told."""
        return self.start in (start, UNTOLD)


def read_file(path: str) -> bytes:
    """A file of /proc: 3 calls to Linux. `open` makes 9 for the same, twice the time; a message
    that is received takes a dozen of these looks. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        said = chunk = os.read(descriptor, ENOUGH)
        while len(chunk) == ENOUGH:
            chunk = os.read(descriptor, ENOUGH)
            said += chunk
        return said
    finally:
        os.close(descriptor)


def read_stat(ospid: int, patience: float = 0.0, *, settled: bool = False) -> ProcStat | None:
    """None if there is no such process. The name in the line may hold spaces and parentheses.

    A process in execve has up to `patience` seconds to be through. If it is not, the answer is that
    of `read_status`. `settled`: it was just seen not to be there.
    """
    while not settled and is_in_execve(ospid):
        if patience <= 0:
            return read_status(ospid)
        time.sleep(PAUSE)
        patience -= PAUSE
    line = promptly(partial(read_file, f"/proc/{ospid}/stat"))
    return read_status(ospid) if line is None else _parsed(line)


def read_status(ospid: int) -> ProcStat | None:
    """What can be told of a process without waiting for anything; None if there is no such process.
    Its `start` is UNTOLD, and so are `exiting` and `status`."""
    try:
        said = b"\n" + read_file(f"/proc/{ospid}/status")
    except OSError:
        return None
    return ProcStat(
        name=os.fsdecode(field(said, b"Name")),
        state=os.fsdecode(field(said, b"State")[:1]),
        ppid=int(field(said, b"PPid")),
        group=int(field(said, b"NSpgid").split()[0]),
        session=int(field(said, b"NSsid").split()[0]),
        exiting=False,
        start=UNTOLD,
        status=0,
    )


def field(said: bytes, key: bytes) -> bytes:
    """What a line `key:\tvalue` says, that is not the first, of /proc/PID/status or of a file in
    `fdinfo`. The name in `status` has no line feeds: Linux escapes them."""
    return said.partition(b"\n" + key + b":\t")[2].partition(b"\n")[0]


def own_stat() -> ProcStat:
    """Of the process that asks: it is not in execve."""
    return _parsed(read_file("/proc/self/stat"))


def _parsed(line: bytes) -> ProcStat:
    """A line of /proc/PID/stat."""
    head, _, tail = line.rpartition(b")")
    fields = tail.split()
    state, ppid, group, session = fields[:4]
    return ProcStat(
        name=os.fsdecode(head.partition(b"(")[2]),
        state=state.decode(),
        ppid=int(ppid),
        group=int(group),
        session=int(session),
        exiting=bool(int(fields[6]) & PF_EXITING),
        start=int(fields[19]),
        status=int(fields[49]),
    )


def is_in_execve(ospid: int) -> bool:
    """Whether a process may be at the point of execve where it holds the lock: its new memory has
    no command line yet. A thread of Linux, or a process that has ended, has no memory at all.
    5 µs."""
    try:
        if read_file(f"/proc/{ospid}/cmdline"):
            return False
        return b"\nVmSize:" in read_file(f"/proc/{ospid}/status")
    except OSError:
        return False


def is_stopped(ospid: int) -> bool:
    """Whether it stands still until it is told to go on, or is about to: a STOP waits for it.

    A process that waits in vfork(2) stops when its child has executed something. It never does if
    the child was stopped too, as by a STOP for their group. dash starts commands that way.
    """
    try:
        said = read_file(f"/proc/{ospid}/status")
    except OSError:
        return False
    state = field(said, b"State")[:1]
    if state in b"TZX":
        return state == b"T"
    waiting = int(field(said, b"SigPnd"), 16) | int(field(said, b"ShdPnd"), 16)
    return bool(waiting >> (signal.SIGSTOP - 1) & 1)


def mark_of(pidfd: int) -> int:
    """A number that no other process of this run of the machine has: of the pidfd's inode, where
    there is one for each process (Linux 6.9), else 0."""
    return os.fstat(pidfd).st_ino if _TELLS_MARKS else 0


def parent_of(ospid: int) -> tuple[int, int]:
    """The pid of a process's parent, 0 without one, and what tells the process itself from a later
    one of its number: `mark_of` its pidfd, or its start time. Raises ProcessLookupError.

    4 µs, and waits for nothing (Linux 6.13); before that it is `read_stat`.
    """
    if _TELLS_PARENTS:
        pidfd = os.pidfd_open(ospid)
        try:
            answer = bytearray(64)
            struct.pack_into("=Q", answer, 0, PIDFD_INFO_PID)
            fcntl.ioctl(pidfd, PIDFD_GET_INFO, answer)
            return struct.unpack_from("=i", answer, 24)[0], mark_of(pidfd)
        finally:
            os.close(pidfd)
    stat = read_stat(ospid)
    if stat is None:
        raise ProcessLookupError(ospid)
    return stat.ppid, stat.start


def began_by(ospid: int, when: int) -> bool:
    """Whether it is there and began no later than `when`, in ns of CLOCK_MONOTONIC: a process that
    got its number after that is another. One that is in execve is taken for the first."""
    stat = read_stat(ospid)
    if stat is None:
        return False
    asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return stat.began(UNTOLD) or stat.start <= (when + asleep) * TICKS // 10**9


def thread_group(tid: int) -> int:
    """The process that a thread belongs to; 0, which is none, if it is gone."""
    with suppress(OSError):
        return int(field(read_file(f"/proc/{tid}/status"), b"Tgid"))
    return 0


def thread_mark(tid: int) -> int:
    """What tells a thread from a later one that is given its id: the inode number of /proc/TID,
    which Linux makes anew for each (and now and then for the same one). 0 if it is gone. 2 µs."""
    try:
        return os.stat(f"/proc/{tid}").st_ino
    except OSError:
        return 0


def all_pids() -> list[int]:
    """The OS pids of the machine, 10 µs each to look into."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def descended(roots: Iterable[int], children: Mapping[int, Iterable[int]]) -> list[int]:
    """These, and all that descends from them, each once; `children` by parent."""
    found = list(dict.fromkeys(roots))
    seen = set(found)
    for one in found:  # grows while it is walked
        fresh = [child for child in children.get(one, ()) if child not in seen]
        seen.update(fresh)
        found += fresh
    return found


def boot_id() -> str:
    """This run of the machine: start times are only unmistakable within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def exit_code(status: int) -> int:
    """The exit code that a wait status means, or 128 + signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def lost_exit_code(pidfd: int, ospid: int, start: int) -> int | None:
    """How a program ended that is not our child; None if the machine does not say.

    The pidfd knows once its parent has waited for it (Linux 6.15), /proc/PID/stat until then. The
    parent may wait between the two looks, so the pidfd is asked again.
    """
    for _ in range(2):
        answer = bytearray(64)
        struct.pack_into("=Q", answer, 0, PIDFD_INFO_EXIT)
        with suppress(OSError):
            fcntl.ioctl(pidfd, PIDFD_GET_INFO, answer)
            (mask,) = struct.unpack_from("=Q", answer, 0)
            if mask & PIDFD_INFO_EXIT:
                return exit_code(struct.unpack_from("=i", answer, 60)[0])
        code = code_of_zombie(ospid, start)
        if code is not None:
            return code
    return None


def code_of_zombie(ospid: int, start: int) -> int | None:
    """The exit code of a process that has ended and was not waited for yet; None of any other."""
    stat = read_stat(ospid)
    if stat is not None and stat.ended and stat.start == start and _may_look(ospid):
        return exit_code(stat.status)
    return None


def _may_look(ospid: int) -> bool:
    """Whether /proc/PID/stat tells us the status, and not 0 as it does strangers."""
    with suppress(OSError):
        return os.geteuid() in (0, os.stat(f"/proc/{ospid}").st_uid)
    return False
