"""What is told of schedules, entities and systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "EntityChanged",
    "EntityRegistered",
    "EntityRemoved",
    "EntityTypeChanged",
    "EntityTypeMade",
    "EntityTypeRemoved",
    "ScheduleChanged",
    "ScheduleMade",
    "ScheduleRemoved",
    "SystemChanged",
    "SystemPipeChanged",
    "SystemRemoved",
    "SystemStarted",
]


@dataclass(frozen=True, slots=True)
class ScheduleMade(Event):
    """`what` is `pipeline NAME` or `system NAME`; `next` is when it is due, wall clock, seconds."""

    agent: str
    schedule: int
    what: str
    next: float


@dataclass(frozen=True, slots=True)
class ScheduleChanged(Event):
    """It has started `run` (0: none), was paused, resumed or cancelled, or has ended. `next` is
    when it is due again; None: never."""

    agent: str
    schedule: int
    state: str
    run: int
    next: float | None


@dataclass(frozen=True, slots=True)
class ScheduleRemoved(Event):
    agent: str
    schedule: int


@dataclass(frozen=True, slots=True)
class EntityTypeMade(Event):
    agent: str
    entity_type: str


@dataclass(frozen=True, slots=True)
class EntityTypeChanged(Event):
    """It has another machine, another mode or another owner."""

    agent: str
    entity_type: str


@dataclass(frozen=True, slots=True)
class EntityTypeRemoved(Event):
    whose: ClassVar[str] = ""

    entity_type: str


@dataclass(frozen=True, slots=True)
class EntityRegistered(Event):
    agent: str
    entity_type: str
    entity: str
    state: str


@dataclass(frozen=True, slots=True)
class EntityChanged(Event):
    """`old` is its state before, `new` the one that it has or is on its way to. `run` is the
    transition's (0: none). `outcome`: `done`, `pending`, or `failed`, in `reason` why."""

    agent: str
    entity_type: str
    entity: str
    old: str
    new: str
    outcome: str
    run: int
    reason: str


@dataclass(frozen=True, slots=True)
class EntityRemoved(Event):
    whose: ClassVar[str] = ""

    entity_type: str
    entity: str


@dataclass(frozen=True, slots=True)
class SystemStarted(Event):
    """`system` is the pid of its lead, `name` that of its document."""

    agent: str
    system: int
    name: str


@dataclass(frozen=True, slots=True)
class SystemChanged(Event):
    """Its state, or that of `process` (empty: of none) is another now; `run` is the process's pid,
    0 if it has none."""

    agent: str
    system: int
    name: str
    state: str
    process: str
    run: int


@dataclass(frozen=True, slots=True)
class SystemPipeChanged(Event):
    """Somebody wrote what a pipe gives, or the process that it comes from has ended."""

    agent: str
    system: int
    pipe: str


@dataclass(frozen=True, slots=True)
class SystemRemoved(Event):
    agent: str
    system: int
