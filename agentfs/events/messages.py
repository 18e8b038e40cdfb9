"""Events about messages. `agent` is whose mailbox, `file` the name in new/, cur/ or dead/.

An answer that is read from its ask alone arrives at `asks/NAME`, as the id of the question.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = [
    "MessageArrived",
    "MessageClaimed",
    "MessageDone",
    "MessageExpired",
    "MessageGivenUp",
    "MessageLooped",
    "MessageReturned",
]


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
    """Message `id` of `sender` to `agent` came after so many hops (see `ipc.loops`) that it is a
    dead letter, and not delivered."""

    agent: str
    id: str
    sender: str
    hops: int
