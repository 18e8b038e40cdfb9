"""Work that waits for a program or a model, one piece for a task at a time, beside the kernel."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground

__all__ = ["TaskErrands"]

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Pieces that are done at a time: so many submissions at once start no more programs."""

Work = Callable[[], Awaitable[object]]


class TaskErrands:
    """What is under way, by the number of its task. A piece that waits for its turn uses up no time
    of its own."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self.trouble = ""
        self._nursery: trio.Nursery | None = None
        self._early: dict[int, tuple[Work, trio.CancelScope]] = {}  # before there was a nursery
        self._scopes: dict[int, trio.CancelScope] = {}
        self._room = trio.CapacityLimiter(AT_ONCE)
        ground.events.listen(lambda record: self.complain(""), ConfigChanged)

    def complain(self, trouble: str) -> None:
        """Why nothing came of the last piece, in words for /sys/health; "" if something did."""
        self.trouble = trouble

    async def run(self) -> None:
        """Do what comes, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for task, (work, scope) in self._early.items():
                    nursery.start_soon(self._do, task, work, scope)
                self._early.clear()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def __contains__(self, task: int) -> bool:
        return task in self._scopes

    def begin(self, task: int, work: Work) -> None:
        """Do a piece for a task, instead of what is under way for it; once the transaction under
        way is committed."""
        self._after(lambda: self._begin(task, work))

    def end(self, task: int) -> None:
        """Nobody needs what is under way for a task any more."""
        self._after(lambda: self._end(task))

    def _after(self, call: Callable[[], object]) -> None:
        if self._store.in_transaction:
            self._store.on_commit(call)
        else:
            call()

    def _begin(self, task: int, work: Work) -> None:
        self._end(task)
        scope = self._scopes[task] = trio.CancelScope()
        if self._nursery is None:
            self._early[task] = work, scope
        else:
            self._nursery.start_soon(self._do, task, work, scope)

    def _end(self, task: int) -> None:
        self._early.pop(task, None)
        scope = self._scopes.pop(task, None)
        if scope is not None:
            scope.cancel()

    async def _do(self, task: int, work: Work, scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with self._room:
                    await work()
        except Exception:  # what goes wrong with one task is not the end of the others
            log.exception("what decides about task %d", task)
        finally:
            if self._scopes.get(task) is scope:
                del self._scopes[task]
