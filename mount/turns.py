"""The turns in which tasks take requests from the device.

pyfuse3 has several tasks for that, one at a time under a lock, so that a request that has to wait
holds nobody up. Most are answered at once; but with trio's own lock each one wakes the next task
all the same, which puts two switches and a turn of the event loop on every request. Under this one
a task keeps its turn until it has to wait for something: then, and only then, the next is woken.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType

import trio

__all__ = ["Turns"]


class Turns:
    """The lock that pyfuse3 gets.

    A task that it ends never has the turn: it ends one that has just answered if more than
    `min_tasks` others stand in line here, and more never do, because it looks before each joins.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = True
            return
        task = trio.lowlevel.current_task()
        self._waiting.append(task)

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._taken = False
        if failure is not None:
            self.pass_on()

    def pass_on(self) -> None:
        """The task that had the turn last is busy: wake the next one, if nobody has the turn."""
        if not self._taken and self._waiting:
            self._taken = True
            trio.lowlevel.reschedule(self._waiting.popleft())
