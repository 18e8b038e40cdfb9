"""The settings of tasks and workers."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Duration, Section

__all__ = ["TaskSettings", "WorkerSettings"]


class TaskSettings(Section):
    """`max_concurrent` are assigned or running at the same time, in the whole system; `max_tasks`
    may be open together. `max_attempts`: so many lost attempts make a task dead that does not say
    otherwise. `max_input` and `max_result` are bytes. A worker from outside of which nothing was
    heard for `heartbeat_timeout` is lost. A task that its worker does not claim within
    `claim_timeout`, while it has claimed no other, comes back, and the worker gets no more until it
    waits for tasks. `retention`: when a task that has ended is forgotten."""

    NAME: ClassVar = "tasks"

    max_concurrent: Annotated[int, Field(ge=1, le=100_000)] = 4
    max_tasks: Count = 10_000
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    max_input: Annotated[int, Field(ge=1024, le=512 * 1024)] = 256 * 1024
    max_result: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = 1024 * 1024
    heartbeat_timeout: Duration = 120.0
    claim_timeout: Duration = 600.0
    retention: Duration = 7 * 86_400.0


class WorkerSettings(Section):
    """`max_workers` may be registered."""

    NAME: ClassVar = "workers"

    max_workers: Count = 1000
