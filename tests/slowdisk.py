"""A disk of the tests that can stop answering: a small file system in memory, mounted with FUSE by
a process of its own. `python -m tests.slowdisk MOUNTPOINT` takes the lines `hang` and `answer`."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat as st
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from agentfs.base.within import mounts

__all__ = ["SlowDisk", "detach"]


class SlowDisk:
    """It, mounted at `path`. Whatever it was asked, it is aborted at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.slowdisk", str(path)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._read("mounted")
        self._mounts = {number for number, place in mounts() if place == os.path.realpath(path)}

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def _read(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n".encode()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()
        self._read(word)

    def hang(self) -> None:
        """Take requests from now on, and answer none."""
        self._say("hang")

    def answer(self) -> None:
        """Answer again, and what was asked meanwhile."""
        self._say("answer")

    def abort(self) -> None:
        """Every request fails at once, now and from now on: its server is no more. (The file
        `abort` of /sys/fs/fuse does the same, where somebody has mounted that.)"""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Leave nothing of it."""
        self.abort()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        for number, place in mounts():  # wherever it is now
            if number in self._mounts:
                detach(Path(place))


def detach(place: Path) -> None:
    """Take away what is mounted there, if anything is, however it hangs."""
    words = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    subprocess.run([*words, str(place)], check=False, capture_output=True)


@dataclass
class _File:
    number: int
    mode: int
    uid: int
    gid: int
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, _File] = field(default_factory=dict)
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    time: int = 0
    nlink: int = 1


def _asked(method: Any) -> Any:
    @wraps(method)
    async def asked(disk: _Memory, *args: Any) -> Any:
        await disk.answering.wait()
        return method(disk, *args)

    return asked


class _Memory(pyfuse3.Operations):
    """The file system."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = trio.Event()
        self.answering.set()
        self._numbers = itertools.count(1)
        self._files: dict[int, _File] = {}
        self._new(st.S_IFDIR | 0o777)

    def _new(self, mode: int, ctx: Any = None) -> _File:
        uid, gid = (os.geteuid(), os.getegid()) if ctx is None else (ctx.uid, ctx.gid)
        made = _File(next(self._numbers), mode, uid, gid, time=time.time_ns())
        self._files[made.number] = made
        return made

    def _told(self, file: _File) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(file.number)
        entry.st_mode = pyfuse3.ModeT(file.mode)
        entry.st_nlink, entry.st_uid, entry.st_gid = file.nlink, file.uid, file.gid
        entry.st_size = len(file.data)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = file.time
        entry.entry_timeout = entry.attr_timeout = 0  # Linux is to ask each time
        return entry

    def _find(self, parent: int, name: bytes) -> _File:
        try:
            return self._files[parent].entries[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    def _put(self, parent: int, name: bytes, file: _File) -> pyfuse3.EntryAttributes:
        if name in self._files[parent].entries:
            raise pyfuse3.FUSEError(errno.EEXIST)
        self._files[parent].entries[name] = file
        return self._told(file)

    @_asked
    def lookup(self, parent: int, name: bytes, ctx: Any) -> Any:
        return self._told(self._find(parent, name))

    @_asked
    def getattr(self, inode: int, ctx: Any) -> Any:
        return self._told(self._files[inode])

    @_asked
    def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        file = self._files[inode]
        if fields.update_mode:
            file.mode = attr.st_mode
        if fields.update_size:
            del file.data[attr.st_size :]
            file.data.extend(bytes(attr.st_size - len(file.data)))
        file.time = time.time_ns()
        return self._told(file)

    @_asked
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
        return self._put(parent, name, self._new(mode | st.S_IFDIR, ctx))

    @_asked
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        return self._put(parent, name, self._new(mode, ctx))

    @_asked
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> Any:
        made = self._new(st.S_IFLNK | 0o777, ctx)
        made.data += target
        return self._put(parent, name, made)

    @_asked
    def readlink(self, inode: int, ctx: Any) -> bytes:
        return bytes(self._files[inode].data)

    @_asked
    def link(self, inode: int, parent: int, name: bytes, ctx: Any) -> Any:
        self._files[inode].nlink += 1
        return self._put(parent, name, self._files[inode])

    @_asked
    def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        self._find(parent, name).nlink -= 1
        del self._files[parent].entries[name]

    @_asked
    def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        if self._find(parent, name).entries:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self._files[parent].entries[name]

    @_asked
    def rename(self, old: int, name: bytes, new: int, new_name: bytes, flags: int, _: Any) -> None:
        file = self._find(old, name)
        del self._files[old].entries[name]
        self._files[new].entries[new_name] = file

    @_asked
    def opendir(self, inode: int, ctx: Any) -> Any:
        return inode

    @_asked
    def readdir(self, fh: int, start: int, token: Any) -> None:
        for number, (name, file) in enumerate(self._files[fh].entries.items()):
            if number >= start and not pyfuse3.readdir_reply(
                token, name, self._told(file), number + 1
            ):
                break

    @_asked
    def open(self, inode: int, flags: int, ctx: Any) -> Any:
        if flags & os.O_TRUNC:
            self._files[inode].data.clear()
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=True)

    @_asked
    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        made = self._new(mode | st.S_IFREG, ctx)
        entry = self._put(parent, name, made)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(made.number), direct_io=True), entry

    @_asked
    def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(self._files[fh].data[offset : offset + size])

    @_asked
    def write(self, fh: int, offset: int, data: bytes) -> int:
        file = self._files[fh]
        file.data.extend(bytes(max(0, offset - len(file.data))))
        file.data[offset : offset + len(data)] = data
        file.time = time.time_ns()
        return len(data)

    @_asked
    def flush(self, fh: int) -> None:
        pass

    @_asked
    def fsync(self, fh: int, datasync: bool) -> None:
        pass

    @_asked
    def release(self, fh: int) -> None:
        pass

    @_asked
    def statfs(self, ctx: Any) -> Any:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 1000
        data.f_namemax = 255
        return data

    @_asked
    def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        try:
            return self._files[inode].attributes[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENODATA) from None

    @_asked
    def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return list(self._files[inode].attributes)

    @_asked
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self._files[inode].attributes[name] = value

    @_asked
    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        del self._files[inode].attributes[name]


async def _listen(disk: _Memory) -> None:
    """Do as stdin says."""
    lines = trio.lowlevel.FdStream(os.dup(0))
    async for word in lines:
        if word == b"hang\n":
            disk.answering = trio.Event()
        else:
            disk.answering.set()
        os.write(1, word)


async def _serve(disk: _Memory) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, disk)
        os.write(1, b"mounted\n")
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def main() -> None:
    disk = _Memory()
    pyfuse3.init(disk, sys.argv[1], {"fsname=slowdisk", "default_permissions"})
    trio.run(_serve, disk)


if __name__ == "__main__":
    main()
