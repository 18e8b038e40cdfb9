"""What the log of a store has and its database lacks: put in at a start, and seen by a reader
without a daemon."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from agentfs.store.batch import Batch, decode
from agentfs.store.log import LogPlace, LogRecord, written_after

__all__ = ["BESIDE", "PLACE", "lacking", "reading", "remains", "replay"]

PLACE = "log_place"
"""The meta value that says up to which place of the log the database has everything."""

BESIDE = "log_beside"
"""The meta value that says how many transactions were committed in the database itself."""

_BEGINNING = LogPlace(0, 0)

# Transactions that are put in at once.
TOGETHER = 2000


def _standing(database: sqlite3.Connection) -> tuple[LogPlace, int]:
    """What the database says of the log. Raises ValueError."""
    (tables,) = database.execute(
        "SELECT count(*) FROM sqlite_master WHERE name = 'meta'"
    ).fetchone()
    if not tables:
        return _BEGINNING, 0
    query = "SELECT key, CAST(value AS BLOB) FROM meta WHERE key IN (?, ?)"
    found = {key: value.decode() for key, value in database.execute(query, (PLACE, BESIDE))}
    place = LogPlace.read(found[PLACE]) if PLACE in found else _BEGINNING
    return place, int(found.get(BESIDE, "0"))


def replay(database: sqlite3.Connection, store: Path) -> tuple[LogPlace, int]:
    """Put everything in the database that it lacks. Returns the end of the log, and how many
    transactions were committed beside it. Raises sqlite3.Error or OSError."""
    try:
        place, beside = _standing(database)
    except ValueError as bad:
        raise sqlite3.DatabaseError(f"the place of the log cannot be read: {bad}") from None
    batch = Batch()
    for record in written_after(store, place, beside):
        place = record.end
        _take(batch, record)
        if batch.count == TOGETHER:
            _write(database, batch, place)
            batch = Batch()
    if batch.count:
        _write(database, batch, place)
    return place, beside


def _take(batch: Batch, record: LogRecord) -> None:
    """Raises sqlite3.DatabaseError for one that a newer release has written."""
    try:
        batch.take(list(decode(record.content)))
    except (KeyError, ValueError, struct.error) as bad:
        raise sqlite3.DatabaseError(f"the log has something unknown ({bad!r})") from None


def _write(database: sqlite3.Connection, batch: Batch, place: LogPlace) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        batch.metas[PLACE] = str(place)
        batch.write(database)
        database.execute("COMMIT")
    except sqlite3.Error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def reading(store: Path, *, folded: bool = False) -> Iterator[sqlite3.Connection]:
    """One snapshot of the store at `store` with all that was answered, changing nothing: where the
    log has something that the database lacks, a copy in the temporary directory has both. `folded`:
    the database has everything that is wanted. Raises sqlite3.Error."""
    address = f"{store.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as database:
        database.execute("BEGIN")
        found = Batch() if folded else lacking(database, store)
        if not found.count:
            yield database
            return
        with closing(sqlite3.connect("", isolation_level=None)) as copy:
            database.backup(copy)
            copy.execute("BEGIN")
            found.write(copy)
            yield copy


def lacking(database: sqlite3.Connection, store: Path) -> Batch:
    """What the log has and the database lacks. Raises sqlite3.Error."""
    try:
        return _sum(written_after(store, *_standing(database)))
    except (OSError, ValueError) as bad:
        raise sqlite3.DatabaseError(f"its log cannot be read: {bad}") from None


def remains(database: sqlite3.Connection, store: Path) -> Batch:
    """What can be saved of the log of `store`, for a database that was saved from it: if that does
    not know what it lacks, all that there is. Raises sqlite3.Error."""
    if database.execute("SELECT 1 FROM meta WHERE key = ?", (PLACE,)).fetchone():
        with suppress(sqlite3.Error):
            return lacking(database, store)
    try:
        return _sum(written_after(store, None, 0))
    except OSError as bad:
        raise sqlite3.DatabaseError(f"its log cannot be read: {bad}") from None


def _sum(records: Iterator[LogRecord]) -> Batch:
    batch = Batch()
    for record in records:
        _take(batch, record)
    return batch
