"""What is told of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "NodeChanged",
    "RunEnded",
    "RunRemoved",
    "RunSignalled",
    "RunStarted",
    "RunStateChanged",
]


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """`pid` is its process, `run` the same number. `ref` is TYPE/ID, or empty."""

    whose: ClassVar[str] = "starter"

    pid: int
    run: int
    pipeline: str
    starter: str
    ref: str


@dataclass(frozen=True, slots=True)
class RunStateChanged(Event):
    """It was queued and runs, only waits are left in it, somebody paused it, or it goes on."""

    whose: ClassVar[str] = ""

    run: int
    pipeline: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """Its final state. It comes once for each run."""

    whose: ClassVar[str] = ""

    run: int
    pipeline: str
    old: str
    state: str
    ref: str


@dataclass(frozen=True, slots=True)
class NodeChanged(Event):
    """`node` is its path in the run, `old` and `new` are its states."""

    whose: ClassVar[str] = ""

    run: int
    node: str
    old: str
    new: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunSignalled(Event):
    """It is kept until somebody waits for `key`, if nobody did."""

    whose: ClassVar[str] = ""

    run: int
    key: str
    kept: bool


@dataclass(frozen=True, slots=True)
class RunRemoved(Event):
    """It has ended long ago, and is forgotten."""

    whose: ClassVar[str] = ""

    run: int
    pipeline: str
    state: str
    ref: str
