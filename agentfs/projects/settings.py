"""The settings of projects, of their seeds, and of groups of agents."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Count, Duration, Section

__all__ = ["ProjectSettings"]


class ProjectSettings(Section):
    """`max_projects` and `max_groups`: how many there may be; `max_members`: of one of them.
    `max_seeds`: of all projects together, those that have not ended. `retention`: how long a seed
    is kept that has ended."""

    NAME: ClassVar = "projects"

    max_projects: Count = 1_000
    max_groups: Count = 1_000
    max_members: Count = 1_000
    max_seeds: Count = 10_000
    retention: Duration = 7 * 86_400.0
