"""Events about the books: who has used how much of what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from agentfs.events.base import Event

__all__ = ["AccountClosed", "AccountOpened", "UseRecorded", "UsesSwept"]

_UNTOLD = {"untold": True}


@dataclass(frozen=True, slots=True)
class UseRecorded(Event):
    """Process `pid` of agent `agent` used a model (`kind` "llm") or a tool, named `used`. How much
    of it is the business of the agent, its user and the operator."""

    pid: int
    agent: str
    kind: str
    used: str
    accounts: tuple[tuple[str, str], ...] = field(metadata=_UNTOLD)


@dataclass(frozen=True, slots=True)
class AccountOpened(Event):
    """The first use of `key` in `view`: an agent, a user, a node, a tier."""

    whose: ClassVar[str] = ""

    view: str
    key: str


@dataclass(frozen=True, slots=True)
class AccountClosed(Event):
    """All records of an agent that is no more are swept: it counts in the totals only."""

    whose: ClassVar[str] = ""

    view: str
    key: str


@dataclass(frozen=True, slots=True)
class UsesSwept(Event):
    """So many records of uses were older than `accounting.retention`, and are gone."""

    whose: ClassVar[str] = ""

    count: int
    accounts: tuple[tuple[str, str], ...] = field(metadata=_UNTOLD)
