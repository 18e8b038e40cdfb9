"""The other yardstick: the least that a pyfuse3 program can do, without caching.

Usage: minimal.py MOUNTPOINT
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys

import pyfuse3
import trio

CONTENT = b"x" * 511 + b"\n"
STATUS, LIVE, FEW, MANY, FIRST = 2, 3, 4, 5, 1 << 20
NAMES = {b"status": STATUS, b"live": LIVE, b"100": FEW, b"10000": MANY}
FILES = {FEW: 100, MANY: 10_000}
"""The directories, and how many files each has; file n has the inode FIRST + n."""


class Minimal(pyfuse3.Operations):
    """The files `status` and `live` (read without the page cache), and two directories."""

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    def _attributes(self, inode: pyfuse3.InodeT) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.entry_timeout = entry.attr_timeout = 0
        if inode == pyfuse3.ROOT_INODE or inode in FILES:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755)
        else:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o444)
            entry.st_size = 0 if inode == LIVE else len(CONTENT)
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        return entry

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if parent_inode in FILES and name.isdigit() and int(name) < FILES[parent_inode]:
            return self._attributes(pyfuse3.InodeT(FIRST + int(name)))
        if parent_inode != pyfuse3.ROOT_INODE or name not in NAMES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(pyfuse3.InodeT(NAMES[name]))

    async def open(
        self, inode: pyfuse3.InodeT, flags: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=inode == LIVE)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return CONTENT[off : off + size]

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        return None

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        return None

    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        for number in range(start_id, FILES.get(pyfuse3.InodeT(fh), 0)):
            entry = self._attributes(pyfuse3.InodeT(FIRST + number))
            if not pyfuse3.readdir_reply(token, b"%d" % number, entry, number + 1):
                break


async def _serve() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    pyfuse3.init(Minimal(), sys.argv[1], {"default_permissions", "fsname=minimal"})
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close()
