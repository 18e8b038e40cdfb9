"""The settings of checkpoints."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Count, Duration, Section

__all__ = ["CheckpointSettings"]


class CheckpointSettings(Section):
    """`most` checkpoints are kept at once. `grace`: how long programs have to end before a rollback
    kills them."""

    NAME: ClassVar = "checkpoints"

    most: Count = 100
    grace: Duration = 5.0
