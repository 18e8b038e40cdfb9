"""Copies of single files, as cheap as the disk lets them be."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat as st
from contextlib import suppress
from pathlib import Path

from agentfs.checkpoints.inventory import CopiedFile
from agentfs.store.reserve import SIZE

__all__ = ["copy", "dress", "duplicate", "require_room", "sum_of", "sync", "sync_disk"]

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_SHARES_NOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)

LEFT = 4 * SIZE
"""Bytes of the disk that stay free: the living system is to have room for what it does."""

_libc = ctypes.CDLL(None, use_errno=True)


def require_room(place: Path, size: int) -> None:
    """Raise OSError ENOSPC unless so many bytes more leave the living system some room."""
    disk = os.statvfs(place)
    if disk.f_bavail * disk.f_frsize < size + LEFT:
        raise OSError(errno.ENOSPC, "no space is left on the disk of the state directory")


def copy(entry: CopiedFile, source: Path, target: Path) -> None:
    """Make at `target` what `source` is, with its extended attributes, and for its owner alone; a
    directory is made empty. A file shares its blocks where the disk can do that (reflink). Raises
    OSError."""
    if st.S_ISLNK(entry.mode):
        entry.target = os.readlink(source)
        os.symlink(entry.target, target)
    elif st.S_ISFIFO(entry.mode):
        os.mkfifo(target, 0o600)
    elif st.S_ISDIR(entry.mode):
        target.mkdir(0o700)
        _copy_attributes(source, target)
    else:
        require_room(target.parent, entry.size)
        duplicate(source, target)


def duplicate(source: Path, target: Path) -> None:
    """Copy a file, as `copy` does. Raises OSError."""
    given = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy_content(given, made)
            _copy_attributes(given, made)
        finally:
            os.close(made)
    finally:
        os.close(given)


def _copy_attributes(source: Path | int, target: Path | int) -> None:
    for name in os.listxattr(source):
        if name.startswith("user."):
            os.setxattr(target, name, os.getxattr(source, name))


def _copy_content(source: int, target: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as failure:
        if failure.errno not in _SHARES_NOT:
            raise
    size, at = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while at < size:  # holes stay holes
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
        except OSError as failure:
            if failure.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(source, begin, os.SEEK_HOLE)
        while begin < at:
            done = os.copy_file_range(source, target, at - begin, begin, begin)
            if not done:
                return  # it became shorter meanwhile
            begin += done


def dress(entry: CopiedFile, path: Path) -> None:
    """Give a file the owner, the mode and the times of its entry. Raises OSError."""
    with suppress(PermissionError):  # a daemon that is not root gives nothing away
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if not st.S_ISLNK(entry.mode):
        os.chmod(path, st.S_IMODE(entry.mode))
    os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def sum_of(path: Path) -> str:
    """The SHA-256 of a file's content. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_disk(place: Path) -> None:
    """Make all that was written to the disk of a directory survive a power cut. Raises OSError."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(place))
    finally:
        os.close(descriptor)
