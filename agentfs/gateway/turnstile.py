"""So many requests of a provider a minute, and so many at once: the others wait for their turn."""

from __future__ import annotations

from collections import OrderedDict, deque

import trio

from agentfs.gateway.ledger import RefusedError

__all__ = ["Turnstile"]

MINUTE = 60.0
MOST_WAITING = 64
"""Requests of one process that may wait at one provider."""

MOST_SECONDS = 60.0
"""The longest that a request waits: most clients give up after that, and would come again."""


class Turnstile:
    """Lets the requests of each process through in their order, and the processes in turns, so
    that one with many does not keep the others waiting."""

    def __init__(self, name: str, per_minute: int | None, at_once: int | None) -> None:
        self._name, self._per_minute, self._at_once = name, per_minute, at_once
        self._inside = 0
        self._starts: deque[float] = deque()
        self._waiting: OrderedDict[int, deque[trio.Event]] = OrderedDict()

    async def enter(self, pid: int) -> None:
        """Wait for a place, which is held until `leave`. Raises RefusedError: EAGAIN."""
        if not self._waiting and self._wait() == 0:
            self._go()
            return
        if self._crowded:
            raise self._refusal("those that wait already take all of the next minute")
        queue = self._waiting.setdefault(pid, deque())
        if len(queue) >= MOST_WAITING:
            raise self._refusal(f"{MOST_WAITING} of your requests wait already")
        called = trio.Event()
        queue.append(called)
        try:
            with trio.move_on_after(MOST_SECONDS):
                while not called.is_set():
                    await self._called(called)
        except BaseException:
            if called.is_set():
                self.leave()
            raise
        finally:
            if not called.is_set():
                queue.remove(called)
                if not queue and self._waiting.get(pid) is queue:
                    del self._waiting[pid]
        if not called.is_set():
            raise self._refusal(f"no turn came in {MOST_SECONDS:.0f} seconds")

    @property
    def _crowded(self) -> bool:
        waiting = sum(map(len, self._waiting.values()))
        return self._per_minute is not None and waiting >= self._per_minute

    async def _called(self, called: trio.Event) -> None:
        """Wait for a turn, or until it may be somebody's because a minute is over."""
        seconds = self._wait()
        if seconds in (0, None):
            self._next()
        with trio.move_on_after(MOST_SECONDS if seconds is None else seconds):
            await called.wait()

    def _wait(self) -> float | None:
        """Seconds until one more may begin; None: when another one is over."""
        if self._at_once is not None and self._inside >= self._at_once:
            return None
        if self._per_minute is None:
            return 0
        before = trio.current_time() - MINUTE
        while self._starts and self._starts[0] <= before:
            self._starts.popleft()
        return 0 if len(self._starts) < self._per_minute else self._starts[0] - before

    def _go(self) -> None:
        self._inside += 1
        if self._per_minute is not None:
            self._starts.append(trio.current_time())

    def leave(self) -> None:
        """A request is over."""
        self._inside -= 1
        self._next()

    def _next(self) -> None:
        """Let in those whose turn it is."""
        while self._waiting and self._wait() == 0:
            pid, queue = self._waiting.popitem(last=False)
            called = queue.popleft()
            if queue:
                self._waiting[pid] = queue  # behind the others
            self._go()
            called.set()

    def _refusal(self, why: str) -> RefusedError:
        return RefusedError(
            "EAGAIN",
            f"{self._name} takes no more requests now: {why}",
            rule="provider",
            retry_after=self._wait() or 1.0,
        )
