"""The part of the consistency check that looks at what processes have used of their limits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from agentfs.model.process import Process
from agentfs.quota import branches, spending
from agentfs.store.rows import records

__all__ = ["limit_faults"]

COUNTS = ("llm_calls", "tool_calls", "cost", "largest")


def limit_faults(connection: sqlite3.Connection, processes: Mapping[int, Process]) -> Iterator[str]:
    """Every fault of them, in words."""
    for pid, process in processes.items():
        for name in process.limits.__slots__:
            limit = getattr(process.limits, name)
            whole = isinstance(limit, int) or (name == "max_cost_usd" and isinstance(limit, float))
            if limit is not None and not (whole and limit >= 0):
                yield f"process {pid}: {name} is {limit!r}"
    for key, record in records(connection, branches.KIND):
        what = f"what ended below process {key}"
        owner = processes.get(int(key)) if key.isdecimal() else None
        if owner is None or not owner.state.alive:
            yield f"{what}: there is no such living process"
        for name, figure in record.items():
            if not isinstance(figure, int) or figure < 0:
                yield f"{what}: {name} is {figure!r}"
    for key, record in records(connection, spending.KIND):
        what = f"what process {key} has used"
        owner = processes.get(int(key)) if key.isdecimal() else None
        if owner is None or not owner.state.alive:
            yield f"{what}: there is no such living process"
        for name in COUNTS:
            if not isinstance(record.get(name), int) or record[name] < 0:
                yield f"{what}: {name} is {record.get(name)!r}"
        hour = record.get("hour", ())
        if [when for when, _ in hour] != sorted(when for when, _ in hour):
            yield f"{what}: its last hour is not in order"
        if any(tokens <= 0 for _, tokens in hour):
            yield f"{what}: its last hour has a use of no tokens"
