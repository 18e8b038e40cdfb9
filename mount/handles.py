"""Open files and open directories, by the number that the Linux kernel hands back to us."""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pyfuse3

from agentfs.base.errors import KernelError
from agentfs.mount.holders import Family
from agentfs.mount.inodes import Inode
from agentfs.mount.parking import Client
from agentfs.quota.shares import Charge
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Handle, Node, StreamHandle, is_writing

__all__ = ["Handles", "OpenDirectory", "OpenFile"]

log = logging.getLogger(__name__)


class _Stale(StreamHandle):
    """An open file of a system that is no more."""

    def try_read(self, size: int) -> bytes:
        raise _stale()

    def ready(self) -> bool:
        return True

    def try_write(self, data: bytes) -> int:
        raise _stale()

    async def fsync(self) -> None:
        raise _stale()


def _stale() -> KernelError:
    return KernelError(
        errno.ESTALE, "the system was rolled back since it was opened: open it again"
    )


@dataclass(slots=True)
class OpenFile:
    """An open file: what was opened, by whom, and how. `charge` is for that, and `kept` for the
    content that is kept as it was. `family`: the processes that may have it, where that matters."""

    inode: Inode
    handle: Handle
    flags: int
    caller: Caller
    charge: Charge
    kept: Charge | None = None
    family: Family | None = None
    _poll: pyfuse3.PollHandle | None = None

    def client(self) -> Client:
        """The caller that has to wait, for parking."""
        return Client(self.caller.principal, self.caller.tid, self.inode.number, self.flags)

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writes(self) -> bool:
        return is_writing(self.flags)

    def expire(self) -> None:
        """The file that was opened is no more. Those who poll it are told to look."""
        with suppress(Exception):  # it was a part of a system that has ended
            self.handle.release()
        self.handle, self.family = _Stale(), None
        self._notify()

    def poll(self, stream: StreamHandle, poll: pyfuse3.PollHandle) -> None:
        """Somebody polls the file, and is told by `poll` when it may be worth to look again."""
        if self._poll is None:
            stream.on_wake(self._notify)
        self._poll = poll

    def _notify(self) -> None:
        """Linux polls again then, with a new handle."""
        waiting, self._poll = self._poll, None
        if waiting is not None:
            try:
                waiting.notify()
            except OSError as failure:
                log.debug("a poll could not be woken: %s", failure)


@dataclass(slots=True)
class OpenDirectory:
    """An open directory: its entries as they were when it was opened or rewound, for its opener.
    `charge` is for its being open.

    A directory that is listed in steps has the names that were taken so far, and the `rest`."""

    inode: Inode
    caller: Caller
    charge: Charge
    entries: list[tuple[str, Node | None]] | None = None
    rest: Iterator[str] | None = None

    def expire(self) -> None:
        """What was opened is no more: it is empty."""
        self.entries, self.rest = [], None

    def rewind(self) -> None:
        """Begin again with what is there now."""
        self.rest, self.entries = None, []
        if self.inode.gone:
            return
        directory = self.inode.directory()
        if directory.stepwise:
            self.rest = directory.names_now(self.caller)
        else:
            self.entries += directory.listing(self.caller)

    def entry(self, number: int) -> tuple[str, Node | None] | None:
        """The entry of a number; None at the end. It has no node where only a disk that is distant
        knows that. Raises ENOENT if the entry is gone since."""
        if self.entries is None:
            self.rewind()
        assert self.entries is not None
        while len(self.entries) <= number:
            name = None if self.rest is None else next(self.rest, None)
            if name is None:
                return None
            self.entries.append((name, None))
        name, node = self.entries[number]
        return name, self.inode.directory().glance(name) if node is None else node


class Handles:
    """All of them. Raises EBADF for a number that is not open."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}

    def __len__(self) -> int:
        return len(self._files) + len(self._directories)

    def add(self, opened: OpenFile) -> pyfuse3.FileHandleT:
        number = next(self._numbers)
        self._files[number] = opened
        return pyfuse3.FileHandleT(number)

    def add_directory(self, opened: OpenDirectory) -> pyfuse3.FileHandleT:
        number = next(self._numbers)
        self._directories[number] = opened
        return pyfuse3.FileHandleT(number)

    def file(self, number: int) -> OpenFile:
        try:
            return self._files[number]
        except KeyError:
            raise KernelError(errno.EBADF, f"handle {number} is not open") from None

    def directory(self, number: int) -> OpenDirectory:
        try:
            return self._directories[number]
        except KeyError:
            raise KernelError(errno.EBADF, f"handle {number} is not open") from None

    def pop(self, number: int) -> OpenFile | None:
        opened = self._files.pop(number, None)
        if opened is not None:
            opened.charge.release()
            if opened.kept is not None:
                opened.kept.release()
        return opened

    def pop_directory(self, number: int) -> None:
        opened = self._directories.pop(number, None)
        if opened is not None:
            opened.charge.release()

    def files(self) -> list[OpenFile]:
        return list(self._files.values())

    def expire(self) -> None:
        """Everything that is open is stale from now on."""
        for file in self._files.values():
            file.expire()
        for directory in self._directories.values():
            directory.expire()
