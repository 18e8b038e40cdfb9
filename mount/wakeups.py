"""Our part in pyfuse3's loop: when it waits for its device, and under which lock.

From that we learn two things that pyfuse3 does not tell: that a waiting reader got a signal, and
that the mount is gone.

A reader that waits in a FUSE read is woken by a signal only if the daemon answers. Linux says so
with a FUSE_INTERRUPT request, which libfuse takes in without calling anybody. So this module
watches pyfuse3's wait for its device: a request that arrived and called no handler can only have
been an interrupt, and then the parked reads look for whom it was. pyfuse3 reads the name `trio` in
its module whenever it waits, so that its asyncio variant can put something else there; we put trio
with one function and the lock (see `turns`) replaced. Without this every parked read would have to
poll /proc ten times a second: 15 % of a core with 1,000 of them, measured, where this costs nothing
while idle.

The device reports POLLERR once somebody has unmounted the tree.

A request that was in the device is gone again if its thread is killed before it is taken. The task
that came to take it would then wait for the next one with the event loop standing still. So the
device does not block (O_NONBLOCK); pyfuse3 ends a task for which nothing is there, and it is begun
anew.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import pyfuse3
import trio

from agentfs.mount.turns import Turns

__all__ = ["Wakeups"]

_GONE = select.POLLERR | select.POLLHUP

# How long requests are taken one after the other before everything else has its turn.
TURN_SECONDS = 0.001
# How long one that is sure to come is waited for with the event loop standing still. 30 µs as a
# rule; poll(2) cannot be told less.
AT_ONCE_MS = 1


class Wakeups:
    """Install with `install`, which lasts as long as the process serves.

    `interrupted()` is called when a waiting request was interrupted; `expected()` says whether a
    request is sure to come at once. `requests` counts those that called a handler.
    """

    def __init__(self, interrupted: Callable[[], object], expected: Callable[[], bool]) -> None:
        self._interrupted = interrupted
        self._expected = expected
        self.turns = Turns()
        self._unexplained = False
        self.disconnected = trio.Event()
        self.requests = 0
        self.interrupts = 0
        self._poller: select.poll | None = None
        self._turn_ends = 0.0
        self._suspended = False

    def handled(self) -> None:
        """A handler was called: that explains the request that arrived."""
        self._unexplained = False
        self.requests += 1

    def forgotten(self) -> None:
        """Linux forgot nodes: that explains it, too."""
        self._unexplained = False

    def install(self) -> None:
        """Take the place of `trio` in pyfuse3."""
        lowlevel = _Instead(trio.lowlevel, wait_readable=self._wait)
        vars(pyfuse3)["trio"] = _Instead(
            trio, lowlevel=lowlevel, Lock=lambda: self.turns, open_nursery=_Workers
        )

    def restore(self) -> None:
        vars(pyfuse3)["trio"] = trio

    def more(self) -> bool:
        """Whether a request waits in the device."""
        return self._poller is not None and bool(self._poller.poll(0))

    def end_turn(self) -> None:
        """Something else is to go on now: before the next request is taken."""
        self._turn_ends = 0.0

    def suspend(self, suspended: bool) -> None:
        """No request is to be taken from the device from now on: the tasks that wait for one are
        being cancelled. Or they are taken again."""
        self._suspended = suspended

    async def _wait(self, descriptor: int) -> None:
        if self._unexplained:
            self._unexplained = False
            self.interrupts += 1
            self._interrupted()
        if self._poller is None:
            os.set_blocking(descriptor, False)
            self._poller = select.poll()
            self._poller.register(descriptor, select.POLLIN)
        ready = self._poller.poll(0)
        # A request that is there already, or sure to come at once, is taken without a turn of the
        # event loop, for a while.
        if not ready and self._expected():
            ready = self._poller.poll(AT_ONCE_MS)
        if not ready or self._suspended or time.monotonic() >= self._turn_ends:
            await trio.lowlevel.wait_readable(descriptor)
            if self._suspended:
                await trio.lowlevel.checkpoint()
            self._turn_ends = time.monotonic() + TURN_SECONDS
            ready = self._poller.poll(0)
        for _, events in ready:
            if events & _GONE:
                self.disconnected.set()
        self._unexplained = True


class _Workers:
    """The nursery of pyfuse3's tasks. A task that found its request gone is begun anew. It leaves a
    buffer of a megabyte behind, and the part of it that was never written to takes no memory."""

    def __init__(self) -> None:
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> _Workers:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, failure, trace)

    def start_soon(self, task: Callable[..., Awaitable[Any]], *args: object, name: object) -> None:
        async def again() -> None:
            while True:
                try:
                    await task(*args)
                    return
                except BlockingIOError:
                    continue

        assert self._nursery is not None
        self._nursery.start_soon(again, name=name)


class _Instead:
    """A module with some names replaced."""

    def __init__(self, module: object, **replaced: object) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
