"""Tasks that a run of one node does: the program that a task says, in the name of its submitter;
or a function of a pool of workflow workers, in the name of the worker's owner."""

from __future__ import annotations

import errno
import json
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Graph, Plan, PlanNode
from agentfs.model.process import Process
from agentfs.process.table import ProcessTable
from agentfs.store.part import EndedWork
from agentfs.tasks.model import Task, TaskWorker
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Run, RunState, Start
from agentfs.workflow.runs import Runs

__all__ = ["TaskRuns"]

NAME = "task"
"""What such a run says as its pipeline; it has no document."""

NODE = "work"


class TaskRuns:
    """Starts these runs and cancels them. Their end is told by `Part.run_ended`."""

    def __init__(self, table: ProcessTable, runs: Runs, engine: Engine) -> None:
        self._table = table
        self._runs = runs
        self._engine = engine

    def start(self, task: Task, worker: TaskWorker | None, given: str) -> Run:
        """Begin one, inside a transaction: the function of `worker`'s pool, or without a worker the
        task's own program. Raises EINVAL, EHOSTUNREACH (nobody in whose name it could be), EAGAIN
        and what the start of a run raises."""
        kind, spec = _program(task) if worker is None else _function(task, worker)
        starter = self._starter(task.submitter if worker is None else worker.ownership.owner)
        plan = Plan(NAME, graph=Graph((PlanNode(NODE, kind, spec=spec),)))
        start = Start(NAME, input=json.loads(given), ref=("task", str(task.id)))
        return self._runs.start_plan(starter, plan, start)

    def _starter(self, name: str) -> Process:
        process = self._table.by_name(name)
        if process is None:
            raise KernelError(errno.EHOSTUNREACH, f"nobody works for {name}, who would run it")
        return process

    def cancel(self, number: int, words: str) -> None:
        """End everything that a run does, inside a transaction."""
        run = self._engine.open.find(number)
        if run is not None and run.ending is None:
            self._engine.close(run, RunState.CANCELLED, words)

    @staticmethod
    def words(run: EndedWork) -> str:
        """Why a run has not completed."""
        return run.error.removeprefix(f"{NODE}: ") or run.reason

    def output(self, run: int) -> Any:
        """What the node of a run has given."""
        text = self._runs.node_output(run, NODE)
        return json.loads(text) if text else None


def _program(task: Task) -> tuple[str, dict[str, Any]]:
    return "program", {"program": task.program}


def _function(task: Task, worker: TaskWorker) -> tuple[str, dict[str, Any]]:
    fn = task.requirements.get("fn") or worker.capabilities.get("fn")
    if not isinstance(fn, str):
        raise KernelError(
            errno.EINVAL,
            f"{worker} is a pool: the task has to say `requirements: {{fn: NAME}}`, or the worker"
            " `capabilities: {fn: NAME}`",
        )
    return "function", {"pool": worker.pool, "fn": fn}
