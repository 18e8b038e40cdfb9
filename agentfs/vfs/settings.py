"""The settings of the mounted tree."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agentfs.store.settings import Count, Duration, Section

__all__ = ["MOST_PARKED", "MountSettings"]

MOST_PARKED = 20_000
"""What `mount.max_parked` may be at most."""


class MountSettings(Section):
    """`max_parked` counts readers and writers that wait; one more gets EAGAIN. `disk_timeout`: a
    call on files of another disk that is mounted below /shared, or a memory, is ETIMEDOUT then."""

    NAME: ClassVar = "mount"

    max_parked: Annotated[int, Field(ge=1, le=MOST_PARKED)] = 6000
    announce_queue: Count = 65_536
    disk_timeout: Duration = 10.0
