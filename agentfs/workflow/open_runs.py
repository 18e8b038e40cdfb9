"""The runs that have not ended, in memory: by number, by pipeline, by parent, and when something of
them falls due. A run that only waits is nothing but its entries here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from agentfs.base.due_heap import DueHeap
from agentfs.workflow.model import Run, RunState

__all__ = ["OpenRuns"]

K = TypeVar("K")


class OpenRuns:
    """Follows the journal: `enter` and `leave` are called around each change of what it goes by."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._at_work: dict[str, set[int]] = {}  # by pipeline, and by pipeline and group
        self._queued: dict[str, dict[int, None]] = {}  # by pipeline, the oldest first
        self._children: dict[int, set[int]] = {}
        self._by_starter: dict[str, int] = {}
        self.dues: DueHeap[Run] = DueHeap()

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._runs.values()))

    def find(self, number: int) -> Run | None:
        return self._runs.get(number)

    # -- changes ---------------------------------------------------------------------------------

    def enter(self, run: Run) -> None:
        """It is open."""
        self._runs[run.id] = run
        self._by_starter[run.starter] = self._by_starter.get(run.starter, 0) + 1
        if run.parent:
            self._children.setdefault(run.parent, set()).add(run.id)
        if run.state is RunState.QUEUED:
            self._queued.setdefault(run.pipeline, {})[run.id] = None
        else:
            for key in _keys(run):
                self._at_work.setdefault(key, set()).add(run.id)

    def leave(self, run: Run) -> None:
        """It is not, or not as it was."""
        if self._runs.pop(run.id, None) is None:
            return
        left = self._by_starter[run.starter] - 1
        if left:
            self._by_starter[run.starter] = left
        else:
            del self._by_starter[run.starter]
        if run.parent:
            _take_out(self._children, run.parent, run.id)
        queue = self._queued.get(run.pipeline)
        if queue is not None:
            queue.pop(run.id, None)
            if not queue:
                del self._queued[run.pipeline]
        for key in _keys(run):
            _take_out(self._at_work, key, run.id)

    def expect(self, run: Run, due: float) -> None:
        """Something of it falls due then; nothing, if that is infinite."""
        if due == float("inf"):
            self.dues.discard(run.id)
        else:
            self.dues.add(due, run.id, run)

    def due_of(self, run: Run) -> float:
        """When something of it falls due; infinite if nothing does."""
        return self.dues.key_of(run.id)

    # -- what there is ---------------------------------------------------------------------------

    def at_work(self, pipeline: str, group: str = "") -> list[int]:
        """The runs of a pipeline that are not queued, the oldest first; those of one concurrency
        group, if one is named."""
        return sorted(self._at_work.get(f"{pipeline}\0{group}" if group else pipeline, ()))

    def count_at_work(self, pipeline: str, group: str = "") -> int:
        return len(self._at_work.get(f"{pipeline}\0{group}" if group else pipeline, ()))

    def queued(self, pipeline: str) -> list[int]:
        """The runs of a pipeline that are queued, the oldest first."""
        return [*self._queued.get(pipeline, ())]

    def queues(self) -> list[str]:
        """The pipelines that have runs queued."""
        return [*self._queued]

    def count_queued(self, pipeline: str) -> int:
        return len(self._queued.get(pipeline, ()))

    def children(self, number: int) -> list[int]:
        """The open sub-runs of a run."""
        return sorted(self._children.get(number, ()))

    def count_of(self, starter: str) -> int:
        """How many an agent has started."""
        return self._by_starter.get(starter, 0)


def _keys(run: Run) -> tuple[str, ...]:
    return (run.pipeline, f"{run.pipeline}\0{run.group}") if run.group else (run.pipeline,)


def _take_out(table: dict[K, set[int]], key: K, member: int) -> None:
    members = table.get(key)
    if members is not None:
        members.discard(member)
        if not members:
            del table[key]
