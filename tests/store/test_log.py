"""The log before the database: what is answered is in it whole, and what is not whole never was."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agentfs.audit.verify import verify
from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.machine.datasync import _Calls
from agentfs.store import store as stores
from agentfs.store.batch import _SHAPES, Batch, ChangeKind, decode, encode
from agentfs.store.log import AHEAD, HEAD, Log, LogPlace, Segment, log_files, written_after
from agentfs.store.opening import LAST_EVENT, StoreMark, look_through, require_whole
from agentfs.store.replay import PLACE, reading
from agentfs.store.store import Store
from agentfs.store.syncing import SharedSync
from tests.storage import STORE_FILES, copy_store, without_log
from tests.world import World

Row = tuple[Any, ...]


def put(store: Store, seq: int, content: bytes = b"text") -> None:
    with store.transaction():
        store.set_meta(LAST_EVENT, str(seq))
        store.put_message(seq, "bob", "new", f"{seq}.alice", {"sender": "alice"}, content)


def rows(store: Path, table: str = "messages") -> list[Row]:
    """What SQLite has by itself."""
    with closing(sqlite3.connect(store)) as database:
        return list(database.execute(f"SELECT * FROM {table}"))


def killed(store: Store, left: Path) -> Path:
    """A copy of what a daemon that is killed now leaves; returns the store in it."""
    left.mkdir()
    copy_store(store.path.parent, left)
    return left / store.path.name


def seqs(store: Path) -> list[int]:
    """The messages that a start finds."""
    again = Store(store)
    try:
        return [seq for seq, *_ in again.messages()]
    finally:
        again.close()


# -- changes ---------------------------------------------------------------------------------------

EXAMPLES = {"q": 2**40, "s": "ü\U0001f600 text", "b": b"\0\xff bytes"}


@pytest.mark.parametrize("kind", list(ChangeKind))
def test_every_kind_of_change_reads_back_as_it_was_written(kind: ChangeKind) -> None:
    change = (kind, *(EXAMPLES[each] for each in _SHAPES[kind]))
    assert list(decode(encode([change, change]))) == [change, change]
    with pytest.raises(UnicodeEncodeError):
        encode([(ChangeKind.META, "\udcff", "")])


def test_a_change_that_this_release_does_not_know_is_no_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    assert store._log.append(0, b"\xfe unknown")
    with pytest.raises(sqlite3.DatabaseError, match="unknown"):
        Store(killed(store, tmp_path / "left"))
    store.close()


def changes() -> Iterator[tuple[Any, ...]]:
    yield ChangeKind.META, "x", "1"
    yield ChangeKind.RECORD, "queue", "a", "{}"
    yield ChangeKind.RECORD, "queue", "b", "{}"
    yield ChangeKind.NO_RECORD, "queue", "a"
    yield ChangeKind.AGENT, "bob", '{"name": "bob"}'
    yield ChangeKind.AGENT, "eve", "{}"
    yield ChangeKind.NO_AGENT, "eve"
    yield ChangeKind.PROCESS, "7", "{}"
    yield ChangeKind.NO_PROCESS, "8"
    for seq, content in ((1, b"short"), (2, b"long " * 2000), (3, b"x"), (4, b"y"), (5, b"z")):
        yield ChangeKind.MESSAGE, seq, "bob", "new", f"{seq}", "{}", content
    yield ChangeKind.CHANGED, 1, "cur", "1:2", '{"attempt": 2}'
    yield ChangeKind.FINISHED, 2, "done", '{"done": 1}', b"its head"
    yield ChangeKind.DELETED, 3
    yield ChangeKind.ALL_DELETED, "[4]"
    yield ChangeKind.AUDITED, 1, '{"seq":1}', bytes(32)
    for seq in (1, 2, 3):
        yield ChangeKind.PUBLISHED, seq, "news", "{}", b"%d" % seq
    yield ChangeKind.UNPUBLISHED, 2, "news"


TABLES = (
    *("meta", "records", "agents", "processes", "messages", "long_contents"),
    *("audit", "publications"),
)


def test_a_fold_at_any_place_and_a_change_taken_again_come_to_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    database = store._db

    def outcome(*parts: list[tuple[Any, ...]]) -> dict[str, list[Row]]:
        database.execute("BEGIN")
        for part in parts:
            batch = Batch()
            for change in part:
                batch.take([change])
            batch.write(database)
        found = {table: list(database.execute(f"SELECT * FROM {table}")) for table in TABLES}
        database.execute("ROLLBACK")
        return found

    made = list(changes())
    whole = outcome(made)
    assert [row[0] for row in whole["messages"]] == [1, 2, 5]
    assert [row[1] for row in whole["publications"]] == [3]
    assert whole["long_contents"] == []
    for cut in range(len(made)):
        assert outcome(made[:cut], made[cut:]) == whole, made[cut]
        assert outcome(made[:cut], made) == whole, made[cut]
    store.close()


def test_what_came_and_went_between_two_folds_is_no_row(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    statements: list[str] = []
    for seq in range(1, 11):
        put(store, seq)
        with store.transaction():
            store.delete_message(seq)
    store._db.set_trace_callback(statements.append)
    store.fold()
    store._db.set_trace_callback(None)
    assert not any("INSERT" in each and "messages" in each for each in statements)
    assert store.meta(LAST_EVENT) == "10"
    store.close()


# -- kill -9 ---------------------------------------------------------------------------------------


def test_a_log_that_is_cut_at_any_byte_has_every_record_that_is_whole(tmp_path: Path) -> None:
    """And what it has is a sound system: a prefix of what happened, with its audit."""
    world = World(tmp_path / "state")
    for name in ("alice", "bob"):
        world.process(name)
    world.store.fold()
    begin = world.store._log.place
    ends = [(begin.offset, int(world.store.meta(LAST_EVENT, "0")))]
    for number in range(3):
        world.send("alice", "bob", f"\n{number}")
        ends.append((world.store._log.place.offset, int(world.store.meta(LAST_EVENT))))
        world.recv("bob")
        ends.append((world.store._log.place.offset, int(world.store.meta(LAST_EVENT))))
    assert world.store._log.place.generation == begin.generation
    left = killed(world.store, tmp_path / "left")
    shutil.copy(tmp_path / "state/audit.key", left.parent)
    shutil.copy(tmp_path / "state/audit.key.checkpoints", left.parent)
    world.close()
    file = log_files(left)[begin.generation % 2]
    data = file.read_bytes()
    before = [shutil.copy(left.parent / name, tmp_path) for name in STORE_FILES[:2]]
    whole, beside = {end for end, _ in ends}, world.store._beside
    for size in range(len(data), begin.offset - 1, -1):
        os.truncate(file, size)
        end, event = max((end, event) for end, event in ends if end <= size)
        assert [each.end.offset for each in written_after(left, begin, beside)][-1:] in ([], [end])
        if size in whole or size + 1 in whole or size % 997 == 0:
            assert look_through(left, 0.0) == event, size
            assert check(left) == [], size
            assert verify(left, left.parent / "audit.key").fault == "", size
    for size, event in ends:
        file.write_bytes(data[: size + 3])
        again = Store(left)
        assert int(again.meta(LAST_EVENT, "0")) == event, "no number is given out twice"
        assert file.stat().st_size == size, "the piece of a record is cut off"
        again._log.close()
        again._db.close()
        for part in before:
            shutil.copy(part, left.parent)


def test_a_damaged_record_and_all_behind_it_are_as_if_not_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    ends = []
    for seq in range(1, 6):
        put(store, seq)
        ends.append(store._log.place.offset)
    left = killed(store, tmp_path / "left")
    store.close()
    file = log_files(left)[1]
    data = bytearray(file.read_bytes())
    data[ends[2] + 20] ^= 1
    file.write_bytes(data)
    assert seqs(left) == [1, 2, 3]


def test_only_what_was_written_as_a_record_passes_for_one(tmp_path: Path) -> None:
    """A content that looks like one, at the place where the log goes on, is none."""
    store = Store(tmp_path / "store.db")
    put(store, 1)
    end = store._log.place.offset
    left = killed(store, tmp_path / "left")
    store.close()
    other = Store(tmp_path / "other.db")
    put(other, 2)
    forged = log_files(other.path)[1].read_bytes()[HEAD:]
    other.close()
    file = log_files(left)[1]
    file.write_bytes(file.read_bytes()[:end] + forged)
    assert seqs(left) == [1]


def test_what_is_in_the_log_is_known_before_a_start_and_changed_by_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    put(store, 2)
    before = [path.read_bytes() for path in (store.path, *log_files(store.path))]
    assert rows(store.path) == []
    with reading(store.path) as database:
        assert [row[0] for row in database.execute("SELECT seq FROM messages")] == [1, 2]
    assert look_through(store.path) == 2
    assert require_whole(store.path) == ""
    assert [path.read_bytes() for path in (store.path, *log_files(store.path))] == before
    store.close()
    assert [path.stat().st_size for path in log_files(store.path)] == [0, 0]
    assert [row[0] for row in rows(store.path)] == [1, 2]


def test_a_log_that_was_cut_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    for seq in (1, 2, 3):
        put(store, seq)
    left = killed(store, tmp_path / "left")
    shutil.copy(tmp_path / "store.mark", left.parent)
    store.close()
    assert StoreMark(left).read() == (3, True)
    assert require_whole(left) == ""
    os.truncate(log_files(left)[1], log_files(left)[1].stat().st_size - 1)
    with pytest.raises(Exception, match="cut or damaged: it ends with event 2, and 3 had been"):
        require_whole(left)


def test_a_start_after_kill_9_goes_on_in_the_same_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    last = 0
    for life in range(4):
        for _ in range(3):
            last += 1
            put(store, last)
        left = killed(store, tmp_path / f"left{life}")
        store.close()
        store = Store(left)
        assert [seq for seq, *_ in store.messages()] == list(range(1, last + 1))
    assert store._log.place.generation == 1
    store.close()
    assert seqs(store.path) == list(range(1, last + 1))


# -- power cuts ------------------------------------------------------------------------------------


def test_the_log_makes_up_for_what_the_database_lost(tmp_path: Path) -> None:
    """SQLite's log was not synced, and ours was: what had been folded is replayed."""
    store = Store(tmp_path / "store.db")
    put(store, 1)
    store.fold()
    left = killed(store, tmp_path / "left")  # what SQLite will have on the disk
    put(store, 2)
    store.fold()
    assert store._log.turn()
    put(store, 3)
    store.fold()
    put(store, 4)
    for path in log_files(store.path):
        shutil.copy(path, left.parent)
    store.close()
    assert seqs(left) == [1, 2, 3, 4]


def test_a_record_behind_a_transaction_that_was_lost_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    store.fold()
    left = killed(store, tmp_path / "left")
    put(store, 2)
    with store.transaction():  # it is in SQLite alone
        store.write("INSERT INTO records VALUES (?, ?, ?)", ("queue", "jobs", "{}"))
    put(store, 3)  # to the queue, it may be
    for path in log_files(store.path):
        shutil.copy(path, left.parent)
    store.close()
    again = Store(left)
    assert [seq for seq, *_ in again.messages()] == [1, 2]
    put(again, 30)
    again.close()
    assert seqs(left) == [1, 2, 30]


def test_a_file_of_the_log_that_follows_nothing_is_not_used(tmp_path: Path) -> None:
    """The end of the file before it was lost."""
    store = Store(tmp_path / "store.db")
    put(store, 1)
    store.fold()
    left = killed(store, tmp_path / "left")
    put(store, 2)
    put(store, 3)
    store.fold()
    assert store._log.turn()
    put(store, 4)
    for path in log_files(store.path):
        shutil.copy(path, left.parent)
    store.close()
    first = log_files(left)[1]
    os.truncate(first, first.stat().st_size - 1)
    assert seqs(left) == [1, 2]
    assert seqs(left) == [1, 2]


async def test_a_file_goes_only_when_a_synced_checkpoint_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store.db")
    zero, one = log_files(store.path)
    put(store, 1)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda descriptor: os.stat("/no disk"))
        await store.checkpoint()
    put(store, 2)
    assert one.stat().st_size > 0, "the disk has not said that it has it"
    await store.checkpoint()
    assert one.stat().st_size == 0
    put(store, 3)
    assert zero.stat().st_size > 0
    await store.checkpoint()  # in which the files take turns again
    assert zero.stat().st_size == 0
    put(store, 4)
    left = killed(store, tmp_path / "left")
    store.close()
    assert seqs(left) == [1, 2, 3, 4]


# -- a disk that is full ---------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The log takes half of each record from now on; the list has the sizes of the halves."""
    halves: list[int] = []
    pwrite = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        halves.append(len(data) // 2)
        return pwrite(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    return halves


def test_a_short_write_is_cut_off_and_the_transaction_commits_in_sqlite(
    tmp_path: Path, short: list[int]
) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    assert short
    assert [path.stat().st_size for path in log_files(store.path)] == [0, 0]
    assert [row[0] for row in rows(store.path)] == [1]
    left = killed(store, tmp_path / "left")
    store.close()
    assert seqs(left) == [1]


def test_where_sqlite_has_no_room_either_it_is_enospc_and_nothing_happened(
    tmp_path: Path, short: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store.db")
    undone: list[int] = []
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(KernelError) as caught, store.transaction():
        store.on_rollback(lambda: undone.append(1))
        store.put_message(1, "bob", "new", "1", {}, b"x" * 100_000)
    assert (caught.value.errno, undone) == (errno.ENOSPC, [1])
    with pytest.raises(KeyError):
        store.content(1)
    store._db.execute("PRAGMA max_page_count = 100000")
    put(store, 2)
    assert [seq for seq, *_ in store.messages()] == [2]
    store.close()


def test_a_fold_that_the_disk_refuses_loses_nothing_and_more_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    store._db.execute("PRAGMA query_only = ON")
    for look in (store.fold, lambda: store.read("SELECT 1"), lambda: list(store.messages())):
        with pytest.raises(KernelError):
            look()
    with pytest.raises(KernelError):
        put(store, 2)
    assert store.content(1) == b"text"
    left = killed(store, tmp_path / "left")
    store._db.execute("PRAGMA query_only = OFF")
    put(store, 3)
    assert [seq for seq, *_ in store.messages()] == [1, 3]
    store.close()
    assert seqs(left) == [1]


def test_a_log_that_cannot_be_cut_off_is_not_used_until_the_files_take_turns(
    tmp_path: Path,
) -> None:
    log = Log(tmp_path / "store.db", LogPlace(0, 0))
    assert log.append(0, b"one")
    os.close(log._files[1])  # it can be neither written nor cut
    assert not log.append(0, b"two")
    assert not log.usable
    assert log.turn()
    assert log.append(0, b"three")
    os.close(log._files[0])
    found = [each.content for each in written_after(tmp_path / "store.db", LogPlace(0, 0), 0)]
    assert found == [b"one", b"three"]


# -- transactions beside the log -------------------------------------------------------------------


def test_what_a_transaction_reads_has_what_it_wrote(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    with store.transaction():
        store.put_record("queue", "a", {"n": 1})
        store.put_publication("news", 1, {}, b"x")
        store.put_message(2, "bob", "new", "2", {}, b"long " * 2000)
        assert store.record("queue", "a") == {"n": 1}
        assert store.publication("news", 1) == ({}, b"x")
        assert store.content(2) == b"long " * 2000
        assert [seq for seq, *_ in store.messages()] == [1, 2]
        store.delete_message(2)
        with pytest.raises(KeyError):
            store.content(2)
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.put_record("queue", "b", {})
        assert [key for key, _ in store.records("queue")] == ["a", "b"]
        raise ZeroDivisionError
    assert [key for key, _ in store.records("queue")] == ["a"]
    store.close()


def test_what_is_not_folded_is_found_by_its_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    with store.transaction():
        store.put_record("queue", "a", {})
        store.put_record("queue", "b", {})
        store.put_publication("news", 1, {}, b"1")
        store.put_publication("news", 2, {}, b"2")
        store.put_message(1, "bob", "new", "1", {}, b"long " * 2000)
    store.fold()
    with store.transaction():
        store.delete_record("queue", "a")
        store.put_record("queue", "b", {"n": 2})
        store.delete_publications("news", 1)
        store.finish_message(1, "done", {}, b"head")
    assert store._unfolded.count == 1
    assert (store.record("queue", "a"), store.record("queue", "b")) == (None, {"n": 2})
    with pytest.raises(KeyError):
        store.publication("news", 1)
    assert store.publication("news", 2) == ({}, b"2")
    assert store.content(1) == b"head"
    assert store._unfolded.count == 1, "nothing of that needs a fold"
    with store.transaction():
        store.delete_message(1)
    with pytest.raises(KeyError):
        store.content(1)
    store.close()


@pytest.mark.parametrize("changes", [(1, stores.LONG_CONTENT + 1), (12, 60_000), (600, 10)])
def test_a_transaction_that_would_make_a_long_fold_commits_in_sqlite(
    tmp_path: Path, changes: tuple[int, int]
) -> None:
    count, size = changes
    store = Store(tmp_path / "store.db")
    with store.transaction():
        for seq in range(1, count + 1):
            store.put_message(seq, "bob", "new", f"{seq}", {}, b"x" * size)
    assert (store._unfolded.count, len(rows(store.path))) == (0, count)
    store.close()


# -- when the log is folded ------------------------------------------------------------------------


async def test_who_opens_the_database_sees_everything_after_a_moment(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store = Store(tmp_path / "store.db")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.fold_regularly)
        for seq in (1, 2, 3):
            put(store, seq)
            assert len(rows(store.path)) == seq - 1
            await trio.sleep(stores.FOLD_SECONDS + 0.001)
            assert len(rows(store.path)) == seq
        nursery.cancel_scope.cancel()
    store.close()


def test_a_fold_is_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    for seq in range(1, stores.FOLD_TRANSACTIONS + 1):
        put(store, seq)
    assert len(rows(store.path)) == stores.FOLD_TRANSACTIONS
    for seq in range(1000, 1010):
        put(store, seq, b"x" * 60_000)
    assert len(rows(store.path)) > stores.FOLD_TRANSACTIONS
    assert store._unfolded.size < stores.FOLD_BYTES
    store.close()


async def test_a_long_log_is_folded_and_goes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LONG_LOG", 1000)
    store = Store(tmp_path / "store.db")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.checkpoint_regularly)
        await trio.testing.wait_all_tasks_blocked()
        for seq in range(1, 11):
            put(store, seq)
        with trio.fail_after(60):
            while log_files(store.path)[1].stat().st_size:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    store.close()


async def test_a_copy_is_a_store_with_everything_in_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    with store.copy_to(tmp_path / "copy.db") as copy:
        put(store, 2)
        store.fold()
        await trio.to_thread.run_sync(copy.write)
    assert seqs(tmp_path / "copy.db") == [1]
    store.close()


def test_the_database_says_up_to_where_it_has_the_log(tmp_path: Path) -> None:
    store = without_log(Store(tmp_path / "store.db"))
    put(store, 1)
    assert store.meta(PLACE, "none") == "none"
    store._log.usable = True
    put(store, 2)
    store.fold()
    assert LogPlace.read(store.meta(PLACE)) == store._log.place
    file = Segment.read(log_files(store.path)[1])
    assert file is not None
    assert [each.beside for each in file.records(0)] == [1]
    store.close()


# -- syncs -----------------------------------------------------------------------------------------


async def test_who_waits_for_the_disk_at_the_same_time_waits_together() -> None:
    began: list[int] = []
    written = 0

    async def sync() -> None:
        began.append(written)
        await trio.testing.wait_all_tasks_blocked()

    shared = SharedSync(sync)

    async def one() -> None:
        nonlocal written
        written += 1
        mine = written
        await shared()
        assert began[-1] >= mine, "the sync began after the write"

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(one)
    assert len(began) <= 3


async def test_a_sync_that_failed_is_that_of_everybody_who_waited_for_it() -> None:
    failures: list[OSError] = []

    async def sync() -> None:
        await trio.testing.wait_all_tasks_blocked()
        raise OSError(errno.EIO, "no disk")

    shared = SharedSync(sync)

    async def one() -> None:
        try:
            await shared()
        except OSError as failure:
            failures.append(failure)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert len(failures) == 5
    assert len(set(failures)) == 2


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_who_does_not_wait_any_more_keeps_nobody_from_the_next_sync(others: int) -> None:
    began = 0
    over = trio.Event()

    async def sync() -> None:
        nonlocal began
        began += 1
        await over.wait()

    shared = SharedSync(sync)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared)
        with trio.CancelScope() as gone:
            async with trio.open_nursery() as cancelled:
                await trio.testing.wait_all_tasks_blocked()
                cancelled.start_soon(shared)
                cancelled.start_soon(shared)
                await trio.testing.wait_all_tasks_blocked()
                gone.cancel()
        for _ in range(others):
            nursery.start_soon(shared)
        await trio.testing.wait_all_tasks_blocked()
        assert began == 1
        over.set()
    assert began == 1 + min(others, 1)
    await shared()
    assert began == 2 + min(others, 1)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of each sync of the log, in turn."""
    found: list[list[str]] = []
    submit = _Calls.submit

    def counted(calls: _Calls, files: Sequence[int]) -> int:
        found.append([Path(os.readlink(f"/proc/self/fd/{file}")).name for file in files])
        return submit(calls, files)

    monkeypatch.setattr(_Calls, "submit", counted)
    return found


async def test_many_who_send_and_sync_at_once_wait_for_few_syncs(
    tmp_path: Path, synced: list[list[str]]
) -> None:
    store = Store(tmp_path / "store.db")
    await store.sync()
    synced.clear()

    async def send(seq: int) -> None:
        put(store, seq)
        await store.sync()

    async with trio.open_nursery() as nursery:
        for seq in range(1, 51):
            nursery.start_soon(send, seq)
    assert 1 <= len(synced) <= 3
    store.close()


async def test_a_sync_is_of_what_was_written_and_folds_nothing(
    tmp_path: Path, synced: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    await store.sync()
    assert [len(files) for files in synced] == [2], "at first both files may be new"
    synced.clear()
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("SQLite's log is synced"))
    put(store, 2)
    await store.sync()
    assert synced == [["store.db-log1"]]
    assert store._unfolded.count == 2
    synced.clear()
    put(store, 3)
    store.fold()
    assert store._log.turn()
    put(store, 4)
    await store.sync()
    assert sorted(*synced) == ["store.db-log0", "store.db-log1"], "what was folded is in neither"
    monkeypatch.undo()
    store.close()


async def test_a_sync_waits_for_sqlites_log_where_something_was_committed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = without_log(Store(tmp_path / "store.db"))
    await store.sync()
    store._log.usable = True
    synced: list[str] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    put(store, 1)
    await store.sync()
    assert synced == []
    with store.transaction():
        store.write("INSERT INTO meta VALUES (?, ?)", ("key", "value"))
    await store.sync()
    assert "store.db-wal" in synced
    store.close()


async def test_a_log_that_the_disk_did_not_sync_is_used_no_more_and_sqlites_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store.db")
    await store.sync()
    put(store, 1)
    with monkeypatch.context() as broken:
        broken.setattr(_Calls, "ended", _refused(_Calls.ended))
        with pytest.raises(OSError, match="Input/output"):
            await store.sync()
    place = store._log.place
    await store.sync()
    assert [row[0] for row in rows(store.path)] == [1], "it is where it was synced"
    put(store, 2)
    await store.sync()
    assert store._log.place == place
    left = killed(store, tmp_path / "left")
    for path in log_files(left):
        path.unlink()
    assert seqs(left) == [1, 2]
    await store.checkpoint()
    put(store, 3)
    assert store._log.place.generation == place.generation + 1
    store.close()


def _refused(ended: Callable[[_Calls], list[int]]) -> Callable[[_Calls], list[int]]:
    return lambda calls: [errno.EIO for _ in ended(calls)]


async def test_a_log_that_is_synced_gets_longer_in_advance_and_that_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store.db")
    _, log = log_files(store.path)
    for seq in (1, 2):
        put(store, seq)
        await store.sync()
        assert log.stat().st_size > store._log.place.offset + AHEAD / 2
        assert seqs(killed(store, tmp_path / f"left{seq}")) == [*range(1, seq + 1)]
    size = log.stat().st_size
    put(store, 3)
    await store.sync()
    assert log.stat().st_size == size, "a sync of a file that stays as long is half the work"
    for seq in range(4, 204):
        put(store, seq, bytes(8000))
    assert log.stat().st_size > size
    await store.sync()
    assert log.stat().st_size > store._log.place.offset + AHEAD / 2
    assert seqs(killed(store, tmp_path / "left")) == [*range(1, 204)]
    with monkeypatch.context() as broken:
        broken.setattr(os, "posix_fallocate", lambda *_: os.stat("/no room"))
        await store.checkpoint()
        put(store, 204)
        await store.sync()
    assert seqs(killed(store, tmp_path / "full")) == [*range(1, 205)]
    store.close()
