"""Events about the groups of /sys/cgroup. A `path` is that below it; "" is no group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.events.base import Event

__all__ = ["GroupCreated", "GroupEntered", "GroupLimitHit", "GroupLimitSet", "GroupRemoved"]


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
