"""How the consistency check reads records: without the code that wrote them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

__all__ = ["Record", "read_record", "records"]

Record = dict[str, Any]


def records(connection: sqlite3.Connection, kind: str) -> Iterator[tuple[str, Record]]:
    """The records of one kind by key, in its order."""
    query = "SELECT key, record FROM records WHERE kind = ? ORDER BY key"
    for key, text in connection.execute(query, (kind,)):
        yield key, read_record(text)


def read_record(text: str) -> Record:
    """The record; empty if it is none, so that what is missing from it is the fault."""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
