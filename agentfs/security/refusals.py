"""Calls that were refused: the words for whoever was, and the event for everybody else.

The event is a change like any other, so each refusal is a record of the audit.
"""

from __future__ import annotations

import logging

from agentfs.errors import KernelError
from agentfs.events import CallRefused, EventLog, ProcessReaped, Record
from agentfs.plain import one_line
from agentfs.security.principal import Principal
from agentfs.storage.store import Store
from agentfs.syscall import Gate

__all__ = ["Refusals"]

OLD = 2
"""Seconds after which a reason says its age."""

log = logging.getLogger(__name__)


class Refusals:
    """The last refusal of each process, for `/proc/PID/error`, and how many there were."""

    def __init__(self, gate: Gate, store: Store, events: EventLog) -> None:
        self._gate = gate
        self._store = store
        self._events = events
        self._texts: dict[int, tuple[float, str]] = {}
        self.count = 0
        events.listen(self._forget, ProcessReaped)

    def record(self, principal: Principal, path: str, refusal: KernelError) -> None:
        """Keep why a call of `principal` on `path` was refused, and tell the event log. Raises
        KernelError if the store cannot be written."""
        self.count += 1
        if refusal.discreet:
            log.info("refused to %s: %s", principal.name, refusal.code)
        else:
            log.info("refused to %s: %s", principal.name, one_line(f"{path}: {refusal}"))
        if principal.pid is not None:
            rule = f" (rule: {refusal.rule})" if refusal.rule else ""
            text = one_line(f"{path}: {refusal.code}: {refusal.reason}{rule}")
            self._texts[principal.pid] = (self._events.now(), text)
        told = ("", "") if refusal.discreet else (path, refusal.reason)
        with self._store.transaction():
            self._gate.attribute(principal)
            self._events.emit(
                CallRefused(principal.pid, told[0], refusal.code, told[1], refusal.rule)
            )

    def text(self, pid: int) -> str:
        """The last refusal of `pid` as a line; empty if there was none. From the second second on
        it says how old it is: what Linux refuses by the mode bits does not come to us, and an older
        reason is not to be taken for that of such a refusal."""
        if pid not in self._texts:
            return ""
        when, text = self._texts[pid]
        age = int(self._events.now() - when)
        return f"{text} ({age} s ago)\n" if age >= OLD else f"{text}\n"

    def _forget(self, record: Record) -> None:
        if isinstance(record.event, ProcessReaped):
            self._texts.pop(record.event.pid, None)
