"""Nodes of kind `pipeline`: each is done by a run of its own, a sub-run."""

from __future__ import annotations

import errno
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import PlanNode
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Run, RunState, Start, Step, StepRef
from agentfs.workflow.runs import Runs

__all__ = ["SubRuns"]


class SubRuns:
    """The executor of sub-runs. The end of one ends its node, in one commit."""

    kinds = frozenset({"pipeline"})

    def __init__(self, engine: Engine, runs: Runs) -> None:
        self._engine = engine
        self._runs = runs

    def room(self, node: PlanNode) -> int | None:
        """Any number: a run that there is no room for is queued."""
        return None

    def begin(self, step: Step) -> None:
        """Start the sub-run, or go on with the one that failed in the run before this one."""
        before = self._before(step)
        if before is not None:
            self._runs.retry_for(step.process, before, "", step.ref)
        else:
            self._runs.start_for(step.process, self._start(step))
        self._engine.wait(step.ref)

    def _start(self, step: Step) -> Start:
        spec = step.spec
        given = spec.get("input", step.input)
        limits: dict[str, Any] = spec.get("limits") or {}
        caps = spec.get("caps")
        return Start(
            str(spec["pipeline"]),
            given,
            version=spec.get("version"),
            environment=str(spec.get("environment", "")),
            limits=limits or None,
            caps=None if caps is None else tuple(caps),
            parent=step.ref,
            on_parent_end=str(spec.get("on_parent_end", "")),
        )

    def _before(self, step: Step) -> Run | None:
        """The sub-run that this attempt goes on with: it failed in the run that this one is a retry
        of."""
        run = self._engine.open.find(step.ref.run)
        if run is None or not run.retry_of or step.ref.attempt > 1:
            return None
        found = self._engine.journal.children(run.retry_of, step.ref.path)
        last = found[-1] if found else None
        gone = last is not None and last.state.final and last.state is not RunState.COMPLETED
        return last if gone else None

    def start(self, step: Step, again: bool) -> None:
        """Never: the node waits from its begin."""
        self._engine.fail(step.ref, "its sub-run is gone", kind="lost")

    def cancel(self, step: Step) -> None:
        """The node is over: the sub-run ends, unless it is to go on without it."""
        for number in self._engine.open.children(step.ref.run):
            child = self._engine.open.find(number)
            if child is not None and _is_for(child, step.ref) and child.on_parent_end != "abandon":
                words = f"node {step.ref.path} of run {step.ref.run} is over"
                self._engine.close(child, RunState.CANCELLED, words)

    def due(self, step: Step) -> None:
        """Never: the node waits without an end of its own."""
        raise KernelError(errno.EINVAL, f"{step.ref} waits for no time")


def _is_for(child: Run, ref: StepRef) -> bool:
    return child.parent_node == ref.path and child.parent_attempt == ref.attempt
