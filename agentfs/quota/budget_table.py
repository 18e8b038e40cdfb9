"""The table of budget entries: what each process was given of each tier, in memory and stored.

Tokens that one entry loses, another one gains; `Budgets` sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agentfs.base.clock import change_time
from agentfs.model.principal import INIT
from agentfs.model.process import Process, Tier
from agentfs.quota.events import BudgetChanged
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["KIND", "BudgetEntry", "BudgetTable", "Key"]

KIND = "budget"
"""The kind of the records; the key is PID/TIER."""

Key = tuple[int, Tier]


@dataclass(slots=True)
class BudgetEntry:
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
        """The tokens that are handed on, or set aside by open calls."""
        return self.granted + self.held

    @property
    def remaining(self) -> int:
        """The tokens that are left. Below zero if a call took more than it had asked for, or if the
        configuration was lowered under what is handed out."""
        return self.allocated - self.consumed - self.granted - self.held

    def record(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "tier": self.tier.value,
            "grantor": self.grantor,
            "allocated": self.allocated,
            "consumed": self.consumed,
            "granted": self.granted,
            "held": self.held,
            "changed": self.changed,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> BudgetEntry:
        return cls(**(record | {"tier": Tier(record["tier"])}))


class BudgetTable:
    """Loads itself from the store. Process 1 has an entry at every tier, always. Changes
    belong inside a transaction."""

    def __init__(self, ground: Ground) -> None:
        self._events = ground.events
        self._clock = ground.clock
        self._entries = Records(ground.store, KIND, _read, BudgetEntry.record, _name)
        self._granted = self._entries.index(_grantor, "grantor")
        self._entries.load()
        for tier in Tier:
            if (INIT, tier) not in self._entries:
                self._entries.place((INIT, tier), BudgetEntry(INIT, tier, 0))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[BudgetEntry]:
        return iter(tuple(self._entries.values()))

    def find(self, pid: int, tier: Tier) -> BudgetEntry | None:
        return self._entries.get((pid, tier))

    def get(self, pid: int, tier: Tier) -> BudgetEntry:
        """One that there is for certain."""
        return self._entries[pid, tier]

    def nearest(self, process: Process, above: Iterable[Process], tier: Tier) -> BudgetEntry:
        """That of `process`, or of the first of those `above` it that has one."""
        entry = self._entries.get((process.pid, tier))
        if entry is None:
            for each in above:
                entry = self._entries.get((each.pid, tier))
                if entry is not None:
                    break
        return entry or self._entries[INIT, tier]

    def granted_by(self, entry: BudgetEntry) -> list[BudgetEntry]:
        """The entries whose tokens come from `entry`."""
        return list(self._granted.of(entry.key).values())

    def sizes(self) -> dict[str, int]:
        """How many entries each index has, for tests."""
        return {"budgets": len(self._entries), "grantors": len(self._granted)}

    # -- changes -----------------------------------------------------------------------------------

    def set_pool(self, tier: Tier, tokens: int) -> None:
        """At the start: process 1 has what the configuration says, which nobody is told."""
        self._entries.set((INIT, tier), allocated=tokens)

    def add(self, entry: BudgetEntry) -> None:
        """Take up a new entry. That its grantor has given so much away is another change."""
        entry.changed = change_time(self._clock.now(), entry.changed)
        self._entries.put(entry.key, entry)
        self._tell(entry)

    def remove(self, entry: BudgetEntry) -> None:
        """Drop an entry."""
        self._entries.drop(entry.key)
        self._events.emit(BudgetChanged(entry.pid, entry.tier.value, 0, 0, 0, True))

    def change(self, entry: BudgetEntry, **more: int) -> None:
        """Add so much to fields of `entry`, or take it away."""
        for name in more:
            more[name] += getattr(entry, name)
        changed = change_time(self._clock.now(), entry.changed)
        self._entries.change((entry.pid, entry.tier), changed=changed, **more)
        self._tell(entry)

    def pass_on(self, entry: BudgetEntry, grantor: int) -> None:
        """The tokens of `entry` come from the entry of `grantor` from now on."""
        self._entries.change(entry.key, grantor=grantor)

    def _tell(self, entry: BudgetEntry) -> None:
        figures = entry.allocated, entry.consumed, entry.granted + entry.held
        self._events.emit(BudgetChanged(entry.pid, entry.tier.value, *figures))


def _read(key: str, record: dict[str, Any]) -> tuple[Key, BudgetEntry]:
    entry = BudgetEntry.from_record(record)
    return entry.key, entry


def _name(key: Key) -> str:
    return f"{key[0]}/{key[1].value}"


def _grantor(entry: BudgetEntry) -> Key | None:
    return (entry.grantor, entry.tier) if entry.grantor else None
