"""What was deleted is given back to the disk: in steps, not at once, and not all of it."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from agentfs.salvage import mend_first_page, salvage
from agentfs.store import shrinking
from agentfs.store.migrations import migrate
from agentfs.store.shrinking import KEPT, LOOKS, STEP, STEPS
from agentfs.store.store import Store

MESSAGES = 40
SIZE = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store.db")
    yield made
    made.close()
    assert quick_check(made.path) == "ok"


def quick_check(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("PRAGMA integrity_check").fetchone()[0])


def fill(store: Store, first: int = 1) -> None:
    """Long messages, and short ones between them, which end up behind what is deleted."""
    for seq in range(first, first + 2 * MESSAGES, 2):
        with store.transaction():
            store.put_message(seq, "bob", "new", f"{seq}", {}, os.urandom(SIZE))
            store.put_message(seq + 1, "bob", "new", f"{seq + 1}", {}, b"short " * 500)


def consume(store: Store, first: int = 1) -> None:
    for seq in range(first, first + 2 * MESSAGES, 2):
        with store.transaction():
            store.delete_message(seq)


def free(store: Store) -> int:
    (count,) = store._db.execute("PRAGMA freelist_count").fetchone()
    return int(count)


async def look(store: Store, times: int) -> None:
    for _ in range(times):
        await store.checkpoint()
        await store.shrink()


async def test_a_store_becomes_short_again_and_keeps_some_room(store: Store) -> None:
    fill(store)
    await store.checkpoint()
    full = store.path.stat().st_size
    assert full > MESSAGES * SIZE
    consume(store)
    await look(store, LOOKS - 1)
    assert store.path.stat().st_size >= full, "it is not known yet that nobody needs it"
    await look(store, 4)
    assert free(store) == KEPT
    assert store.path.stat().st_size < KEPT * 4096 + 2 * SIZE
    for seq in range(2, 2 * MESSAGES, 2):
        assert store.content(seq) == b"short " * 500


async def test_nobody_waits_for_more_than_a_step(store: Store, monkeypatch: Any) -> None:
    fill(store)
    consume(store)
    sizes: list[int] = []
    run = shrinking.Shrinking._count

    def count(self: shrinking.Shrinking) -> int:
        sizes.append(run(self))
        return sizes[-1]

    monkeypatch.setattr(shrinking.Shrinking, "_count", count)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            with store.transaction():
                store.set_meta("others", str(turns))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await look(store, LOOKS)
        nursery.cancel_scope.cancel()
    assert max(before - after for before, after in itertools.pairwise(sizes)) <= STEP
    assert turns > 100, "others had their turns between the steps"
    assert store.meta("others") == str(turns)


async def test_what_comes_in_waves_keeps_its_pages(store: Store) -> None:
    fill(store)
    consume(store)
    await look(store, LOOKS // 2)
    fill(store, 1001)
    await look(store, 1)
    consume(store, 1001)
    before = store.path.stat().st_size
    await look(store, LOOKS - 2)
    assert store.path.stat().st_size == before


async def test_a_look_gives_back_a_part_and_the_log_stays_short(
    store: Store, monkeypatch: Any
) -> None:
    monkeypatch.setattr(shrinking, "STEPS", 10)
    fill(store)
    consume(store)
    await look(store, LOOKS - 1)
    before = free(store)
    await look(store, 1)
    assert before - 10 * STEP <= free(store) < before
    assert STEPS * STEP * 4096 <= 32 << 20


async def test_a_slow_step_is_followed_by_a_smaller_one(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(shrinking, "SLOW", 0.0)
    fill(store)
    consume(store)
    await look(store, LOOKS - 1)
    before = free(store)
    monkeypatch.setattr(shrinking, "STEPS", 10)
    await look(store, 1)
    assert before - free(store) <= STEP + STEP // 2 + STEP // 4 + STEP // 8 + 10


async def test_a_full_disk_ends_it_in_words(
    store: Store, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(self: shrinking.Shrinking) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(shrinking.Shrinking, "run", full)
    await store.shrink()
    assert "not given back to the disk: database or disk is full" in caplog.text


def old_store(path: Path, rows: int = MESSAGES) -> None:
    """One that an earlier release made, from which most was deleted."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        migrate(database)
        for seq in range(1, rows + 1):
            values = (seq, "bob", "new", str(seq), "{}", b"short")
            database.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", values)
            database.execute("INSERT INTO long_contents VALUES (?, ?)", (seq, os.urandom(SIZE)))
        database.execute("DELETE FROM long_contents WHERE seq > 2")


def test_a_store_of_an_earlier_release_is_made_anew_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    old_store(path)
    assert path.stat().st_size > 10 * SIZE
    store = Store(path)
    try:
        assert store._db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert path.stat().st_size < 3 * SIZE
        assert len(list(store.messages())) == MESSAGES
    finally:
        store.close()
    before = path.read_bytes()
    Store(path).close()
    assert path.read_bytes() == before, "and not again"


def test_one_in_which_much_is_in_use_is_left_as_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "store.db"
    old_store(path, rows=3)
    monkeypatch.setattr(shrinking, "CHEAP", 1)
    store = Store(path)
    try:
        assert store._db.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    finally:
        store.close()


@pytest.mark.parametrize("made", ["new", "anew", "old"])
def test_a_lost_first_page_is_found_again_whichever_way_the_store_was_made(
    tmp_path: Path, made: str
) -> None:
    path = tmp_path / "store.db"
    if made == "new":
        store = Store(path)
        with store.transaction():
            for seq in range(1, MESSAGES + 1):
                store.put_message(seq, "bob", "new", str(seq), {}, b"short")
        store.close()
    else:
        old_store(path)
    if made == "anew":
        Store(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(path, "r+b") as file:
        file.write(os.urandom(4096))
    mend_first_page(path)
    saved = {each.table: each.rows for each in salvage(path, tmp_path / "saved.db")}
    assert saved["messages"] == MESSAGES
