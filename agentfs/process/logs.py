"""The logs of programs: plain files that they append to. Reading the end, and rotation."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["rotate", "tail"]

log = logging.getLogger(__name__)

TAIL = 4096
"""Bytes of output that are kept with an ended process."""


def tail(path: Path, offset: int = 0) -> str:
    """The last lines that were written after `offset`, 4 KiB at most; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
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


def rotate(path: Path, limit: int) -> bool:
    """Move what a log of more than `limit` bytes has into NAME.log.1; whether it did.

    The program keeps its descriptor, which appends, so the file stays and is emptied: what it
    writes between the last look at the size and that is lost. For a thread.
    """
    try:
        with open(path, "rb+") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= limit:
                return False
            with open(path.with_name(path.name + ".1"), "wb") as old:
                stat = os.fstat(file.fileno())
                if os.geteuid() == 0:
                    os.fchown(old.fileno(), stat.st_uid, stat.st_gid)
                os.fchmod(old.fileno(), 0o640)
                copied = 0
                while copied < os.fstat(file.fileno()).st_size and copied < 2 * limit + size:
                    copied += os.sendfile(old.fileno(), file.fileno(), copied, 1 << 20)
            file.truncate(0)
            return True
    except FileNotFoundError:
        return False
    except OSError:
        log.exception("the log %s cannot be rotated", path)
        return False
