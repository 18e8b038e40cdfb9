"""Faults of pools in a store, and of what steps of runs wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agentfs.executors import agents, approvals, wakes
from agentfs.executors.pools import Pool
from agentfs.store.rows import UNREADABLE, StoreRows

__all__ = ["faults"]


WAITED: dict[str, tuple[str, Callable[..., object]]] = {
    agents.KIND: ("the step that asks", agents.StepAsk),
    approvals.KIND: ("the step that waits for approval", approvals.Gated),
    wakes.KIND: ("wake", wakes.Wake),
}
"""Records of steps, each with its name in words and what reads it."""


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words: whether each can be read, and has an owner."""
    for name, record in rows.records("pool"):
        if record.get("owner") not in rows.agents:
            yield f"pool {name}: there is no agent {record.get('owner')}, who owns it"
        try:
            Pool.read(name, record)
        except UNREADABLE as bad:
            yield f"pool {name}: its record cannot be read: {bad!r}"
    for kind, (what, shape) in WAITED.items():
        for key, record in rows.records(kind):
            try:
                shape(**record)
            except UNREADABLE as bad:
                yield f"{what} {key}: its record cannot be read: {bad!r}"
