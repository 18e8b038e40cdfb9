"""What makes commits survive a power cut: one wait for the disk, for everybody who asks while
another one is under way."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from agentfs.machine.datasync import DataSync
from agentfs.store.log import Log

__all__ = ["Logs", "SharedSync", "sync_file"]


def sync_file(path: Path) -> None:
    """Sync a file and the directory that names it."""
    for name, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(name, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Logs:
    """The log of a store and SQLite's. `beside()`: how many transactions were committed in SQLite
    itself; `fold()` brings everything there."""

    def __init__(
        self, ours: Log, store: Path, beside: Callable[[], int], fold: Callable[[], object]
    ) -> None:
        self._ours = ours
        self._theirs = Path(f"{store}-wal")
        self._beside = beside
        self._fold = fold
        self._disk = DataSync()
        self._synced = -1  # how many of those transactions: at first, when files may be new, none

    async def sync(self) -> None:
        """Wait until the disk has every commit so far. Raises OSError.

        Where the disk has refused a sync of our log, nobody knows what is there, and the next sync
        would not tell: Linux says it once. So from then on all of it is synced in SQLite's log.
        """
        if not self._ours.usable:
            self._fold()
        beside = self._beside()
        try:
            await self._disk(self._ours.unsynced())
        except OSError:
            self._ours.give_up()
            self._synced = -1
            raise
        if beside != self._synced:
            await trio.to_thread.run_sync(sync_file, self._theirs)
            self._synced = beside

    def close(self) -> None:
        self._disk.close()


class _Round:
    """One sync, and those who wait for it."""

    def __init__(self) -> None:
        self.callers = trio.lowlevel.ParkingLot()
        self.over = False
        self.failure: Exception | None = OSError(errno.EIO, "the sync was not made")


class SharedSync:
    """Calls `sync()`, which waits for the disk and cannot be cancelled, for each caller once after
    the call. All callers that come while one is under way have the next one together. There is no
    checkpoint before it: one pass of the loop takes as long as half a sync."""

    def __init__(self, sync: Callable[[], Awaitable[None]]) -> None:
        self._sync = sync
        self._busy = False  # one is under way, or one of those who wait is about to begin the next
        self._next: _Round | None = None  # it has not begun

    async def __call__(self) -> None:
        """Raises the OSError of the disk."""
        if not self._busy:
            await self._lead(_Round())
            return
        mine = self._next
        if mine is None:
            mine = self._next = _Round()
        await mine.callers.park()
        if not mine.over:
            await self._lead(mine)
        elif mine.failure is not None:
            raise mine.failure

    async def _lead(self, mine: _Round) -> None:
        self._busy, self._next = True, None
        try:
            await self._sync()
            mine.failure = None
        except Exception as failure:
            mine.failure = failure
            raise
        finally:
            mine.over = True
            mine.callers.unpark_all()
            self._busy = self._next is not None and bool(self._next.callers.unpark())
            if not self._busy:
                self._next = None
