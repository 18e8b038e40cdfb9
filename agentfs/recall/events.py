"""The events of memory: they count, and never quote."""

from __future__ import annotations

from dataclasses import dataclass

from agentfs.store.event import Event

__all__ = ["MemoryExpired", "MemoryRecalled", "MemoryStored"]


@dataclass(frozen=True, slots=True)
class MemoryStored(Event):
    """`note` was written, of so many bytes. `first`: the directory of notes was made for it."""

    agent: str
    note: str
    bytes: int
    first: bool


@dataclass(frozen=True, slots=True)
class MemoryRecalled(Event):
    """A query was answered with so many places."""

    agent: str
    found: int


@dataclass(frozen=True, slots=True)
class MemoryExpired(Event):
    """`note` said that it was good until now, and is removed."""

    agent: str
    note: str
