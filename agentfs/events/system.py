"""Events about the system itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.events.base import Event

__all__ = [
    "AuditCut",
    "AuditFull",
    "AuditHalfFull",
    "CallRefused",
    "ConfigChanged",
    "DocumentRefused",
    "FilesChanged",
    "HealthChecked",
    "LoopHeld",
    "RefusalsDropped",
    "RefusalsRepeated",
]


@dataclass(frozen=True, slots=True)
class AuditCut(Event):
    """The operator had the records up to number `through` forgotten."""

    whose: ClassVar[str] = ""

    through: int


@dataclass(frozen=True, slots=True)
class AuditFull(Event):
    """The audit keeps as many records as it may, and `audit.when_full` is `stop`: nobody but the
    operator changes anything until there is room."""

    whose: ClassVar[str] = ""

    records: int
    most: int


@dataclass(frozen=True, slots=True)
class AuditHalfFull(Event):
    """The audit keeps half of the `most` records that it may keep."""

    whose: ClassVar[str] = ""

    records: int
    most: int


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
class FilesChanged(Event):
    """What one actor did to files of /shared between `first` and `last` (RFC 3339), in the audit
    alone. `files`: {"path", "did": [what], "to"} each, `to` being where it was moved or linked;
    `more`: {"below", "did": {what: times}}, of directories, where there was too much to name."""

    pid: int | None
    files: list[dict[str, object]]
    more: list[dict[str, object]]
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class HealthChecked(Event):
    """The maid found other faults than in the round before, or none any more (`ok`)."""

    whose: ClassVar[str] = ""

    ok: bool


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


@dataclass(frozen=True, slots=True)
class CallRefused(Event):
    """A system call of `pid` was refused; `/proc/PID/error` has the words. No pid: the call was
    that of somebody who is no process of this system."""

    pid: int | None
    path: str
    errno: str
    reason: str
    rule: str


@dataclass(frozen=True, slots=True)
class RefusalsDropped(Event):
    """In the audit alone: what stands for `count` records of refusals, from number `first` on, that
    were dropped to make room. `signature`: by the key of the audit."""

    whose: ClassVar[str] = ""

    count: int
    first: int
    signature: str


@dataclass(frozen=True, slots=True)
class RefusalsRepeated(Event):
    """What `call_refused` told of happened `count` times more, between `first` and `last` (RFC
    3339). No path: refusals on many paths, of an actor who is refused too much to list each."""

    pid: int | None
    path: str
    errno: str
    reason: str
    rule: str
    count: int
    first: str
    last: str
