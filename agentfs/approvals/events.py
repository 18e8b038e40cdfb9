"""The events of requests for approval."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.store.event import Event

__all__ = [
    "ApprovalAsked",
    "ApprovalDecided",
    "ApprovalDropped",
]


@dataclass(frozen=True, slots=True)
class ApprovalAsked(Event):
    """A call of `agent` waits until `by` agrees, or until `deadline`. `sha256` is that of the
    content. A second event with the same `id` says that it asks for something else instead."""

    id: str
    agent: str
    action: str
    by: str
    deadline: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ApprovalDecided(Event):
    """The request is `state` now: approved, rejected, expired, withdrawn or used. `who` has
    decided."""

    id: str
    agent: str
    state: str
    who: str


@dataclass(frozen=True, slots=True)
class ApprovalDropped(Event):
    """The request is not kept any more."""

    id: str
    agent: str
