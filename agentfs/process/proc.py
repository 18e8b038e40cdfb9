"""What the machine says about its processes: /proc/PID/stat and pidfds. Knows nothing of agents."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Stat",
    "all_pids",
    "boot_id",
    "exit_code",
    "lost_exit_code",
    "read_stat",
    "thread_group",
]

# linux/pidfd.h: struct pidfd_info begins with the mask of what is asked for and what was answered;
# exit_code, a wait status, is the last of its first 64 bytes (Linux 6.15).
PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
PIDFD_INFO_EXIT = 1 << 3

PF_EXITING = 0x4  # linux/sched.h: it is closing its files, or has done so


@dataclass(frozen=True, slots=True)
class Stat:
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


def read_stat(ospid: int) -> Stat | None:
    """None if there is no such process. The name in the line may hold spaces and parentheses."""
    try:
        with open(f"/proc/{ospid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
    except OSError:  # ENOENT, or ESRCH if it went away between the two calls
        return None
    fields = tail.split()
    state, ppid, group, session = fields[:4]
    return Stat(
        name=os.fsdecode(head.partition(b"(")[2]),
        state=state.decode(),
        ppid=int(ppid),
        group=int(group),
        session=int(session),
        exiting=bool(int(fields[6]) & PF_EXITING),
        start=int(fields[19]),
        status=int(fields[49]),
    )


def thread_group(tid: int) -> int:
    """The process that a thread belongs to; 0, which is none, if it is gone."""
    with suppress(OSError), open(f"/proc/{tid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Tgid:"):
                return int(line[5:])
    return 0


def all_pids() -> list[int]:
    """The OS pids of the machine, 10 µs each to look into."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


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
        stat = read_stat(ospid)
        if stat is not None and stat.ended and stat.start == start and _may_look(ospid):
            return exit_code(stat.status)
    return None


def _may_look(ospid: int) -> bool:
    """Whether /proc/PID/stat tells us the status, and not 0 as it does strangers."""
    with suppress(OSError):
        return os.geteuid() in (0, os.stat(f"/proc/{ospid}").st_uid)
    return False
