"""The settings of documents and of the runs that they describe."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Duration, Section

__all__ = ["WorkflowSettings"]

Variable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,63}$")]
Text = Annotated[str, Field(max_length=4096)]


class WorkflowSettings(Section):
    """`env`: what `${NAME}` in a manifest may stand for; secrets do not belong here.
    `max_documents` of all kinds together; of each the newest `max_versions` texts are kept.
    `retention`: how long a run is kept after its end. `max_open` runs are open at a time, of which
    one agent may have `max_open_of_one`. `max_input` and `max_output` are in bytes, of a run and of
    a node. `max_programs`: steps that are programs, at a time. `max_depth`: sub-runs in sub-runs.
    `max_iterations` of one loop."""

    NAME: ClassVar = "workflows"

    env: Annotated[dict[Variable, Text], Field(max_length=100)] = {}
    max_documents: Count = 10_000
    max_versions: Annotated[int, Field(ge=1, le=1000)] = 10
    retention: Duration = 7 * 86_400.0
    max_open: Count = 100_000
    max_open_of_one: Count = 50_000
    max_input: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    max_output: Annotated[int, Field(ge=64 * 1024)] = 256 * 1024 * 1024
    max_programs: Annotated[int, Field(ge=1)] = 4 * (os.cpu_count() or 1)
    max_depth: Annotated[int, Field(ge=1, le=64)] = 16
    max_iterations: Annotated[int, Field(ge=1, le=100_000)] = 10_000
