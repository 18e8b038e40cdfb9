"""How many deliveries of reminders were tried and how many succeeded, for each agent.

The store has a row for each minute of the last 24 hours with a delivery in it, and one, number 0,
for everything before: so what is kept is bounded, and every figure is a sum over rows.
"""

from __future__ import annotations

from typing import NamedTuple

from agentfs.store.store import Store

__all__ = ["KIND", "Counts", "Tally"]

KIND = "reminder-count"
"""The rows in the store: agent, minute (since 1970), attempts, successes; key `AGENT/MINUTE`."""

MINUTES = 24 * 60
BEFORE = 0  # the minute of what is older


class Counts(NamedTuple):
    """`delivered` in the last 24 hours, by the minute; the others since the agent exists."""

    delivered: int
    attempts: int
    successes: int


class Tally:
    """Changes belong inside a transaction of the store and are undone with it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[str, dict[int, tuple[int, int]]] = {}  # minute -> attempts, successes
        self._unwritten: set[tuple[str, int]] = set()

    def load(self) -> None:
        """Read everything from the store."""
        self._rows = {}
        for _, row in self._store.records(KIND):
            rows = self._rows.setdefault(row["agent"], {})
            rows[row["minute"]] = (row["attempts"], row["successes"])

    def of(self, agent: str) -> Counts:
        rows = self._rows.get(agent, {})
        attempts, successes = (sum(row[index] for row in rows.values()) for index in (0, 1))
        return Counts(successes - rows.get(BEFORE, (0, 0))[1], attempts, successes)

    def count(self, agent: str, now: float, *, delivered: bool) -> None:
        """An attempt was made. `write` stores it."""
        rows, minute = self._rows.setdefault(agent, {}), int(now // 60)
        before = rows.get(minute)

        def undo() -> None:
            self._unwritten.clear()
            if before is None:
                del rows[minute]
            else:
                rows[minute] = before

        attempts, successes = before or (0, 0)
        rows[minute] = (attempts + 1, successes + delivered)
        self._unwritten.add((agent, minute))
        self._store.on_rollback(undo)

    def write(self) -> None:
        """Store what was counted in this transaction."""
        for agent, minute in self._unwritten:
            self._put(agent, minute)
        self._unwritten.clear()

    def age(self, now: float) -> list[str]:
        """Add up what is older than 24 hours (or stamped by a clock that was wrong); the agents
        whose figures that changes."""
        last = int(now // 60)
        changed = []
        for agent, rows in self._rows.items():
            old = []
            for minute in rows:
                if last - MINUTES < minute <= last:
                    break
                if minute != BEFORE:
                    old.append(minute)
            if old:
                self._fold(agent, old)
                changed.append(agent)
        return changed

    def _fold(self, agent: str, old: list[int]) -> None:
        rows = self._rows[agent]
        before = dict(rows)
        self._store.on_rollback(lambda: self._rows.__setitem__(agent, before))
        attempts, successes = rows.get(BEFORE, (0, 0))
        for minute in old:
            tried, succeeded = rows.pop(minute)
            attempts += tried
            successes += succeeded
            self._store.delete_record(KIND, _key(agent, minute))
        rows[BEFORE] = (attempts, successes)
        self._put(agent, BEFORE)

    def forget(self, agent: str) -> None:
        """The agent is no more."""
        rows = self._rows.pop(agent, None)
        if rows is None:
            return
        self._store.on_rollback(lambda: self._rows.__setitem__(agent, rows))
        for minute in rows:
            self._store.delete_record(KIND, _key(agent, minute))

    def _put(self, agent: str, minute: int) -> None:
        attempts, successes = self._rows[agent][minute]
        row = {"agent": agent, "minute": minute, "attempts": attempts, "successes": successes}
        self._store.put_record(KIND, _key(agent, minute), row)


def _key(agent: str, minute: int) -> str:
    return f"{agent}/{minute:010d}"
