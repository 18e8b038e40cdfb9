"""The settings of the audit."""

from __future__ import annotations

from typing import ClassVar, Literal

from agentfs.store.settings import Count, Duration, Section

__all__ = ["AuditSettings"]


class AuditSettings(Section):
    """What `/sys/audit` keeps: records for `retention`, and at most `max_records` (350 bytes each,
    as a rule). `when_full`: `forget` the oldest, refusals first, or `stop`: what would need a
    record is refused to all but the operator (ENOSPC). A signed checkpoint is made every
    `checkpoint_every` records: if the store is put back to an older copy, so many records can be
    lost unnoticed."""

    NAME: ClassVar = "audit"

    retention: Duration = 90 * 86_400.0
    max_records: Count = 1_000_000
    when_full: Literal["forget", "stop"] = "forget"
    checkpoint_every: Count = 1000
