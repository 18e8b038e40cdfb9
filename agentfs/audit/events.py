"""The events of the audit, and of refused calls."""

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
    """The operator had the kernel forget the records up to number `through`."""

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
    """One actor did this to files of /shared between `first` and `last` (RFC 3339). It is in the
    audit alone. `files` has {"path", "did": [what], "to"} for each; `to` is where the file was
    moved or linked. `more` has {"below", "did": {what: times}} for directories in which there was
    too much to name."""

    pid: int | None
    files: list[dict[str, object]]
    more: list[dict[str, object]]
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class CallRefused(Event):
    """A system call of `pid` was refused; `/proc/PID/error` has the words. Without a pid the caller
    was no process of this system."""

    pid: int | None
    path: str
    errno: str
    reason: str
    rule: str


@dataclass(frozen=True, slots=True)
class RefusalsDropped(Event):
    """`count` records of refusals, from number `first` on, were dropped to make room. This record
    of the audit stands for them; `signature` is by the key of the audit."""

    whose: ClassVar[str] = ""

    count: int
    first: int
    signature: str


@dataclass(frozen=True, slots=True)
class RefusalsRepeated(Event):
    """A refusal that `call_refused` told of happened `count` times more, between `first` and `last`
    (RFC 3339). Without a path these are refusals on many paths, of an actor that is refused too
    often to list each."""

    pid: int | None
    path: str
    errno: str
    reason: str
    rule: str
    count: int
    first: str
    last: str
