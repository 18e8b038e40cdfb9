"""The order of requests, when more have come than are answered at once.

Linux hands requests out in the order in which they came. A principal that makes many, or long ones,
would have all others wait behind them. So it is counted how long the requests of each principal
kept the event loop at work lately. The requests of a principal that had more than its part step
aside while there are others: those in the device are taken first, and of the requests that stepped
aside the one goes next whose principal had the least. A principal that is alone is never ahead, and
the operator never steps aside.

A request that steps aside costs a turn of the event loop, 30 µs, and only its principal pays it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

from agentfs.model.principal import INIT, Principal

__all__ = ["Fairness", "key_of"]

WINDOW = 0.1
"""Seconds over which it is counted, and those before."""

EACH = 50e-6
"""Seconds that Linux, libfuse and trio take for a request, beside what we do."""

AHEAD = 0.002
"""Seconds that a principal may have more than an equal part."""

BUSY = 0.2
"""The part of a window from which on the caller of each request is found out, also where nobody
else wants to know it. That costs 50 µs for a new thread."""

SAMPLE = 8
"""One of so many is asked while there seems to be only one principal: 2 µs for one request."""

MOST = 1000
"""Requests that have stepped aside: each is a task of pyfuse3's."""

TURNS = 4
"""Turns of the event loop, at most, before the next of the requests that stepped aside. In each
turn requests are taken from the device for a millisecond."""

REMEMBERED = 8192
"""Threads whose principal is remembered, for `MEMORY` seconds. No permission depends on it."""

MEMORY = 5.0


def key_of(principal: Principal) -> int:
    """One number for all that is counted together: a process, all programs of a user, all
    strangers."""
    if principal.pid is not None:
        return principal.pid
    return -1 - principal.uid


class Fairness:
    """`more()` tells whether there are requests in the device, `pass_on()` lets another task take
    them."""

    def __init__(self, more: Callable[[], bool], pass_on: Callable[[], object]) -> None:
        self._more = more
        self._pass_on = pass_on
        self._used: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._all = self._all_before = 0.0
        self._ends = 0.0
        self.busy = False
        """There is so much to do that it may be worth to find out whose a request is."""
        self._unasked = 0
        self._waiting: dict[int, deque[trio.lowlevel.Task]] = {}
        self._count = 0
        self._some = trio.Event()
        self._keys: dict[int, tuple[float, int]] = {}
        self.deferred = 0
        """How many requests have stepped aside, for `/sys/metrics`."""

    # -- counting --------------------------------------------------------------------------------

    def charge(self, key: int | None, began: float, held: float) -> None:
        """A piece of a request was at work for `held` seconds from `began` on. `key`: whom it
        counts for; None if that is not known."""
        if began >= self._ends:
            self._next_window(began)
        held += EACH
        self._all += held
        self.busy = self._all + self._all_before > BUSY * WINDOW
        if key is not None:
            self._used[key] = self._used.get(key, 0.0) + held

    def _next_window(self, now: float) -> None:
        recent = now < self._ends + WINDOW
        self._before, self._all_before = (self._used, self._all) if recent else ({}, 0.0)
        self._used, self._all = {}, 0.0
        self._ends = now + WINDOW

    def asks(self) -> bool:
        """Whether to find out whose this request is: there is much to do, and for more than one
        principal. Where that is not known, some are asked."""
        if not self.busy:
            return False
        if len(self._used) > 1 or len(self._before) > 1:
            return True
        self._unasked = (self._unasked + 1) % SAMPLE
        return not self._unasked

    def _number(self) -> int:
        """How many principals there were lately."""
        return max(len(self._used), len(self._before))

    def _had(self, key: int) -> float:
        return self._used.get(key, 0.0) + self._before.get(key, 0.0)

    def is_ahead(self, key: int) -> bool:
        """Whether it had more than an equal part of what all had."""
        number = self._number()
        if number < 2 or key == INIT:
            return False
        return self._had(key) > (self._all + self._all_before) / number + AHEAD

    # -- who asks --------------------------------------------------------------------------------

    def remembered(self, tid: int, find: Callable[[], Principal]) -> int:
        """The key of a thread; `find()` is asked now and then."""
        now = time.monotonic()
        known = self._keys.get(tid)
        if known is not None and now < known[0]:
            return known[1]
        if len(self._keys) >= REMEMBERED:
            self._keys.clear()
        key = key_of(find())
        self._keys[tid] = (now + MEMORY, key)
        return key

    # -- stepping aside --------------------------------------------------------------------------

    def must_wait(self, key: int) -> bool:
        """Whether a request of `key` is to step aside now."""
        if key in self._waiting:
            return self._count < MOST
        return self.is_ahead(key) and (self._count > 0 or self._more()) and self._count < MOST

    async def wait(self, key: int) -> None:
        """Step aside until it is this one's turn."""
        task = trio.lowlevel.current_task()
        queue = self._waiting.setdefault(key, deque())
        queue.append(task)
        self._count += 1
        self.deferred += 1
        self._some.set()
        self._pass_on()

        def give_up(_: object) -> trio.lowlevel.Abort:
            with suppress(ValueError):
                queue.remove(task)
                self._count -= 1
            if not queue and self._waiting.get(key) is queue:
                del self._waiting[key]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    async def run(self) -> None:
        """Let one after the other go on, until cancelled. In between, the requests that have come
        are taken."""
        while True:
            if not self._count:
                self._some = trio.Event()
                await self._some.wait()
            for _ in range(TURNS):
                await trio.lowlevel.checkpoint()
                if not self._more():
                    break
            if self._count:
                self._next()
                await trio.lowlevel.checkpoint()  # it goes on in the turn that begins now

    def _next(self) -> None:
        key = min(self._waiting, key=self._had)
        queue = self._waiting[key]
        task = queue.popleft()
        self._count -= 1
        if not queue:
            del self._waiting[key]
        trio.lowlevel.reschedule(task)
