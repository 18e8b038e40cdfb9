"""The figures of each agent and day (UTC): turns, and calls of each tool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agentfs.store.store import Store

__all__ = ["Day", "Days"]


class Day(NamedTuple):
    """The turns that ended on a day (2026-11-21), those of them that failed, and for how many
    seconds they ran."""

    day: str
    turns: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        """Seconds of a turn; 0 without one."""
        return self.seconds / self.turns if self.turns else 0.0


_COUNT = """
    INSERT INTO turn_days VALUES (?, ?, 1, ?, ?)
    ON CONFLICT (agent, day) DO UPDATE SET
        turns = turns + 1, failed = failed + excluded.failed, seconds = seconds + excluded.seconds
"""
_CALL = """
    INSERT INTO tool_days VALUES (?, ?, ?, 1)
    ON CONFLICT (agent, day, tool) DO UPDATE SET calls = calls + 1
"""


class Days:
    """The tables `turn_days` and `tool_days`. Writes belong inside a transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, agent: str) -> Iterator[Day]:
        """Every day that has a turn of it, the newest first."""
        query = (
            "SELECT day, turns, failed, seconds FROM turn_days WHERE agent = ? ORDER BY day DESC"
        )
        for row in self._store.read(query, (agent,)):
            yield Day(*row)

    def tools(self, agent: str) -> dict[str, list[tuple[str, int]]]:
        """How often it called each tool, by day; the most called first."""
        query = (
            "SELECT day, tool, calls FROM tool_days WHERE agent = ? ORDER BY day, calls DESC, tool"
        )
        found: dict[str, list[tuple[str, int]]] = {}
        for day, tool, calls in self._store.read(query, (agent,)):
            found.setdefault(day, []).append((tool, calls))
        return found

    def count(self, agent: str, day: str, seconds: float, *, failed: bool) -> None:
        """A turn has ended."""
        self._store.write(_COUNT, (agent, day, int(failed), seconds))

    def call(self, agent: str, day: str, tool: str) -> None:
        """A tool was called."""
        self._store.write(_CALL, (agent, day, tool))

    def sweep(self, before: str, most: int) -> int:
        """Delete at most so many rows of days before `before`; how many."""
        gone = 0
        for table, columns in (("turn_days", "agent, day"), ("tool_days", "agent, day, tool")):
            query = f"SELECT {columns} FROM {table} WHERE day < ? ORDER BY day LIMIT ?"  # noqa: S608
            rows = self._store.read(query, (before, most - gone)).fetchall()
            marks = ", ".join("?" for _ in columns.split(", "))
            for row in rows:
                query = f"DELETE FROM {table} WHERE ({columns}) = ({marks})"  # noqa: S608
                self._store.write(query, row)
            gone += len(rows)
        return gone

    def forget(self, agent: str) -> None:
        """The agent is no more."""
        for table in ("turn_days", "tool_days"):
            self._store.write(f"DELETE FROM {table} WHERE agent = ?", (agent,))  # noqa: S608
