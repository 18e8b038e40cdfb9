"""Events about budgets and limits. `pid` is a process, `agent` whose it is."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = [
    "BudgetChanged",
    "ResourceExceeded",
    "ResourceRefused",
    "ResourceStopped",
    "ResourceWarning",
    "ShareRefused",
]


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
class ResourceWarning(Event):  # noqa: A001  # its name on the wire is resource_warning
    """`used` of `limit` is 80 % or more. Once; again when it has been below meanwhile."""

    pid: int
    agent: str
    resource: str
    used: float
    limit: float


@dataclass(frozen=True, slots=True)
class ResourceExceeded(Event):
    """More was asked for, or used, than `limit` allows. Once; again when it has been below 80 %
    of it meanwhile."""

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
