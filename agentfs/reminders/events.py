"""What is told of reminders."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.store.event import Event

__all__ = [
    "ReminderCancelled",
    "ReminderDelayed",
    "ReminderFired",
    "ReminderRescheduled",
    "ReminderSet",
    "ReminderTallyChanged",
]


@dataclass(frozen=True, slots=True)
class ReminderSet(Event):
    """`next` is when it is due, wall clock, seconds."""

    agent: str
    id: str
    next: float


@dataclass(frozen=True, slots=True)
class ReminderFired(Event):
    """It was delivered, as message `message`. `next` is when it is due again; None: it is gone."""

    agent: str
    id: str
    message: str
    next: float | None


@dataclass(frozen=True, slots=True)
class ReminderDelayed(Event):
    """It is due and could not be delivered; `next` is when it is tried again."""

    agent: str
    id: str
    reason: str
    next: float


@dataclass(frozen=True, slots=True)
class ReminderRescheduled(Event):
    """The wall clock was set back, and it would have waited for a time that was never: `next` is
    when it is due now."""

    agent: str
    id: str
    next: float


@dataclass(frozen=True, slots=True)
class ReminderCancelled(Event):
    agent: str
    id: str


@dataclass(frozen=True, slots=True)
class ReminderTallyChanged(Event):
    """A minute went out of the 24 hours that the agent's figures tell of."""

    agent: str
