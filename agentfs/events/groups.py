"""Events about the groups of /sys/cgroup. A `path` is that below it; "" is no group."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = ["GroupCreated", "GroupEntered", "GroupLimitHit", "GroupLimitSet", "GroupRemoved"]


@dataclass(frozen=True, slots=True)
class GroupCreated(Event):
    path: str


@dataclass(frozen=True, slots=True)
class GroupRemoved(Event):
    path: str


@dataclass(frozen=True, slots=True)
class GroupLimitSet(Event):
    """`limit` is `tokens` or `pids`; `value` None is none."""

    path: str
    limit: str
    value: int | None


@dataclass(frozen=True, slots=True)
class GroupLimitHit(Event):
    """Something was refused to agent `name` because the group at `path` is full."""

    path: str
    limit: str
    name: str


@dataclass(frozen=True, slots=True)
class GroupEntered(Event):
    """Process `pid` was moved from group `old` to group `new`."""

    pid: int
    name: str
    old: str
    new: str
