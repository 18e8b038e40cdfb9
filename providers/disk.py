"""System calls on real files: errors in our words, and no path that a link could bend."""

from __future__ import annotations

import ctypes
import errno
import os
import stat as st
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from agentfs.errors import KernelError
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Stat

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "as_stat",
    "give",
    "open_directory",
    "own_path",
    "read_at",
    "rename",
    "reported",
]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

# No descriptor of the daemon is inherited, and the last component is never a link.
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def reported(doing: str) -> Iterator[None]:
    """An OSError in this block is the caller's error."""
    try:
        yield
    except OSError as failure:
        raise KernelError.from_os(failure, doing) from None


def open_directory(root: str | int, names: list[str]) -> int:
    """An O_PATH descriptor of the directory `root`/`names`, walked name by name, so that neither a
    link nor `..` leads out of `root` (or what this descriptor is). Raises OSError."""
    found = os.dup(root) if isinstance(root, int) else os.open(root, _PATH | os.O_DIRECTORY)
    try:
        for name in names:
            below = os.open(name, _PATH | os.O_DIRECTORY, dir_fd=found)
            os.close(found)
            found = below
    except OSError:
        os.close(found)
        raise
    return found


def own_path(descriptor: int) -> str:
    """A path that means exactly the open file, for calls that take no O_PATH descriptor."""
    return f"/proc/self/fd/{descriptor}"


def rename(source: int, name: str, target: int, new_name: str, flags: int) -> None:
    """renameat2(2). Raises OSError."""
    if not flags:
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
        return
    old, new = os.fsencode(name), os.fsencode(new_name)
    if _libc.renameat2(source, old, target, new, ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def give(path: str | int, mode: int, caller: Caller, directory: int) -> None:
    """Make what was just created the caller's, with `mode` less its umask (0 for a link: kept).
    `path` is its name in `directory`, or its descriptor.

    Only root can give files away; otherwise they are the daemon's, which is the one user then. A
    directory with the set-group-id bit hands its group down.
    """
    handed_down = bool(os.fstat(directory).st_mode & st.S_ISGID)
    where = None if isinstance(path, int) else directory
    if os.geteuid() == 0:
        gid = -1 if handed_down else caller.gid
        os.chown(path, caller.uid, gid, dir_fd=where, follow_symlinks=where is None)
    if mode:
        bits = mode & 0o7777 & ~caller.umask
        if handed_down and st.S_ISDIR(mode):
            bits |= st.S_ISGID
        os.chmod(path, bits, dir_fd=where)


def as_stat(found: os.stat_result) -> Stat:
    return Stat(
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size,
        mtime=found.st_mtime_ns,
        nlink=found.st_nlink,
        atime=found.st_atime_ns,
        ctime=found.st_ctime_ns,
        rdev=found.st_rdev,
        blocks=found.st_blocks,
    )


async def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """pread(2), at once if the bytes are in memory, else in a thread. Raises OSError."""
    buffer = bytearray(size)
    try:
        count = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except OSError as failure:
        if failure.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return await trio.to_thread.run_sync(os.pread, descriptor, size, offset)
    if 0 < count < size and offset + count < os.fstat(descriptor).st_size:
        # The rest is on the disk.
        rest = await trio.to_thread.run_sync(os.pread, descriptor, size - count, offset + count)
        return bytes(memoryview(buffer)[:count]) + rest
    return bytes(memoryview(buffer)[:count])
