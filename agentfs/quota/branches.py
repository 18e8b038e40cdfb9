"""What a branch of the tree has used: a process, all below it, and those below it that have ended.

The figures of a process are known while it lives. When it ends for good, its parent takes them
over, with those of all that ended below it before, so that no use is lost or counted twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from agentfs.model.process import Process
from agentfs.process.table import ProcessTable
from agentfs.quota.spending import Spending
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records

__all__ = ["KIND", "Branches", "Figures"]

KIND = "branch"
"""The kind of the records: what ended below a process, by its pid."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums without what open calls hold; `cost` in millionths of a dollar."""

    tokens: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    cost: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.tokens + other.tokens,
            self.llm_calls + other.llm_calls,
            self.tool_calls + other.tool_calls,
            self.cost + other.cost,
        )


NOTHING = Figures()


class Branches(Part):
    """Loads itself from the store."""

    def __init__(self, ground: Ground, table: ProcessTable, spending: Spending) -> None:
        self._table = table
        self._spending = spending
        self._ended = Records(
            ground.store, KIND, lambda pid, record: (int(pid), Figures(**record)), asdict
        )
        self._ended.load()

    def __len__(self) -> int:
        return len(self._ended)

    def of(self, process: Process) -> Figures:
        """What a process has used itself, and what those had that ended below it."""
        spent = self._spending.of(process.pid)
        own = Figures(process.tokens, spent.llm_calls, spent.tool_calls, spent.cost)
        return own + self._ended.get(process.pid, NOTHING)

    def beside(self, process: Process) -> Figures:
        """The same, without the uses that the process above counts as its own."""
        if len(self._table.accounts(process)) > 1:
            return self._ended.get(process.pid, NOTHING)
        return self.of(process)

    def process_ended(self, process: Process) -> None:
        """Its parent takes over its figures, while they are still known."""
        figures, parent = self.beside(process), self._table.find(process.ppid)
        if parent is not None and figures != NOTHING:
            self._ended.put(parent.pid, self._ended.get(parent.pid, NOTHING) + figures)
        self._ended.drop(process.pid)
