"""The executors of steps, by the kinds of nodes that they do."""

from __future__ import annotations

from agentfs.manifests.plan import PlanNode
from agentfs.workflow.live import LiveRun
from agentfs.workflow.model import Executor

__all__ = ["Executors"]

POOLED = frozenset({"function", "service_call"})
"""Kinds that workers do: each pool has room of its own."""


class Executors:
    """The executors, by the kinds of nodes that they do."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Executor] = {}

    def add(self, executor: Executor) -> None:
        """From now on `executor` does its kinds."""
        for kind in executor.kinds:
            self._by_kind[kind] = executor

    def of(self, kind: str) -> Executor | None:
        return self._by_kind.get(kind)

    @staticmethod
    def name(executor: Executor) -> str:
        """How the names of what its nodes may lack begin."""
        return f"executor:{min(executor.kinds)}/"

    @classmethod
    def lack(cls, executor: Executor, live: LiveRun, node: PlanNode) -> str:
        """What nodes of one kind lack together; where workers do them, those of the same pool, or
        of the same plan."""
        if node.kind not in POOLED:
            return cls.name(executor)
        return f"{cls.name(executor)}{node.spec.get('pool') or live.run.plan_hash}"
