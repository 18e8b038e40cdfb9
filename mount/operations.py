"""The FUSE operations: each finds the node, asks whether the caller may, and calls it.

A call of the announcer's process is answered by `announced`, before anything else.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.base.watchdog import Watchdog
from agentfs.mount.announced import ANNOUNCED, Announced
from agentfs.mount.announcer import Announcer
from agentfs.mount.attributes import attributes, tell
from agentfs.mount.calls import looks, may_watch
from agentfs.mount.coherence import by_client
from agentfs.mount.fairness import Fairness
from agentfs.mount.handler import handler
from agentfs.mount.handles import Handles, OpenDirectory, OpenFile
from agentfs.mount.holders import Ending, Family, Sought, ending
from agentfs.mount.host import Host
from agentfs.mount.inodes import Inode, Inodes
from agentfs.mount.listing import Listing
from agentfs.mount.mounttable import Mounts
from agentfs.mount.parking import Client, Parking
from agentfs.mount.reading import reading
from agentfs.mount.requests import Requests
from agentfs.mount.second_looks import SecondLooks
from agentfs.mount.shown import shown
from agentfs.mount.wakeups import Wakeups
from agentfs.mount.walking import Walkers
from agentfs.quota.shares import Charge
from agentfs.vfs.caller import Caller
from agentfs.vfs.handles import Rendered
from agentfs.vfs.node import (
    KIND,
    Attributes,
    Directory,
    File,
    Handle,
    Link,
    LookUpAgain,
    Node,
    StreamHandle,
)

__all__ = ["Operations"]

log = logging.getLogger(__name__)

Maker = Callable[[Directory, str, Caller], Node]

_KIND = KIND.encode()

_READABLE = select.POLLIN | select.POLLRDNORM
_WRITABLE = select.POLLOUT | select.POLLWRNORM

_OF_DISK = (
    "f_bsize",
    "f_frsize",
    "f_blocks",
    "f_bfree",
    "f_bavail",
    "f_files",
    "f_ffree",
    "f_favail",
    "f_namemax",
)

# Refusals that tell nothing new, unless they name a rule (EAGAIN is a rate limit, too): nothing to
# read yet, a signal, the end of the mount.
_QUIET = frozenset({errno.EAGAIN, errno.EINTR, errno.ENODEV, errno.ENODATA})


class Operations(pyfuse3.Operations):
    """The handlers that pyfuse3 calls, one for each kind of request.

    `mounts` has to be told when the tree is mounted.
    """

    def __init__(
        self,
        host: Host,
        inodes: Inodes,
        announcer: Announcer,
        parking: Parking,
        wakeups: Wakeups,
        watchdog: Watchdog,
    ) -> None:
        super().__init__()
        self.host = host
        self.inodes = inodes
        self.announcer = announcer
        self.announced = Announced(inodes, announcer)
        self.parking = parking
        self.wakeups = wakeups
        self.handles = Handles()
        self.mounts = Mounts()
        fairness = Fairness(wakeups.more, wakeups.turns.pass_on)
        self.requests = Requests(host, inodes, self.handles, announcer, fairness, watchdog)
        self.second_looks = SecondLooks(announcer)
        self.walkers = Walkers()
        self.listing = Listing(inodes, self.requests)

    def _refused(self, caller: Caller, path: str, refusal: KernelError) -> FUSEError:
        if isinstance(refusal, ApprovalError):
            # Linux holds a lock on the directory, for which all others would wait as well: it is
            # asked for, and the caller may try again when it is given.
            with suppress(KernelError):
                self.host.approval(refusal).release()
        if refusal.errno not in _QUIET or refusal.rule:
            self.host.refused(caller.principal, path, refusal)
        return FUSEError(refusal.errno)

    async def _approval(self, needed: ApprovalError, client: Client) -> None:
        """Ask for what a call needs before it is made, and wait until somebody has approved it.
        Raises EAGAIN where it may not wait, EINTR, and EACCES if the answer is no."""
        awaited = self.host.approval(needed)
        try:
            await self.parking.read(awaited, 1, lambda: client)
        except KernelError as end:
            if end.errno == errno.EINTR:
                awaited.give_up()
            raise
        finally:
            awaited.release()

    # -- look-up and attributes ------------------------------------------------------------------

    @handler
    async def lookup(self, parent: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        directory = self.inodes.get(parent)
        text = os.fsdecode(name)
        if ctx.pid == self.announcer.tid:
            return self.announced.lookup(directory, text)
        if text == ".." and directory.parent is not None:
            return tell(self.inodes, directory.parent.node, directory.parent, ".")
        folder = directory.directory()
        if folder.gated:
            found = self._reached(directory, text, ctx)
        else:
            try:
                found = folder.lookup(text)
            except KernelError as missing:
                self.second_looks.missing(ctx.pid)
                if missing.errno == errno.ETIMEDOUT:
                    caller = self.requests.at_work.caller(ctx)
                    raise self._refused(caller, self.inodes.where(directory, text), missing)
                kept = folder.missing_timeout
                if missing.errno == errno.ENOENT and kept and not directory.gone:
                    return _nothing(kept)
                raise
            if found.guarded:
                self._admit(found, self.inodes.where(directory, text), ctx)
        if found.takes and await looks(ctx.pid):
            found = shown(found, self.inodes)
        return tell(self.inodes, found, directory, text)

    def _admit(self, node: Node, where: str, ctx: RequestContext) -> None:
        """Ask what Linux opens without us whether the caller may."""
        caller = self.requests.at_work.caller(ctx)
        try:
            node.admitted(caller)
        except KernelError as refusal:
            raise self._refused(caller, where, refusal)

    def _reached(self, directory: Inode, name: str, ctx: RequestContext) -> Node:
        """The node that the caller finds as `name`, where the look-up keeps others out."""
        caller = self.requests.at_work.caller(ctx)
        where = directory.directory()
        try:
            where.admit(name, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(directory, name), refusal)
        try:
            return where.reach(name, caller)
        except KernelError as refusal:
            if refusal.errno not in (errno.EACCES, errno.EPERM):
                raise  # there is no such thing
            raise self._refused(caller, self.inodes.where(directory, name), refusal)

    @handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        known = self.inodes.get(inode)
        if ctx.pid == self.announcer.tid:
            return self.announced.getattr(known)
        if known.node.guarded:
            # Of a file held with O_PATH this is all that Linux asks before it opens it.
            self._admit(known.node, self.inodes.where(known), ctx)
        if not known.kept:
            known.watch(await may_watch(ctx.pid))
        if known.gone and self.second_looks.is_outdated(known) and not await may_watch(ctx.pid):
            # By its name there may be another by now. Linux does not send back a thread that adds a
            # watch.
            raise LookUpAgain(known.name)
        if self.announcer.modifying is known:
            await self.announced.quiet(known)
        known.ask()
        return attributes(known)

    @handler
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        known = self.inodes.get(inode)
        if ctx.pid == self.announcer.tid:
            return self.announced.setattr(known)
        caller = self.requests.at_work.caller(ctx)
        try:
            known.node.enter(caller)
            handle = None if fh is None else self.handles.file(fh).handle
            size = attr.st_size if fields.update_size else None
            truncate = getattr(handle, "truncate", None)
            if size is not None and truncate is not None:
                truncate(size)
                size = None
            wanted = Attributes(
                mode=attr.st_mode & 0o7777 if fields.update_mode else None,
                uid=attr.st_uid if fields.update_uid else None,
                gid=attr.st_gid if fields.update_gid else None,
                size=size,
                times=(
                    attr.st_atime_ns if fields.update_atime else None,
                    attr.st_mtime_ns if fields.update_mtime else None,
                ),
            )
            with by_client(known.key, known.place):
                known.node.chattr(caller, wanted)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known), refusal)
        return attributes(known)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        self.wakeups.forgotten()
        for number, lookups in inode_list:
            self.inodes.forget(number, lookups)

    @handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        known = self.inodes.get(inode)
        if not isinstance(known.node, Link):
            raise KernelError(errno.EINVAL, f"{known.name} is no link")
        caller = self.requests.at_work.caller(ctx)
        try:
            return os.fsencode(known.node.target(caller))
        except KernelError as refusal:
            if refusal.errno not in (errno.EACCES, errno.EPERM):
                raise  # it leads nowhere for this caller
            raise self._refused(caller, self.inodes.where(known), refusal)

    # -- directories -----------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        known = self.inodes.get(inode)
        self.second_looks.found(known, ctx.pid)
        caller = self.requests.at_work.caller(ctx)
        try:
            if not known.gone:  # a working directory that was removed has nothing in it
                directory = known.directory()
                directory.enter(caller)
                directory.may_list(caller)
                self.walkers.enter(known, ctx.pid)
            opened = OpenDirectory(known, caller, caller.handle())
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known), refusal)
        return self.handles.add_directory(opened)

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        opened = self.handles.directory(fh)
        if start_id == 0:
            opened.rewind()
            self.walkers.begun(opened)
        if self.listing.reply(opened, start_id, token):
            self.walkers.ended(opened)

    @handler
    async def releasedir(self, fh: FileHandleT) -> None:
        self.walkers.ended(self.handles.directory(fh))
        self.handles.pop_directory(fh)

    @handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    # -- making, removing and moving entries -----------------------------------------------------

    @handler
    async def mkdir(
        self, parent: InodeT, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(
            parent, name, ctx, lambda directory, text, caller: directory.mkdir(text, mode, caller)
        )

    @handler
    async def mknod(
        self, parent: InodeT, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(
            parent,
            name,
            ctx,
            lambda directory, text, caller: directory.mknod(text, mode, rdev, caller),
        )

    @handler
    async def symlink(
        self, parent: InodeT, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(
            parent,
            name,
            ctx,
            lambda directory, text, caller: directory.symlink(text, os.fsdecode(target), caller),
        )

    @handler
    async def link(
        self, inode: InodeT, new_parent: InodeT, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.inodes.get(inode).node

        def make(directory: Directory, name: str, caller: Caller) -> Node:
            with _taking_elsewhere(node, caller):
                return directory.link(node, name, caller)

        return self._make(new_parent, new_name, ctx, make)

    def _make(
        self, parent: InodeT, name: bytes, ctx: RequestContext, make: Maker
    ) -> EntryAttributes:
        known = self.inodes.get(parent)
        text = os.fsdecode(name)
        if ctx.pid == self.announcer.tid:
            return self.announced.make(known, text)
        caller = self.requests.at_work.caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            with by_client((known.key, text)):
                node = make(directory, text, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known, text), refusal)
        return tell(self.inodes, node, known, text)

    @handler
    async def unlink(self, parent: InodeT, name: bytes, ctx: RequestContext) -> None:
        self._remove(parent, name, ctx, Directory.unlink.__name__)

    @handler
    async def rmdir(self, parent: InodeT, name: bytes, ctx: RequestContext) -> None:
        self._remove(parent, name, ctx, Directory.rmdir.__name__)

    def _remove(self, parent: InodeT, name: bytes, ctx: RequestContext, how: str) -> None:
        known = self.inodes.get(parent)
        text = os.fsdecode(name)
        if ctx.pid == self.announcer.tid:
            self.announced.remove()
            return
        caller = self.requests.at_work.caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            with by_client((known.key, text)):
                getattr(directory, how)(text, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known, text), refusal)

    @handler
    async def rename(
        self,
        parent_old: InodeT,
        name_old: bytes,
        parent_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        source, target = self.inodes.get(parent_old), self.inodes.get(parent_new)
        old, new = os.fsdecode(name_old), os.fsdecode(name_new)
        if ctx.pid == self.announcer.tid:
            self.announced.rename(target, new)
            return
        caller = self.requests.at_work.caller(ctx)
        try:
            source.directory().enter(caller)
            target.directory().enter(caller)
            node = source.directory().lookup(old)
            moved = self.inodes.known(node.key)
            with by_client((source.key, old), (target.key, new)), _taking_elsewhere(node, caller):
                await source.directory().relocate(old, target.directory(), new, flags, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(source, old), refusal)
        if moved is not None:
            self.inodes.settle(moved, target, new)

    # -- open files ------------------------------------------------------------------------------

    @handler
    async def create(
        self, parent: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        known = self.inodes.get(parent)
        text = os.fsdecode(name)
        if ctx.pid == self.announcer.tid:
            return self.announced.create(known, text)
        caller = self.requests.at_work.caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            charge = caller.handle()
            with by_client((known.key, text)):
                node, handle = directory.create(text, mode, flags, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known, text), refusal)
        try:
            entry = tell(self.inodes, node, known, text)
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
        if ctx.pid == self.announcer.tid:
            return self.announced.open()
        self.second_looks.found(known, ctx.pid)
        caller = self.requests.at_work.caller(ctx)
        try:
            if known.gone:
                raise KernelError(errno.ENOENT, f"{known.name} was removed")
            node = known.node
            if not isinstance(node, File):
                raise KernelError(errno.EINVAL, f"{known.name} is no regular file")
            if node.takes and flags & os.O_ACCMODE == os.O_RDONLY:
                self.walkers.may_take(ctx.pid)
            charge = caller.handle()
            while True:
                try:
                    node.enter(caller)
                    handle = node.open(flags, caller)
                    break
                except ApprovalError as needed:
                    await self._approval(needed, Client(caller.principal, caller.tid, 0, flags))
            if known.young and isinstance(handle, Rendered):
                handle = handle.snapshot()
            content = await handle.begin()
            kept = caller.keeping(handle.kept)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known), refusal)
        if content:
            # Linux learns the size so. In a thread: it may wait for a page that is being read.
            known.fetch(len(content))
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
        family = None
        if handle.followed:
            inode.begin()
            family = Family.of(caller.tid)
        opened = OpenFile(inode, handle, flags, caller, charge, kept, family)
        fh = self.handles.add(opened)
        info = FileInfo(fh=fh, direct_io=handle.direct, nonseekable=not handle.seekable)
        if not handle.direct:
            try:
                info.keep_cache = inode.opens()
            except BaseException:
                self.handles.pop(fh)
                handle.release()
                raise
        return info

    @handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        opened = self.handles.file(fh)
        try:
            handle = opened.handle
            if isinstance(handle, StreamHandle):
                handle.begin_read(off, partial(reading, opened.caller.tid, opened.inode.number))
                data = handle.try_read(size)
                if data is None:
                    data = await self.parking.wait_to_read(handle, size, opened.client)
                return data
            told = opened.inode.told
            if told is not None and not handle.direct and not opened.inode.gone:
                # A newer content than the one whose size was told would come out cut, or padded
                # with zeros.
                return told[off : off + size]
            return await handle.read(off, size)
        except KernelError as refusal:
            raise self._refused(opened.caller, self.inodes.where(opened.inode), refusal)

    @handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        opened = self.handles.file(fh)
        handle = opened.handle
        try:
            with by_client(opened.inode.key):  # a task's own: others do not see it while this waits
                while True:
                    try:
                        if isinstance(handle, StreamHandle):
                            return await self.parking.write(handle, buf, opened.client)
                        return await handle.write(off, buf)
                    except ApprovalError as needed:
                        await self._approval(needed, opened.client())
        except KernelError as refusal:
            raise self._refused(opened.caller, self.inodes.where(opened.inode), refusal)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        if fh == ANNOUNCED:
            self.announced.flush()
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
        sought = Sought(inode.number, self.mounts, inode.followed, writing)
        begun = inode.begun
        found = await ending(family, sought)
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
                while True:
                    try:
                        await take()
                        break
                    except ApprovalError as needed:
                        await self._approval(needed, opened.client())
        except KernelError as refusal:
            raise self._refused(opened.caller, self.inodes.where(inode), refusal)
        if inode.parent is not None and not inode.gone:
            self.inodes.settle(inode, inode.parent, inode.name)

    @handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self.handles.file(fh).handle.fsync()

    @handler
    async def release(self, fh: FileHandleT) -> None:
        opened = self.handles.pop(fh)
        if opened is None:
            return
        self.requests.at_work.concerns(opened)
        handle, inode = opened.handle, opened.inode
        if opened.family is not None:
            inode.end()
        try:
            if handle.whole and handle.unflushed:
                where = self.inodes.where(inode)
                log.info("%s: nobody closed it: what was written is dropped", where)
            elif handle.followed and handle.unflushed:
                await self._apply(opened, handle.flush)
        except FUSEError as refusal:
            log.info("%s was refused: %s", self.inodes.where(inode), refusal)
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
            opened.poll(handle, poll_handle)
        found = _READABLE if opened.reads and handle.ready() else 0
        return found | _WRITABLE if opened.writes and handle.writable() else found

    # -- the rest --------------------------------------------------------------------------------

    @handler
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        disk = self.host.disk()
        data = pyfuse3.StatvfsData()
        for name in _OF_DISK:
            setattr(data, name, getattr(disk, name))
        room = self.host.room(self.requests.at_work.caller(ctx).principal)
        if room is not None:
            data.f_bavail = min(disk.f_bavail, room // disk.f_frsize)
        return data

    @handler
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        known = self.inodes.get(inode)
        # There are no attributes but those of a user, and Linux asks for others all the time. The
        # kind of a file is for everybody who can see that it is there.
        if name.startswith(b"user.") and name != _KIND:
            self._inspect(known, ctx)
        return known.node.getxattr(os.fsdecode(name))

    @handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[bytes]:
        known = self.inodes.get(inode)
        self._inspect(known, ctx)
        return [os.fsencode(name) for name in known.node.listxattr()]

    def _inspect(self, known: Inode, ctx: RequestContext) -> None:
        caller = self.requests.at_work.caller(ctx)
        try:
            known.node.inspect(caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known), refusal)

    @handler
    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        known = self.inodes.get(inode)
        caller = self.requests.at_work.caller(ctx)
        try:
            known.node.enter(caller)
            known.node.setxattr(os.fsdecode(name), value, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known), refusal)

    @handler
    async def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        known = self.inodes.get(inode)
        caller = self.requests.at_work.caller(ctx)
        try:
            known.node.enter(caller)
            known.node.removexattr(os.fsdecode(name), caller)
        except KernelError as refusal:
            raise self._refused(caller, self.inodes.where(known), refusal)


@contextmanager
def _taking_elsewhere(node: Node, caller: Caller) -> Iterator[None]:
    """EXDEV in this block says to copy `node` instead. A caller that may not read it is told so at
    once, and the attempt is on record."""
    try:
        yield
    except KernelError as refusal:
        if refusal.errno == errno.EXDEV:
            node.inspect(caller)
        raise


def _nothing(timeout: float) -> EntryAttributes:
    """The answer that tells Linux, for so many seconds, that there is nothing."""
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = timeout
    return entry
