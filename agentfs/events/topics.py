"""Events about topics. What is published is none: it would fill the event log."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.events.base import Event

__all__ = ["TopicChanged", "TopicCreated", "TopicRemoved"]


@dataclass(frozen=True, slots=True)
class TopicCreated(Event):
    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class TopicChanged(Event):
    """Its mode or its owner is another."""

    name: str


@dataclass(frozen=True, slots=True)
class TopicRemoved(Event):
    name: str
