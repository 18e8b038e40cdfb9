"""The table of systems that were started, in memory and in the store at once."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.clock import change_time
from agentfs.manifests.system_plan import SystemPlan
from agentfs.store.ground import Ground
from agentfs.store.records import Records
from agentfs.triggers.maker import Maker

__all__ = ["KIND", "PLAN", "PartState", "SystemPart", "SystemRun", "SystemRunTable", "SystemState"]

KIND, PLAN = "system", "system-plan"
"""The records in the store, by pid; the plan has one of its own, because it never changes."""


class SystemState(enum.Enum):
    """The state of a system. One that is final stays."""

    RUNNING = "running"
    WAITING = "waiting"  # for a record of its topic, or until it begins again
    SUSPENDED = "suspended"  # somebody paused it
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __init__(self, value: str) -> None:
        self.final = value in ("completed", "failed", "cancelled")


class PartState(enum.Enum):
    """The state of one of its processes, in the pass under way."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"  # the system ended before it began

    def __init__(self, value: str) -> None:
        self.final = value not in ("pending", "running")


@dataclass(frozen=True, slots=True)
class SystemPart:
    """One process of a system, in the pass under way. `number` is the pid of its run or program,
    0 before it begins."""

    state: PartState = PartState.PENDING
    number: int = 0
    error: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"state": self.state.value, "number": self.number, "error": self.error}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SystemPart:
        """The one that gave this record."""
        return cls(PartState(record["state"]), record["number"], record["error"])


@dataclass(slots=True, eq=False)
class SystemRun:
    """A system that was started; `id` is the pid of its lead. Times are wall clock, in seconds.
    Only `SystemRuns` changes it.

    `base` is the input that it was started with, `input` that of the pass under way, number
    `passes`; `settled` is that of the last one that has ended. `results` are those of programs
    that have ended, by process. `values` are those of pipes, by the pipe's name: fields of the
    input of the process that it leads to. `failures` are when passes failed lately; `cursor` is
    the number of the last record of its topic that has begun a pass, `lost` how many fell out
    before. `due` is when the next pass begins. `ending` is the state that it will have once all
    its processes have ended; `deadline` ends it.
    """

    id: int
    plan: SystemPlan
    maker: Maker
    base: Any
    created: float
    input: Any = None
    key: str = ""
    ref: str = ""
    environment: str = ""
    state: SystemState = SystemState.RUNNING
    paused: bool = False
    ending: SystemState | None = None
    error: str = ""
    passes: int = 0
    settled: int = 0
    failed: int = 0
    parts: dict[str, SystemPart] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    failures: tuple[float, ...] = ()
    cursor: int = 0
    lost: int = 0
    due: float = 0.0
    deadline: float = 0.0
    ended: float = 0.0
    results: dict[str, Any] = field(default_factory=dict)
    changed: int = 0  # ns, for st_mtime

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def reason(self) -> str:
        """Why it was ended, for who is told of its end: `error` says that."""
        return self.error

    @property
    def at_work(self) -> bool:
        """Whether a pass is under way."""
        return any(not part.state.final for part in self.parts.values())

    def running(self) -> dict[str, int]:
        """The processes that run, by name, with their pids."""
        return {
            name: part.number
            for name, part in self.parts.items()
            if part.state is PartState.RUNNING and part.number
        }

    def record(self) -> dict[str, Any]:
        """As JSON, without the plan."""
        return {
            "maker": self.maker.record(),
            "state": self.state.value,
            "ending": self.ending and self.ending.value,
            "parts": {name: part.record() for name, part in self.parts.items()},
            "failures": list(self.failures),
            **{name: getattr(self, name) for name in PLAIN},
        }

    @classmethod
    def from_record(cls, number: int, plan: SystemPlan, record: dict[str, Any]) -> SystemRun:
        """The one that gave this record."""
        ending = record["ending"]
        return cls(
            number,
            plan,
            Maker.from_record(record["maker"]),
            state=SystemState(record["state"]),
            ending=ending and SystemState(ending),
            parts={name: SystemPart.from_record(each) for name, each in record["parts"].items()},
            failures=tuple(record["failures"]),
            **{name: record[name] for name in PLAIN},
        )


PLAIN = (
    "base",
    "input",
    "deadline",
    "results",
    "created",
    "key",
    "ref",
    "environment",
    "paused",
    "error",
    "passes",
    "settled",
    "failed",
    "values",
    "cursor",
    "lost",
    "due",
    "ended",
    "changed",
)


class SystemRunTable:
    """Every system that was started, with those that ended lately, by pid."""

    def __init__(self, ground: Ground) -> None:
        self._clock = ground.clock
        self._plans = Records[int, SystemPlan](
            ground.store,
            PLAN,
            lambda key, record: (int(key), SystemPlan.from_record(record)),
            SystemPlan.record,
        )
        self._all = Records[int, SystemRun](
            ground.store,
            KIND,
            lambda key, record: (
                int(key),
                SystemRun.from_record(int(key), self._plans[int(key)], record),
            ),
            SystemRun.record,
        )
        self._of_part: dict[int, tuple[SystemRun, str]] = {}
        self._all.follow(self._entered, self._left, ("parts",))
        self._of_topic = self._all.index(
            lambda each: each.plan.init.topic if not each.state.final else None, "state"
        )
        self._open = self._all.index(
            lambda each: None if each.state.final else each.maker.owner, "state", "maker"
        )
        self._of_key = self._all.index(lambda each: (each.name, each.key) if each.key else None)
        self.changed = int(ground.clock.now() * 1e9)
        """When one came or went last, in ns."""

    def load(self) -> None:
        """Read everything from the store."""
        self._plans.load()
        self._all.load()

    def __iter__(self) -> Iterator[SystemRun]:
        """All of them, by pid."""
        return iter([self._all[number] for number in sorted(self._all)])

    def open(self) -> list[SystemRun]:
        """Those that have not ended."""
        return [each for group in self._open.values() for each in group.values()]

    @property
    def of_owner(self) -> Mapping[str, Mapping[int, SystemRun]]:
        """Those that have not ended, by the agent that owns them, and pid."""
        return self._open

    def find(self, number: int) -> SystemRun | None:
        return self._all.get(number)

    def of_part(self, number: int) -> tuple[SystemRun, str] | None:
        """The system, and the name of the process in it, of a run or program under way."""
        return self._of_part.get(number)

    def of_topic(self, name: str) -> list[SystemRun]:
        """Those that begin a pass for each record of a topic."""
        return list(self._of_topic.of(name).values())

    def of_key(self, name: str, key: str) -> SystemRun | None:
        """The one that was started with this key."""
        return next(iter(self._of_key.of((name, key)).values()), None)

    # -- changes, inside a transaction -----------------------------------------------------------

    def add(self, system: SystemRun) -> None:
        system.changed = int(self._clock.now() * 1e9)
        self._plans.put(system.id, system.plan)
        self._all.put(system.id, system)
        self._touch()

    def change(self, system: SystemRun, **fields: Any) -> None:
        """Set fields of it."""
        fields["changed"] = change_time(self._clock.now(), system.changed)
        self._all.change(system.id, **fields)

    def change_part(self, system: SystemRun, name: str, part: SystemPart) -> None:
        """One of its processes is in another state."""
        self.change(system, parts={**system.parts, name: part})

    def drop(self, system: SystemRun) -> None:
        self._all.drop(system.id)
        self._plans.drop(system.id)
        self._touch()

    def _touch(self) -> None:
        self.changed = change_time(self._clock.now(), self.changed)

    def _entered(self, number: int, system: SystemRun) -> None:
        for name, pid in system.running().items():
            self._of_part[pid] = (system, name)

    def _left(self, number: int, system: SystemRun) -> None:
        for pid in system.running().values():
            self._of_part.pop(pid, None)
