"""The settings of processes, and the limits that hold for all of them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_serializer

from agentfs.model.spec import NamedLimits
from agentfs.store.settings import Count, Duration, Section

__all__ = ["LimitSettings", "ProcessSettings"]


class ProcessSettings(Section):
    """`ready_timeout`: how long a process that starts again may take to be ready before its
    children start all the same. `log_size`: bytes of output after which a log is begun anew, and
    that an agent may write within a second."""

    NAME: ClassVar = "processes"

    max_children_of_init: Count = 100
    grace_period: Duration = 10.0
    zombie_timeout: Duration = 60.0
    maid_interval: Duration = 15.0
    restart_backoff: Duration = 1.0
    restart_backoff_max: Duration = 60.0
    restart_attempts: Count = 5
    restart_window: Duration = 300.0
    heartbeats_missed: Count = 3
    ready_timeout: Duration = 10.0
    log_size: Annotated[int, Field(ge=4096)] = 10 * 1024 * 1024


class LimitSettings(Section, NamedLimits):
    """The most that any process but process 1 may have, whatever its own limits say (see `limits`
    in a spec); `max` is none."""

    NAME: ClassVar = "limits"

    @field_serializer("*")
    def _max_for_none(self, limit: float | None) -> float | str:
        return "max" if limit is None else limit
