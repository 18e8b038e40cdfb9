"""The table of open calls, in memory and stored."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.model.process import Process
from agentfs.quota.budget_table import Key
from agentfs.quota.call import KIND, Call
from agentfs.quota.events import CallBegun, CallEnded
from agentfs.quota.meter import Use
from agentfs.quota.relay import Relay
from agentfs.quota.settings import BudgetSettings
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["LAST", "OpenCalls"]

LAST = "last_call"
"""The meta value with the highest id that was given out."""

NO_PARTS: Mapping[str, tuple[int, int]] = MappingProxyType({})
"""Every meter holds the same."""


class OpenCalls:
    """All calls that were begun and not settled. Loads itself from the store; changes belong inside
    a transaction."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._events = ground.events
        self._settings = ground.settings
        self._clock = ground.clock
        self._last = int(self._store.meta(LAST, "0"))
        self._calls = Records(self._store, KIND, _read, Call.record)
        self._by_pid = self._calls.index(lambda call: call.pid)
        self._calls.load()

    def __iter__(self) -> Iterator[Call]:
        """All of them; the table may change meanwhile."""
        return iter(tuple(self._calls.values()))

    def of(self, pid: int) -> list[Call]:
        """The open calls of a process, the oldest first."""
        calls = self._by_pid.of(pid)
        return [calls[number] for number in sorted(calls)]

    def check_more(self, process: Process) -> None:
        """Raise EAGAIN if a process has as many open as it may have."""
        most = self._settings.of(BudgetSettings).max_open_calls
        if len(self._by_pid.of(process.pid)) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{process.name} has {most} calls open: settle or cancel them",
                rule="max_open_calls",
                retry_after=1.0,
            )

    def find(self, pid: int, number: int) -> Call | None:
        """A call of a process by its id."""
        return self._by_pid.of(pid).get(number)

    def get(self, number: int) -> Call | None:
        """A call by its id."""
        return self._calls.get(number)

    def sizes(self) -> dict[str, int]:
        """How many entries each index has, for tests."""
        return {"calls": len(self._calls), "callers": len(self._by_pid)}

    # -- changes -----------------------------------------------------------------------------------

    def add(
        self,
        process: Process,
        held: Use,
        parts: Mapping[str, tuple[int, int]] = NO_PARTS,
        relay: Relay | None = None,
    ) -> Call:
        """A process begins a call, for which so much was set aside."""
        self._last += 1
        self._store.set_meta(LAST, str(self._last))
        call = Call(self._last, process.pid, held, parts, self._clock.now(), relay)
        self._calls.put(call.id, call)
        self._events.emit(CallBegun(process.pid, process.name, call.id))
        return call

    def replace(self, call: Call, *, stored: bool = True) -> None:
        """Have `call` in the place of the one with its id; not `stored`: in memory alone."""
        if stored:
            self._calls.put(call.id, call)
        else:
            self._calls.place(call.id, call)

    def remove(self, process: Process, call: Call, error: str = "") -> None:
        """A call of a process is open no more; `error`: why it failed."""
        self._calls.drop(call.id)
        self._events.emit(CallEnded(process.pid, process.name, call.id, error))

    def pass_on(self, key: Key, source: int) -> None:
        """Calls that draw on the budget `key` draw on that of process `source` from now on."""
        for call in self:
            if (call.held.source, call.held.tier) == key:
                self._calls.put(call.id, replace(call, held=replace(call.held, source=source)))


def _read(key: str, record: dict[str, Any]) -> tuple[int, Call]:
    call = Call.from_record(key, record)
    return call.id, call
