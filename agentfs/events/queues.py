"""Events about queues. What happens to their messages is told by the events about messages, with
`queues/NAME` for the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.events.base import Event

__all__ = ["QueueChanged", "QueueCreated", "QueuePurged", "QueueRemoved"]


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
