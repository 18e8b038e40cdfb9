"""The settings of queues, topics, artifacts and locks."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Section

__all__ = ["ArtifactSettings", "LockSettings", "QueueSettings", "TopicSettings"]


class QueueSettings(Section):
    """`max_waiting` messages may wait in a queue that has no limit of its own; such a limit is at
    most `max_limit`."""

    NAME: ClassVar = "queues"

    max_queues: Count = 100_000
    max_waiting: Count = 10_000
    max_limit: Count = 1_000_000


class TopicSettings(Section):
    """`max_record` is the size of one record, `max_records` and `max_bytes` are what each topic
    keeps for readers that come late or are slow."""

    NAME: ClassVar = "topics"

    max_topics: Count = 100_000
    max_record: Annotated[int, Field(ge=1, le=1_000_000)] = 64 * 1024  # more: write(2) is split
    max_records: Count = 1000
    max_bytes: Count = 1024 * 1024


class ArtifactSettings(Section):
    """Shared memory: `max_size` of one artifact in bytes, `max_artifacts` of one agent."""

    NAME: ClassVar = "artifacts"

    max_size: Count = 256 * 1024 * 1024
    max_artifacts: Count = 10_000


class LockSettings(Section):
    """`max_locks` may be taken at the same time, by all together."""

    NAME: ClassVar = "locks"

    max_locks: Count = 10_000
