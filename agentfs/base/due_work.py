"""Work that falls due: it is done as it does, others get as much of the loop, and a full store or a
bug is no end of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from agentfs.base.clock import Clock
from agentfs.base.errors import KernelError

__all__ = ["RETRY", "work_as_due"]

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds after which a turn that failed is tried again: the store may be full."""


async def work_as_due(
    turn: Callable[[], float], watch: Callable[[], trio.Event], clock: Clock, what: str
) -> None:
    """Call `turn()`, which does a batch of what is due and says in how many seconds it is to be
    called again, until cancelled. `watch()` gives an event that is set when something is due
    sooner. `what` is due, in words."""
    failing = False
    while True:
        sooner = watch()
        began = clock.monotonic()
        try:
            wait = turn()
            failing = False
        except KernelError as full:
            if not failing:
                log.warning("%s that are due have to wait: %s", what, full)
            failing, wait = True, RETRY
            sooner = watch()  # putting back what was due is nothing new
        except Exception:
            log.exception("%s that are due have to wait", what)
            wait = RETRY
            sooner = watch()
        with trio.move_on_after(max(wait, clock.monotonic() - began)):
            await sooner.wait()
