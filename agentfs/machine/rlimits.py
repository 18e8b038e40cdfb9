"""How much memory and processor time programs may have and have had, by what the machine says."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from agentfs.machine.proc import TICKS, all_pids, descended, is_in_execve, read_file, read_status
from agentfs.machine.promptly import promptly

__all__ = [
    "CPU_BELT",
    "OPEN_FILES",
    "Bounds",
    "Limit",
    "Usage",
    "below",
    "lay_on",
    "limits_for",
    "usage_of",
]

Limit = tuple[int, int, int]
"""(resource, soft, hard), as setrlimit(2) takes them."""

CPU_BELT = 1
"""Seconds of processor time that one program may use beyond the limit before the machine kills it:
the daemon asks it to end at the limit itself, but may not be there."""

OPEN_FILES: Limit = (resource.RLIMIT_NOFILE, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""Programs get what the daemon was started with. It raises its own later, but a program that closes
every number that it might have open would take minutes, and one that uses select(2) would
meet numbers that this cannot take. Looked up as this module is imported, before anybody raises it.
"""

MIB = 1024 * 1024


class Bounds(NamedTuple):
    """What programs may have together: memory in MiB, seconds of processor time, processes and
    threads. None is no limit."""

    memory_mb: int | None = None
    cpu_seconds: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What programs use: resident memory of their own in MiB, processor time in seconds."""

    memory_mb: float = 0.0
    cpu_seconds: float = 0.0


def limits_for(memory_mb: int | None, cpu_seconds: int | None) -> list[Limit]:
    """What each single program gets; None is what the daemon itself has.

    Memory by RLIMIT_DATA, the private memory that it can write to: address space (RLIMIT_AS) would
    also count what runtimes only reserve, by the gigabyte.
    """
    found = []
    for number, most in (
        (resource.RLIMIT_DATA, None if memory_mb is None else memory_mb * MIB),
        (resource.RLIMIT_CPU, None if cpu_seconds is None else cpu_seconds + CPU_BELT),
    ):
        soft, hard = resource.getrlimit(number)
        if most is not None:
            hard = most if hard == resource.RLIM_INFINITY else min(most, hard)
            soft = hard
        found.append((number, soft, hard))
    return found


def lay_on(ospid: int, limits: Iterable[Limit]) -> None:
    """Give a program (0: this one) these limits. Raises OSError; PermissionError where they are
    raised without CAP_SYS_RESOURCE."""
    for number, soft, hard in limits:
        resource.prlimit(ospid, number, (soft, hard))


def usage_of(ospids: Iterable[int]) -> Usage:
    """What these use and, as to time, what the children used that they waited for."""
    pages = ticks = 0
    for ospid in ospids:
        if is_in_execve(ospid):
            continue
        line = promptly(partial(read_file, f"/proc/{ospid}/stat"))
        if line is not None:
            fields = line.rpartition(b")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime stime cutime cstime
        with suppress(OSError), open(f"/proc/{ospid}/statm", "rb") as file:
            resident, shared = map(int, file.read().split()[1:3])
            pages += max(0, resident - shared)
    return Usage(pages * resource.getpagesize() / MIB, ticks / TICKS)


def below(ospid: int) -> list[int]:
    """A program, its session and all that descends from them: 10 µs a process of the machine."""
    children: dict[int, list[int]] = {}
    found = [ospid]
    for other in all_pids():
        stat = read_status(other)
        if stat is None or other == ospid:
            continue
        children.setdefault(stat.ppid, []).append(other)
        if stat.session == ospid:
            found.append(other)
    return descended(found, children)
