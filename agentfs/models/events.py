"""What is told of the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = ["GatewayEnded", "GatewayStarted"]


@dataclass(frozen=True, slots=True)
class GatewayStarted(Event):
    """It is a process of the machine, `ospid`."""

    whose: ClassVar[str] = ""

    ospid: int


@dataclass(frozen=True, slots=True)
class GatewayEnded(Event):
    """It was not told to: `reason` says how it ended. Its calls are settled."""

    whose: ClassVar[str] = ""

    ospid: int
    reason: str
