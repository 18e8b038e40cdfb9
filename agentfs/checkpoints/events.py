"""What is told of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = ["CheckpointCreated", "CheckpointRemoved", "SystemRolledBack"]


@dataclass(frozen=True, slots=True)
class CheckpointCreated(Event):
    """`pause`: the seconds for which everybody stood still."""

    whose: ClassVar[str] = ""

    name: str
    files: int
    pause: float


@dataclass(frozen=True, slots=True)
class CheckpointRemoved(Event):
    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class SystemRolledBack(Event):
    """The system is again what it was at checkpoint `name`. Events up to number `last` have
    happened and were undone."""

    whose: ClassVar[str] = ""

    name: str
    last: int
