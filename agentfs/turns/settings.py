"""The settings of turns."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Count, Duration, Section

__all__ = ["TurnSettings"]


class TurnSettings(Section):
    """`retention`: how long the figures of a day are kept; whole days go, in UTC. `kept`: the
    newest turns of each agent that `/proc/PID/turns` shows."""

    NAME: ClassVar = "turns"

    retention: Duration = 90 * 86_400.0
    kept: Count = 100
