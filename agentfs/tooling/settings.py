"""The settings of tools."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Duration, Section

__all__ = ["ToolSettings"]


class ToolSettings(Section):
    """`call_timeout`: how long a call of a tool takes at most, and `start_timeout`: the start of an
    MCP server, unless /etc/tools.yaml says otherwise. `idle`: how long what checks arguments for an
    agent is kept that calls no tool."""

    NAME: ClassVar = "tools"

    call_timeout: Duration = 60.0
    start_timeout: Duration = 30.0
    idle: Duration = 300.0
