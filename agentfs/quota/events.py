"""What is told of budgets, limits, groups and accounts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "AccountClosed",
    "AccountOpened",
    "BudgetChanged",
    "CallBegun",
    "CallCancelled",
    "CallEnded",
    "GroupCreated",
    "GroupEntered",
    "GroupLimitHit",
    "GroupLimitSet",
    "GroupRemoved",
    "LimitChanged",
    "ResourceRefused",
    "ResourceStopped",
    "ResourceWarning",
    "ShareRefused",
    "TaskTimedOut",
    "UseRecorded",
    "UsesSwept",
]


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
class CallBegun(Event):
    """Process `pid` has one more call of a model or a tool open."""

    pid: int
    agent: str
    call: int


@dataclass(frozen=True, slots=True)
class CallEnded(Event):
    """It is open no more. `error`: why it failed, in the words of who answers for the model, which
    may quote what was asked; empty if it did not."""

    pid: int
    agent: str
    call: int
    error: str = field(default="", metadata=_UNTOLD)


@dataclass(frozen=True, slots=True)
class CallCancelled(Event):
    """A call that the gateway makes is to be ended."""

    pid: int
    agent: str
    call: int


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


@dataclass(frozen=True, slots=True)
class GroupCreated(Event):
    whose: ClassVar[str] = ""

    path: str


@dataclass(frozen=True, slots=True)
class GroupRemoved(Event):
    whose: ClassVar[str] = ""

    path: str


@dataclass(frozen=True, slots=True)
class GroupLimitSet(Event):
    """`limit` is `tokens` or `pids`; `value` None is none."""

    whose: ClassVar[str] = ""

    path: str
    limit: str
    value: int | None


@dataclass(frozen=True, slots=True)
class GroupLimitHit(Event):
    """Something was refused to agent `agent` because the group at `path` is full."""

    path: str
    limit: str
    agent: str


@dataclass(frozen=True, slots=True)
class GroupEntered(Event):
    """Process `pid` was moved from group `old` to group `new`."""

    pid: int
    agent: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class LimitChanged(Event):
    """The limit called `limit` of process `pid` itself is `value` now; None is none."""

    pid: int
    agent: str
    limit: str
    value: float | None


@dataclass(frozen=True, slots=True)
class TaskTimedOut(Event):
    """Process `pid` had message `id` of `mailbox` for `seconds`, its limit, and did not
    acknowledge it: it is returned, or given up."""

    pid: int
    agent: str
    mailbox: str
    id: str
    seconds: int


@dataclass(frozen=True, slots=True)
class BudgetChanged(Event):
    """The entry of `pid` at `tier` changed, in tokens; `gone`: it has none any more."""

    pid: int
    tier: str
    allocated: int
    consumed: int
    reserved: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class ResourceWarning(Event):
    """`used` of `limit` is 80 % or more. Once; again when it has been below meanwhile."""

    pid: int
    agent: str
    resource: str
    used: float
    limit: float


@dataclass(frozen=True, slots=True)
class ResourceRefused(Event):
    """A use was refused, or skipped where the process wants that: each time."""

    pid: int
    agent: str
    resource: str


@dataclass(frozen=True, slots=True)
class ResourceStopped(Event):
    """It is being ended because a use was refused: `on_limit: stop`."""

    pid: int
    agent: str
    resource: str


@dataclass(frozen=True, slots=True)
class ShareRefused(Event):
    """It holds `held` of `pot` and may have no more: `left` of it are for others. No pid: a user of
    the machine. At most once a minute for each of them and each pot."""

    pid: int | None
    agent: str
    pot: str
    held: int
    left: int
