"""How many deliveries of reminders were tried and how many succeeded, for each agent.

The store has a row for each minute of the last 24 hours with a delivery in it, and one, number 0,
for everything before: so what is kept is bounded, and every figure is a sum over rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agentfs.store.records import Records, keep_member
from agentfs.store.store import Store

__all__ = ["KIND", "Delivered", "DeliveryCounts"]

KIND = "reminder-count"
"""The rows in the store: agent, minute (since 1970), attempts, successes; key `AGENT/MINUTE`."""

MINUTES = 24 * 60
BEFORE = 0  # the minute of what is older


Key = tuple[str, int]
"""Agent and minute."""


class Delivered(NamedTuple):
    """`delivered` in the last 24 hours, by the minute; the others since the agent exists."""

    delivered: int
    attempts: int
    successes: int


class _Row(NamedTuple):
    agent: str
    minute: int
    attempts: int
    successes: int


class DeliveryCounts:
    """Changes belong inside a transaction of the store and are undone with it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows = Records(store, KIND, _read, _Row._asdict, _name)
        self._by_agent = self._rows.index(lambda row: row.agent)
        self._unwritten: set[Key] = set()

    def load(self) -> None:
        """Read everything from the store."""
        self._rows.load()

    def of(self, agent: str) -> Delivered:
        rows = self._by_agent.of(agent).values()
        attempts = sum(row.attempts for row in rows)
        successes = sum(row.successes for row in rows)
        before = self._rows.get((agent, BEFORE))
        return Delivered(successes - (before.successes if before else 0), attempts, successes)

    def count(self, agent: str, now: float, *, delivered: bool) -> None:
        """An attempt was made. `write` stores it."""
        key = agent, int(now // 60)
        row = self._rows.get(key) or _Row(*key, 0, 0)
        keep_member(self._store, self._unwritten, key)
        self._unwritten.add(key)
        more = row._replace(attempts=row.attempts + 1, successes=row.successes + delivered)
        self._rows.place(key, more)

    def write(self) -> None:
        """Store what was counted in this transaction."""
        for key in self._unwritten:
            self._rows.save(key)
        self._unwritten.clear()

    def age(self, now: float) -> list[str]:
        """Add up what is older than 24 hours (or stamped by a clock that was wrong); the agents
        whose figures that changes."""
        last = int(now // 60)
        changed = []
        for agent, rows in tuple(self._by_agent.items()):
            old = []
            for row in rows.values():
                if last - MINUTES < row.minute <= last:
                    break
                if row.minute != BEFORE:
                    old.append(row)
            if old:
                self._fold(agent, old)
                changed.append(agent)
        return changed

    def _fold(self, agent: str, old: list[_Row]) -> None:
        key = agent, BEFORE
        before = self._rows.get(key) or _Row(*key, 0, 0)
        for row in old:
            self._rows.drop((agent, row.minute))
        attempts = before.attempts + sum(row.attempts for row in old)
        successes = before.successes + sum(row.successes for row in old)
        self._rows.put(key, _Row(agent, BEFORE, attempts, successes))

    def forget(self, agent: str) -> None:
        """The agent is no more."""
        for key in tuple(self._by_agent.of(agent)):
            self._rows.drop(key)


def _read(name: str, record: dict[str, Any]) -> tuple[Key, _Row]:
    row = _Row(**record)
    return (row.agent, row.minute), row


def _name(key: Key) -> str:
    agent, minute = key
    return f"{agent}/{minute:010d}"
