"""The FUSE operations: each finds the node, asks whether the caller may, and calls it.

Calls of the announcer's thread are answered by `announcements`, before anything else.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

from agentfs.errors import KernelError
from agentfs.mount.announcements import Announcements
from agentfs.mount.attributes import attributes
from agentfs.mount.boundary import handler
from agentfs.mount.coherence import by_client
from agentfs.mount.handles import Handles, OpenDirectory, OpenFile, still_holds
from agentfs.mount.inodes import Inode, Inodes
from agentfs.mount.parking import Parking
from agentfs.mount.system import System
from agentfs.mount.wakeups import Wakeups
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Directory, File, Handle, Link, Node, StreamHandle

if TYPE_CHECKING:
    from agentfs.mount.announcer import Announcer

__all__ = ["Operations"]

Maker = Callable[[Directory, str, Caller], Node]

log = logging.getLogger(__name__)

# Refusals that tell nothing new: a name that is not there, nothing to read yet.
_QUIET = frozenset({errno.ENOENT, errno.EAGAIN, errno.EINTR, errno.ENODEV, errno.ENODATA})

_READABLE = select.POLLIN | select.POLLRDNORM
_ALWAYS = _READABLE | select.POLLOUT | select.POLLWRNORM


class Operations(pyfuse3.Operations):
    """Served by `session`. `requests` and `faults` count handler calls and EIO answers."""

    def __init__(
        self,
        root: Directory,
        system: System,
        mountpoint: str,
        inodes: Inodes,
        announcer: Announcer,
        wakeups: Wakeups,
        parking: Parking,
        statistics_of: str,
    ) -> None:
        super().__init__()
        self._system = system
        self._mountpoint = mountpoint
        self._statistics_of = statistics_of
        self.inodes = inodes
        self.handles = Handles()
        self.announcements = Announcements(inodes, announcer)
        self.wakeups = wakeups
        self.parking = parking
        self.requests = 0
        self.faults = 0

    # -- who calls, and what is refused ----------------------------------------------------------

    async def _caller(self, ctx: RequestContext) -> Caller:
        principal = await self._system.identify(ctx.pid, ctx.uid, ctx.gid)
        return Caller(principal, ctx.uid, ctx.gid, ctx.pid, ctx.umask)

    def _where(self, inode: Inode, name: str = "") -> str:
        path = self.inodes.path(inode) or f"/…/{inode.name}"
        return f"{path.rstrip('/')}/{name}" if name else path

    def _refused(self, caller: Caller, path: str, refusal: KernelError) -> FUSEError:
        if refusal.errno not in _QUIET:
            self._system.refused(caller.principal, path, refusal)
        return FUSEError(refusal.errno)

    # -- look-up and attributes ------------------------------------------------------------------

    def _entry(self, parent: Inode, name: str, node: Node) -> EntryAttributes:
        """Tell the Linux kernel of a node; it holds one more reference then."""
        inode = self.inodes.remember(node, parent, name)
        try:
            entry = attributes(inode)
        except BaseException:
            self.inodes.drop_unknown(inode)
            raise
        self.inodes.referenced(inode)
        return entry

    @handler
    async def lookup(self, parent: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        directory = self.inodes.get(parent)
        text = os.fsdecode(name)
        if self.announcements.by(ctx):
            announced = self.announcements.lookup(directory, text)
            if announced is not None:
                return announced
        if text == ".." and directory.parent is not None:
            return self._entry(directory.parent, ".", directory.parent.node)
        return self._entry(directory, text, directory.directory().lookup(text))

    @handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return attributes(self.inodes.get(inode))

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
        if self.announcements.by(ctx):
            return attributes(known)
        caller = await self._caller(ctx)
        try:
            known.node.enter(caller)
            handle = None if fh is None else self.handles.file(fh).handle
            size = attr.st_size if fields.update_size else None
            truncate = getattr(handle, "truncate", None)
            if size is not None and truncate is not None:
                truncate(size)
                size = None
            known.node.chattr(
                caller,
                mode=attr.st_mode & 0o7777 if fields.update_mode else None,
                uid=attr.st_uid if fields.update_uid else None,
                gid=attr.st_gid if fields.update_gid else None,
                size=size,
                times=(
                    attr.st_atime_ns if fields.update_atime else None,
                    attr.st_mtime_ns if fields.update_mtime else None,
                ),
            )
        except KernelError as refusal:
            raise self._refused(caller, self._where(known), refusal)
        return attributes(known)

    def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        self.wakeups.handled()
        for number, lookups in inode_list:
            self.inodes.forget(number, lookups)

    @handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        known = self.inodes.get(inode)
        if not isinstance(known.node, Link):
            raise KernelError(errno.EINVAL, f"{known.name} is no link")
        return os.fsencode(known.node.target(await self._caller(ctx)))

    # -- directories -----------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        known = self.inodes.get(inode)
        caller = await self._caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            directory.may_list(caller)
        except KernelError as refusal:
            raise self._refused(caller, self._where(known), refusal)
        return self.handles.add_directory(OpenDirectory(known))

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        opened = self.handles.directory(fh)
        if opened.entries is None or start_id == 0:
            opened.entries = list(opened.inode.directory().entries())
        for number in range(start_id, len(opened.entries)):
            name, node = opened.entries[number]
            inode = self.inodes.remember(node, opened.inode, name)
            try:
                entry = attributes(inode)
            except (KernelError, OSError):
                self.inodes.drop_unknown(inode)
                continue  # gone since the directory was opened
            except Exception:
                self.inodes.drop_unknown(inode)
                self.faults += 1
                log.exception("%s is left out of the listing", self._where(opened.inode, name))
                continue
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, number + 1):
                self.inodes.drop_unknown(inode)
                break
            self.inodes.referenced(inode)

    @handler
    async def releasedir(self, fh: FileHandleT) -> None:
        self.handles.pop_directory(fh)

    @handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    # -- making, removing and moving entries -----------------------------------------------------

    @handler
    async def mkdir(
        self, parent: InodeT, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return await self._make(
            parent, name, ctx, lambda directory, text, caller: directory.mkdir(text, mode, caller)
        )

    @handler
    async def mknod(
        self, parent: InodeT, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return await self._make(
            parent,
            name,
            ctx,
            lambda directory, text, caller: directory.mknod(text, mode, rdev, caller),
        )

    @handler
    async def symlink(
        self, parent: InodeT, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return await self._make(
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
        return await self._make(
            new_parent,
            new_name,
            ctx,
            lambda directory, text, caller: directory.link(node, text, caller),
        )

    async def _make(
        self,
        parent: InodeT,
        name: bytes,
        ctx: RequestContext,
        make: Maker,
    ) -> EntryAttributes:
        known = self.inodes.get(parent)
        text = os.fsdecode(name)
        if self.announcements.by(ctx):
            return self.announcements.made(known, text)
        caller = await self._caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            with by_client((known.key, text)):
                node = make(directory, text, caller)
        except KernelError as refusal:
            raise self._refused(caller, self._where(known, text), refusal)
        return self._entry(known, text, node)

    @handler
    async def unlink(self, parent: InodeT, name: bytes, ctx: RequestContext) -> None:
        await self._remove(parent, name, ctx, Directory.unlink.__name__)

    @handler
    async def rmdir(self, parent: InodeT, name: bytes, ctx: RequestContext) -> None:
        await self._remove(parent, name, ctx, Directory.rmdir.__name__)

    async def _remove(self, parent: InodeT, name: bytes, ctx: RequestContext, how: str) -> None:
        known = self.inodes.get(parent)
        text = os.fsdecode(name)
        if self.announcements.by(ctx):
            self.announcements.removed()
            return
        caller = await self._caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            with by_client((known.key, text)):
                getattr(directory, how)(text, caller)
        except KernelError as refusal:
            raise self._refused(caller, self._where(known, text), refusal)

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
        if self.announcements.by(ctx):
            self.announcements.moved(target, new)
            return
        caller = await self._caller(ctx)
        try:
            source.directory().enter(caller)
            target.directory().enter(caller)
            moved = self.inodes.known(source.directory().lookup(old).key)
            with by_client((source.key, old), (target.key, new)):
                source.directory().rename(old, target.directory(), new, flags, caller)
        except KernelError as refusal:
            raise self._refused(caller, self._where(source, old), refusal)
        if moved is not None:
            self._settle(moved, target, new)

    def _settle(self, inode: Inode, directory: Inode, name: str) -> None:
        """The Linux kernel holds `inode` to be `directory`/`name`: make it what is there now."""
        try:
            node = directory.directory().lookup(name)
        except KernelError:
            return
        if node.key == inode.key:
            inode.parent, inode.name, inode.node = directory, name, node
        else:
            self.inodes.rebind(inode, node, directory, name)

    # -- open files ------------------------------------------------------------------------------

    @handler
    async def create(
        self, parent: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        known = self.inodes.get(parent)
        text = os.fsdecode(name)
        if self.announcements.by(ctx):
            entry = self.announcements.made(known, text)
            made = self.inodes.get(entry.st_ino)
            caller = await self._caller(ctx)
            return self._opened(made, Handle(), flags, caller), entry
        caller = await self._caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            with by_client((known.key, text)):
                node, handle = directory.create(text, mode, flags, caller)
        except KernelError as refusal:
            raise self._refused(caller, self._where(known, text), refusal)
        entry = self._entry(known, text, node)
        return self._opened(self.inodes.get(entry.st_ino), handle, flags, caller), entry

    @handler
    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        known = self.inodes.get(inode)
        caller = await self._caller(ctx)
        try:
            if known.gone:
                raise KernelError(errno.ENOENT, f"{known.name} was removed")
            node = known.node
            if not isinstance(node, File):
                raise KernelError(errno.EINVAL, f"{known.name} is no regular file")
            node.enter(caller)
            handle = node.open(flags, caller)
        except KernelError as refusal:
            raise self._refused(caller, self._where(known), refusal)
        return self._opened(known, handle, flags, caller)

    def _opened(self, inode: Inode, handle: Handle, flags: int, caller: Caller) -> FileInfo:
        fh = self.handles.add(OpenFile(inode, handle, flags, caller))
        info = FileInfo(fh=fh, direct_io=handle.direct, nonseekable=not handle.seekable)
        if not handle.direct:
            stat = inode.stat()
            version = (stat.mtime, stat.size)
            info.keep_cache = inode.cached == version
            inode.cached = version
        return info

    @handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        opened = self.handles.file(fh)
        try:
            if isinstance(opened.handle, StreamHandle):
                return await self.parking.read(
                    opened.handle,
                    size,
                    wait=opened.waits,
                    opener=opened.caller.tid,
                    path=self._mountpoint + self._where(opened.inode),
                )
            return await opened.handle.read(off, size)
        except KernelError as refusal:
            raise self._refused(opened.caller, self._where(opened.inode), refusal)

    @handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        opened = self.handles.file(fh)
        try:
            with by_client(opened.inode.key):
                return await opened.handle.write(off, buf)
        except KernelError as refusal:
            raise self._refused(opened.caller, self._where(opened.inode), refusal)

    @handler
    async def flush(self, fh: FileHandleT) -> None:
        opened = self.handles.file(fh)
        handle = opened.handle
        if handle.unflushed:
            path = self._mountpoint + self._where(opened.inode)
            if not still_holds(opened.caller.tid, path):
                await self._apply(opened)

    async def _apply(self, opened: OpenFile) -> None:
        """Let the handle apply what was written; the entry may be another file then."""
        inode = opened.inode
        place = (None if inode.parent is None else inode.parent.key, inode.name)
        try:
            with by_client(place, inode.key):
                await opened.handle.flush()
        except KernelError as refusal:
            raise self._refused(opened.caller, self._where(inode), refusal)
        if inode.parent is not None and not inode.gone:
            self._settle(inode, inode.parent, inode.name)

    @handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        opened = self.handles.file(fh)
        if opened.handle.unflushed:
            await self._apply(opened)
        await opened.handle.fsync()

    @handler
    async def release(self, fh: FileHandleT) -> None:
        opened = self.handles.pop(fh)
        if opened is None:
            return
        try:
            if opened.handle.unflushed:
                # The opener was gone when the last heir closed it without a flush of its own.
                await self._apply(opened)
        except FUSEError as refusal:
            log.info("%s: what was written last was refused: %s", opened.inode.name, refusal)
        finally:
            opened.handle.release()

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
            return _ALWAYS
        if poll_handle is not None:
            if opened.poll is None:
                handle.on_wake(lambda: _notify(opened))
            opened.poll = poll_handle
        return _READABLE if handle.ready() else 0

    # -- the rest --------------------------------------------------------------------------------

    @handler
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        host = os.statvfs(self._statistics_of)
        data = pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(data, f"f_{name}", getattr(host, f"f_{name}"))
        data.f_namemax = host.f_namemax
        return data

    @handler
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        return self.inodes.get(inode).node.getxattr(os.fsdecode(name))

    @handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[bytes]:
        return [os.fsencode(name) for name in self.inodes.get(inode).node.listxattr()]

    @handler
    async def setxattr(
        self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext
    ) -> None:
        known = self.inodes.get(inode)
        caller = await self._caller(ctx)
        known.node.enter(caller)
        known.node.setxattr(os.fsdecode(name), value, caller)

    @handler
    async def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        known = self.inodes.get(inode)
        caller = await self._caller(ctx)
        known.node.enter(caller)
        known.node.removexattr(os.fsdecode(name), caller)


def _notify(opened: OpenFile) -> None:
    """Wake whoever polls the file; Linux polls again then, with a new handle."""
    waiting, opened.poll = opened.poll, None
    if waiting is not None:
        try:
            waiting.notify()
        except OSError as failure:
            log.debug("a poll could not be woken: %s", failure)
