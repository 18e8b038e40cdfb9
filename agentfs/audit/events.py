"""What is told of the audit and of refused calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "AuditCut",
    "AuditFull",
    "AuditHalfFull",
    "CallRefused",
    "FilesChanged",
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
