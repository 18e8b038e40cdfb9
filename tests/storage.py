"""The store, for tests that copy its files or break its disk."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agentfs.store.replay import replay
from agentfs.store.store import Store

__all__ = ["STORE_FILES", "copy_store", "edited", "refusing", "without_log"]

STORE_FILES = ("store.db", "store.db-wal", "store.db-log0", "store.db-log1")
"""All that a daemon which is killed leaves of its store."""


def copy_store(state: Path, copy: Path) -> None:
    """Have in the directory `copy` what a daemon that is killed now leaves in `state`."""
    for name in STORE_FILES:
        if (state / name).exists():
            shutil.copy(state / name, copy / name)


def without_log(store: Store) -> Store:
    """From now on every transaction commits in SQLite, as where the log has no room: what a test
    does to SQLite fails at once."""
    store.fold()
    store._log.usable = False
    return store


@contextmanager
def refusing(store: Store, what: str) -> Iterator[None]:
    """Meanwhile the disk has no room for statements that do `what`: "DELETE ON records", or with
    a condition that is true before it: "INSERT ON messages WHEN NEW.state = 'new'"."""
    database = without_log(store)._db
    database.execute(
        f"CREATE TEMP TRIGGER refusing BEFORE {what}"
        " BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
    )
    try:
        yield
    finally:
        database.execute("DROP TRIGGER refusing")


@contextmanager
def edited(store: Path) -> Iterator[sqlite3.Connection]:
    """One transaction in the store of a daemon that has ended, however: all that it has answered is
    in the database before."""
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        replay(database, store)
        database.execute("BEGIN")
        yield database
        database.execute("COMMIT")
