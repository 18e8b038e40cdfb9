"""Programs that walk: those with a thread that lists a directory while it is listing one above it.

A walker opens all that it finds, and wants none of it by that. Most walkers ask first what a file
is, and pass named pipes by (see `shown`). Some open pipes as well, with O_NONBLOCK: those are told
here from a program that wants a message. `os.listdir`, shells that expand a pattern and `ls` read
one directory to its end before they open the next: of them no listing is under way.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass

from agentfs.base.errors import KernelError
from agentfs.mount.handles import OpenDirectory
from agentfs.mount.inodes import Inode
from agentfs.mount.proc import command_line, process_and_parent
from agentfs.vfs.node import FOREVER

__all__ = ["KEPT_SECONDS", "Walkers"]

KEPT_SECONDS = 60.0
"""After its last directory a walker takes nothing for so long: what it found is read by and by, and
by workers that it forked."""

MOST = 1024
"""Walkers that are remembered."""

GENERATIONS = 4
"""How far above a worker its walker may be."""


@dataclass(slots=True)
class _Walker:
    """`line`: its command line, which a process that it only forked has as well; `until`: when it
    is no walker any more."""

    line: bytes
    until: float


class Walkers:
    """The programs that walk the tree now."""

    def __init__(self) -> None:
        self._under_way: dict[int, list[OpenDirectory]] = {}  # by inode
        self._known: dict[int, _Walker] = {}  # by process id

    def begun(self, opened: OpenDirectory) -> None:
        """The entries of a directory are read from the first on."""
        same = self._under_way.setdefault(opened.inode.number, [])
        if not any(each is opened for each in same):
            same.append(opened)

    def ended(self, opened: OpenDirectory) -> None:
        """All of its entries were read, or it was closed."""
        same = self._under_way.get(opened.inode.number, [])
        same[:] = [each for each in same if each is not opened]
        if not same:
            self._under_way.pop(opened.inode.number, None)

    def enter(self, directory: Inode, tid: int) -> None:
        """A thread opens a directory. In those on the disk there is nothing to take: a program may
        search /shared and its memory as it likes."""
        if not self._under_way or directory.node.timeout < FOREVER:
            return
        if any(
            each.caller.tid == tid
            for inode in _above(directory)
            for each in self._under_way.get(inode.number, ())
        ):
            process, _ = process_and_parent(tid)
            if process:
                self._note(process)

    def _note(self, process: int) -> None:
        self._known.pop(process, None)
        self._known[process] = _Walker(command_line(process), time.monotonic() + KEPT_SECONDS)
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def may_take(self, tid: int) -> None:
        """Raise EOPNOTSUPP if the thread is a walker's, or a worker's that a walker forked."""
        if not self._known:
            return
        now = time.monotonic()
        while self._known and next(iter(self._known.values())).until < now:
            del self._known[next(iter(self._known))]
        process, parent = process_and_parent(tid)
        line = command_line(process)
        for _ in range(GENERATIONS):
            if not process or command_line(process) != line:
                return  # another program, which was told what to read
            walker = self._known.get(process)
            if walker is not None and walker.line == line:
                raise KernelError(
                    errno.EOPNOTSUPP,
                    "who walks through directories takes nothing: this program has listed one while"
                    f" it was listing another above it, {KEPT_SECONDS:.0f} s ago at most; let"
                    " another program read it, or open it for reading and writing",
                )
            process, parent = process_and_parent(parent)


def _above(directory: Inode) -> list[Inode]:
    """Those above it, the nearest first."""
    found: list[Inode] = []
    inode = directory.parent
    while inode is not None and inode not in found and len(found) < 64:
        found.append(inode)
        inode = inode.parent
    return found
