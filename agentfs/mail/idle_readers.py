"""Readers that wait: the process of an agent whose reader has waited for a moment is idle.

Not at once: under load every message would be two changes of state, each with its transaction, its
event and its record in the audit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from agentfs.base.clock import Timer, Timers
from agentfs.base.errors import KernelError
from agentfs.mail.readers import Reader

__all__ = ["MOMENT", "IdleReaders"]

log = logging.getLogger(__name__)

MOMENT = 0.05
"""Seconds after which all that wait are told of at once."""


class IdleReaders:
    """Calls `idle(name, reader)` for each reader of the mailbox `name` that waits and goes on
    waiting."""

    def __init__(self, timers: Timers, idle: Callable[[str, Reader], object]) -> None:
        self._timers = timers
        self._idle = idle
        self._waiting: dict[Reader, str] = {}
        self._timer: Timer | None = None

    def begin(self, name: str, reader: Reader) -> None:
        """It waits from now on."""
        self._waiting[reader] = name
        if self._timer is None or not self._timer.active:
            self._timer = self._timers.call_later(MOMENT, self._tell)

    def end(self, reader: Reader) -> None:
        """It waits no more."""
        self._waiting.pop(reader, None)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for reader, name in waiting.items():
            try:
                self._idle(name, reader)
            except KernelError as failure:  # a full disk: it does not show, and goes on waiting
                log.warning("%s is idle, which cannot be stored: %s", name, failure)
