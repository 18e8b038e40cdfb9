"""The tables of the audit: its records, its checkpoints, and the signed head among the meta values.

A record is kept as the bytes that were hashed. A reader has a connection of its own, in a thread,
and gets bytes: a record that somebody tampered with need not be text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from agentfs.store.batch import ChangeKind
from agentfs.store.store import Store

__all__ = [
    "DROPPED",
    "HEAD",
    "AuditTables",
    "Row",
    "beside",
    "checkpoints",
    "matching",
    "page",
    "search",
]

HEAD = "audit_head"
"""The meta value that says where the audit ends."""

DROPPED = "audit_dropped"
"""The meta value that says how many numbers in it stand for no record of their own."""

Row = tuple[int, bytes, bytes]
"""Number, record and hash."""


class AuditTables:
    """The kernel's side of the tables. Every write is part of the transaction under way."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def head(self) -> str:
        return self._store.meta(HEAD)

    def last(self) -> Row | None:
        """The newest record."""
        row = self._store.read(
            "SELECT seq, CAST(record AS BLOB), hash FROM audit ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return None if row is None else (row[0], row[1], row[2])

    def oldest(self, limit: int) -> list[Row]:
        """The oldest `limit` records."""
        query = "SELECT seq, CAST(record AS BLOB), hash FROM audit ORDER BY seq LIMIT ?"
        return list(self._store.read(query, (limit,)))

    def after(self, seq: int, limit: int) -> list[Row]:
        """The first `limit` records behind number `seq`."""
        query = (
            "SELECT seq, CAST(record AS BLOB), hash FROM audit WHERE seq > ? ORDER BY seq LIMIT ?"
        )
        return list(self._store.read(query, (seq, limit)))

    def append(self, seq: int, record: str, digest: bytes) -> None:
        """The transaction that does so sets the head, too, of the last one it appends."""
        self._store.change(ChangeKind.AUDITED, seq, record, digest)

    def put_head(self, head: str) -> None:
        self._store.set_meta(HEAD, head)

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """(number of the record, text) of each, by number."""
        query = "SELECT seq, CAST(record AS BLOB) FROM checkpoints ORDER BY seq"
        for seq, text in self._store.read(query):
            yield seq, text.decode("utf-8", "replace")

    def put_checkpoint(self, seq: int, record: str) -> None:
        self._store.write("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (seq, record))

    def replace(self, rows: Iterable[int], row: tuple[int, str, bytes]) -> None:
        """Put one record in the place of others."""
        for seq in rows:
            self._store.write("DELETE FROM audit WHERE seq = ?", (seq,))
        self._store.write("INSERT INTO audit VALUES (?, ?, ?)", row)

    def dropped(self) -> int:
        """How many numbers between the oldest and the newest record have none."""
        return int(self._store.meta(DROPPED, "0"))

    def set_dropped(self, count: int) -> None:
        self._store.set_meta(DROPPED, str(count))

    def cut(self, seq: int, record: str) -> None:
        """Delete everything up to record `seq`; the checkpoint `record` stands for it."""
        self._store.write("DELETE FROM audit WHERE seq <= ?", (seq,))
        self._store.write("DELETE FROM checkpoints WHERE seq < ?", (seq,))
        self.put_checkpoint(seq, record)


# -- reading, in a thread ------------------------------------------------------------------------


def beside(path: Path) -> sqlite3.Connection:
    """Open a connection that only reads. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.text_factory = bytes
    return connection


def page(connection: sqlite3.Connection, after: int, through: int, limit: int) -> list[Row]:
    """The first `limit` records behind number `after`, up to `through`."""
    query = (
        "SELECT seq, CAST(record AS BLOB), hash FROM audit"
        " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
    )
    return list(connection.execute(query, (after, through, limit)))


def checkpoints(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
    """(number of the record, text) of each, by number."""
    query = "SELECT seq, CAST(record AS BLOB) FROM checkpoints ORDER BY seq"
    return list(connection.execute(query))


def search(connection: sqlite3.Connection) -> tuple[bytes, int]:
    """The head's meta value (empty: none), and how many records there are."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (HEAD,)).fetchone()
    (count,) = connection.execute("SELECT count(*) FROM audit").fetchone()
    return (b"" if row is None else row[0]), count


def matching(
    connection: sqlite3.Connection,
    before: int,
    words: tuple[str, str],
    times: tuple[str, str],
    limit: int,
) -> list[Row]:
    """The newest `limit` records before number `before` that have both `words` in their text and
    are from between these `times`, newest first. An empty word is in every text."""
    # A record ends with `"time":"2026-11-21T09:00:00.123456Z"}`.
    query = (
        "SELECT seq, CAST(record AS BLOB), hash FROM audit WHERE seq < ?"
        " AND substr(record, -29, 27) BETWEEN ? AND ?"
        " AND instr(record, ?) AND instr(record, ?) ORDER BY seq DESC LIMIT ?"
    )
    return list(connection.execute(query, (before, *times, *words, limit)))
