"""Events of the system itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.base.watchdog import LoopHold
from agentfs.store.event import Event

__all__ = [
    "ConfigChanged",
    "DocumentRefused",
    "HealthChecked",
    "KernelStarted",
    "LoopHeld",
]


@dataclass(frozen=True, slots=True)
class ConfigChanged(Event):
    whose: ClassVar[str] = ""

    path: str


@dataclass(frozen=True, slots=True)
class DocumentRefused(Event):
    """This release refuses a document that was in effect: its default is in effect now, and the old
    text beside it as `path`.refused."""

    whose: ClassVar[str] = ""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class HealthChecked(Event):
    """The maid found other faults than in the round before, or none any more (`ok`)."""

    whose: ClassVar[str] = ""

    ok: bool


@dataclass(frozen=True, slots=True)
class KernelStarted(Event):
    """A run of the daemon has taken up everything, and programs may work. `boot` names the run."""

    whose: ClassVar[str] = ""

    version: str
    boot: str


@dataclass(frozen=True, slots=True)
class LoopHeld(Event):
    """A request, or another step of the event loop (`kind`), held up everybody for so many seconds,
    at work for `busy` of them and else blocked; `work` says on what, and who asked. The longest of
    five seconds; `others` were more than 50 ms as well since the last such event."""

    whose: ClassVar[str] = ""

    kind: str
    work: str
    seconds: float
    busy: float
    others: int

    @classmethod
    def of(cls, hold: LoopHold) -> LoopHeld:
        """What the watchdog has seen."""
        seconds, busy = round(hold.seconds, 4), round(hold.busy, 4)
        return cls(hold.kind, hold.work, seconds, busy, hold.others)
