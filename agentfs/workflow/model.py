"""Runs and their nodes as values: the states they are in, the records of both, what starts a run,
and what an executor is given."""

from __future__ import annotations

import enum
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import Any, Protocol

from agentfs.manifests.inherit import Level
from agentfs.manifests.plan import Plan, PlanNode
from agentfs.model.capability import Ceiling
from agentfs.model.process import Process

__all__ = [
    "OPEN_NODES",
    "Executor",
    "NodeRow",
    "NodeState",
    "Run",
    "RunState",
    "Start",
    "Step",
    "StepRef",
]


class RunState(enum.Enum):
    """The state of a run. One that is final stays."""

    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"  # only waits are left, or somebody paused it
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    def __init__(self, value: str) -> None:
        self.final = value not in ("queued", "running", "suspended")


class NodeState(enum.Enum):
    """The state of a node. One that has no row in the journal is pending."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"  # for somebody's answer; it holds no slot
    BACKOFF = "backoff"  # until its next attempt; it holds no slot
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    def __init__(self, value: str) -> None:
        self.final = value not in ("pending", "running", "waiting", "backoff")


OPEN_NODES = (NodeState.RUNNING, NodeState.WAITING, NodeState.BACKOFF)
"""The states of nodes that have begun and not ended."""


@dataclass(slots=True, eq=False)
class Run:
    """One run. Times are wall clock, in seconds; 0 is not yet. Only `agentfs.workflow` changes it.

    `plan_hash` names its plan in the store. `parent` is the run that started it as a sub-run, 0 if
    none did, and `parent_node` the path of the node there; `parent_attempt` its attempt. `origin`
    is the first run of those that are retries of each other, and `retry_of` the one before it.
    `starter` is the name of the agent that started it. `ending` is the final state that a run which
    is closing will have. `group` is the value of its concurrency key.
    """

    id: int
    pipeline: str
    version: int
    plan_hash: str
    created: float
    starter: str
    origin: int
    state: RunState = RunState.QUEUED
    key: str = ""
    ref_type: str = ""
    ref_id: str = ""
    parent: int = 0
    parent_node: str = ""
    parent_attempt: int = 0
    depth: int = 0  # sub-runs above it
    retry_of: int = 0
    started: float = 0.0
    ended: float = 0.0
    deadline: float = 0.0
    paused: bool = False
    ending: RunState | None = None
    settled: bool = False  # it is ending, and only what always runs is left
    error: str = ""
    reason: str = ""
    group: str = ""
    sync: bool = False
    on_parent_end: str = "cancel"
    environment: str = ""
    request: dict[str, Any] | None = None  # limits, caps and the like that the start asked for
    input_hash: str = ""
    uid: int = 0
    gid: int = 0

    @property
    def ref(self) -> str:
        """TYPE/ID; empty if it is about nothing."""
        return f"{self.ref_type}/{self.ref_id}" if self.ref_type else ""

    def record(self) -> dict[str, Any]:
        """As JSON, without what has its default or a column of its own."""
        record: dict[str, Any] = {}
        for (name, default), value in zip(_DEFAULTS.items(), _values(self), strict=True):
            if value is not default and value != default:
                record[name] = value.value if name == "ending" else value
        return record

    @classmethod
    def from_row(cls, number: int, state: str, record: dict[str, Any]) -> Run:
        """The run that gave this record. Raises TypeError for an unknown field."""
        if "ending" in record:
            record["ending"] = RunState(record["ending"])
        return cls(id=number, state=RunState(state), **record)


_COLUMNS = ("id", "state")
_DEFAULTS: dict[str, Any] = {
    each.name: None if each.default is MISSING else each.default
    for each in fields(Run)
    if each.name not in _COLUMNS
}
_values = attrgetter(*_DEFAULTS)


@dataclass(slots=True, eq=False)
class NodeRow:
    """One node of a run, as its newest attempt left it. Times are wall clock, in seconds; 0 is not
    yet. `deadline` ends the attempt, `due` is when it goes on by itself: a back-off, or a wait.
    `reason` is that of a skip. `holder` is the program that has claimed the attempt. `wait` is the
    key of a signal that it waits for, `group` the value of its concurrency key."""

    run: int
    path: str
    state: NodeState = NodeState.PENDING
    attempt: int = 0
    began: float = 0.0
    ended: float = 0.0
    deadline: float = 0.0
    due: float = 0.0
    error: str = ""
    kind: str = ""  # of the error: error, timeout, lost, limit, schema, size, cancelled
    reason: str = ""
    holder: str = ""
    wait: str = ""
    group: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON, without what has its default or a column of its own."""
        record: dict[str, Any] = {}
        for (name, default), value in zip(_ROW_DEFAULTS.items(), _row_values(self), strict=True):
            if value != default:
                record[name] = value
        return record

    @classmethod
    def from_row(
        cls, run: int, path: str, state: str, attempt: int, record: dict[str, Any]
    ) -> NodeRow:
        """The row that gave this record. Raises TypeError for an unknown field."""
        return cls(run, path, NodeState(state), attempt, **record)


_ROW_COLUMNS = ("run", "path", "state", "attempt", "wait")
_ROW_DEFAULTS: dict[str, Any] = {
    each.name: each.default for each in fields(NodeRow) if each.name not in _ROW_COLUMNS
}
_row_values = attrgetter(*_ROW_DEFAULTS)


@dataclass(frozen=True, slots=True)
class Start:
    """What starts a run, or a system: then `pipeline` is the name of that. `input` is a JSON value;
    `key` makes the request repeatable; `ref` is (TYPE, ID) of the thing that it is about.
    `deadline` is in seconds from the start, `limits` and `caps` can narrow only. `sync`: every
    commit of it is synced to the disk. `parent` is the step that it is a sub-run of, `process` the
    process that it acts for (None: the caller's), and `ceiling` the most that it may. `levels` are
    those above the pipeline that it inherits from, the outermost first: a System, a process of
    it."""

    pipeline: str
    input: Any = None
    version: int | None = None
    key: str = ""
    ref: tuple[str, str] = ("", "")
    environment: str = ""
    deadline: float | None = None
    limits: dict[str, float | None] | None = None
    caps: tuple[str, ...] | None = None
    sync: bool = False
    parent: StepRef | None = None
    process: Process | None = None
    ceiling: Ceiling | None = None
    on_parent_end: str = ""
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True)
class StepRef:
    """One attempt of a node, by its names."""

    run: int
    path: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.run}/{self.path}#{self.attempt}"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One attempt of a node, as its executor gets it. `input` is the JSON value that was prepared
    for it, and `spec` the node's, with its templates evaluated. `key` is the same in all attempts
    and retries: whoever has seen it has done it. `deadline` is wall clock, in seconds; `process`
    is the run's."""

    ref: StepRef
    plan: Plan
    node: PlanNode
    input: Any
    spec: dict[str, Any]
    key: str
    deadline: float | None
    process: Process


class Executor(Protocol):
    """It does steps of some kinds. An attempt ends by `engine.succeed` or `engine.fail`; one that
    waits for somebody says so by `engine.wait`."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of nodes that it does."""

    def room(self, node: PlanNode) -> int | None:
        """How many more steps of this node it can take now; None is any number. The engine keeps
        the rest pending, and asks again when `engine.freed` tells it to."""

    def begin(self, step: Step) -> None:
        """The attempt is being committed: write what has to be with it. KernelError fails the
        node; EAGAIN leaves it pending."""

    def start(self, step: Step, again: bool) -> None:
        """The attempt is committed: do it. `again`: it was running when an earlier daemon ended;
        one that was waiting is not started again. It never waits and never raises."""

    def cancel(self, step: Step) -> None:
        """The attempt is over, inside the transaction of that: let it end. Do slow things after the
        commit."""

    def due(self, step: Step) -> None:
        """The time that `wait` was given has come, and nobody has answered: end the attempt. There
        is no transaction under way."""
