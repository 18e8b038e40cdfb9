"""A file that is being written in memory: a message before it is sent, an editor's scratch file."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from agentfs.base.clock import Clock
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.model.principal import Kind
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Attributes, File, Handle, Stat, Time, regular
from agentfs.vfs.written import Written

if TYPE_CHECKING:
    from agentfs.providers.maildir import Mailroom

__all__ = [
    "Arriving",
    "DeliveringHandle",
    "DraftFile",
    "DraftHandle",
    "MemoryFile",
    "MemoryHandle",
    "writer_of",
]

_numbers = itertools.count(1)


class MemoryFile(File):
    """A regular file whose bytes are here and nowhere else."""

    def __init__(
        self, kind: str, mode: int, caller: Caller, clock: Clock, limit: Callable[[], int]
    ) -> None:
        self.key = (kind, next(_numbers))
        self.limit = limit
        """How many bytes it may have."""
        self._clock = clock
        now = self.now()
        self.content = Written(caller.memory())
        self.mode = mode & 0o777
        self.uid = caller.uid
        self.gid = caller.gid
        self.mtime = now
        self.atime = now
        self.began = now
        self.opened = 0  # open handles
        self._dropped = False

    def too_large(self) -> KernelError:
        return KernelError(errno.EFBIG, f"at most {self.limit()} bytes")

    def now(self) -> Time:
        return int(self._clock.now() * 1e9)

    def stat(self) -> Stat:
        mode, size = regular(self.mode), len(self.content)
        return Stat(mode, self.uid, self.gid, size, self.mtime, 1, self.atime, self.mtime)

    def open(self, flags: int, caller: Caller) -> Handle:
        if flags & os.O_TRUNC:
            self.resize(0)
        return MemoryHandle(self, append=bool(flags & os.O_APPEND))

    def resize(self, size: int) -> None:
        """Cut it, or fill it up with zeros."""
        if size > self.limit():
            raise self.too_large()
        self.content.truncate(size)
        self.touch()

    def drop(self) -> None:
        """Its name is gone: so are its bytes, once nobody has it open."""
        self._dropped = True
        self.closed()

    def closed(self) -> None:
        """One that had it open has no more, or it has no name."""
        if self._dropped and not self.opened:
            self.content.drop()

    def touch(self) -> None:
        self.mtime = max(self.mtime + 1, self.now())

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        if wanted.uid not in (None, self.uid) or wanted.gid not in (None, self.gid):
            raise KernelError(errno.EPERM, "the owner of this file is fixed")
        if wanted.size is not None:
            self.resize(wanted.size)
        if wanted.mode is not None:
            self.mode = wanted.mode & 0o777
        accessed, modified = wanted.times
        self.atime = self.atime if accessed is None else accessed
        self.mtime = self.mtime if modified is None else modified


class MemoryHandle(Handle):
    """An open one. Works on when its name is gone."""

    def __init__(self, file: MemoryFile, *, append: bool = False) -> None:
        self.file = file
        self._append = append
        file.opened += 1

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(self.file.content[offset : offset + size])

    async def write(self, offset: int, data: bytes) -> int:
        file = self.file
        if self._append:
            offset = len(file.content)
        if offset + len(data) > file.limit():
            raise file.too_large()
        file.content.put(offset, data)
        file.touch()
        return len(data)

    def truncate(self, size: int) -> None:
        """ftruncate(2)."""
        self.file.resize(size)

    def release(self) -> None:
        self.file.opened -= 1
        self.file.closed()


def writer_of(caller: Caller) -> tuple[Kind, str, int]:
    """Whose a draft is that `caller` begins."""
    return caller.principal.kind, caller.principal.name, caller.principal.uid


class DraftFile(MemoryFile):
    """A message that somebody writes the Maildir way. Only whoever began it may use it."""

    def __init__(self, room: Mailroom, mode: int, caller: Caller) -> None:
        super().__init__("draft", mode, caller, room.kernel.clock, room.limit)
        self.room = room
        self.writer = writer_of(caller)

    def too_large(self) -> KernelError:
        return KernelError(
            errno.EMSGSIZE,
            f"a message has at most {self.limit()} bytes",
            rule="messages.max_size",
        )

    def enter(self, caller: Caller) -> None:
        if not caller.principal.is_operator and writer_of(caller) != self.writer:
            raise KernelError(
                errno.EACCES, "only its writer may use a message before it is sent", rule="private"
            )


class DraftHandle(MemoryHandle):
    """An open draft."""

    async def fsync(self) -> None:
        file = self.file
        assert isinstance(file, DraftFile)
        await file.room.kernel.store.sync()


class Arriving(Protocol):
    """The fate of a draft that was made where messages arrive."""

    def deliver(self) -> None:
        """Send it."""

    def hold(self) -> None:
        """Accept it as it is now; more of it may come."""

    def end(self) -> None:
        """Its open file has ended: deliver what was held, and drop what was not."""


class DeliveringHandle(DraftHandle):
    """An open draft that was made where messages arrive: the close that ends it sends it."""

    followed = whole = True

    def __init__(self, file: DraftFile, delivery: Arriving) -> None:
        super().__init__(file)
        self._delivery = delivery
        self._sent = False
        self._accepted = False
        self._refusal: KernelError | None = None
        self._sync = False  # fsync(2) was called before there was anything to sync

    async def write(self, offset: int, data: bytes) -> int:
        if self._sent:
            raise KernelError(errno.EPERM, "the message was sent when the file was closed")
        self._accepted = False
        try:
            return await super().write(offset, data)
        except KernelError as refusal:
            self._refusal = refusal
            raise

    def truncate(self, size: int) -> None:
        super().truncate(size)
        self._accepted, self._refusal = False, None

    @property
    def unflushed(self) -> bool:
        return not self._accepted

    async def flush(self) -> None:
        await self._give(self._delivery.deliver, sent=True)

    async def hold(self) -> None:
        await self._give(self._delivery.hold, sent=False)

    async def _give(self, take: Callable[[], object], *, sent: bool) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._accepted:
            return
        try:
            take()
        except ApprovalError:
            raise  # it is sent once that was given
        except KernelError as refusal:
            self._refusal = refusal
            raise
        self._accepted, self._sent = True, sent
        if self._sync:
            await super().fsync()

    async def fsync(self) -> None:
        if self._accepted:
            await super().fsync()
        self._sync = True  # what is not whole is nothing to keep yet

    def release(self) -> None:
        super().release()
        self._delivery.end()
