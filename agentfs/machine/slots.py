"""How many programs are started at once: so many in all, and fewer for each parent."""

from __future__ import annotations

from weakref import WeakValueDictionary

import trio

from agentfs.model.principal import INIT

__all__ = ["Slots", "Turn"]


class Slots:
    """`slots` are those for all launches. Of agents' children there are some less at once, which
    leaves those to the operator, and of one agent's at most `each`: the rest wait their turn."""

    def __init__(self, slots: trio.CapacityLimiter, each: int) -> None:
        self._each = each
        self._all = slots
        most = int(slots.total_tokens)
        self._agents = trio.CapacityLimiter(max(1, most - max(1, most // 8)))
        self._of = WeakValueDictionary[int, trio.CapacityLimiter]()

    def turn(self, parent: int) -> Turn:
        """For one launch of a child of process `parent`: what `trio.to_thread.run_sync` takes as
        its limiter."""
        if parent == INIT:
            return Turn(self._all)
        own = self._of.get(parent)
        if own is None:
            own = self._of[parent] = trio.CapacityLimiter(self._each)
        return Turn(own, self._agents, self._all)


class Turn:
    """Several limiters as one: a slot of each is had, or waited for, in their order."""

    def __init__(self, *limiters: trio.CapacityLimiter) -> None:
        self._limiters = limiters

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        had: list[trio.CapacityLimiter] = []
        try:
            for limiter in self._limiters:
                await limiter.acquire_on_behalf_of(borrower)
                had.append(limiter)
        except BaseException:
            for limiter in had:
                limiter.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        for limiter in self._limiters:
            limiter.release_on_behalf_of(borrower)
