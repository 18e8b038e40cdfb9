"""The events of messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "BroadcastChanged",
    "BroadcastSent",
    "DeadLetterDropped",
    "MessageArrived",
    "MessageClaimed",
    "MessageDone",
    "MessageExpired",
    "MessageGivenUp",
    "MessageLooped",
    "MessageReturned",
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
    """The records of these messages in `sent` of agent `sender` are not kept any more."""

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


@dataclass(frozen=True, slots=True)
class MessageArrived(Event):
    agent: str
    id: str
    sender: str
    file: str


@dataclass(frozen=True, slots=True)
class MessageClaimed(Event):
    """It moved from new/`file` to cur/`renamed`."""

    agent: str
    id: str
    file: str
    renamed: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class MessageReturned(Event):
    """Nobody acknowledged it: it moved from cur/`renamed` back to new/`file`."""

    agent: str
    id: str
    file: str
    renamed: str
    attempt: int


@dataclass(frozen=True, slots=True)
class MessageDone(Event):
    """It was acknowledged and is gone from `folder`/`file`."""

    agent: str
    id: str
    folder: str
    file: str


@dataclass(frozen=True, slots=True)
class MessageExpired(Event):
    agent: str
    id: str
    folder: str
    file: str


@dataclass(frozen=True, slots=True)
class MessageGivenUp(Event):
    """It is a dead letter now."""

    agent: str
    id: str
    folder: str
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class MessageLooped(Event):
    """Message `id` of `sender` to `agent` came after so many hops (see `loops`) that it is a
    dead letter, and not delivered."""

    agent: str
    id: str
    sender: str
    hops: int
