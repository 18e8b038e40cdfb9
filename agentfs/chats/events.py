"""The events of conversations that are kept: never the words that were said in them."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.store.event import Event

__all__ = ["ChatChanged", "ChatDeleted", "ChatMade", "ChatTurned"]


@dataclass(frozen=True, slots=True)
class ChatMade(Event):
    agent: str
    chat: str


@dataclass(frozen=True, slots=True)
class ChatChanged(Event):
    """Another model is asked from now on, it is told something else before all, or what was said
    is forgotten."""

    agent: str
    chat: str


@dataclass(frozen=True, slots=True)
class ChatTurned(Event):
    """A prompt was answered, of which there are `turns` now."""

    agent: str
    chat: str
    model: str
    turns: int


@dataclass(frozen=True, slots=True)
class ChatDeleted(Event):
    agent: str
    chat: str
