"""What is told of tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentfs.store.event import Event

__all__ = [
    "ToolAdded",
    "ToolChanged",
    "ToolRemoved",
    "ToolServerEnded",
    "ToolServerStarted",
]


@dataclass(frozen=True, slots=True)
class ToolAdded(Event):
    """/etc/tools.yaml, or an MCP server, has a tool `name` that was not there."""

    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class ToolChanged(Event):
    """What there is to know of tool `name` is not what it was."""

    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class ToolRemoved(Event):
    whose: ClassVar[str] = ""

    name: str


@dataclass(frozen=True, slots=True)
class ToolServerStarted(Event):
    """The MCP server `server` runs beside the program of process `pid`, with so many `tools`."""

    pid: int
    agent: str
    server: str
    tools: int


@dataclass(frozen=True, slots=True)
class ToolServerEnded(Event):
    """It ended, or did not start; `reason` says why."""

    pid: int
    agent: str
    server: str
    reason: str
