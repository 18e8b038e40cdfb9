"""Events about how a process gets on: ready for its children, stalled, ended with work left."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = ["AgentResumed", "AgentStalled", "ConsumerEnded", "HeartbeatMissed", "ProcessReady"]


@dataclass(frozen=True, slots=True)
class ProcessReady(Event):
    """Its children may be started again; `how` says since when: recv, claim, ready, timeout."""

    pid: int
    agent: str
    how: str


@dataclass(frozen=True, slots=True)
class AgentStalled(Event):
    """`waiting` messages wait for it, and it has taken and finished none for `seconds`."""

    pid: int
    agent: str
    waiting: int
    seconds: int


@dataclass(frozen=True, slots=True)
class AgentResumed(Event):
    """It takes its mail again."""

    pid: int
    agent: str


@dataclass(frozen=True, slots=True)
class ConsumerEnded(Event):
    """The program of process `pid` ended, for good or not, while `waiting` messages wait for its
    agent, those included that it had claimed and not finished."""

    pid: int
    agent: str
    code: int
    waiting: int


@dataclass(frozen=True, slots=True)
class HeartbeatMissed(Event):
    """Process `pid` is ended: it missed its heartbeats and was silent for so many `seconds`."""

    pid: int
    agent: str
    seconds: float
