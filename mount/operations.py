"""The FUSE operations: each finds the node, asks whether the caller may, and calls it.

Calls of the announcer's process are answered by `announcements`, before anything else.
"""

from __future__ import annotations

import os

import pyfuse3
from pyfuse3 import InodeT, RequestContext

from agentfs.base.errors import KernelError
from agentfs.mount.boundary import handler
from agentfs.mount.entries import EntryOperations
from agentfs.mount.files import FileOperations
from agentfs.mount.inodes import Inode
from agentfs.vfs.node import KIND

__all__ = ["Operations"]

_KIND = KIND.encode()


class Operations(EntryOperations, FileOperations):
    """Served by `session`."""

    # -- the rest --------------------------------------------------------------------------------

    @handler
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        host = os.statvfs(self._statistics_of)
        data = pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(data, f"f_{name}", getattr(host, f"f_{name}"))
        data.f_namemax = host.f_namemax
        room = self._system.room(self._caller(ctx).principal)
        if room is not None:
            data.f_bavail = min(host.f_bavail, room // host.f_frsize)
        return data

    @handler
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        known = self.inodes.get(inode)
        # Others than those of a user there are none, and Linux asks for them all the time; what
        # kind of file it is everybody may know who can see that it is there.
        if name.startswith(b"user.") and name != _KIND:
            await self._inspect(known, ctx)
        return known.node.getxattr(os.fsdecode(name))

    @handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[bytes]:
        known = self.inodes.get(inode)
        await self._inspect(known, ctx)
        return [os.fsencode(name) for name in known.node.listxattr()]

    async def _inspect(self, known: Inode, ctx: RequestContext) -> None:
        caller = self._caller(ctx)
        try:
            known.node.inspect(caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(known), refusal)

    @handler
    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        known = self.inodes.get(inode)
        caller = self._caller(ctx)
        try:
            known.node.enter(caller)
            known.node.setxattr(os.fsdecode(name), value, caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(known), refusal)

    @handler
    async def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        known = self.inodes.get(inode)
        caller = self._caller(ctx)
        try:
            known.node.enter(caller)
            known.node.removexattr(os.fsdecode(name), caller)
        except KernelError as refusal:
            raise self._refused(caller, self.where(known), refusal)
