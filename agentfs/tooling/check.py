"""Faults of what a store has of tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentfs.store.rows import UNREADABLE, StoreRows
from agentfs.tooling.document import NAME
from agentfs.tooling.tooling import KIND

__all__ = ["faults"]


def faults(rows: StoreRows) -> Iterator[str]:
    """Every fault of them, in words."""
    for key, record in rows.records(KIND):
        if not NAME.fullmatch(key):
            yield f"tools of {key!r}: that is no name of a server"
        yield from (f"tools of {key}: {fault}" for fault in _list(record))


def _list(record: dict[str, Any]) -> Iterator[str]:
    try:
        if not all(isinstance(word, str) for word in record["of"]):
            yield "what they hold for is no list of texts"
        for each in record["tools"]:
            if not isinstance(each["name"], str) or not isinstance(each["schema"], dict):
                yield f"{each!r} is no tool"
    except UNREADABLE as bad:
        yield f"the record cannot be read: {bad!r}"
