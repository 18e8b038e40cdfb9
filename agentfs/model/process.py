"""Processes and agents as values: roles, tiers, states, and the records of both."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.model.capability import Ceiling

__all__ = [
    "Agent",
    "Limits",
    "OnLimit",
    "Process",
    "ProcessKind",
    "Restart",
    "Role",
    "State",
    "Tier",
    "check_transition",
]


class Role(enum.Enum):
    """The purpose of a process. `kernel` is process 1 only."""

    KERNEL = "kernel"
    DAEMON = "daemon"
    AGENT = "agent"
    ARCHITECT = "architect"
    LEAD = "lead"
    WORKER = "worker"
    TASK = "task"

    __hash__ = object.__hash__  # that of enums is in Python; every call looks its role up


class Tier(enum.Enum):
    """How expensive the models of a process may be; `rank` 0 is the most."""

    STRATEGIC = "strategic"
    TACTICAL = "tactical"
    OPERATIONAL = "operational"

    @property
    def rank(self) -> int:
        return _RANKS[self]

    __hash__ = object.__hash__  # that of enums is in Python, and tiers are in keys of hot tables

    @property
    def model(self) -> str:
        """The model a process of this tier uses unless its spec names one."""
        return {"strategic": "opus", "tactical": "sonnet", "operational": "mini"}[self.value]


_RANKS = {tier: rank for rank, tier in enumerate(Tier)}


class Restart(enum.Enum):
    """When the supervisor starts an ended program again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"

    @classmethod
    def default(cls, role: Role) -> Restart:
        if role in (Role.KERNEL, Role.DAEMON):
            return cls.ALWAYS
        if role in (Role.ARCHITECT, Role.TASK):
            return cls.NEVER
        return cls.ON_FAILURE


class OnLimit(enum.Enum):
    """The consequence for a call that would exceed a limit or budget."""

    RAISE = "raise"
    """The call is refused with EDQUOT, nothing else."""
    SKIP = "skip"
    """The call is not made, and its answer says so: no error."""
    STOP = "stop"
    """The call is refused, and the process is ended: TERM, then KILL; it is not started again."""


class State(enum.Enum):
    """The state of a process."""

    IDLE = "idle"
    RUNNING = "running"
    BLOCKED = "blocked"
    SLEEPING = "sleeping"
    ZOMBIE = "zombie"
    DEAD = "dead"

    __hash__ = object.__hash__  # as that of Role

    def __init__(self, value: str) -> None:
        self.alive = value not in ("zombie", "dead")  # no property: every call asks for it


LEGAL: dict[State, frozenset[State]] = {
    State.IDLE: frozenset(State) - {State.IDLE},
    State.RUNNING: frozenset(State) - {State.RUNNING},
    State.BLOCKED: frozenset({State.RUNNING, State.SLEEPING, State.ZOMBIE, State.DEAD}),
    State.SLEEPING: frozenset({State.IDLE, State.RUNNING, State.BLOCKED, State.ZOMBIE, State.DEAD}),
    State.ZOMBIE: frozenset(),
    State.DEAD: frozenset(),
}
"""For each state, those that may follow. None follows the end of a process: it goes away when it is
waited for, or reaped."""


def check_transition(old: State, new: State) -> None:
    """Raise EPERM unless `old` may become `new`."""
    if new not in LEGAL[old]:
        raise KernelError(
            errno.EPERM, f"a process that is {old.value} cannot become {new.value}", rule="states"
        )


class ProcessKind(enum.Enum):
    """What a process is an entry for. Those that are not an agent's are light: no agent has their
    names, and they have no mailbox, no memory and no second start."""

    AGENT = "agent"
    RUN = "run"
    """A run of a pipeline: an entry without a program. Its steps are below it."""
    STEP = "step"
    """A program that does one attempt of a node, and lives as long as that."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a process may use; None is no limit.

    `timeout_seconds` is for one task (a claimed message), `max_context_tokens` for one call of a
    model; `max_memory_mb` (MiB), `max_cpu_seconds` and `max_pids` (processes and threads of the
    machine) are for its programs together.
    """

    max_children: int | None = 10
    max_concurrent_tasks: int | None = 5
    timeout_seconds: int | None = 300
    max_tokens_per_hour: int | None = 100_000
    max_tokens_total: int | None = 1_000_000
    max_context_tokens: int | None = 128_000
    max_llm_calls: int | None = None
    max_tool_calls: int | None = None
    max_cost_usd: float | None = None
    messages_per_minute: int | None = None
    max_memory_mb: int | None = None
    max_cpu_seconds: int | None = None
    max_pids: int | None = 1024
    calls_per_minute: int | None = None
    spawns_per_minute: int | None = None
    signals_per_minute: int | None = None
    claims_per_minute: int | None = None
    artifacts_per_minute: int | None = None
    llm_calls_per_minute: int | None = None
    tool_calls_per_minute: int | None = None

    @classmethod
    def none_but(cls, **limits: int | None) -> Limits:
        """These limits alone."""
        none: dict[str, Any] = dict.fromkeys(cls.__slots__)
        return cls(**none | limits)

    def within(self, others: Limits) -> Limits:
        """The least of both, each by itself; that on children, which is about the process alone,
        is its own."""
        if self == others:
            return self
        least = {
            slot: _least(getattr(self, slot), getattr(others, slot))
            for slot in self.__slots__
            if slot != "max_children"
        }
        return Limits(max_children=self.max_children, **least)

    def record(self) -> dict[str, Any]:
        """As JSON, without those that have their defaults."""
        record: dict[str, Any] = {}
        for slot in self.__slots__:
            most = getattr(self, slot)
            if most != getattr(DEFAULT_LIMITS, slot):
                record[slot] = most
        return record


def _least(one: Any, other: Any) -> Any:
    return other if one is None or (other is not None and other < one) else one


DEFAULT_LIMITS = Limits()
"""Shared by all that have no limits of their own."""


@dataclass(slots=True)
class Agent:
    """An agent: a durable name with a definition, a mailbox and files of its own.

    `id` is its number; no other agent gets it, not even the next one of its name. `creator` is the
    name of the agent whose process defined it ("init" for the operator), and `creator_id` the
    number of that one (0: not known). Only the operator and that creator, not a later agent of its
    name, may put a program to work under the name. `spec` is the text of its definition, `prompt`
    what that says of its work. `pid` is its newest process; None if none was started, or all are
    reaped. `exit_code` and `result` are of the last one that ended: its code, and the last words
    that it or its program said.
    """

    name: str
    uid: int
    gid: int
    creator: str
    spec: str = ""
    pid: int | None = None
    changed: int = 0  # ns, for st_mtime
    prompt: str = ""
    exit_code: int | None = None
    result: str = ""
    id: int = 0
    creator_id: int = 0

    def record(self) -> dict[str, Any]:
        return {slot: getattr(self, slot) for slot in self.__slots__}


@dataclass(slots=True)
class Process:
    """One process of the table. Only `agentfs.process` changes its fields."""

    pid: int
    ppid: int
    name: str
    role: Role
    tier: Tier
    model: str
    uid: int
    gid: int
    user: str
    node: str
    restart: Restart
    started: float  # wall clock, seconds
    state: State = State.IDLE
    exec: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    heartbeat: float = 0.0  # seconds between beats; 0: none declared
    restart_notice: bool = True  # it is told by mail that its program was started again
    limits: Limits = DEFAULT_LIMITS
    ospid: int | None = None
    os_start: int = 0  # the program's start time in clock ticks: with `ospid`, unmistakable
    attached: bool = False  # the program was started elsewhere and is not our child
    restarts: int = 0
    exit_code: int | None = None
    output: str = ""  # the last lines of output, once it ended
    ended: float = 0.0  # wall clock, seconds
    stopping: bool = False  # somebody asked it to end: its end is not a failure
    reason: str = ""  # why it is being ended, if not because somebody asked: "limit: NAME"
    tokens: int = 0
    on_limit: OnLimit = OnLimit.RAISE
    allowed: tuple[str, ...] | None = None  # capabilities as declared; None: all of its parent's
    denied: tuple[str, ...] = ()  # capabilities denied to it and everything below it
    ceiling: Ceiling | None = None  # what its parent had at the spawn; None: everything
    group: str = ""  # the path of its group below /sys/cgroup; "": in none
    groups: tuple[str, ...] = ()  # what it belongs to: they are read, and grant nothing
    metadata: dict[str, str] = field(default_factory=dict)
    confined: tuple[str, ...] = ()  # what its program is really kept from, of network, write, …
    reads: tuple[str, ...] = ()  # what its program may read of a machine that is closed to it
    own_files: tuple[str, ...] | None = None  # those files of `exec` too; None: all of them
    kind: ProcessKind = ProcessKind.AGENT
    behalf: str = ""  # of a run or a step: the agent in whose name it acts
    changed: int = 0  # ns, for st_mtime

    @property
    def light(self) -> bool:
        """Whether it is a run or a step, and so no agent's."""
        return self.kind is not ProcessKind.AGENT

    @property
    def agent(self) -> str:
        """The agent in whose name it acts: what it uses, makes and owns is that one's. Of one that
        is an agent's, that is its own name."""
        return self.behalf or self.name

    def record(self) -> dict[str, Any]:
        """As JSON. It is written with every change and read with every start, so fields that have
        their defaults are left out. That makes the defaults, those of `Limits` too, a part of the
        format: a new one needs a migration."""
        record = {
            "pid": self.pid,
            "ppid": self.ppid,
            "name": self.name,
            "role": self.role.value,
            "tier": self.tier.value,
            "model": self.model,
            "uid": self.uid,
            "gid": self.gid,
            "user": self.user,
            "node": self.node,
            "restart": self.restart.value,
            "started": self.started,
            "changed": self.changed,
        }
        for (name, default), value in zip(_OPTIONAL.items(), _get_optional(self), strict=True):
            if value is not default and value != default:
                record[name] = _AS_JSON[name](value) if name in _AS_JSON else value
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Process:
        """The process that gave this record; that of the first release leaves nothing out. Raises
        AttributeError for an unknown field."""
        process = cls(
            pid=record["pid"],
            ppid=record["ppid"],
            name=record["name"],
            role=_ROLES[record["role"]],
            tier=_TIERS[record["tier"]],
            model=record["model"],
            uid=record["uid"],
            gid=record["gid"],
            user=record["user"],
            node=record["node"],
            restart=_RESTARTS[record["restart"]],
            started=record["started"],
            changed=record.get("changed", 0),
        )
        for name in record.keys() - _ALWAYS:
            value = record[name]
            if value is not None and name in _FROM_JSON:
                value = _FROM_JSON[name](value)
            setattr(process, name, value)
        return process


_ROLES = {role.value: role for role in Role}
_TIERS = {tier.value: tier for tier in Tier}
_RESTARTS = {restart.value: restart for restart in Restart}

_ALWAYS = {"changed"} | {
    each.name
    for each in fields(Process)
    if each.default is MISSING and each.default_factory is MISSING
}
_OPTIONAL = {
    each.name: each.default if each.default_factory is MISSING else each.default_factory()
    for each in fields(Process)
    if each.name not in _ALWAYS
}
_get_optional = attrgetter(*_OPTIONAL)

_AS_JSON: dict[str, Callable[[Any], Any]] = {
    "kind": attrgetter("value"),
    "state": attrgetter("value"),
    "on_limit": attrgetter("value"),
    "exec": list,
    "groups": list,
    "allowed": list,
    "denied": list,
    "confined": list,
    "reads": list,
    "own_files": list,
    "ceiling": Ceiling.record,
    "limits": Limits.record,
}
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "kind": ProcessKind,
    "state": State,
    "on_limit": OnLimit,
    "exec": tuple,
    "groups": tuple,
    "allowed": tuple,
    "denied": tuple,
    "confined": tuple,
    "reads": tuple,
    "own_files": tuple,
    "ceiling": Ceiling.from_record,
    "limits": lambda limits: Limits(**limits),
}
