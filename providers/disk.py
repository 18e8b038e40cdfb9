"""System calls on real files: errors in our words, and no path that a link could bend."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat as st

import trio

from agentfs.errors import KernelError
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Attributes, Stat

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "as_stat",
    "change",
    "drop_set_id",
    "give",
    "open_directory",
    "own_path",
    "read_at",
    "rename",
    "reported",
    "tells_writes_apart",
    "truncate",
]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

TRIES = 10
"""Writes in a row, within a tick of the clock (1 to 10 ms)."""

# No descriptor of the daemon is inherited, and the last component is never a link.
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class reported:  # noqa: N801  # used as a statement, as contextlib's are
    """An OSError in this block is the caller's error."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        if isinstance(failure, OSError):
            raise KernelError.from_os(failure, self._doing) from None


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


def truncate(path: str, size: int) -> None:
    """truncate(2) that does not wait, as that does up to 45 s (/proc/sys/fs/lease-break-time), for
    who has a lease on the file. Raises OSError; EAGAIN if there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def change(path: str | int, wanted: Attributes) -> None:
    """chmod, chown, truncate and utime of a path or a descriptor. Raises OSError."""
    if wanted.size is not None:
        truncate(own_path(path) if isinstance(path, int) else path, wanted.size)
    uid, gid = wanted.uid, wanted.gid
    if uid is not None or gid is not None:
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
    if wanted.mode is not None:
        os.chmod(path, wanted.mode)
    accessed, modified = wanted.times
    if accessed is not None or modified is not None:
        if accessed is None or modified is None:
            now = os.stat(path)
            accessed = now.st_atime_ns if accessed is None else accessed
            modified = now.st_mtime_ns if modified is None else modified
        os.utime(path, ns=(accessed, modified))


def drop_set_id(descriptor: int) -> None:
    """What Linux does when another than root writes to a file: it is a program of others no more.
    The group's bit counts where the group may execute. Raises OSError."""
    mode = os.fstat(descriptor).st_mode
    if mode & (st.S_ISUID | st.S_ISGID):
        group = st.S_ISGID if mode & st.S_IXGRP else 0
        os.fchmod(descriptor, st.S_IMODE(mode) & ~st.S_ISUID & ~group)


@functools.cache
def tells_writes_apart(path: str, device: int) -> bool:
    """Whether of two writes to a file on `device`, where `path` is, the second always has a later
    time, if somebody looked in between: Linux has fine-grained times since 6.13, on most disks."""
    try:
        file = os.open(path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        times = set()
        for _ in range(TRIES):
            os.pwrite(file, b"x", 0)
            times.add(os.fstat(file).st_mtime_ns)
    finally:
        os.close(file)
    return len(times) == TRIES


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
