"""What is told of pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = ["PoolChanged", "PoolCreated", "PoolRefused", "PoolRemoved"]


@dataclass(frozen=True, slots=True)
class PoolCreated(Event):
    """There is a pool of this name now, perhaps one that the kernel made for code."""

    whose: ClassVar[str] = "owner"

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class PoolChanged(Event):
    """Its mode, its owner or its capabilities are others."""

    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class PoolRemoved(Event):
    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class PoolRefused(Event):
    """A step of a run was not given to a pool, which its run may not use."""

    whose: ClassVar[str] = "starter"

    name: str
    starter: str
    run: int
    node: str
    reason: str
