"""What is told of processes and agents."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.store.event import Event

__all__ = [
    "AgentChanged",
    "AgentDefined",
    "AgentFailed",
    "AgentRefused",
    "AgentRemoved",
    "AgentResumed",
    "AgentStalled",
    "CapabilityDropped",
    "ChildrenChanged",
    "ConsumerEnded",
    "GroupRefused",
    "HeartbeatMissed",
    "ProcessChanged",
    "ProcessExited",
    "ProcessReady",
    "ProcessReaped",
    "ProcessReparented",
    "ProcessRestarted",
    "ProcessSpawned",
    "ResourceExceeded",
    "ShownStateChanged",
    "SignalSent",
    "StateChanged",
    "WhyChanged",
]


@dataclass(frozen=True, slots=True)
class CapabilityDropped(Event):
    """Process `pid` has given up `capability`, a name or a glob of tools, for good."""

    pid: int
    agent: str
    capability: str


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


@dataclass(frozen=True, slots=True)
class ProcessSpawned(Event):
    pid: int
    agent: str
    ppid: int
    role: str
    tier: str


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    pid: int
    agent: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ProcessChanged(Event):
    """Something else that `status` shows changed: its program, its restarts, its heartbeat."""

    pid: int
    agent: str


@dataclass(frozen=True, slots=True)
class WhyChanged(Event):
    """What it waits for is something else, as `why` says: a hint, which is in no log."""

    pid: int
    agent: str


@dataclass(frozen=True, slots=True)
class ShownStateChanged(Event):
    """The word for its state is another though its state is not, as `why` has it: a hint."""

    pid: int
    agent: str


@dataclass(frozen=True, slots=True)
class ChildrenChanged(Event):
    """The set of children of `pid` changed by `child`, added or gone."""

    pid: int
    child: int
    added: bool


@dataclass(frozen=True, slots=True)
class ProcessExited(Event):
    """It ended for good; `code` is the exit code, or 128 + signal."""

    pid: int
    agent: str
    code: int


@dataclass(frozen=True, slots=True)
class ProcessRestarted(Event):
    pid: int
    agent: str
    restarts: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProcessReparented(Event):
    pid: int
    agent: str
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class ProcessReaped(Event):
    pid: int
    agent: str
    ppid: int


@dataclass(frozen=True, slots=True)
class SignalSent(Event):
    """A signal or notice for process `pid`; `text` is the line its `signals` stream shows."""

    pid: int
    agent: str
    text: str


@dataclass(frozen=True, slots=True)
class AgentDefined(Event):
    agent: str


@dataclass(frozen=True, slots=True)
class AgentChanged(Event):
    """Its definition, or the process that is at work for it, changed."""

    agent: str


@dataclass(frozen=True, slots=True)
class AgentFailed(Event):
    """Its program has failed: it ended with another code than 0, by a signal, by a limit, or for
    good after too many restarts. `cause` says which, in words. Once for each such end, whether or
    not it is started again; no end that somebody has asked for is one, nor one with the daemon."""

    pid: int
    agent: str
    cause: str


@dataclass(frozen=True, slots=True)
class AgentRefused(Event):
    """The store has it, and it is not started: `reason` says why."""

    agent: str
    reason: str


@dataclass(frozen=True, slots=True)
class GroupRefused(Event):
    """A program of `agent` is in the control group of agent `group`, and is not taken for it."""

    pid: int
    agent: str
    group: str


@dataclass(frozen=True, slots=True)
class AgentRemoved(Event):
    agent: str


@dataclass(frozen=True, slots=True)
class ResourceExceeded(Event):
    """More was asked for, or used, than `limit` allows. Once; again when it has been below 80 %
    of it meanwhile."""

    pid: int
    agent: str
    resource: str
    used: float
    limit: float
