"""The part of the consistency check that looks at requests for approvals."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from agentfs.approvals.request import KIND, ApprovalRequest
from agentfs.store.rows import records

__all__ = ["approval_faults"]


def approval_faults(connection: sqlite3.Connection, last: int | None) -> Iterator[str]:
    """Every fault of the requests, in words. `last` is the number of the newest one, if known."""
    for key, record in records(connection, KIND):
        try:
            number = ApprovalRequest.from_record(record).id
        except (TypeError, KeyError, ValueError) as bad:
            yield f"approval {key}: {bad!r}"
            continue
        if last is not None and number > last:
            yield f"approval {key}: the last one has number {last} only"
