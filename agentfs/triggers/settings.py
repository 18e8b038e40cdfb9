"""The settings of what starts runs by itself."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Count, Duration, Section

__all__ = ["TriggerSettings"]


class TriggerSettings(Section):
    """`max_schedules` there are that have not ended, `max_systems` are at work,
    `max_entity_types` and `max_entities` there are. `retry`:
    when a start is tried again that had no room. `retention`: schedules and systems that ended are
    kept so long. `max_cascade`: transitions whose processes make transitions, one below the
    other."""

    NAME: ClassVar = "triggers"

    max_schedules: Count = 10_000
    max_entity_types: Count = 1_000
    max_entities: Count = 100_000
    max_systems: Count = 1_000
    max_cascade: Count = 10
    retry: Duration = 60.0
    retention: Duration = 7 * 86_400.0
