"""What is told of tasks and workers. The names are ColonyOS's where it has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "TaskAssigned",
    "TaskCancelled",
    "TaskChanged",
    "TaskCompleted",
    "TaskDead",
    "TaskEvent",
    "TaskFailed",
    "TaskJudged",
    "TaskProgressed",
    "TaskRejected",
    "TaskRemoved",
    "TaskReturned",
    "TaskStarted",
    "TaskSubmitted",
    "TaskValidated",
    "WorkerChanged",
    "WorkerEvent",
    "WorkerHeartbeat",
    "WorkerLost",
    "WorkerRecovered",
    "WorkerRegistered",
    "WorkerRemoved",
]


@dataclass(frozen=True, slots=True)
class TaskEvent(Event):
    """Something happened to task `task` of `submitter`. `old` is the state that it had before,
    "" if it is new; of an event that changes no state the one it has."""

    whose: ClassVar[str] = "submitter"

    submitter: str
    task: int
    old: str


@dataclass(frozen=True, slots=True)
class TaskSubmitted(TaskEvent):
    """It is accepted, and pending."""

    priority: int
    group: str


@dataclass(frozen=True, slots=True)
class TaskValidated(TaskEvent):
    """`by` passed it."""

    by: str


@dataclass(frozen=True, slots=True)
class TaskRejected(TaskEvent):
    """`by` refused it."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class TaskJudged(TaskEvent):
    """A rule of the guardian was about it, or about its result (`when`: submit, result). `by` is
    the rule, and who decided."""

    when: str
    passed: bool
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class TaskAssigned(TaskEvent):
    """Its message waits for `worker`; `run` is not 0 where a run does it."""

    worker: str
    attempt: int
    run: int


@dataclass(frozen=True, slots=True)
class TaskStarted(TaskEvent):
    """Its worker has claimed it."""

    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskProgressed(TaskEvent):
    """Its worker says how far it is."""

    worker: str
    words: str


@dataclass(frozen=True, slots=True)
class TaskReturned(TaskEvent):
    """It waits for a worker again: this attempt is over."""

    worker: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class TaskChanged(TaskEvent):
    """It has another priority, or a result that waits for the guardian."""


@dataclass(frozen=True, slots=True)
class TaskCompleted(TaskEvent):
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskFailed(TaskEvent):
    worker: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class TaskCancelled(TaskEvent):
    by: str
    worker: str


@dataclass(frozen=True, slots=True)
class TaskDead(TaskEvent):
    """So many attempts were lost that there is no other."""

    worker: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class TaskRemoved(TaskEvent):
    """It ended long ago, and is forgotten."""


@dataclass(frozen=True, slots=True)
class WorkerEvent(Event):
    """Something happened to a worker."""

    whose: ClassVar[str] = "owner"

    owner: str
    worker: str


@dataclass(frozen=True, slots=True)
class WorkerRegistered(WorkerEvent):
    kind: str


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat(WorkerEvent):
    """It lives."""


@dataclass(frozen=True, slots=True)
class WorkerLost(WorkerEvent):
    """Nothing was heard of it, or its process has ended; its tasks come back."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerRecovered(WorkerEvent):
    """It was lost, and lives."""


@dataclass(frozen=True, slots=True)
class WorkerChanged(Event):
    """Its mode, owner, capabilities or capacity are others."""

    whose: ClassVar[str] = ""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerRemoved(WorkerEvent):
    pass
