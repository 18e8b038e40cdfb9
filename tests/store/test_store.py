"""The store: transactions, and what is read back."""

import errno
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import trio

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.store.ballast import Ballast
from agentfs.store.store import AGENTS, PROCESSES, RECENT, SHORT_CONTENT, Store
from tests.storage import copy_store, without_log


def put(store: Store, seq: int, content: bytes = b"text", mailbox: str = "bob") -> None:
    with store.transaction():
        store.put_message(seq, mailbox, "new", f"{seq}.alice", {"sender": "alice"}, content)


def test_a_store_from_empty_to_reopened(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    assert (store.last_message(), store.meta("x", "none")) == (0, "none")
    assert not store.in_transaction
    with store.transaction():
        assert store.in_transaction
        store.set_meta("x", "ü")
        store.put_record(AGENTS, "bob", {"name": "bob"})
        store.put_record(PROCESSES, "1", {"pid": 1})
        store.put_record(PROCESSES, "2", {"pid": 2})
        store.delete_record(PROCESSES, "2")
    put(store, 1)
    assert store.commits == 2
    store.close()
    again = Store(tmp_path / "store.db")
    assert again.meta("x") == "ü"
    assert list(again.records(AGENTS)) == [("bob", {"name": "bob"})]
    assert list(again.records(PROCESSES)) == [("1", {"pid": 1})]
    assert list(again.messages()) == [(1, "bob", "new", "1.alice", {"sender": "alice"}, 4)]
    with again.transaction():
        again.delete_record(AGENTS, "bob")
    assert list(again.records(AGENTS)) == []
    again.close()


@pytest.mark.parametrize("size", [0, SHORT_CONTENT, SHORT_CONTENT + 1, 2_000_000])
def test_a_content_of_any_size_is_kept_and_goes_with_its_message(store: Store, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    put(store, 1, content)
    assert store.content(1) == content
    [(_, _, _, _, _, length)] = store.messages()
    assert length == size
    with store.transaction():
        store.update_message(1, "cur", "y", {"sender": "alice", "attempt": 2})
    assert list(store.messages()) == [
        (1, "bob", "cur", "y", {"sender": "alice", "attempt": 2}, size)
    ]
    assert store.content(1) == content
    with store.transaction():
        store.delete_message(1)
    with pytest.raises(KeyError):
        store.content(1)
    assert store.read("SELECT count(*) FROM long_contents").fetchone() == (0,)


def test_a_change_of_state_does_not_write_a_long_content_again(store: Store) -> None:
    put(store, 1, b"x" * 1_000_000)
    wal = Path(f"{store.path}-wal")
    before = wal.stat().st_size
    with store.transaction():
        store.update_message(1, "cur", "a longer name than before", {"sender": "alice"})
    assert wal.stat().st_size - before < 10 * 4096


def test_the_last_number_counts_events_too(store: Store) -> None:
    put(store, 7)
    assert store.last_message() == 7
    with store.transaction():
        store.set_meta("event_seq", "9")
    assert store.last_message() == 9


# -- transactions ----------------------------------------------------------------------------------


def test_a_failure_undoes_all_newest_first_and_tells_nobody(store: Store) -> None:
    calls: list[str] = []
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.set_meta("x", "1")
        store.on_rollback(lambda: calls.append("undo 1"))
        store.on_commit(lambda: calls.append("commit"))
        with store.transaction():
            store.on_rollback(lambda: calls.append("undo 2"))
            store.set_meta("y", "1")
            raise ZeroDivisionError
    assert calls == ["undo 2", "undo 1"]
    assert (store.meta("x"), store.meta("y"), store.in_transaction) == ("", "", False)
    with store.transaction():
        store.set_meta("x", "2")
    assert calls == ["undo 2", "undo 1"]


def test_transactions_nest_and_the_outermost_commits(store: Store) -> None:
    calls: list[str] = []
    with store.transaction():
        with store.transaction():
            store.set_meta("x", "1")
            store.on_commit(lambda: calls.append(store.meta("y")))
            store.on_rollback(lambda: calls.append("undo"))
        assert calls == []
        store.set_meta("y", "2")
    assert (calls, store.commits) == (["2"], 1)


def test_a_transaction_that_writes_nothing_commits_nothing(store: Store) -> None:
    calls: list[str] = []
    with store.transaction():
        store.on_commit(lambda: calls.append("done"))
    assert (calls, store.commits) == (["done"], 0)


def test_a_write_outside_a_transaction_is_a_mistake(store: Store) -> None:
    with pytest.raises(RuntimeError, match="outside"):
        store.set_meta("x", "1")
    with pytest.raises(RuntimeError, match="outside"):
        store.on_rollback(lambda: None)


STEPS: dict[str, Callable[[Store, list[str]], object]] = {
    "record": lambda store, _: store.put_record("kind", "x", {}),
    "meta": lambda store, _: store.set_meta("x", "2"),
    "memory": lambda store, undone: store.on_rollback(lambda: undone.append("inner")),
    "event": lambda store, _: store.take_part(),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_an_inner_transaction_that_failed_and_was_caught_commits_no_half(
    store: Store, step: Callable[[Store, list[str]], object]
) -> None:
    undone: list[str] = []
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.on_rollback(lambda: undone.append("outer"))
        store.set_meta("x", "1")
        with suppress(ZeroDivisionError), store.transaction():
            step(store, undone)
            raise ZeroDivisionError
        with store.transaction():  # another one changes nothing about that
            pass
    assert undone[-1] == "outer"
    assert ("inner" in undone) == (step is STEPS["memory"])
    assert (store.meta("x"), list(store.records("kind"))) == ("", [])
    with store.transaction():
        store.set_meta("x", "3")
    assert store.meta("x") == "3"


def test_an_inner_transaction_that_refused_before_it_changed_anything_does_no_harm(
    store: Store,
) -> None:
    with store.transaction():
        store.set_meta("x", "1")
        with suppress(KernelError), store.transaction():
            with store.transaction():
                pass
            raise KernelError(errno.EACCES, "no")
        store.set_meta("y", "1")
    assert (store.meta("x"), store.meta("y")) == ("1", "1")


def test_after_a_caught_failure_nothing_more_is_written(store: Store) -> None:
    refusal = KernelError(errno.EDQUOT, "no")
    with pytest.raises(KernelError) as caught, store.transaction():
        with suppress(KernelError), store.transaction():
            store.put_record("kind", "x", {})
            raise refusal
        store.put_record("kind", "y", {})
    assert caught.value is refusal
    assert list(store.records("kind")) == []


def test_before_commit_calls_are_part_of_it(store: Store) -> None:
    store.before_commit.append(lambda: store.set_meta("last", "1"))
    with store.transaction():
        store.set_meta("x", "1")
    assert store.meta("last") == "1"

    def fail() -> None:
        raise KernelError(errno.EBUSY, "no")

    store.before_commit.append(fail)
    with pytest.raises(KernelError), store.transaction():
        store.set_meta("x", "2")
    assert store.meta("x") == "1"


def test_what_fails_after_a_commit_is_logged_and_not_the_callers(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    with store.transaction():
        store.set_meta("x", "1")
        store.on_commit(lambda: calls.append(1 / 0))  # type: ignore[arg-type]
        store.on_commit(lambda: calls.append("next"))
    assert (store.meta("x"), calls) == ("1", ["next"])
    assert "after a commit failed" in caplog.text


def test_on_end_calls_run_after_a_commit_and_after_a_rollback(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str]] = []

    def end() -> None:
        with store.transaction():  # one of its own, however the other ended
            store.set_meta("ends", store.meta("ends", "") + "x")
        seen.append((store.meta("x"), store.meta("ends")))

    with store.transaction():
        with store.transaction():
            store.on_end(end)
            store.set_meta("x", "1")
        assert seen == []
    assert seen == [("1", "x")]
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.on_end(lambda: [][0])
        store.on_end(end)
        store.set_meta("x", "2")
        raise ZeroDivisionError
    assert seen[1:] == [("1", "xx")]
    assert "after a transaction failed" in caplog.text
    store.before_commit.append(lambda: seen.clear() if seen else 1 / 0)
    with pytest.raises(ZeroDivisionError), store.transaction():
        seen.clear()
        store.on_end(store.before_commit.clear)
    with store.transaction():
        pass
    assert seen == []


def test_a_commit_call_may_start_a_transaction_of_its_own(store: Store) -> None:
    def more() -> None:
        with store.transaction():
            store.set_meta("y", "1")

    with store.transaction():
        store.set_meta("x", "1")
        store.on_commit(more)
    assert store.meta("y") == "1"


def fill_up(store: Store) -> None:
    without_log(store)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")


def test_what_is_rolled_back_or_in_sqlite_claims_no_room_for_a_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[int] = []

    def room(ballast: Ballast, size: int, acting: Principal | None, due: int) -> int:
        claimed.append(due)
        return 0  # so that it is asked each time

    monkeypatch.setattr(Ballast, "room", room)
    store = Store(tmp_path / "store.db")
    store.keep_ballast()

    def put_twice() -> list[int]:
        claimed.clear()
        for key in ("a", "b"):
            store.put_record("queue", key, {})
        return list(claimed)

    for _ in range(3):
        with pytest.raises(ZeroDivisionError), store.transaction():
            first, second = put_twice()
            assert first == 0 < second
            raise ZeroDivisionError
    with store.transaction():
        put_twice()
        store.read("SELECT 1")  # so that it commits in SQLite
    with store.transaction():
        assert put_twice() == [0, second]
    with store.transaction():
        assert put_twice() == [2 * second, 3 * second]
    store.fold()
    with store.transaction():
        assert put_twice() == [0, second]
    store.close()


def test_a_transaction_that_fails_takes_nothing_of_the_log_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")

    def put(key: str) -> None:
        store.put_record("queue", key, {"key": key})

    for number, fail in enumerate((put, lambda key: [put(key), store.read("SELECT 1")])):
        with store.transaction():
            put(f"before {number}")
        assert store._unfolded.count == 1
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.set_meta("key", "failed")
            fail("failed")
            raise ZeroDivisionError
        assert store._unfolded.count == 1 - number, "one that reads with SQL is behind a fold"
        assert store.record("queue", "failed") is None
        assert store.meta("key") == ""
        with store.transaction():
            put(f"after {number}")
        store.fold()
    with store.transaction():
        put("last")
    left = tmp_path / "left"
    left.mkdir()
    copy_store(tmp_path, left)  # as it is after kill -9
    again = Store(left / "store.db")
    wanted = ["after 0", "after 1", "before 0", "before 1", "last"]
    assert [key for key, _ in again.records("queue")] == wanted
    assert again.meta("key") == ""
    again.close()
    store.close()


def test_a_full_store_is_enospc_and_works_again_when_there_is_room(store: Store) -> None:
    put(store, 1)
    fill_up(store)
    undone: list[int] = []
    with pytest.raises(KernelError) as caught, store.transaction():
        store.on_rollback(lambda: undone.append(1))
        store.set_meta("x", "1")
        store.put_message(2, "bob", "new", "2", {}, b"x" * 100_000)
    assert (caught.value.errno, undone, store.meta("x")) == (errno.ENOSPC, [1], "")
    store._db.execute("PRAGMA max_page_count = 100000")
    put(store, 2, b"x" * 100_000)
    assert [row[0] for row in store.messages()] == [1, 2]


def test_a_failed_write_that_is_caught_fails_the_transaction_all_the_same(store: Store) -> None:
    """SQLite may have rolled back by itself: what came after would be committed alone."""
    fill_up(store)
    with pytest.raises(KernelError) as caught, store.transaction():
        store.set_meta("x", "1")
        with pytest.raises(sqlite3.Error):
            store.put_message(2, "bob", "new", "2", {}, b"x" * 100_000)
        with pytest.raises(sqlite3.Error):
            store.put_record("kind", "y", {})
        store.set_meta("y", "1")
    assert caught.value.errno == errno.ENOSPC
    assert (store.meta("x"), store.meta("y"), list(store.messages())) == ("", "", [])
    assert list(store.records("kind")) == []


def test_a_store_that_cannot_be_written_is_eio(store: Store) -> None:
    without_log(store)._db.execute("PRAGMA query_only = ON")
    with pytest.raises(KernelError) as caught, store.transaction():
        store.set_meta("x", "1")
    assert caught.value.errno == errno.EIO
    store._db.execute("PRAGMA query_only = OFF")


def test_what_a_transaction_set_reads_back_in_it_and_goes_with_it(store: Store) -> None:
    with store.transaction():
        store.set_meta("x", "1")
        store.set_meta("y", "1")
        store.set_meta("x", "2")
        assert (store.meta("x"), store.meta("y")) == ("2", "1")
    with pytest.raises(LookupError), store.transaction():
        store.set_meta("x", "3")
        raise LookupError
    with store.transaction():
        store.set_meta("z", "1")
    assert [store.meta(key) for key in "xyz"] == ["2", "1", "1"]


def test_what_waits_is_in_memory_however_many_were_finished_since(store: Store) -> None:
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    put(store, 1, b"1")
    for seq in range(2, RECENT + 10):
        put(store, seq, b"%d" % seq)
        with store.transaction():
            store.finish_message(seq, "done", {}, None)
            store.delete_finished([seq - 1] if seq > 2 else [])
    store.fold()
    asked.clear()
    assert store.content(1) == b"1"
    assert asked == []


def test_a_content_is_what_the_store_has_whether_it_is_recent_or_not(store: Store) -> None:
    for seq in range(1, RECENT + 10):
        put(store, seq, b"%d" % seq)
    assert [store.content(seq) for seq in (1, RECENT + 9)] == [b"1", b"%d" % (RECENT + 9)]
    with pytest.raises(LookupError), store.transaction():
        store.put_message(RECENT + 20, "bob", "new", "1044", {}, b"never")
        raise LookupError
    with pytest.raises(KeyError):
        store.content(RECENT + 20)
    put(store, RECENT + 20, b"x" * (SHORT_CONTENT + 1))
    assert len(store.content(RECENT + 20)) == SHORT_CONTENT + 1
    with store.transaction():
        store.finish_message(RECENT + 8, "done", {}, b"its head")
        store.delete_message(RECENT + 9)
        store.delete_finished([RECENT + 7])
    assert store.content(RECENT + 8) == b"its head"
    for gone in (RECENT + 7, RECENT + 9):
        with pytest.raises(KeyError):
            store.content(gone)


def test_an_undo_that_fails_leaves_the_store_usable(store: Store) -> None:
    def fail() -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError), store.transaction():
        store.set_meta("x", "1")
        store.on_rollback(fail)
        raise KernelError(errno.EBUSY, "no")
    assert not store.in_transaction
    with store.transaction():
        store.set_meta("x", "2")
    assert store.meta("x") == "2"


# -- crashes -------------------------------------------------------------------------------------


def test_what_was_committed_is_there_after_kill_9_and_nothing_else(
    store: Store, tmp_path: Path
) -> None:
    put(store, 1)
    left = tmp_path / "left"
    left.mkdir()
    with store.transaction():
        store.set_meta("half", "done")
        copy_store(tmp_path, left)
    again = Store(left / "store.db")
    assert [row[0] for row in again.messages()] == [1]
    assert again.meta("half") == ""
    again.close()


async def test_sync_and_checkpoint_lose_nothing(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    await store.sync()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.checkpoint_regularly)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [row[0] for row in store.messages()] == [1]


async def test_a_long_log_is_begun_anew_though_somebody_always_writes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite begins it anew only if nothing was written during the checkpoint before."""
    log = tmp_path / "store.db-wal"
    without_log(store)
    for seq in range(50):
        put(store, seq)
    await store.checkpoint()
    assert log.stat().st_size > 50 * 4096, "it is not long yet"
    monkeypatch.setattr("agentfs.store.store.MOST_PAGES", 50)
    for seq in range(50, 100):
        put(store, seq)
    await store.checkpoint()
    size = log.stat().st_size
    for seq in range(100, 140):
        put(store, seq)
    assert log.stat().st_size == size, "it is written over; cutting it takes long on a busy disk"
    assert [seq for seq, *_ in store.messages()] == list(range(140))


async def test_of_a_log_that_was_very_long_a_part_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentfs.store.store.MOST_PAGES", 50)
    monkeypatch.setattr("agentfs.store.store.KEPT_LOG", 100_000)
    store = without_log(Store(tmp_path / "store.db"))
    log = tmp_path / "store.db-wal"
    put(store, 1, b"x" * 2_000_000)
    assert log.stat().st_size > 2_000_000
    await store.checkpoint()
    put(store, 2)
    assert log.stat().st_size < 110_000
    store.close()


async def test_the_checkpoint_folds_the_log_into_the_database(
    store: Store, autojump_clock: trio.testing.MockClock
) -> None:
    put(store, 1, b"x" * 100_000)
    size = store.path.stat().st_size
    with trio.move_on_after(6):
        await store.checkpoint_regularly()
    assert store.path.stat().st_size > size


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        Store(path)
    assert path.read_bytes() == b"something else" * 1000


def test_records_are_kept_by_kind_and_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    with store.transaction():
        store.put_record("queue", "b", {"mode": 1})
        store.put_record("queue", "a", {"mode": 2})
        store.put_record("topic", "a", {"mode": 3})
        store.put_record("queue", "b", {"mode": 4})
        store.delete_record("topic", "a")
    assert list(store.records("queue")) == [("a", {"mode": 2}), ("b", {"mode": 4})]
    assert list(store.records("topic")) == []
    store.close()


def test_publications_are_kept_by_topic_and_number(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    with store.transaction():
        for number in (1, 2, 3):
            store.put_publication("news", number, {"from": "a"}, b"%d" % number)
        store.put_publication("other", 1, {"from": "a"}, b"x")
        store.delete_publications("news", 2)
    assert store.publication("news", 3) == ({"from": "a"}, b"3")
    with pytest.raises(KeyError):
        store.publication("news", 2)
    assert [(t, n, c) for t, n, _, c in store.publications()] == [
        ("news", 3, 1),
        ("other", 1, 1),
    ]
    store.close()


def test_a_name_that_is_no_utf_8_is_found_nowhere(store: Store) -> None:
    query = "SELECT value FROM meta WHERE key = ?"
    assert store.read(query, ("last_event\udcff",)).fetchall() == []


def test_a_copy_is_of_its_moment_while_others_write_and_fold(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    with store.copy_to(tmp_path / "copy.db") as copy:
        put(store, 2)
        for _ in range(3):
            assert store.read("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0
            put(store, 3 + _)
        copy.write()
    assert [row[0] for row in store.messages()] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.db"]
    copied = Store(tmp_path / "copy.db")
    assert [row[0] for row in copied.messages()] == [1]
    copied.close()
    store.close()


async def test_a_copy_does_not_hold_the_loop_when_the_log_is_long(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    put(store, 1)
    with store.copy_to(tmp_path / "copy.db") as copy, patch("agentfs.store.store.MOST_PAGES", 1):
        put(store, 2)
        before = store.read("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        await store.checkpoint()  # to begin the log anew would wait for the copy, five seconds
        put(store, 3)
        after = store.read("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert after[1] > before[1]
        copy.write()
    store.close()
