"""What must hold of the queues in a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterator

from agentfs.store.rows import records

__all__ = ["queue_faults"]


def queue_faults(connection: sqlite3.Connection, agents: Container[str]) -> Iterator[str]:
    """Whether each queue has an owner, and each message in one its queue."""
    queues = set()
    for name, record in records(connection, "queue"):
        queues.add(name)
        if record.get("owner") not in agents:
            yield f"queue {name}: there is no agent {record.get('owner')}, who owns it"
        limit = record.get("limit")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            yield f"queue {name}: {limit} messages may wait in it"
    query = (
        "SELECT seq, substr(mailbox, 8) FROM messages"
        " WHERE mailbox LIKE 'queues/%' AND state IN ('new', 'cur', 'dead')"
    )
    for seq, name in connection.execute(query):
        if name not in queues:
            yield f"message {seq:012d}: there is no queue {name}"
