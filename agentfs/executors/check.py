"""Faults of pools in a store."""

from __future__ import annotations

from collections.abc import Iterator

from agentfs.executors.pools import Pool
from agentfs.store.rows import UNREADABLE, StoreRows

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words: whether each can be read, and has an owner."""
    for name, record in rows.records("pool"):
        if record.get("owner") not in rows.agents:
            yield f"pool {name}: there is no agent {record.get('owner')}, who owns it"
        try:
            Pool.read(name, record)
        except UNREADABLE as bad:
            yield f"pool {name}: its record cannot be read: {bad!r}"
