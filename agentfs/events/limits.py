"""Events about the limits of processes."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = ["LimitChanged", "TaskTimedOut"]


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
