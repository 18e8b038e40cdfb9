"""The logs of programs: plain files that they append to. Reading the end, and rotation.

A program keeps its descriptor, which appends, so the file stays and is emptied. Nothing stands
between a program and its log: it never waits for the daemon, and goes on when that is gone. So a
log is as short as somebody looks often (`agentfs.process.logkeeper`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["LEAST", "is_low", "room_of", "rotate", "tail"]

log = logging.getLogger(__name__)

TAIL = 4096
"""Bytes of output that are kept with an ended process."""

LEAST = 64 * 1024
"""Bytes of a log that are kept where there is no room for more."""

KEPT = 3
"""How many times the limit of what a log has is kept: it grows while nobody looks. NAME.log.1 may
have the limit once more, of what comes while it is copied."""

AHEAD = 1024 * 1024

RESERVE = 16 * 1024 * 1024
"""Bytes of the disk (at most an eighth of it) that logs leave to everything else: the store cannot
note an end or take a message without room."""


def _at_once(path: str, flags: int) -> int:
    """open(2) that raises EAGAIN where it would wait for another program's lease on the file."""
    return os.open(path, flags | os.O_NONBLOCK)


def tail(path: Path, offset: int = 0) -> str:
    """The last lines that were written after `offset`, 4 KiB at most; "" if it cannot be read."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            size = file.seek(0, os.SEEK_END)
            begin = offset if offset <= size else 0  # it was rotated meanwhile
            start = max(begin, size - TAIL)
            file.seek(start)
            text = file.read(TAIL)
    except OSError as failure:
        log.warning("the output in %s cannot be read: %s", path, failure.strerror)
        return ""
    if start > begin and b"\n" in text[:-1]:
        text = text.partition(b"\n")[2]
    return text.decode("utf-8", "replace")


def room_of(stat: os.stat_result) -> int:
    """Bytes that a file has, or that it takes behind its end: more than what a file system sets
    aside for one that grows (XFS as much as it has)."""
    taken = stat.st_blocks * 512
    return taken if taken > 2 * stat.st_size + AHEAD else stat.st_size


def is_low(folder: Path) -> bool:
    """Whether the disk of a folder has less room left than logs have to leave."""
    disk = os.statvfs(folder)
    size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    return free < min(RESERVE, size // 8)


def rotate(path: Path, limit: int) -> bool:
    """Empty a log that takes more than `limit` bytes; whether it did. NAME.log.1 gets the end of
    it: up to four times the limit, or `LEAST` where there is no room, and a line says what was
    dropped.

    Output that the program writes between the last look at the size and the end of this is lost.
    For a thread.
    """
    try:
        with open(path, "rb+", opener=_at_once) as file:
            stat = os.fstat(file.fileno())
            if room_of(stat) <= limit:
                return False
            size = stat.st_size
            kept = min(size, KEPT * limit)
            if is_low(path.parent):
                kept = min(size, LEAST)
                end = os.pread(file.fileno(), kept, size - kept)
                file.truncate(0)
                _write_old(path, file.fileno(), end)
            else:
                kept = _copy_old(path, file.fileno(), kept, kept + limit)
                size = os.fstat(file.fileno()).st_size
                file.truncate(0)
        if kept < size:
            _say(path, size - kept)
        return True
    except FileNotFoundError:
        return False
    except OSError as failure:
        log.error("the log %s cannot be rotated: %s", path, failure.strerror)
        return False


def _old(path: Path, like: int) -> int:
    """A descriptor of an empty NAME.log.1, with the owner of the log."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    old = os.open(path.with_name(path.name + ".1"), flags, 0o640)
    if os.geteuid() == 0:
        stat = os.fstat(like)
        os.fchown(old, stat.st_uid, stat.st_gid)
    os.fchmod(old, 0o640)
    return old


def _write_old(path: Path, like: int, content: bytes) -> None:
    """As much as there is room for."""
    old = _old(path, like)
    try:
        os.write(old, content)
    except OSError as failure:
        log.warning("the end of %s is not kept: %s", path, failure.strerror)
    finally:
        os.close(old)


def _copy_old(path: Path, file: int, last: int, most: int) -> int:
    """Copy the `last` bytes, and what comes meanwhile, up to `most` in all; how many."""
    old = _old(path, file)
    try:
        begin = offset = os.fstat(file).st_size - last
        while (count := min(os.fstat(file).st_size, begin + most) - offset) > 0:
            offset += os.sendfile(old, file, offset, min(count, 1 << 20))
        return offset - begin
    finally:
        os.close(old)


def _say(path: Path, dropped: int) -> None:
    """At the beginning of the log, which is where a reader misses it."""
    words = f"[agentfs: {dropped} bytes of output are dropped: too fast, or the disk is full]\n"
    with open(path, "ab", buffering=0) as file:
        file.write(words.encode())
