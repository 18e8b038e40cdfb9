"""The settings of reminders."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Duration, Section

__all__ = ["ReminderSettings"]


class ReminderSettings(Section):
    """Of one agent: `burst` can be set at once, and then `per_minute`; `max_pending` wait to fire;
    `max_text` in bytes. `retry`: when one is tried again that found the inbox full."""

    NAME: ClassVar = "reminders"

    burst: Count = 20
    per_minute: Count = 10
    max_pending: Count = 100
    max_text: Annotated[int, Field(ge=64, le=32 * 1024)] = 4096
    retry: Duration = 60.0
