"""Opening, reading, writing and closing files, and waiting for them."""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Awaitable, Callable

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

from agentfs.base.errors import KernelError
from agentfs.mount.base import Base
from agentfs.mount.boundary import handler
from agentfs.mount.coherence import by_client
from agentfs.mount.handles import ANNOUNCED, OpenFile
from agentfs.mount.holders import Ending, Family, Target, ending
from agentfs.mount.inodes import Inode
from agentfs.mount.parking import Client
from agentfs.mount.reading import reading
from agentfs.mount.shown import takes
from agentfs.quota.shares import Charge
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import File, Handle, StreamHandle

__all__ = ["FileOperations"]

log = logging.getLogger(__name__)

_READABLE = select.POLLIN | select.POLLRDNORM
_WRITABLE = select.POLLOUT | select.POLLWRNORM


class FileOperations(Base):
    """The operations on open files."""

    # -- open files ------------------------------------------------------------------------------

    @handler
    async def create(
        self, parent: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        known = self.inodes.get(parent)
        text = os.fsdecode(name)
        if self.announcements.by(ctx):
            return FileInfo(fh=ANNOUNCED, direct_io=True), self.announcements.made(known, text)
        caller = self._caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            charge = caller.handle()
            with by_client((known.key, text)):
                node, handle = directory.create(text, mode, flags, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(known, text), refusal)
        try:
            entry = self._entry(known, text, node)
        except BaseException:
            handle.release()
            raise
        try:
            return self._opened(self.inodes.get(entry.st_ino), handle, flags, caller, charge), entry
        except BaseException:
            self.inodes.forget(entry.st_ino, 1)
            raise

    @handler
    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        known = self.inodes.get(inode)
        if self.announcements.by(ctx):
            return FileInfo(fh=ANNOUNCED, direct_io=True, keep_cache=True)
        self._is_found(known, ctx.pid)
        caller = self._caller(ctx)
        try:
            if known.gone:
                raise KernelError(errno.ENOENT, f"{known.name} was removed")
            node = known.node
            if not isinstance(node, File):
                raise KernelError(errno.EINVAL, f"{known.name} is no regular file")
            if takes(node) and flags & os.O_ACCMODE == os.O_RDONLY:
                self.walkers.may_take(ctx.pid)

            async def attempt() -> Handle:
                node.enter(caller)
                return node.open(flags, caller)

            charge = caller.handle()
            handle = await self._approved(Client(caller.principal, caller.tid, 0, flags), attempt)
            content = await handle.begin()
            kept = caller.keeping(handle.kept)
        except KernelError as refusal:
            raise self._refused(caller, self.where(known), refusal)
        if content:
            # Linux learns the size so. In a thread: it may wait for a page that is being read.
            known.fetched = len(content)
            await trio.to_thread.run_sync(pyfuse3.notify_store, known.number, 0, content)
        return self._opened(known, handle, flags, caller, charge, kept)

    def _opened(
        self,
        inode: Inode,
        handle: Handle,
        flags: int,
        caller: Caller,
        charge: Charge,
        kept: Charge | None = None,
    ) -> FileInfo:
        opened = OpenFile(inode, handle, flags, caller, charge, kept)
        if handle.followed:
            inode.followed += 1
            inode.begun += 1
            opened.family = Family.of(caller.tid)
        fh = self.handles.add(opened)
        info = FileInfo(fh=fh, direct_io=handle.direct, nonseekable=not handle.seekable)
        if not handle.direct:
            try:
                version = inode.version()
            except BaseException:
                self.handles.pop(fh)
                handle.release()
                raise
            info.keep_cache = inode.cached == version
            inode.cached = version
        return info

    @handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        opened = self.handles.file(fh)
        try:
            if isinstance(opened.handle, StreamHandle):
                tid, number = opened.caller.tid, opened.inode.number
                opened.handle.begin_read(off, lambda: reading(tid, number))
                return await self.parking.read(opened.handle, size, opened.client)
            told = opened.inode.told
            if told is not None and not opened.handle.direct and not opened.inode.gone:
                # What changed since the size was told would come out cut, or padded with zeros.
                return told[off : off + size]
            return await opened.handle.read(off, size)
        except KernelError as refusal:
            raise self._refused(opened.caller, self.where(opened.inode), refusal)

    @handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        opened = self.handles.file(fh)

        async def attempt() -> int:
            if isinstance(opened.handle, StreamHandle):
                return await self.parking.write(opened.handle, buf, opened.client)
            return await opened.handle.write(off, buf)

        try:
            with by_client(opened.inode.key):  # a task's own: others do not see it while this waits
                return await self._approved(opened.client, attempt)
        except KernelError as refusal:
            raise self._refused(opened.caller, self.where(opened.inode), refusal)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        if fh == ANNOUNCED:
            self.announcer.answer(last=True)
            return
        opened = self.handles.file(fh)
        handle, family = opened.handle, opened.family
        if family is None:
            return
        if not handle.unflushed:
            family.grow()
            return
        writing = opened.writes and handle.whole
        inode = opened.inode
        target = Target(inode.number, self.mounts, inode.followed, writing)
        begun = inode.begun
        found = await ending(family, target)
        if found is Ending.HELD and inode.begun != begun:
            found = Ending.UNSURE  # what was found may be an open file that began meanwhile
        match found:
            case Ending.HELD:
                return
            case Ending.KILLED if handle.whole:
                return
            case Ending.UNSURE:
                await self._apply(opened, handle.hold)
            case _:
                await self._apply(opened, handle.flush)

    async def _apply(self, opened: OpenFile, take: Callable[[], Awaitable[None]]) -> None:
        """Let the handle apply what was written; the entry may be another file then."""
        inode = opened.inode
        try:
            with by_client(inode.place, inode.key):
                await self._approved(opened.client, take)
        except KernelError as refusal:
            raise self._refused(opened.caller, self.where(inode), refusal)
        if inode.parent is not None and not inode.gone:
            self._settle(inode, inode.parent, inode.name)

    @handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self.handles.file(fh).handle.fsync()

    @handler
    async def release(self, fh: FileHandleT) -> None:
        opened = self.handles.pop(fh)
        if opened is None:
            return
        if self.asked is not None:
            self.asked.opened = opened  # no number leads to it any more
        handle, inode = opened.handle, opened.inode
        if opened.family is not None:
            inode.followed -= 1
        try:
            if handle.whole and handle.unflushed:
                log.info("%s: nobody closed it: what was written is dropped", self.where(inode))
            elif handle.followed and handle.unflushed:
                await self._apply(opened, handle.flush)
        except FUSEError as refusal:
            log.info("%s was refused: %s", self.where(inode), refusal)
        finally:
            handle.release()

    @handler
    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: pyfuse3.PollHandle | None,
        ctx: RequestContext,
    ) -> int:
        opened = self.handles.file(fh)
        handle = opened.handle
        if not isinstance(handle, StreamHandle):
            return _READABLE | _WRITABLE
        if poll_handle is not None:
            if opened.poll is None:
                handle.on_wake(lambda: _notify(opened))
            opened.poll = poll_handle
        found = _READABLE if opened.reads and handle.ready() else 0
        return found | _WRITABLE if opened.writes and handle.writable() else found


def _notify(opened: OpenFile) -> None:
    """Wake whoever polls the file; Linux polls again then, with a new handle."""
    waiting, opened.poll = opened.poll, None
    if waiting is not None:
        try:
            waiting.notify()
        except OSError as failure:
            log.debug("a poll could not be woken: %s", failure)
