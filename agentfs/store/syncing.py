"""One wait for the disk for everybody who asks while another one is under way."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["SharedSync"]


class _Round:
    """One sync, and those who wait for it."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.done = False
        self.failure: OSError | None = None


class SharedSync:
    """Calls `sync()` in a thread, for each caller once after the call. All callers that come while
    one is under way have the next one together."""

    def __init__(self, sync: Callable[[], object]) -> None:
        self._sync = sync
        self._turn = trio.Lock()
        self._next: _Round | None = None  # it has not begun

    async def __call__(self) -> None:
        """Raises the OSError of the disk."""
        while True:
            mine = self._next
            if mine is None:
                mine = self._next = _Round()
                await self._lead(mine)
            else:
                await mine.over.wait()
            if mine.failure is not None:
                raise mine.failure
            if mine.done:
                return

    async def _lead(self, mine: _Round) -> None:
        """Begin when the one before is over. If the caller is cancelled before that, the others do
        it among themselves."""
        try:
            async with self._turn:
                self._next = None
                await trio.to_thread.run_sync(self._sync)
                mine.done = True
        except OSError as failure:
            mine.failure = failure
        finally:
            if self._next is mine:
                self._next = None
            mine.over.set()
