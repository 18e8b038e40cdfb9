"""A file that holds some room on the disk of the state directory. With it a daemon can start on a
full disk, and people can read and remove what is in the tree. And the log of the store, which has
room of its own (`ballast`), can be folded into the database, which has none."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import trio

__all__ = ["RESERVE", "SIZE", "give_way", "keep_reserve", "let_go"]

RESERVE = "reserve"

SIZE = 4 * 1024 * 1024
"""Bytes. A start writes some kilobytes for each process that was at work, and 150 in all."""

ROUND = 5.0
"""Seconds between two looks for room, if the file had to go."""


def give_way(state: Path) -> None:
    """Give the room away if there is little else. Raises nothing: a start may do without."""
    with suppress(OSError):
        if _free(state) < SIZE:
            let_go(state)


def let_go(state: Path) -> None:
    """Give the room away, if there is any."""
    with suppress(OSError):
        (state / RESERVE).unlink()


async def keep_reserve(state: Path) -> None:
    """Hold the room, as soon as the disk has twice as much."""
    while True:
        await trio.to_thread.run_sync(_hold, state)
        await trio.sleep(ROUND)


def _hold(state: Path) -> None:
    path = state / RESERVE
    with suppress(OSError):
        if path.exists() or _free(state) < 2 * SIZE:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        except OSError:
            path.unlink()
        finally:
            os.close(descriptor)


def _free(state: Path) -> int:
    """Bytes that the daemon may use."""
    found = os.statvfs(state)
    return found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)
