"""System calls on real files, all that there are for /shared and memory/: errors in our words, no
path that a link could bend, and none that waits for anybody.

The store's own disk is asked in the event loop, everything beyond a mount point in a thread with a
deadline (see `devices`). So a call in the loop must not cross a mount point, nor wait for another
program:

| call | it would wait for | so |
|---|---|---|
| look, open_at, open_directory | a disk mounted there | openat2(2), RESOLVE_NO_XDEV: EXDEV |
| look_beyond, open_at beyond | that disk | only ever called in a thread |
| open_at, reopen | the holder of a lease on the file | O_NONBLOCK: EAGAIN |
| open_at | the other end of a FIFO in its place | O_NONBLOCK, and closed: it is another file |
| truncate | the holder of a lease on the file | ftruncate(2) of what was opened with O_NONBLOCK |
| create, make, link | a disk mounted there | O_EXCL and its kind: EEXIST |
| remove, rename | a disk mounted there | EBUSY |
| read_at | the disk | RWF_NOWAIT, else in a thread |
| fsync(2), in devices | the disk | in a thread |
| close(2), in devices | a server, which is told | in a thread if beyond a mount point |
| all others | nobody else | they have a descriptor, or made the file themselves |

On the store's own disk each may wait for that disk, as every commit of the store does there.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat as st
from collections.abc import Callable, Iterator

import trio

from agentfs.base.errors import KernelError
from agentfs.base.within import open_within
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Attributes, Stat

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "as_stat",
    "attributes",
    "change",
    "count_below",
    "create",
    "getxattr",
    "link",
    "listxattr",
    "look",
    "look_beyond",
    "look_if_there",
    "make",
    "names",
    "open_at",
    "open_directory",
    "open_listing",
    "open_root",
    "own_path",
    "read",
    "read_at",
    "remove",
    "removexattr",
    "rename",
    "reopen",
    "reported",
    "resize",
    "scan",
    "setxattr",
    "target",
    "tells_writes_apart",
    "truncate",
    "write",
]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

TRIES = 10
"""Writes in a row, within a tick of the clock (1 to 10 ms)."""

# No descriptor of the daemon is inherited, and the last component is never a link.
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

# It is a link by now, not there, a FIFO or a socket, or something is mounted over it or no more.
_ANOTHER = frozenset({errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.EXDEV})

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


def look(directory: int, name: str) -> os.stat_result:
    """The attributes of `directory`/`name`. Raises OSError: EXDEV for a mount point."""
    found = open_within(directory, name, _PATH)
    try:
        return os.fstat(found)
    finally:
        os.close(found)


def look_if_there(directory: int, name: str) -> os.stat_result | None:
    """As `look`; None if there is nothing, or something is mounted over it. Raises OSError."""
    try:
        return look(directory, name)
    except OSError as failure:
        if failure.errno in _ANOTHER:
            return None
        raise


def look_beyond(directory: int, name: str) -> os.stat_result:
    """The attributes of what is mounted at `directory`/`name`. Raises OSError."""
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def open_directory(directory: int, name: str, beyond: bool) -> int:
    """An O_PATH descriptor of the directory `directory`/`name`, `beyond` a mount point or not.
    Raises OSError: ESTALE if that is a mount point only now."""
    try:
        return _open(directory, name, _PATH | os.O_DIRECTORY, beyond)
    except OSError as failure:
        if failure.errno == errno.EXDEV:
            failure.errno = errno.ESTALE
        raise


def _open(directory: int, name: str, flags: int, beyond: bool) -> int:
    if beyond:
        return os.open(name, flags, dir_fd=directory)
    return open_within(directory, name, flags)


def open_at(
    directory: int, name: str, flags: int, wanted: tuple[int, int, int], beyond: bool
) -> int | None:
    """A descriptor of the file with this device, number and type, if that is `directory`/`name`,
    `beyond` a mount point or not; else None. Raises OSError."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if not flags & os.O_PATH:
        flags |= os.O_NONBLOCK
    try:
        found = _open(directory, name, flags, beyond)
    except OSError as failure:
        if failure.errno in _ANOTHER:
            return None
        raise
    try:
        here = os.fstat(found)
    except BaseException:
        os.close(found)
        raise
    if (here.st_dev, here.st_ino, st.S_IFMT(here.st_mode)) == wanted:
        return found
    os.close(found)
    return None


def reopen(descriptor: int, flags: int) -> int:
    """Another descriptor of an open file. Raises OSError."""
    if flags & os.O_PATH:
        return os.dup(descriptor)
    return os.open(own_path(descriptor), flags | os.O_NONBLOCK | os.O_CLOEXEC)


def open_root(path: str, beyond: bool) -> int:
    """An O_PATH descriptor of the directory `path`, which is mounted there or not. Raises
    OSError."""
    parent, name = os.path.split(path)
    above = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_directory(above, name, beyond)
    finally:
        os.close(above)


def attributes(descriptor: int) -> os.stat_result:
    """fstat(2). Raises OSError."""
    return os.fstat(descriptor)


def target(descriptor: int) -> str:
    """Where a link leads. Raises OSError."""
    return os.readlink("", dir_fd=descriptor)


def getxattr(descriptor: int, name: str) -> bytes:
    """Raises OSError: ENODATA if there is none."""
    return os.getxattr(own_path(descriptor), name)


def listxattr(descriptor: int) -> list[str]:
    """Raises OSError."""
    return os.listxattr(own_path(descriptor))


def setxattr(descriptor: int, name: str, value: bytes) -> None:
    """Raises OSError."""
    os.setxattr(own_path(descriptor), name, value)


def removexattr(descriptor: int, name: str) -> None:
    """Raises OSError: ENODATA if there is none."""
    os.removexattr(own_path(descriptor), name)


def open_listing(directory: int) -> int:
    """A descriptor that a directory can be listed by. Raises OSError."""
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)


def scan(listing: int) -> Iterator[str]:
    """The names in a directory, read on as they are taken. Raises OSError."""
    with os.scandir(listing) as found:
        for entry in found:
            yield entry.name


def names(directory: int) -> list[str]:
    """All names in a directory. Raises OSError."""
    listing = open_listing(directory)
    try:
        return os.listdir(listing)
    finally:
        os.close(listing)


def count_below(path: str) -> int:
    """How many files, directories and links are below a directory."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(path))


Made = tuple[int, os.stat_result]
"""Something that was made, open, and its attributes."""


def create(
    directory: int,
    name: str,
    flags: int,
    mode: int,
    caller: Caller,
    mark: Callable[[int], object],
) -> Made:
    """Make the file `directory`/`name`, `mark` it, and give it to `caller`; or there is nothing
    new. Raises OSError, and what `mark` does."""
    made = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        mark(made)
        give(made, mode, caller, directory)
        return made, os.fstat(made)
    except BaseException:
        os.close(made)
        os.unlink(name, dir_fd=directory)
        raise


def make(
    directory: int,
    name: str,
    mode: int,
    caller: Caller,
    mark: Callable[[str], object],
    target: str | None = None,
) -> os.stat_result:
    """Make a directory, a FIFO, a socket, a regular file or (with a `target`) a link, `mark` it,
    and give it to `caller`; or there is nothing new. Raises OSError, and what `mark` does."""
    undo: Callable[..., None] = os.unlink
    if target is not None:
        os.symlink(target, name, dir_fd=directory)
    elif st.S_ISDIR(mode):
        os.mkdir(name, 0o700, dir_fd=directory)
        undo = os.rmdir
    else:
        os.mknod(name, st.S_IFMT(mode) | 0o600, dir_fd=directory)
    try:
        mark(f"{own_path(directory)}/{name}")
        give(name, mode, caller, directory)
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except BaseException:
        undo(name, dir_fd=directory)
        raise


def link(source: int, directory: int, name: str) -> os.stat_result:
    """Make `directory`/`name` one more name of an open file. Raises OSError."""
    os.link(own_path(source), name, dst_dir_fd=directory, follow_symlinks=True)
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def remove(directory: int, name: str, is_directory: bool) -> None:
    """rmdir(2) or unlink(2). Raises OSError."""
    (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory)


def write(descriptor: int, data: bytes, offset: int, drops_set_id: bool) -> int:
    """pwrite(2), by which a file stops being a program of others' if so wished. Raises OSError."""
    if drops_set_id:
        drop_set_id(descriptor)
    return os.pwrite(descriptor, data, offset)


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


def resize(descriptor: int, size: int) -> None:
    """ftruncate(2). Raises OSError."""
    os.ftruncate(descriptor, size)


def read(descriptor: int, size: int, offset: int) -> bytes:
    """pread(2). Raises OSError."""
    return os.pread(descriptor, size, offset)


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
    """Do what Linux does when another than root writes to a file: it is a program of others no
    more. The group's bit counts where the group may execute. Raises OSError."""
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
