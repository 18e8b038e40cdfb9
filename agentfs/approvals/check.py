"""Faults of the requests for approval in a store."""

from __future__ import annotations

from collections.abc import Iterator

from agentfs.approvals.request import KIND, ApprovalRequest
from agentfs.store.rows import UNREADABLE, StoreRows

__all__ = ["NUMBERS", "faults"]

NUMBERS = ("last_approval",)
"""Meta values that are numbers."""


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    last = rows.number("last_approval")
    for key, record in rows.records(KIND):
        try:
            number = ApprovalRequest.from_record(record).id
        except UNREADABLE as bad:
            yield f"approval {key}: {bad!r}"
            continue
        if last is not None and number > last:
            yield f"approval {key}: the last one has number {last} only"
