"""Events about the system itself."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = [
    "CallRefused",
    "ConfigChanged",
    "HealthChecked",
]


@dataclass(frozen=True, slots=True)
class ConfigChanged(Event):
    path: str


@dataclass(frozen=True, slots=True)
class HealthChecked(Event):
    ok: bool


@dataclass(frozen=True, slots=True)
class CallRefused(Event):
    """A system call of `pid` was refused; `/proc/PID/error` has the words. No pid: the call was
    that of somebody who is no process of this system."""

    pid: int | None
    path: str
    errno: str
    reason: str
    rule: str
