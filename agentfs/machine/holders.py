"""Which process has a socket open, by the socket's inode number.

For a thread beside the event loop: a look at everything that all processes have open takes 1 µs a
file. At a process in execve(2) it might hang as long as that does (see `proc`): there it is taken
afterwards, or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from agentfs.machine.proc import all_pids, is_in_execve

__all__ = ["SocketHolder", "find_holder"]

EXECVE_SECONDS = 0.2
"""For all that are in execve together."""

PAUSE = 0.002


class SocketHolder:
    """A process that had it open. As long as `pidfd`, which goes with this object, says that it
    lives, `ospid` is no other's."""

    __slots__ = ("ospid", "pidfd")

    def __init__(self, ospid: int, pidfd: int) -> None:
        self.ospid = ospid
        self.pidfd = pidfd

    def __del__(self) -> None:  # nobody may be there to take it: the look took too long
        os.close(self.pidfd)


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
    deadline = time.monotonic() + EXECVE_SECONDS
    for ospid in late:
        while is_in_execve(ospid) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        if not is_in_execve(ospid) and (found := _look(ospid, name)):
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
        holder = SocketHolder(ospid, os.pidfd_open(ospid))
        for descriptor in descriptors:
            with suppress(OSError):
                if os.readlink(f"{folder}/{descriptor}") == name:
                    return holder
    return None
