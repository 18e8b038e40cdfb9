"""Events about capabilities."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = ["CapabilityDropped"]


@dataclass(frozen=True, slots=True)
class CapabilityDropped(Event):
    """Process `pid` has given up `capability`, a name or a glob of tools, for good."""

    pid: int
    agent: str
    capability: str
