"""Opening by name without leaving the mount. Behind a mount point lies another disk, and if that
hangs, every call that asks it anything hangs as well."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["give", "is_directory", "mounts", "open_within"]

_OPENAT2 = 437  # the same on every architecture
_NO_XDEV = 0x01  # openat2(2): RESOLVE_NO_XDEV


class _How(ctypes.Structure):
    """openat2(2)'s struct open_how."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
]
_syscall.restype = ctypes.c_long
_SIZE = ctypes.sizeof(_How)

_hows: dict[int, tuple[int, _How]] = {}
"""One `_How` for each set of flags, of which there are a few: its address, and the object, which
keeps it there."""


def open_within(directory: int, name: str, flags: int) -> int:
    """Open `directory`/`name` with openat2(2), close-on-exec. The name is one component. Raises
    OSError: EXDEV for a mount point, whose file system is not asked.

    Where there is no openat2(2) (in a sandbox that knows no Linux since 5.6), openat(2) does it.
    """
    flags |= os.O_CLOEXEC
    how = _hows.get(flags)
    if how is None:
        made = _How(flags, 0, _NO_XDEV)
        how = _hows[flags] = ctypes.addressof(made), made
    raw = os.fsencode(name)
    while True:
        found = int(_syscall(_OPENAT2, directory, raw, how[0], _SIZE))
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return os.open(name, flags, dir_fd=directory)
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), name)


def _open(path: str, flags: int) -> int:
    parent, name = os.path.split(path)
    above = os.open(parent, os.O_PATH | os.O_CLOEXEC)
    try:
        return open_within(above, name, flags | os.O_PATH | os.O_NOFOLLOW)
    finally:
        os.close(above)


def is_directory(path: str) -> bool:
    """Whether a directory is there, or something is mounted there, which is not asked."""
    try:
        os.close(_open(path, os.O_DIRECTORY))
    except OSError as failure:
        return failure.errno == errno.EXDEV
    return True


def give(path: str, uid: int, gid: int) -> None:
    """chown(2). If something is mounted there, a thread does it, and nobody waits for that. Raises
    OSError."""
    try:
        found = _open(path, 0)
    except OSError as failure:
        if failure.errno != errno.EXDEV:
            raise
        threading.Thread(target=_give_beyond, args=(path, uid, gid), daemon=True).start()
        return
    try:
        os.chown(f"/proc/self/fd/{found}", uid, gid)
    finally:
        os.close(found)


def mounts() -> Iterator[tuple[bytes, str]]:
    """The number and the path of each mount; of those at one path the uppermost comes last."""
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            fields = line.split(b" ", 5)
            place = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
            yield fields[0], os.fsdecode(place)


def _give_beyond(path: str, uid: int, gid: int) -> None:
    with suppress(OSError):  # a disk that knows no owners
        os.chown(path, uid, gid)
