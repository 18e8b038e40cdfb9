"""Free pages of the database are given back to the disk, in steps that hold nobody up.

SQLite keeps the pages of deleted rows for later ones. All but some of those that were free for a
minute are taken from the end of the database (`PRAGMA incremental_vacuum`). The next checkpoint
makes the file shorter.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import deque
from pathlib import Path

import trio

__all__ = ["KEPT", "LOOKS", "Shrinking", "make_shrinkable"]

log = logging.getLogger(__name__)

KEPT = 512
"""Free pages that stay (2 MiB): the next rows find room in them even on a full disk."""

LEAST = 256
"""The fewest pages that are worth the work: 1 MiB."""

LOOKS = 12
"""Pages have to be free in so many looks, five seconds apart: a load that comes in waves keeps its
pages."""

STEP = 32
"""Pages at once: 1 to 3 ms measured, beside other work. After a step that took longer than SLOW the
next one is half as long."""

SLOW = 0.008

PAUSE = 0.01
"""Seconds between two steps. A call that comes meanwhile waits for one step at most."""

STEPS = 250
"""Between two checkpoints: 32 MiB, which add 5 MiB to the log."""

CHEAP = 64 << 20
"""Bytes in use up to which a store of an earlier release is made anew at a start: a second."""


def make_shrinkable(database: sqlite3.Connection, path: Path) -> None:
    """Write a store anew, once, if an earlier release has made it: SQLite does not know there where
    its pages are. That is done if it takes a second, or if less than half is in use, and if the
    disk has room. Otherwise the next start asks again."""
    (mode,) = database.execute("PRAGMA auto_vacuum").fetchone()
    if mode == 2:
        return
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    (page_size,) = database.execute("PRAGMA page_size").fetchone()
    used = (pages - free) * page_size
    room = os.statvfs(path.parent)
    if (used > CHEAP and 2 * free < pages) or room.f_bavail * room.f_frsize < 4 * used + CHEAP:
        return
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as failure:
        log.warning("what is deleted from the store is not given back to the disk: %s", failure)


class Shrinking:
    """Shrinks an open store. Its event loop calls `run` from time to time."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._free: deque[int] = deque(maxlen=LOOKS)
        self._step = STEP

    async def run(self) -> int:
        """Look how many pages are free, and give back those that were free in LOOKS looks, or a
        part of them; returns the number of steps. Raises sqlite3.Error if the disk refuses one."""
        self._free.append(self._count())
        spare = min(self._free) - KEPT if len(self._free) == LOOKS else 0
        steps = 0
        if spare < LEAST:
            return steps
        wanted = spare
        while spare > 0 and steps < STEPS and self._count() > KEPT:
            began = time.monotonic()
            size = min(self._step, spare)
            self._database.executescript(f"PRAGMA incremental_vacuum({size})")
            self._step = STEP if time.monotonic() - began < SLOW else max(1, size // 2)
            spare -= size
            steps += 1
            await trio.sleep(PAUSE)
        self._free = deque((each - wanted + spare for each in self._free), maxlen=LOOKS)
        return steps

    def _count(self) -> int:
        (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
        return int(free)
