"""Changes that have happened already: they are recorded as soon as the store has room for them."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from agentfs.base.clock import Timers
from agentfs.base.errors import KernelError

__all__ = ["AGAIN", "when_there_is_room"]

log = logging.getLogger(__name__)

AGAIN = 1.0
"""Seconds until what could not be stored is tried again."""


def when_there_is_room(timers: Timers, record: Callable[[], object], what: str) -> None:
    """Call `record()` now, and again every second as long as it raises ENOSPC; `what` is for the
    log. Any other exception passes on, and ends the trying."""
    if not _tried(timers, record):
        log.error("%s: the store has no room to say so yet", what)


def _tried(timers: Timers, record: Callable[[], object]) -> bool:
    try:
        record()
    except KernelError as failure:
        if failure.errno != errno.ENOSPC:
            raise
        timers.call_later(AGAIN, lambda: _tried(timers, record))
        return False
    return True
