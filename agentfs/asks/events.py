"""The events of questions and escalations."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.store.event import Event

__all__ = [
    "AskAnswered",
    "AskCancelled",
    "AskDropped",
    "AskExpired",
    "AskFailed",
    "AskOpened",
    "Escalated",
]


@dataclass(frozen=True, slots=True)
class AskOpened(Event):
    """`to` is an agent, or `queues/NAME`; `deadline` a time as the tree writes it."""

    agent: str
    id: str
    to: str
    deadline: str


@dataclass(frozen=True, slots=True)
class AskAnswered(Event):
    """By message `answer` of `sender`."""

    agent: str
    id: str
    answer: str
    sender: str


@dataclass(frozen=True, slots=True)
class AskExpired(Event):
    agent: str
    id: str


@dataclass(frozen=True, slots=True)
class AskFailed(Event):
    """No answer can come any more."""

    agent: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class AskCancelled(Event):
    agent: str
    id: str


@dataclass(frozen=True, slots=True)
class AskDropped(Event):
    """It is not kept any more."""

    agent: str
    id: str


@dataclass(frozen=True, slots=True)
class Escalated(Event):
    """Escalation `id` of process `pid` of `agent` was put before `to`."""

    pid: int
    agent: str
    severity: str
    to: str
    id: str
