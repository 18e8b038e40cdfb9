"""Rows of a damaged table: all that can be read are saved, and the look for them ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.salvage import _Table

ROWS = 12
MAKE = "CREATE TABLE long_contents (seq INTEGER PRIMARY KEY, content BLOB NOT NULL)"


def _damaged(file: Path, rows: Sequence[int]) -> None:
    """A table that has each row on a page of its own, and garbage instead of some of them."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA page_size = 4096")
        database.execute(MAKE)
        for seq in range(ROWS):
            content = f"row {seq:04} ".encode() * 330
            database.execute("INSERT INTO long_contents VALUES (?, ?)", (seq * 1000, content))
    data = bytearray(file.read_bytes())
    for seq in rows:
        at = data.index(f"row {seq:04} ".encode()) // 4096 * 4096
        data[at : at + 4096] = b"\xa5" * 4096
    file.write_bytes(data)


@pytest.mark.parametrize(
    "lost", [[0], [1], [5], [1, 2, 3], [0, 2, 4, 6, 8, 10], [ROWS - 1], list(range(ROWS))]
)
def test_every_row_that_can_be_read_is_saved(tmp_path: Path, lost: list[int]) -> None:
    """The last row before the damage, too: sqlite3 has read one row ahead there, and fails before
    it gives that one."""
    _damaged(tmp_path / "old.db", lost)
    with (
        closing(sqlite3.connect(tmp_path / "old.db")) as old,
        closing(sqlite3.connect(tmp_path / "new.db")) as new,
    ):
        new.execute(MAKE)
        saved = _Table(old, new, "long_contents").copy()
        there = [seq // 1000 for (seq,) in new.execute("SELECT seq FROM long_contents")]
    assert there == [seq for seq in range(ROWS) if seq not in lost]
    assert saved.rows == len(there)
    assert not saved.whole
