"""The schema's steps: from nothing, from each version, and never back."""

import sqlite3
from collections.abc import Iterator

import pytest

from agentfs.store import migrations
from agentfs.store.migrations import LATEST, migrate


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    return {name for (name,) in connection.execute(query)}


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_an_empty_file_gets_the_latest_schema_once(connection: sqlite3.Connection) -> None:
    assert migrate(connection) == 0
    assert version(connection) == LATEST
    assert tables(connection) >= {"meta", "agents", "processes", "messages", "long_contents"}
    assert migrate(connection) == LATEST


def test_a_newer_store_is_refused_and_not_touched(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA user_version = {LATEST + 1}")
    with pytest.raises(sqlite3.DatabaseError, match="newer release"):
        migrate(connection)
    assert tables(connection) == set()


def test_only_the_steps_that_are_missing_are_made(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(connection)
    connection.execute("INSERT INTO meta VALUES ('x', '1')")
    steps = (*migrations.MIGRATIONS, "ALTER TABLE meta ADD COLUMN note TEXT;")
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(migrations, "LATEST", len(steps))
    assert migrate(connection) == LATEST
    assert connection.execute("SELECT * FROM meta").fetchall() == [("x", "1", None)]
    assert version(connection) == LATEST + 1


def test_a_step_that_fails_halfway_leaves_the_version_before_it(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(connection)
    steps = (*migrations.MIGRATIONS, "CREATE TABLE half (x); CREATE TABLE meta (x);")
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(migrations, "LATEST", len(steps))
    with pytest.raises(sqlite3.Error):
        migrate(connection)
    assert version(connection) == LATEST
    assert "half" not in tables(connection)
    assert not connection.in_transaction


def test_the_states_of_a_message_are_held_by_the_schema(connection: sqlite3.Connection) -> None:
    migrate(connection)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO messages VALUES (1, 'bob', 'lost', 'x', '{}', x'')")


def test_messages_of_the_first_release_are_taken_over(connection: sqlite3.Connection) -> None:
    connection.executescript(f"{migrations.MIGRATIONS[0]};PRAGMA user_version = 1;")
    kept = [(1, "bob", "new", "a", "{}", b"x"), (2, "bob", "dead", "b", "{}", b"y")]
    connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", kept)
    assert migrate(connection) == 1
    assert connection.execute("SELECT * FROM messages ORDER BY seq").fetchall() == kept
    connection.execute("INSERT INTO messages VALUES (3, 'bob', 'done', '', '{}', x'')")
