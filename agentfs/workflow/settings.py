"""The settings of runs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Duration, Section

__all__ = ["WorkflowSettings"]


class WorkflowSettings(Section):
    """`retention`: how long a run is kept after its end. `max_open` runs are open at a time, of
    which one agent may have `max_open_of_one`. `max_input` and `max_output` are in bytes, of a run
    and of a node. `max_depth`: sub-runs in sub-runs. `max_iterations` of one loop."""

    NAME: ClassVar = "workflows"

    retention: Duration = 7 * 86_400.0
    max_open: Count = 100_000
    max_open_of_one: Count = 50_000
    max_input: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    max_output: Annotated[int, Field(ge=64 * 1024)] = 256 * 1024 * 1024
    max_depth: Annotated[int, Field(ge=1, le=64)] = 16
    max_iterations: Annotated[int, Field(ge=1, le=100_000)] = 10_000
