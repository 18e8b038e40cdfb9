"""The floor of a message: the least that a pyfuse3 program with our turns can do for one.

Usage: empty_mail.py MOUNTPOINT. Each name there is a box: a write puts a message into it, and a
read takes one, and waits if there is none. Nothing is kept, checked or told.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections import deque

import pyfuse3
import trio

from agentfs.mount.wakeups import Wakeups


class _Box:
    """Messages, and those who wait for one."""

    def __init__(self) -> None:
        self.messages = deque[bytes]()
        self.readers = trio.lowlevel.ParkingLot()


class EmptyMail(pyfuse3.Operations):
    """Boxes, made when somebody looks for one. Box n has the inode n, from 2 on."""

    def __init__(self) -> None:
        self.wakeups = Wakeups(lambda: None, lambda: False)
        self._numbers: dict[bytes, int] = {}
        self._boxes: list[_Box] = []

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self.wakeups.handled()
        return self._attributes(inode)

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(inode)
        kind = stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o666
        entry.st_mode = pyfuse3.ModeT(kind)
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        return entry

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self.wakeups.handled()
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers) + 2
            self._boxes.append(_Box())
        return self._attributes(self._numbers[name])

    async def open(
        self, inode: pyfuse3.InodeT, flags: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        self.wakeups.handled()
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=True)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        self.wakeups.handled()
        box = self._boxes[fh - 2]
        box.messages.append(buf)
        if box.readers:
            self.wakeups.end_turn()
            box.readers.unpark()
        return len(buf)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        self.wakeups.handled()
        box = self._boxes[fh - 2]
        while not box.messages:
            self.wakeups.turns.pass_on()
            await box.readers.park()
        return box.messages.popleft()

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        self.wakeups.handled()

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        self.wakeups.handled()


async def _serve(mail: EmptyMail) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()


def _main(mountpoint: str) -> None:
    mail = EmptyMail()
    mail.wakeups.install()
    pyfuse3.init(mail, mountpoint, {"default_permissions", "fsname=empty_mail"})
    try:
        trio.run(_serve, mail)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    _main(sys.argv[1])
