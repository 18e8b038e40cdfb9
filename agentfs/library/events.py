"""What is told of the documents in /etc/pipelines and its like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = ["ManifestChanged", "ManifestRemoved"]


@dataclass(frozen=True, slots=True)
class ManifestChanged(Event):
    """A document has a new text, or is there for the first time. `kind` is its folder's name."""

    whose: ClassVar[str] = ""  # it concerns no agent

    kind: str
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class ManifestRemoved(Event):
    """A document was removed, with its versions."""

    whose: ClassVar[str] = ""  # it concerns no agent

    kind: str
    name: str
