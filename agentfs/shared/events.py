"""What is told of queues, topics, artifacts and locks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "ArtifactChanged",
    "ArtifactEvent",
    "ArtifactPassed",
    "ArtifactRemoved",
    "ArtifactRenamed",
    "ArtifactStored",
    "LockChanged",
    "LockReleased",
    "LockTaken",
    "QueueChanged",
    "QueueCreated",
    "QueuePurged",
    "QueueRemoved",
    "TopicChanged",
    "TopicCreated",
    "TopicRemoved",
]


_UNTOLD = {"untold": True}


@dataclass(frozen=True, slots=True)
class ArtifactEvent(Event):
    """Something happened to `owner`'s artifact. `key` is empty unless the visibility is global;
    `space` and `name` say what it is all the same, and are no part of the log."""

    whose: ClassVar[str] = "owner"

    owner: str
    visibility: str
    key: str
    space: tuple[str, str] = field(metadata=_UNTOLD)
    name: str = field(metadata=_UNTOLD)


@dataclass(frozen=True, slots=True)
class ArtifactStored(ArtifactEvent):
    """It is new, or its content was replaced."""


@dataclass(frozen=True, slots=True)
class ArtifactRemoved(ArtifactEvent):
    pass


@dataclass(frozen=True, slots=True)
class ArtifactRenamed(ArtifactEvent):
    """`name` and `key` are the new ones."""

    old: str = field(metadata=_UNTOLD)


@dataclass(frozen=True, slots=True)
class ArtifactChanged(ArtifactEvent):
    """It has another content type."""


@dataclass(frozen=True, slots=True)
class ArtifactPassed(ArtifactEvent):
    """It is `owner`'s now, who inherited it from `before`; `old` and `old_space` say where it
    was."""

    before: str
    old: str = field(metadata=_UNTOLD)
    old_space: tuple[str, str] = field(metadata=_UNTOLD)


@dataclass(frozen=True, slots=True)
class QueueCreated(Event):
    whose: ClassVar[str] = "owner"

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class QueueChanged(Event):
    """Its mode, its owner or its limit is another."""

    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class QueuePurged(Event):
    """`by` dropped so many messages that waited."""

    whose: ClassVar[str] = "by"

    name: str
    by: str
    dropped: int


@dataclass(frozen=True, slots=True)
class QueueRemoved(Event):
    """`dropped`: the messages that went with it, in whatever folder."""

    whose: ClassVar[str] = "by"

    name: str
    by: str
    dropped: int


@dataclass(frozen=True, slots=True)
class TopicCreated(Event):
    whose: ClassVar[str] = "owner"

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class TopicChanged(Event):
    """Its mode or its owner is another."""

    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class TopicRemoved(Event):
    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class LockTaken(Event):
    """Process `pid`, called `holder`, has the lock now."""

    whose: ClassVar[str] = "holder"

    name: str
    holder: str
    pid: int


@dataclass(frozen=True, slots=True)
class LockChanged(Event):
    """Its holder wrote something into it."""

    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class LockReleased(Event):
    """It is free. `reason`: somebody released it, or its holder has ended."""

    whose: ClassVar[str] = "holder"

    name: str
    holder: str
    pid: int
    reason: str
