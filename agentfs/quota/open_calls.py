"""The table of open calls, in memory and stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agentfs.quota.budget_table import Key
from agentfs.quota.call import KIND, Call
from agentfs.quota.meter import Use
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["LAST", "OpenCalls"]

LAST = "last_call"
"""The meta value with the highest id that was given out."""


class OpenCalls:
    """All calls that were begun and not settled. Loads itself from the store; changes belong inside
    a transaction."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
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

    def count(self, pid: int) -> int:
        """How many calls a process has open."""
        return len(self._by_pid.of(pid))

    def find(self, pid: int, number: int) -> Call | None:
        """A call of a process by its id."""
        return self._by_pid.of(pid).get(number)

    def sizes(self) -> dict[str, int]:
        """How many entries each index has, for tests."""
        return {"calls": len(self._calls), "callers": len(self._by_pid)}

    # -- changes -----------------------------------------------------------------------------------

    def add(self, pid: int, held: Use, parts: dict[str, tuple[int, int]]) -> Call:
        """Process `pid` begins a call, for which so much was set aside."""
        self._last += 1
        self._store.set_meta(LAST, str(self._last))
        call = Call(self._last, pid, held, parts)
        self._calls.put(call.id, call)
        return call

    def remove(self, call: Call) -> None:
        """A call is open no more."""
        self._calls.drop(call.id)

    def pass_on(self, key: Key, source: int) -> None:
        """Calls that draw on the budget `key` draw on that of process `source` from now on."""
        for call in self:
            if (call.held.source, call.held.tier) == key:
                self._calls.put(call.id, replace(call, held=replace(call.held, source=source)))


def _read(key: str, record: dict[str, Any]) -> tuple[int, Call]:
    call = Call.from_record(key, record)
    return call.id, call
