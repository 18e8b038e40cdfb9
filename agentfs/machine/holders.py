"""Which process has a socket open, by the socket's inode number.

For a thread beside the event loop: a look at everything that all processes have open takes 1 µs a
file. A process in execve(2) is looked at last; there the look may hang (see `proc`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from agentfs.machine.proc import all_pids, is_in_execve

__all__ = ["SocketHolder", "find_holder"]


@dataclass(frozen=True, slots=True)
class SocketHolder:
    """A process that had it open. As long as the `pidfd`, which belongs to who asked, says that it
    lives, `ospid` is no other's."""

    ospid: int
    pidfd: int


def find_holder(inode: int, likely: Iterable[int] = ()) -> SocketHolder | None:
    """The first process that is found to have the socket open: among the `likely` ones, then among
    all, the newest first. None if nobody has, or who has does not let us look."""
    name = f"socket:[{inode}]"
    late: list[int] = []
    for ospid in _each(likely):
        if is_in_execve(ospid):
            late.append(ospid)
        elif found := _look(ospid, name):
            return found
    for ospid in late:
        if found := _look(ospid, name):
            return found
    return None


def _each(likely: Iterable[int]) -> Iterator[int]:
    seen = set()
    for ospid in likely:
        seen.add(ospid)
        yield ospid
    for ospid in reversed(all_pids()):
        if ospid not in seen:
            yield ospid


def _look(ospid: int, name: str) -> SocketHolder | None:
    folder = f"/proc/{ospid}/fd"
    with suppress(OSError):
        descriptors = os.listdir(folder)
        if not descriptors:
            return None
        pidfd = os.pidfd_open(ospid)
        for descriptor in descriptors:
            with suppress(OSError):
                if os.readlink(f"{folder}/{descriptor}") == name:
                    return SocketHolder(ospid, pidfd)
        os.close(pidfd)
    return None
