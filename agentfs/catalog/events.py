"""What is told of secrets: their names, and never more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = ["KeyRenewed", "SecretRemoved", "SecretSet"]


@dataclass(frozen=True, slots=True)
class SecretSet(Event):
    """The secret `name` has another value now; `new`: there was none."""

    whose: ClassVar[str] = ""

    name: str
    new: bool


@dataclass(frozen=True, slots=True)
class SecretRemoved(Event):
    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class KeyRenewed(Event):
    """`program`, which prints the key of a provider, has printed another one."""

    whose: ClassVar[str] = ""

    program: str
