"""Tasks and workers as values: their states, their records, and the requests that make them."""

from __future__ import annotations

import enum
from dataclasses import MISSING, asdict, dataclass, field, fields
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agentfs.model.names import INIT_NAME
from agentfs.model.spec import seconds
from agentfs.rights.ownership import Ownership

__all__ = [
    "KERNEL_WORKER",
    "PREFIX",
    "Task",
    "TaskAnswer",
    "TaskRequest",
    "TaskState",
    "TaskWorker",
    "WorkerKind",
    "WorkerRequest",
    "WorkerState",
]

KERNEL_WORKER = "kernel"
"""The worker of tasks that say a `program`: the kernel runs it. No worker can have this name."""

PREFIX = "workers"
"""Before a slash and the name of a worker, it is the name of its mailbox."""

LONGEST_HISTORY = 50
"""Entries of a task's history: the first one, and the newest."""

LONGEST_WORDS = 1000
"""Characters of one entry of it."""


class TaskState(enum.Enum):
    """The state of a task. One that is final stays."""

    PENDING = "pending"  # the guardian has not said yet
    VALIDATED = "validated"  # it waits for a worker
    ASSIGNED = "assigned"  # its message waits in a worker's mailbox
    RUNNING = "running"  # a worker has claimed it
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    DEAD = "dead"  # so many attempts were lost

    def __init__(self, value: str) -> None:
        self.final = value not in ("pending", "validated", "assigned", "running")


@dataclass(slots=True, eq=False)
class Task:
    """One task. Times are wall clock, in seconds; 0 is not yet. Only `agentfs.tasks` changes it.
    Input and result, which may be long, are asked of `Tasks`.

    `requirements` is what its worker has to be capable of, `priority` 0 to 9, 9 first. `uid` is its
    submitter's. `attempt` counts the workers that got it, 0 before the first; `lost` are the
    attempts that ended without a word, of which `max_attempts` make it dead. `timeout` (seconds) is
    that of one attempt, which ends at `deadline`. `key` makes the submission repeatable. `program`
    is what the kernel runs for it.

    `worker` has it now, or had it last; `message` is its assignment, `claimant` the pid of the
    process that claimed that, `run` the run that does it. `judged`: its result waits for the
    guardian. `verdict` is what that said, `reason` why the task is rejected, came back or died,
    `error` why it failed.
    """

    id: int
    description: str
    submitter: str
    uid: int
    created: float
    changed: float
    requirements: dict[str, Any] = field(default_factory=dict)
    priority: int = 5
    state: TaskState = TaskState.PENDING
    worker: str = ""
    attempt: int = 0
    lost: int = 0
    max_attempts: int = 5
    timeout: float | None = None
    deadline: float = 0.0
    key: str = ""
    group: str = ""
    program: list[str] | None = None
    ended: float = 0.0
    message: int = 0
    claimant: int = 0
    run: int = 0
    judged: bool = False
    verdict: dict[str, Any] | None = None
    error: str = ""
    reason: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def under_way(self) -> bool:
        """Whether it takes room of its worker: it was assigned, and there is no result yet."""
        return self.state in (TaskState.ASSIGNED, TaskState.RUNNING) and not self.judged

    def told(self, at: float, state: TaskState, by: str, words: str) -> list[dict[str, Any]]:
        """The history with one more entry."""
        entry = {"at": at, "state": state.value, "by": by, "words": words[:LONGEST_WORDS]}
        kept = [*self.history, entry]
        return kept if len(kept) <= LONGEST_HISTORY else [kept[0], *kept[2:]]

    def record(self) -> dict[str, Any]:
        """Its record in the store: what is not as usual."""
        record: dict[str, Any] = {}
        for (name, usual), value in zip(_USUAL.items(), _values(self), strict=True):
            if value is not usual and value != usual:
                record[name] = value
        return record | {"state": self.state.value}

    @classmethod
    def read(cls, number: int, record: dict[str, Any]) -> Task:
        """The task that gave this record."""
        return cls(**{**record, "id": number, "state": TaskState(record["state"])})


_USUAL: dict[str, Any] = {
    each.name: each.default
    if each.default is not MISSING
    else (None if each.default_factory is MISSING else each.default_factory())
    for each in fields(Task)
    if each.name not in ("id", "state")
}
_values = attrgetter(*_USUAL)


class WorkerKind(enum.Enum):
    """How a worker gets its tasks."""

    AGENT = "agent"  # in the inbox of an agent
    PROGRAM = "program"  # from its `recv`, whoever reads there
    POOL = "pool"  # as steps of runs, from a pool of workflow workers


class WorkerState(enum.Enum):
    ACTIVE = "active"
    LOST = "lost"  # it gets nothing until it is back


@dataclass(slots=True, eq=False)
class TaskWorker:
    """One worker. `heartbeat` is the time of its last sign of life (wall clock, seconds), `changed`
    (ns) when its mode, owner or capabilities did last. `stops`: where a task is cancelled, the
    program of its agent is ended and started again. Only `Workers` changes its fields."""

    name: str
    ownership: Ownership
    changed: int
    kind: WorkerKind
    heartbeat: float
    agent: str = ""
    pool: str = ""
    capabilities: dict[str, Any] = field(default_factory=dict)
    capacity: int = 4
    stops: bool = False
    state: WorkerState = WorkerState.ACTIVE
    removed: bool = False

    def __str__(self) -> str:
        return f"worker {self.name}"

    @property
    def mailbox(self) -> str:
        """Where its assignments lie; of a pool none do."""
        return self.agent if self.kind is WorkerKind.AGENT else f"{PREFIX}/{self.name}"

    @property
    def beats(self) -> bool:
        """Whether it has to say that it lives: nobody else knows."""
        return self.kind is WorkerKind.PROGRAM and self.ownership.owner == INIT_NAME

    def record(self) -> dict[str, Any]:
        """Its record in the store."""
        record = asdict(self) | self.ownership.record()
        del record["name"], record["ownership"], record["removed"]
        return record | {"kind": self.kind.value, "state": self.state.value}

    @classmethod
    def read(cls, name: str, record: dict[str, Any]) -> TaskWorker:
        """The worker that gave this record."""
        owned = Ownership.from_record(record)
        own = {key: value for key, value in record.items() if key not in owned.record()}
        own |= {"kind": WorkerKind(own["kind"]), "state": WorkerState(own["state"])}
        return cls(name, owned, **own)


# -- what is asked for ---------------------------------------------------------------------------

Plain = bool | int | float | str


def _properties(given: dict[str, Any]) -> dict[str, Any]:
    """Capabilities, or requirements: numbers, texts, yes or no, and lists of them."""
    for name, value in given.items():
        if not 0 < len(name) <= 64:
            raise ValueError(f"{name[:80]!r}: a name has 1 to 64 characters")
        several = value if isinstance(value, list) else [value]
        if isinstance(value, dict) and set(value) == {"level", "of"}:
            several = [value["level"], *(value["of"] if isinstance(value["of"], list) else [None])]
        if not all(isinstance(each, Plain) and each == each for each in several):  # NaN is not
            raise ValueError(
                f"{name}: a number, a text, true or false, a list of these, or"
                " {level: LEVEL, of: [LOWEST, …]} was expected"
            )
        if len(several) > 64 or any(isinstance(each, str) and len(each) > 256 for each in several):
            raise ValueError(f"{name}: at most 64 values, each of at most 256 characters")
    return given


def _words(given: object) -> object:
    """A command as a text is a shell's, as that of a process is."""
    return ["/bin/sh", "-c", given] if isinstance(given, str) else given


Properties = Annotated[dict[str, Any], Field(max_length=64), AfterValidator(_properties)]
Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0, le=366 * 86_400)]


class TaskRequest(BaseModel):
    """What `submit` is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: Annotated[str, Field(min_length=1, max_length=16_384)]
    input: Any = None
    requirements: Properties = {}
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = 5
    max_attempts: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    timeout: Seconds | None = None
    key: Annotated[str, Field(max_length=255)] = ""
    group: Annotated[str, Field(max_length=64)] = ""
    program: Annotated[list[str], BeforeValidator(_words), Field(min_length=1, max_length=256)] | (
        None
    ) = None


class WorkerRequest(BaseModel):
    """What `register` is given. Without `agent` and `pool` it is a program that reads `recv`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    agent: str = ""
    pool: str = ""
    capabilities: Properties = {}
    capacity: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 4
    on_cancel: Literal["tell", "stop"] = "tell"
    mode: Annotated[int, Field(strict=True, ge=0, le=0o777)] = 0o600

    @model_validator(mode="after")
    def _one_kind(self) -> WorkerRequest:
        if self.agent and self.pool:
            raise ValueError("a worker is an agent or a pool, not both")
        if self.on_cancel == "stop" and not self.agent:
            raise ValueError("on_cancel: stop is for workers that are agents")
        return self

    @property
    def kind(self) -> WorkerKind:
        if self.pool:
            return WorkerKind.POOL
        return WorkerKind.AGENT if self.agent else WorkerKind.PROGRAM


class TaskAnswer(BaseModel):
    """The line that a worker writes back to its `recv`: `ok`, `error` or `progress`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Annotated[int, Field(strict=True)]
    attempt: Annotated[int, Field(strict=True)]
    ok: Any = None
    error: str | None = None
    progress: str | None = None
    again: bool = False

    @model_validator(mode="after")
    def _one_word(self) -> TaskAnswer:
        said = {"ok", "error", "progress"} & self.model_fields_set
        if len(said) != 1:
            raise ValueError("one of `ok`, `error` and `progress` was expected")
        if self.again and self.error is None:
            raise ValueError("`again` goes with `error`")
        return self
