"""Events about what is kept of messages: dead letters, records of what was sent, broadcasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.events.base import Event

__all__ = [
    "BroadcastChanged",
    "BroadcastSent",
    "DeadLetterDropped",
    "MessageRevived",
    "SentForgotten",
]


@dataclass(frozen=True, slots=True)
class MessageRevived(Event):
    """A dead letter was put back: it moved from dead/`renamed` to new/`file`."""

    agent: str
    id: str
    file: str
    renamed: str
    attempt: int


@dataclass(frozen=True, slots=True)
class DeadLetterDropped(Event):
    """dead/`file` was dropped by the kernel: too many, or too old."""

    agent: str
    id: str
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class SentForgotten(Event):
    """What became of these messages of agent `sender` is not kept any more."""

    whose: ClassVar[str] = "sender"

    sender: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BroadcastSent(Event):
    """One message went to `recipients` agents; each copy has an event of its own."""

    whose: ClassVar[str] = "sender"

    sender: str
    id: str
    recipients: int


@dataclass(frozen=True, slots=True)
class BroadcastChanged(Event):
    """One copy less waits, or one more: a dead letter that was put back."""

    whose: ClassVar[str] = "sender"

    sender: str
    id: str
    waiting: int
