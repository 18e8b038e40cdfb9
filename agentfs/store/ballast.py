"""Room in the log of the store that agents cannot use up: the operator can change things on a full
disk, too.

SQLite stores a transaction by appending to its log (STORE-wal). We set blocks of the disk aside for
the log, beyond its end, with fallocate(2): nobody else can take them, not even a program that knows
nothing of us. A transaction of an agent that would use the last of them is refused, if no more can
be had. The index of the log says how far it is in use (STORE-shm, whose format is a part of
SQLite's: sqlite.org/walformat.html).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sqlite3
import struct
from pathlib import Path

from agentfs.model.principal import Principal

__all__ = ["BALLAST", "Ballast"]

log = logging.getLogger(__name__)

BALLAST = 5 * 1024 * 1024
"""Bytes that agents leave: some hundred calls of the operator, after which a checkpoint, every five
seconds, makes the room free again."""

KERNELS = 3 * 1024 * 1024
"""The part of it that the kernel's own work may use: what follows from the ends of programs, and
reminders."""

STEP = 1024 * 1024
"""How much is set aside at once beyond that: one call to Linux for some 30 transactions."""

LEAST = 64 * 1024
"""The least that is asked for, on a disk that has little."""

_KEEP_SIZE = 1  # linux/falloc.h: the file is as long as before
_UNABLE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_FRAMES = 16  # where the index has the number of frames in the log, in the machine's byte order
_FOLDED = 96  # and how many of them are in the database
_FRAME_HEAD = 24
_LOG_HEAD = 32
_INDEX_FRAMES = 4096  # for each 32 KiB of the index
_INDEX_PAGE = 32 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Ballast:
    """The room of an open store. Close it after the store: closing the index lets SQLite's locks
    go."""

    def __init__(self, store: Path, page_size: int) -> None:
        self._log = os.open(f"{store}-wal", os.O_RDWR | os.O_CLOEXEC)
        self._index = os.open(f"{store}-shm", os.O_RDWR | os.O_CLOEXEC)
        self._frame = page_size + _FRAME_HEAD
        self._set_aside = 0  # bytes of the log that have their blocks
        self._able = True
        self.full = False
        """No more can be had, so that agents were refused, or would be."""

    def room(self, size: int, acting: Principal | None, due: int = 0) -> int:
        """How many bytes agents may write now, beside `due` bytes that were accepted and are to be
        written. Raises sqlite3.OperationalError if less than `size` is left to `acting`, for whom
        the transaction is; None is the kernel itself."""
        if not self._able:
            return STEP
        used = self._used() + due
        wanted = used + BALLAST + size
        if wanted > self._set_aside:
            self._extend(used, wanted + STEP)
        left = self._set_aside - used
        self.full = wanted > self._set_aside and self._able
        if not self.full:
            return left - BALLAST
        kept = BALLAST - KERNELS if acting is None else BALLAST
        if size > left - kept and not (acting is not None and acting.is_operator):
            raise sqlite3.OperationalError("the disk is full, and the rest is the operator's")
        return 0

    def begin(self) -> None:
        """Set the room aside at once, before anybody takes it."""
        self._extend(self._used(), self._used() + BALLAST + STEP)

    def close(self) -> None:
        os.close(self._log)
        os.close(self._index)

    def _used(self) -> int:
        """How far the log is in use. Once the database has all of it, all of it is free."""
        head = os.pread(self._index, 100, 0)
        if len(head) < 100:
            return 0
        (frames,) = struct.unpack_from("=I", head, _FRAMES)
        (folded,) = struct.unpack_from("=I", head, _FOLDED)
        return 0 if folded >= frames else _LOG_HEAD + frames * self._frame

    def _extend(self, used: int, wanted: int) -> None:
        """Set aside `wanted` bytes of the log, or as much as there is."""
        begin = max(used, self._set_aside)
        size = wanted - begin
        while size >= LEAST:
            number = _allocate(self._log, begin, size)
            if not number:
                self._set_aside = begin + size
                pages = self._set_aside // (self._frame * _INDEX_FRAMES) + 2
                _allocate(self._index, 0, pages * _INDEX_PAGE)
                return
            if number in _UNABLE:
                self._able = False
                log.warning("no room can be kept for the operator here: %s", os.strerror(number))
                return
            size //= 2


def _allocate(descriptor: int, offset: int, size: int) -> int:
    """Set blocks aside for a part of a file, whose length stays. Returns 0, or an errno."""
    while _libc.fallocate(descriptor, _KEEP_SIZE, ctypes.c_long(offset), ctypes.c_long(size)):
        number = ctypes.get_errno()
        if number != errno.EINTR:  # which tmpfs answers when a signal comes
            return number
    return 0
