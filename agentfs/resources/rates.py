"""How many messages each process has sent within the last minute, where it may not send any number.

Counted where no limit is set it would cost every message something, and nobody would ask: so a
window begins when there is a limit, and while no process has one the gate does not even ask.
"""

from __future__ import annotations

import errno

from agentfs.clock import Clock
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import (
    ConfigChanged,
    EventLog,
    LimitChanged,
    ProcessExited,
    ProcessReaped,
    ProcessSpawned,
    Record,
)
from agentfs.process.model import Process
from agentfs.process.table import ProcessTable
from agentfs.resources.ceilings import Ceilings
from agentfs.resources.windows import MINUTE, Window
from agentfs.storage.store import Store
from agentfs.syscall import Gate

__all__ = ["Rates"]

NAME = "messages_per_minute"
EVERYBODY = 0
"""No process: the configuration has a limit for all of them."""


class Rates:
    """Sets `Gate.count_message` while there is a limit. A window lasts as long as its process."""

    def __init__(
        self,
        gate: Gate,
        table: ProcessTable,
        ceilings: Ceilings,
        settings: Settings,
        store: Store,
        events: EventLog,
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._table = table
        self._ceilings = ceilings
        self._settings = settings
        self._store = store
        self._clock = clock
        self._windows: dict[int, Window] = {}
        self._limited: set[int] = set()  # the living processes with a limit of their own
        for process in table:
            if process.limits.messages_per_minute is not None:
                self._look_at(process.pid)
        self._look_at(EVERYBODY)
        events.listen(
            self._heard, ProcessSpawned, LimitChanged, ProcessExited, ProcessReaped, ConfigChanged
        )

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {"rate windows": len(self._windows), "rate limits": len(self._limited)}

    def sent(self, pid: int) -> int:
        """How many messages process `pid` has sent within the last 60 s, since it has a limit."""
        window = self._windows.get(pid)
        return 0 if window is None else window.sum(self._clock.monotonic())

    def count(self, process: Process, messages: int = 1) -> None:
        """Count so many messages of `process`, inside the transaction that accepts them; with 0
        only ask. EAGAIN if one more is more than it may send: that counts nothing."""
        limit = self._ceilings.whole(process, NAME)
        if limit is None:
            self._windows.pop(process.pid, None)
            return
        now = self._clock.monotonic()
        window = self._windows.setdefault(process.pid, Window(MINUTE))
        if window.sum(now) + max(1, messages) > limit:
            wait = f"; the next one may be sent in {window.wait(now):.3g} s" if limit else ""
            raise KernelError(
                errno.EAGAIN, f"{process.name} may send {limit} messages a minute{wait}", rule=NAME
            )
        if messages:
            window.add(now, messages)
            self._store.on_rollback(lambda: window.take_back(messages))

    # -- who has a limit ---------------------------------------------------------------------------

    def _look_at(self, pid: int) -> None:
        limited = False
        if pid == EVERYBODY:
            limited = self._settings.now.limits.messages_per_minute is not None
        else:
            process = self._table.find(pid)
            limited = (
                process is not None
                and process.state.alive
                and process.limits.messages_per_minute is not None
            )
        (self._limited.add if limited else self._limited.discard)(pid)
        self._gate.count_message = self.count if self._limited else None
        if not self._limited:
            self._windows.clear()

    def _heard(self, record: Record) -> None:
        match record.event:
            case ProcessSpawned(pid=pid) | LimitChanged(pid=pid, limit="messages_per_minute"):
                self._look_at(pid)
            case ProcessExited(pid=pid) | ProcessReaped(pid=pid):
                self._windows.pop(pid, None)
                self._look_at(pid)
            case ConfigChanged():
                self._look_at(EVERYBODY)
