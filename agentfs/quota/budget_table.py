"""The table of budget entries: what each process was given of each tier, in memory and stored.

What one entry gives and takes is another's gain and loss; who calls `Entries.change` sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agentfs.base.clock import Clock, change_time
from agentfs.model.principal import INIT
from agentfs.model.process import Tier
from agentfs.quota.events import BudgetChanged
from agentfs.store.event_log import EventLog
from agentfs.store.store import Store

__all__ = ["KIND", "Entries", "Entry", "Key"]

KIND = "budget"
"""The kind of the records; the key is PID/TIER."""

Key = tuple[int, Tier]


@dataclass(slots=True)
class Entry:
    """The tokens of one tier that process `pid` may use or hand on.

    `grantor` is the pid whose entry they come from, 0 for process 1, whose are the configuration's.
    `granted` is the sum of the allocations that come from this entry, `held` what open calls have
    set aside. `changed` in ns, for st_mtime.
    """

    pid: int
    tier: Tier
    grantor: int
    allocated: int = 0
    consumed: int = 0
    granted: int = 0
    held: int = 0
    changed: int = 0

    @property
    def key(self) -> Key:
        return self.pid, self.tier

    @property
    def reserved(self) -> int:
        """What is spoken for: handed on, or set aside by open calls."""
        return self.granted + self.held

    @property
    def remaining(self) -> int:
        """What is left. Below zero if a call took more than it had asked for, or if the
        configuration was lowered under what is handed out."""
        return self.allocated - self.consumed - self.reserved

    def record(self) -> dict[str, Any]:
        return {**{slot: getattr(self, slot) for slot in self.__slots__}, "tier": self.tier.value}


class Entries:
    """Loads itself from the store. Process 1 has an entry at every tier, always."""

    def __init__(self, store: Store, events: EventLog, clock: Clock) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._entries: dict[Key, Entry] = {}
        self._granted: dict[Key, dict[int, None]] = {}
        for _, record in store.records(KIND):
            self._index(Entry(**(record | {"tier": Tier(record["tier"])})))
        for tier in Tier:
            if (INIT, tier) not in self._entries:
                self._index(Entry(INIT, tier, 0))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def find(self, pid: int, tier: Tier) -> Entry | None:
        return self._entries.get((pid, tier))

    def get(self, pid: int, tier: Tier) -> Entry:
        """One that there is for certain."""
        return self._entries[pid, tier]

    def granted_by(self, entry: Entry) -> list[Entry]:
        """The entries whose tokens come from `entry`."""
        return [self._entries[pid, entry.tier] for pid in self._granted.get(entry.key, ())]

    # -- changes: in a transaction, whose rollback undoes them ------------------------------------

    def add(self, entry: Entry) -> None:
        """Take up a new entry. What it was given is its grantor's to note."""
        with self._store.transaction():
            self._store.on_rollback(lambda: self._unindex(entry))
            self._index(entry)
            self._written(entry)

    def remove(self, entry: Entry) -> None:
        """Drop an entry."""
        with self._store.transaction():
            self._store.on_rollback(lambda: self._index(entry))
            self._unindex(entry)
            self._store.delete_record(KIND, _name(entry))
            self._tell(entry, gone=True)

    def change(self, entry: Entry, **more: int) -> None:
        """Add so much to fields of `entry`, or take it away."""
        with self._store.transaction():
            self._store.on_rollback(lambda: _add(entry, more, -1))
            _add(entry, more, 1)
            self._written(entry)

    def pass_on(self, entry: Entry, grantor: int) -> None:
        """What was `entry`'s grantor's to take back is `grantor`'s from now on."""
        before = entry.grantor
        with self._store.transaction():
            self._store.on_rollback(lambda: self._regrant(entry, before))
            self._regrant(entry, grantor)
            self._store.put_record(KIND, _name(entry), entry.record())

    def _written(self, entry: Entry) -> None:
        entry.changed = change_time(self._clock.now(), entry.changed)
        self._store.put_record(KIND, _name(entry), entry.record())
        self._tell(entry)

    def _tell(self, entry: Entry, *, gone: bool = False) -> None:
        figures = (0, 0, 0) if gone else (entry.allocated, entry.consumed, entry.reserved)
        self._events.emit(BudgetChanged(entry.pid, entry.tier.value, *figures, gone))

    # -- indexes -----------------------------------------------------------------------------------

    def _index(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        if entry.grantor:
            self._granted.setdefault((entry.grantor, entry.tier), {})[entry.pid] = None

    def _unindex(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._ungrant(entry)

    def _ungrant(self, entry: Entry) -> None:
        key = entry.grantor, entry.tier
        others = self._granted.get(key, {})
        others.pop(entry.pid, None)
        if not others:
            self._granted.pop(key, None)

    def _regrant(self, entry: Entry, grantor: int) -> None:
        self._ungrant(entry)
        entry.grantor = grantor
        self._index(entry)

    def sizes(self) -> dict[str, int]:
        """How many entries each index has, for tests."""
        return {"budgets": len(self._entries), "grantors": len(self._granted)}


def _name(entry: Entry) -> str:
    return f"{entry.pid}/{entry.tier.value}"


def _add(entry: Entry, more: dict[str, int], sign: int) -> None:
    for field, amount in more.items():
        setattr(entry, field, getattr(entry, field) + sign * amount)
