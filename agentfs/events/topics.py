"""Events about topics. What is published is none: it would fill the event log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.events.base import Event

__all__ = ["TopicChanged", "TopicCreated", "TopicRemoved"]


@dataclass(frozen=True, slots=True)
class TopicCreated(Event):
    whose: ClassVar[str] = "owner"

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class TopicChanged(Event):
    """Its mode or its owner is another."""

    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class TopicRemoved(Event):
    whose: ClassVar[str] = ""

    name: str
