"""What is told of groups of agents, of projects, and of their seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "AgentGroupChanged",
    "AgentGroupCreated",
    "AgentGroupMemberCompleted",
    "AgentGroupRemoved",
    "EvaluationComplete",
    "EvolutionMaxReached",
    "EvolutionStarted",
    "PhaseCompleted",
    "PhaseStarted",
    "ProjectActivated",
    "ProjectChanged",
    "ProjectCreated",
    "ProjectLeft",
    "ProjectRemoved",
    "SeedChanged",
    "SeedCreated",
    "SeedRemoved",
]


@dataclass(frozen=True, slots=True)
class AgentGroupCreated(Event):
    """Agent `agent` has made group `name`."""

    name: str
    agent: str


@dataclass(frozen=True, slots=True)
class AgentGroupChanged(Event):
    """Another mode or owner, other members, or one of them has begun."""

    whose: ClassVar[str] = ""  # it concerns no agent

    name: str


@dataclass(frozen=True, slots=True)
class AgentGroupMemberCompleted(Event):
    """Member `agent` has done its part in group `name`: `state` is completed or failed."""

    name: str
    agent: str
    state: str


@dataclass(frozen=True, slots=True)
class AgentGroupRemoved(Event):
    """`agent` has removed group `name`."""

    name: str
    agent: str


@dataclass(frozen=True, slots=True)
class ProjectCreated(Event):
    """Agent `agent` has made project `name`."""

    name: str
    agent: str


@dataclass(frozen=True, slots=True)
class ProjectChanged(Event):
    """Another mode, owner or specification, or other members."""

    whose: ClassVar[str] = ""  # it concerns no agent

    name: str


@dataclass(frozen=True, slots=True)
class ProjectActivated(Event):
    """Agent `agent` works on project `name` from now on."""

    name: str
    agent: str


@dataclass(frozen=True, slots=True)
class ProjectLeft(Event):
    """Agent `agent` works on project `name` no more."""

    name: str
    agent: str


@dataclass(frozen=True, slots=True)
class ProjectRemoved(Event):
    """`agent` has removed project `name`."""

    name: str
    agent: str


@dataclass(frozen=True, slots=True)
class SeedCreated(Event):
    """Agent `agent` has planted a seed, or seed `parent` has evolved into it."""

    agent: str
    project: str
    seed: int
    parent: int


@dataclass(frozen=True, slots=True)
class SeedChanged(Event):
    """What one of its files says is different: it is in this state and phase now."""

    agent: str
    project: str
    seed: int
    state: str
    phase: str


@dataclass(frozen=True, slots=True)
class SeedRemoved(Event):
    """It ended long ago, or its project was removed."""

    agent: str
    project: str
    seed: int


@dataclass(frozen=True, slots=True)
class PhaseStarted(Event):
    """`attempt` is 1, and more where the phase was begun before. `run` does it, or `task`; both are
    0 where nothing is to be done for it, or somebody has to say something."""

    agent: str
    project: str
    seed: int
    phase: str
    attempt: int
    run: int
    task: int


@dataclass(frozen=True, slots=True)
class PhaseCompleted(Event):
    agent: str
    project: str
    seed: int
    phase: str
    attempt: int


@dataclass(frozen=True, slots=True)
class EvaluationComplete(Event):
    """`score` is from 0 to 1; `passed`: it was enough."""

    agent: str
    project: str
    seed: int
    score: float
    passed: bool


@dataclass(frozen=True, slots=True)
class EvolutionStarted(Event):
    """The seed did not pass; its child will be of this `generation`, 1 for the first."""

    agent: str
    project: str
    seed: int
    generation: int


@dataclass(frozen=True, slots=True)
class EvolutionMaxReached(Event):
    """The seed did not pass, and its line has evolved `evolutions` times, as often as it may."""

    agent: str
    project: str
    seed: int
    evolutions: int
