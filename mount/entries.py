"""Look-up, attributes, listings, and making, removing and moving entries."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat as st
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, InodeT, RequestContext

from agentfs.base.errors import KernelError
from agentfs.mount.attributes import attributes
from agentfs.mount.base import Base
from agentfs.mount.boundary import handler
from agentfs.mount.calls import looks, may_watch
from agentfs.mount.coherence import by_client
from agentfs.mount.handles import OpenDirectory
from agentfs.mount.inodes import Inode
from agentfs.mount.shown import Shown, show_number, takes
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Attributes, Directory, Link, LookUpAgain, Node

__all__ = ["EntryOperations"]

log = logging.getLogger(__name__)

Maker = Callable[[Directory, str, Caller], Node]


DOTS = 2
"""Entries of a listing before those of the node."""

UNKNOWN = 0xFFFFFFFF
"""An inode number that stands for none, as in Linux's own FUSE."""

STEP_SECONDS = 0.004
"""How long one request for entries may take; Linux asks for more."""


class EntryOperations(Base):
    """The operations on names."""

    # -- look-up and attributes ------------------------------------------------------------------

    @handler
    async def lookup(self, parent: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        directory = self.inodes.get(parent)
        text = os.fsdecode(name)
        if self.announcements.by(ctx):
            announced = self.announcements.lookup(directory, text)
            if announced is not None:
                return announced
            found = directory.directory().lookup(text)
            return self.announcements.unkept(self._entry(directory, text, found))
        if text == ".." and directory.parent is not None:
            return self._entry(directory.parent, ".", directory.parent.node)
        if directory.directory().gated:
            found = await self._reached(directory, text, ctx)
        else:
            try:
                found = directory.directory().lookup(text)
            except KernelError as missing:
                self._is_missing(ctx.pid)
                if missing.errno == errno.ETIMEDOUT:
                    raise self._refused(self._caller(ctx), self.where(directory, text), missing)
                kept = directory.directory().missing_timeout
                if missing.errno == errno.ENOENT and kept and not directory.gone:
                    return _nothing(kept)
                raise
            if found.guarded:
                self._admit(found, self.where(directory, text), ctx)
        if takes(found) and await looks(ctx.pid):
            found = self._shown(found)
        return self._entry(directory, text, found)

    def _admit(self, node: Node, where: str, ctx: RequestContext) -> None:
        """Ask what Linux opens without us whether the caller may."""
        caller = self._caller(ctx)
        try:
            node.admitted(caller)
        except KernelError as refusal:
            raise self._refused(caller, where, refusal)

    def _shown(self, node: Node) -> Node:
        """A node as it is shown to those who only look at it."""
        if not takes(node):
            return node
        return Shown(node, self.inodes.known(node.key), self.inodes.number(node))

    async def _reached(self, directory: Inode, name: str, ctx: RequestContext) -> Node:
        """What the caller finds as `name`, where the look-up is what keeps others out."""
        caller = self._caller(ctx)
        where = directory.directory()
        try:
            where.admit(name, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(directory, name), refusal)
        try:
            return where.reach(name, caller)
        except KernelError as refusal:
            if refusal.errno not in (errno.EACCES, errno.EPERM):
                raise  # there is no such thing
            raise self._refused(caller, self.where(directory, name), refusal)

    @handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        known = self.inodes.get(inode)
        if self.announcements.by(ctx):
            return self.announcements.attributes(known)
        if known.node.guarded:
            # Of a file held with O_PATH this is all that Linux asks before it opens it.
            self._admit(known.node, self.where(known), ctx)
        if not known.watched and await may_watch(ctx.pid):
            known.watched = True
        if known.gone and self._is_outdated(known) and not await may_watch(ctx.pid):
            # By its name there may be another by now. Who adds a watch is not sent back by Linux.
            raise LookUpAgain(known.name)
        await self.announcements.quiet(known)
        known.asked = time.monotonic()
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
        if self.announcements.by(ctx):
            return self.announcements.modified(known)
        caller = self._caller(ctx)
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
            raise self._refused(caller, self.where(known), refusal)
        return attributes(known)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        self.wakeups.handled()
        for number, lookups in inode_list:
            self.inodes.forget(number, lookups)

    @handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        known = self.inodes.get(inode)
        if not isinstance(known.node, Link):
            raise KernelError(errno.EINVAL, f"{known.name} is no link")
        caller = self._caller(ctx)
        try:
            return os.fsencode(known.node.target(caller))
        except KernelError as refusal:
            if refusal.errno not in (errno.EACCES, errno.EPERM):
                raise  # it leads nowhere for this caller
            raise self._refused(caller, self.where(known), refusal)

    # -- directories -----------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        known = self.inodes.get(inode)
        self._is_found(known, ctx.pid)
        caller = self._caller(ctx)
        try:
            if not known.gone:  # a working directory that was removed has nothing in it
                directory = known.directory()
                directory.enter(caller)
                directory.may_list(caller)
                self.walkers.enter(known, ctx.pid)
            opened = OpenDirectory(known, caller, caller.handle())
        except KernelError as refusal:
            raise self._refused(caller, self.where(known), refusal)
        return self.handles.add_directory(opened)

    @handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        opened = self.handles.directory(fh)
        if start_id == 0:
            opened.rewind()
            self.walkers.begun(opened)
        # `.` and `..` come first. Linux makes nothing of what it is told of them but their number.
        parent = opened.inode.parent or opened.inode
        for number, (name, known) in enumerate(((".", opened.inode), ("..", parent))):
            if number >= start_id and not pyfuse3.readdir_reply(
                token, name.encode(), _only_number(known), number + 1
            ):
                return
        told = start_id < DOTS  # an answer without entries is the end
        ends = time.monotonic() + STEP_SECONDS
        for number in itertools.count(max(0, start_id - DOTS)):
            if told and time.monotonic() > ends:
                break
            try:
                found = opened.entry(number)
            except KernelError as missing:
                if missing.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                continue  # gone since its name was read
            if found is None:
                if not told:
                    self.walkers.ended(opened)
                break
            name, node = found
            if node is None or (node.distant and not opened.inode.node.distant):
                if not pyfuse3.readdir_reply(
                    token, os.fsencode(name), _only_name(), number + DOTS + 1
                ):
                    break
                told = True
                continue
            try:
                entry = self._entry(opened.inode, name, self._shown(node))
            except (KernelError, OSError):
                continue  # gone since the directory was opened
            except Exception:
                self.faults += 1
                log.exception("%s is left out of the listing", self.where(opened.inode, name))
                continue
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, number + DOTS + 1):
                self.inodes.forget(entry.st_ino, 1)
                break
            told = True

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

        def make(directory: Directory, name: str, caller: Caller) -> Node:
            with _taking_elsewhere(node, caller):
                return directory.link(node, name, caller)

        return await self._make(new_parent, new_name, ctx, make)

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
        caller = self._caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            with by_client((known.key, text)):
                node = make(directory, text, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(known, text), refusal)
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
        caller = self._caller(ctx)
        try:
            directory = known.directory()
            directory.enter(caller)
            with by_client((known.key, text)):
                getattr(directory, how)(text, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(known, text), refusal)

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
        caller = self._caller(ctx)
        try:
            source.directory().enter(caller)
            target.directory().enter(caller)
            node = source.directory().lookup(old)
            moved = self.inodes.known(node.key)
            with by_client((source.key, old), (target.key, new)), _taking_elsewhere(node, caller):
                source.directory().rename(old, target.directory(), new, flags, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(source, old), refusal)
        if moved is not None:
            self._settle(moved, target, new)


@contextmanager
def _taking_elsewhere(node: Node, caller: Caller) -> Iterator[None]:
    """EXDEV in this block says to copy `node` instead: who may not read it is told so at once, and
    it is on record that it was tried."""
    try:
        yield
    except KernelError as refusal:
        if refusal.errno == errno.EXDEV:
            node.inspect(caller)
        raise


def _only_number(inode: Inode) -> EntryAttributes:
    """What a listing says of a directory itself."""
    entry = EntryAttributes()
    entry.st_ino = inode.number
    entry.st_mode = pyfuse3.ModeT(st.S_IFDIR)
    return entry


def _only_name() -> EntryAttributes:
    """What a listing says of an entry that it does not ask about: Linux looks it up when somebody
    wants to know more. Any number but 0 means that it is there."""
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    show_number(entry, UNKNOWN)
    return entry


def _nothing(timeout: float) -> EntryAttributes:
    """What tells Linux that there is nothing, for so many seconds."""
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = timeout
    return entry
