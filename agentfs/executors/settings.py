"""The settings of pools and workers."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Count, Duration, Section

__all__ = ["PoolSettings"]


class PoolSettings(Section):
    """`max_pools`: how many there may be that were made with mkdir. `workers`: so many programs at
    most do the functions of one pipeline for one starter; each of them that had nothing to do for
    `idle` ends. `steps` is how many steps one of them has at a time."""

    NAME: ClassVar = "pools"

    max_pools: Count = 10_000
    workers: Count = 2
    steps: Count = 20
    idle: Duration = 60.0
