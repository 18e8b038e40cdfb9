"""The life of a task: each step from one state to the next, with its event and its entry in the
history. Whether a step may be made is for the callers to ask."""

from __future__ import annotations

from typing import Any

from agentfs.store.ground import Ground
from agentfs.tasks.events import (
    TaskAssigned,
    TaskCancelled,
    TaskChanged,
    TaskCompleted,
    TaskDead,
    TaskEvent,
    TaskFailed,
    TaskProgressed,
    TaskRejected,
    TaskReturned,
    TaskStarted,
    TaskSubmitted,
    TaskValidated,
)
from agentfs.tasks.model import Task, TaskState
from agentfs.tasks.policy import Judgement
from agentfs.tasks.task_table import TaskTable

__all__ = ["TaskLife"]


class TaskLife:
    """Every method is a part of the transaction under way."""

    def __init__(self, ground: Ground, table: TaskTable) -> None:
        self._events = ground.events
        self._clock = ground.clock
        self._table = table

    def submit(self, task: Task, given: str) -> None:
        """A new one, with its input."""
        task.history = task.told(task.created, task.state, task.submitter, "submitted")
        self._table.add(task, given)
        self._events.emit(TaskSubmitted(task.submitter, task.id, "", task.priority, task.group))

    def validate(self, task: Task, verdict: Judgement) -> None:
        """It may be done."""
        said = _record(verdict)
        self._go(task, TaskState.VALIDATED, verdict.by, verdict.reason or "passed", verdict=said)
        self._tell(TaskValidated, task, TaskState.PENDING, verdict.by)

    def reject(self, task: Task, verdict: Judgement) -> None:
        """It may not."""
        said, reason = _record(verdict), verdict.reason or f"{verdict.by} did not pass it"
        old = task.state
        self._end(task, TaskState.REJECTED, verdict.by, reason, verdict=said, reason=reason)
        self._tell(TaskRejected, task, old, verdict.by, reason)

    def assign(self, task: Task, worker: str, message: int = 0, run: int = 0) -> None:
        """`worker` has it; the caller has raised `attempt`."""
        self._go(
            task,
            TaskState.ASSIGNED,
            "kernel",
            f"attempt {task.attempt}: {worker}",
            worker=worker,
            message=message,
            run=run,
            reason="",
            error="",
        )
        self._tell(TaskAssigned, task, TaskState.VALIDATED, worker, task.attempt, run)

    def start(self, task: Task, claimant: int = 0) -> None:
        """Its worker has begun."""
        self._go(task, TaskState.RUNNING, task.worker, "claimed", claimant=claimant)
        self._tell(TaskStarted, task, TaskState.ASSIGNED, task.worker, task.attempt)

    def progress(self, task: Task, words: str) -> None:
        """Its worker says how far it is."""
        self._go(task, task.state, task.worker, words)
        self._tell(TaskProgressed, task, task.state, task.worker, words)

    def change(self, task: Task, by: str, words: str, **fields: Any) -> None:
        """Something else about it is new."""
        self._go(task, task.state, by, words, **fields)
        self._tell(TaskChanged, task, task.state)

    def come_back(self, task: Task, reason: str, *, lost: bool) -> None:
        """This attempt is over. `lost`: it counts among those after which the task is dead."""
        old, count = task.state, task.lost + lost
        if count >= task.max_attempts:
            words = f"{count} attempts were lost; the last: {reason}"
            self._end(task, TaskState.DEAD, "kernel", words, lost=count, reason=words)
            self._tell(TaskDead, task, old, task.worker, task.attempt, words)
            return
        fields: dict[str, Any] = {"message": 0, "claimant": 0, "run": 0, "deadline": 0.0}
        fields |= {"judged": False, "lost": count, "reason": reason}
        self._go(task, TaskState.VALIDATED, task.worker or "kernel", reason, **fields)
        self._tell(TaskReturned, task, old, task.worker, task.attempt, reason)

    def complete(self, task: Task, verdict: Judgement) -> None:
        """Its result is there, and has passed."""
        old = task.state
        self._end(
            task, TaskState.COMPLETED, task.worker, "completed", verdict=_record(verdict), reason=""
        )
        self._tell(TaskCompleted, task, old, task.worker, task.attempt)

    def fail(self, task: Task, by: str, error: str, verdict: Judgement | None = None) -> None:
        """There will be no result."""
        old = task.state
        said = task.verdict if verdict is None else _record(verdict)
        self._end(task, TaskState.FAILED, by, error, error=error, verdict=said)
        self._tell(TaskFailed, task, old, task.worker, task.attempt, error)

    def cancel(self, task: Task, by: str, words: str) -> None:
        """Nobody wants it any more."""
        old = task.state
        self._end(task, TaskState.CANCELLED, by, words, reason=words)
        self._tell(TaskCancelled, task, old, by, task.worker)

    # -- their parts -------------------------------------------------------------------------------

    def _go(self, task: Task, state: TaskState, by: str, words: str, **fields: Any) -> None:
        now = self._clock.now()
        history = task.told(now, state, by, words)
        self._table.change(task, state=state, changed=now, history=history, **fields)

    def _end(self, task: Task, state: TaskState, by: str, words: str, **fields: Any) -> None:
        now = self._clock.now()
        history = task.told(now, state, by, words)
        self._table.end(
            task, state=state, changed=now, ended=now, history=history, judged=False, **fields
        )

    def _tell(self, kind: type[TaskEvent], task: Task, old: TaskState, *more: Any) -> None:
        self._events.emit(kind(task.submitter, task.id, old.value, *more))


def _record(verdict: Judgement) -> dict[str, Any]:
    return {"passed": verdict.passed, "by": verdict.by, "reason": verdict.reason}
