"""The settings of escalations."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Duration, Section

__all__ = ["EscalationSettings"]


class EscalationSettings(Section):
    """How long each agent that is told may take to answer before it goes to the next one up: a
    warning, an error; `last_timeout` is for the last (process 1, and the parent for info)."""

    NAME: ClassVar = "escalation"

    warning_timeout: Duration = 600.0
    error_timeout: Duration = 120.0
    last_timeout: Duration = 86_400.0
