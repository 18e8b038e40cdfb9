"""What is told of turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = ["TurnBegun", "TurnDaysSwept", "TurnEnded"]


@dataclass(frozen=True, slots=True)
class TurnBegun(Event):
    """Process `pid` works on so many `messages`; 0: on something else."""

    pid: int
    agent: str
    turn: int
    messages: int


@dataclass(frozen=True, slots=True)
class TurnEnded(Event):
    """It took so many `seconds`. Not `ok`: `/proc/PID/turns` says why."""

    pid: int
    agent: str
    turn: int
    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class TurnDaysSwept(Event):
    """So many rows of days that were over for longer than `turns.retention` are gone."""

    whose: ClassVar[str] = ""

    count: int
