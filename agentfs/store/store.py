"""The store: the kernel's tables are written through to it.

A transaction of messages and records is one record in a log of our own (`Log`): one write(2), which
takes 2 µs. Some fifty of them at once are folded into SQLite, so that what came and went between
two folds costs it nothing. A transaction that writes other tables, or that reads what it has
written with SQL, commits in SQLite itself, behind a fold of all before it: it stands beside the
log. So SQLite always has whole transactions, in order, and lacks those of the last 50 ms at most.

SQLite is in WAL mode with synchronous=NORMAL. Commits and folds are made in the event loop: a hop
to a thread takes 100 µs. A commit survives kill -9 at once, and a power cut after the next
checkpoint or `sync`. The checkpoint and `sync`, which wait for the disk, are in threads.
"""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
from pydantic_core import PydanticSerializationError, to_json

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.store.ballast import Ballast
from agentfs.store.batch import SHORT_CONTENT, Batch, Change, ChangeKind, encode
from agentfs.store.log import Log
from agentfs.store.migrations import LATEST, migrate
from agentfs.store.opening import LAST_EVENT, StoreMark, is_full
from agentfs.store.replay import BESIDE, PLACE, replay
from agentfs.store.reserve import let_go
from agentfs.store.shrinking import Shrinking, make_shrinkable
from agentfs.store.syncing import Logs, SharedSync, sync_file

__all__ = ["AGENTS", "LAST_EVENT", "PROCESSES", "SHORT_CONTENT", "Store", "StoreCopy"]

log = logging.getLogger(__name__)

# A checkpoint copies the WAL's pages into the database and syncs; rarer means fewer syncs and a
# longer replay at start (about 100 MB/s).
CHECKPOINT_SECONDS = 5.0

# Pages of 4 KiB in the log after which it is begun anew. SQLite does that by itself only if nothing
# was written while a checkpoint ran, which under load is never: the log would grow for ever.
MOST_PAGES = 8192

# Bytes of the log's file that stay when it is begun anew, and are written again: beside programs
# that keep the disk busy, cutting the file takes 40 to 150 ms, and writing over it 0 to 30 ms.
KEPT_LOG = 2 * MOST_PAGES * 4096

# Contents of the newest unfinished messages that are kept in memory, if they are short (4 MiB at
# most): most are read soon, and SQLite takes 20 µs for one, of the 300 that a message costs.
RECENT = 1024

# Bytes that a write adds to SQLite's log at most, as a rule, beside what it is given: its row, and
# the rows of two indexes, are on four pages, and where those lie on a fifth.
PAGES: Final = 5 * 4096

# The same for a change that is folded with others: they have many of their pages in common.
FOLDED_PAGES: Final = 2 * 4096

# A fold is due after so many transactions (fifty messages, sent and acknowledged), so many bytes of
# the log, or so many seconds, whatever comes first. It takes 1 to 3 ms then.
FOLD_TRANSACTIONS: Final = 100
FOLD_BYTES: Final = 256 * 1024
FOLD_SECONDS = 0.05

# Seconds until a fold that the disk refused is tried again.
FOLD_AGAIN = 1.0

# A longer transaction, or one with a longer content, commits in SQLite itself: it would be written
# twice, and its fold would hold everybody up.
LONG_CONTENT: Final = 64 * 1024
LONG_TRANSACTION: Final = 512 * 1024
MOST_CHANGES: Final = 500

# Bytes of a file of the log after which a checkpoint is made at once: the file can go then.
LONG_LOG = 32 << 20


AGENTS, PROCESSES = "agents", "processes"
"""Kinds of record that have a table of their own."""


class _Own(NamedTuple):
    """How the records of a kind are read, put and deleted."""

    read: str
    put: ChangeKind
    delete: ChangeKind


_OWN = {
    AGENTS: _Own(
        "SELECT name, record FROM agents ORDER BY name", ChangeKind.AGENT, ChangeKind.NO_AGENT
    ),
    PROCESSES: _Own(
        "SELECT pid, record FROM processes ORDER BY pid", ChangeKind.PROCESS, ChangeKind.NO_PROCESS
    ),
}


class Store:
    """Tables of JSON records, and messages with their content.

    Every write happens inside `transaction()`, which nests: the outermost one commits. If it fails,
    nothing was written and the `on_rollback` calls undo the change in memory, newest first.
    `on_commit` calls run after the commit; that is where events go out. `on_end` calls run after
    either.

    An inner transaction that fails after it has changed something cannot commit its half: the
    outermost one fails as well, with the same exception, even if somebody caught that. A savepoint
    would let the outer one go on, and would cost two statements for each inner one that writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            if self._db.execute("PRAGMA page_count").fetchone() == (0,):  # it is new
                self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")
            self._db.execute(f"PRAGMA journal_size_limit = {KEPT_LOG}")
            place, self._beside = replay(self._db, path)  # before the schema changes
            if 0 < migrate(self._db) < LATEST:  # the log must not get to the disk before the schema
                self._db.execute("PRAGMA wal_checkpoint(FULL)")
            make_shrinkable(self._db, path)
            self._log = Log(path, place)
        except (sqlite3.Error, OSError):
            self._db.close()
            raise
        self._transaction = _Transaction(self)
        self._failure: BaseException | None = None  # the transaction under way cannot commit
        self._depth = 0  # how many transactions are under way, each within another
        self._changed = 0  # the innermost of them that has changed something
        self._undo: list[Callable[[], object]] = []
        self._commit: list[Callable[[], object]] = []
        self._last: list[Callable[[], object]] = []
        self._end: list[Callable[[], object]] = []
        self._direct = False  # the transaction under way is one of SQLite's
        self._changes: list[Change] = []  # of the transaction under way, where it is not
        self._length = 0  # bytes of SQLite's log that they may take
        self._unfolded = Batch()  # committed in the log, and not in SQLite yet
        self._claimed = 0  # bytes of SQLite's log that its fold may take
        self._stuck = False  # SQLite had no room for a fold
        self._waiting = trio.Event()  # there is something to fold
        self._long = trio.Event()  # the log is long
        self._logs = Logs(self._log, path, lambda: self._beside, self.fold)
        self.sync = SharedSync(self._logs.sync)
        """Make every commit so far survive a power cut."""
        self._recent: dict[int, bytes] = {}  # the newest short contents, by message
        self._metas: dict[str, str] = {}  # what the transaction set, written with its commit
        self._mark = StoreMark(path)
        self._shrinking = Shrinking(self._db)
        self._ballast: Ballast | None = None
        self._room = 0  # bytes that may be written before the ballast is asked again
        self._copies = 0  # how many are being made
        self.before_commit: list[Callable[[], object]] = []
        self.acting: Principal | None = None
        """The party for which the transaction under way is made; None: the kernel itself."""
        self.promised = False
        """The transaction under way does what was accepted before."""
        self.commits = 0

    def close(self) -> None:
        """Fold the logs into the database, if the disk has room for that, and close it."""
        try:
            self._fold()
            (busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                self._log.clear()
        except sqlite3.Error as failure:
            log.warning("the log of the store stays, with everything in it: %s", failure)
        self._logs.close()
        self._log.close()
        self._db.close()
        self._mark.close()
        if self._ballast is not None:
            self._ballast.close()

    # -- a full disk ---------------------------------------------------------------------------

    def keep_ballast(self) -> None:
        """From now on agents leave room for the operator, see `Ballast`."""
        (page_size,) = self._db.execute("PRAGMA page_size").fetchone()
        self._ballast = Ballast(self.path, page_size)
        self._room = 0
        self._ballast.begin()

    @property
    def is_full(self) -> bool:
        """Whether there is room only for the operator, and for some of the kernel's work."""
        return self._ballast is not None and self._ballast.full

    def _ask_for_room(self, size: int) -> None:
        """`size` bytes are about to be written, and more than was known to be free. Raises
        sqlite3.OperationalError."""
        if self._ballast is None:
            self._room = 1 << 60  # nobody counts it
        else:
            due = self._claimed + self._length
            self._room = self._ballast.room(size, self.acting, due) - size

    # -- transactions --------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[None]:
        """One atomic change. Raises KernelError ENOSPC or EIO if it cannot be stored."""
        return self._transaction

    def _commit_all(self) -> None:
        while self._last:
            self._last.pop(0)()
        for prepare in self.before_commit:
            prepare()
        if self._failure is not None:  # somebody caught it, but it cannot be undone in part
            raise self._failure
        event = self._metas.get(LAST_EVENT)
        if not self._direct:
            changes = self._changes
            for meta in self._metas.items():
                changes.append((ChangeKind.META, *meta))
            if not changes:
                return
            content = encode(changes)
            if self._stuck or not self._log.usable or not self._log.append(self._beside, content):
                self._go_beside()
            else:
                self._unfolded.take(changes, len(content))
                self._claimed += self._length
                self._changes, self._metas, self._length = [], {}, 0
                if not self._waiting.is_set():
                    self._waiting.set()
                if self._log.place.offset > LONG_LOG and not self._log.old:
                    self._long.set()
        if self._direct:
            self._commit_beside()
        self.commits += 1
        if event is not None:
            self._mark.write(event)

    def _commit_beside(self) -> None:
        """Commit in SQLite. The log's next record says that it comes behind this."""
        metas, self._metas = self._metas, {}
        metas[BESIDE] = str(self._beside + 1)
        rows = ", (?, ?)" * (len(metas) - 1)
        values = tuple(chain.from_iterable(metas.items()))
        self.write(f"INSERT OR REPLACE INTO meta VALUES (?, ?){rows}", values)  # noqa: S608
        self._db.execute("COMMIT")
        self._direct = False
        self._beside += 1

    def _go_beside(self) -> None:
        """Go on with a transaction of SQLite. Raises sqlite3.Error, and then it cannot commit."""
        try:
            self._fold()
            self._db.execute("BEGIN IMMEDIATE")
            self._direct = True
            changes, self._changes, self._length = self._changes, [], 0
            self._write_now(changes)
        except sqlite3.Error as failure:
            self._failure = failure
            raise

    def _write_now(self, changes: list[Change]) -> None:
        batch = Batch()
        batch.take(changes)
        batch.write(self._db)

    # -- folds ---------------------------------------------------------------------------------

    def fold(self) -> None:
        """Have everything that was committed in SQLite: whoever opens it sees all. Raises
        KernelError ENOSPC or EIO if the disk refuses."""
        try:
            self._fold()
        except sqlite3.Error as failure:
            raise _refusal(failure) from failure

    def _fold(self) -> None:
        """Raises sqlite3.Error; then everything stays as it was, and nothing more is logged until
        it works."""
        batch = self._unfolded
        if not batch.count or self._direct:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            batch.metas[PLACE] = str(self._log.place)
            batch.write(self._db)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._stuck = True
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._unfolded = Batch()
        self._claimed = 0
        self._stuck = False

    def _fold_if_due(self) -> bool:
        """Whether there is nothing to fold any more."""
        try:
            self._fold()
        except sqlite3.Error as failure:
            log.warning("the log of the store could not be folded, trying again: %s", failure)
            return False
        return True

    async def fold_regularly(self) -> None:
        """Fold what has been logged for 50 ms, for ever."""
        while True:
            await self._waiting.wait()
            self._waiting = trio.Event()
            await trio.sleep(FOLD_SECONDS)
            if not self._fold_if_due():
                self._waiting.set()
                await trio.sleep(FOLD_AGAIN)

    def _settle(self) -> None:
        """SQL is about to be read: have in SQLite what it is to find. Raises as `fold`, or within a
        transaction sqlite3.Error."""
        if self._changes:
            self._go_beside()
        elif self._unfolded.count:
            if self._depth:
                self._fold()
            else:
                self.fold()

    def _after_commit(self) -> None:
        if self._undo:
            self._undo = []
        calls, self._commit = self._commit, []
        _call_all(calls, "commit")
        batch = self._unfolded
        if batch.count >= FOLD_TRANSACTIONS or batch.size >= FOLD_BYTES:
            self._fold_if_due()

    def _after_end(self) -> None:
        calls, self._end = self._end, []
        _call_all(calls, "transaction")

    def _roll_back(self) -> None:
        undo, self._undo, self._commit, self._last = self._undo, [], [], []
        self._metas.clear()
        self._changes, self._length = [], 0
        self._direct = False
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        for call in reversed(undo):
            call()

    @property
    def in_transaction(self) -> bool:
        return self._depth > 0

    def take_part(self) -> bool:
        """The caller is about to change something, as a part of the transaction under way; False
        if there is none."""
        self._changed = self._depth
        return self._depth > 0

    def act_for(self, principal: Principal | None) -> None:
        """The transaction under way is for `principal`; None: the kernel's own work."""
        self.acting = principal

    def promise(self, promised: bool = True) -> None:
        """The transaction under way does what was accepted before, whatever is full by now."""
        self.promised = promised

    def prepare(self, call: Callable[[], object]) -> None:
        """Run `call()` at the end of every transaction, as its last part. An exception fails the
        transaction."""
        self.before_commit.append(call)

    def on_rollback(self, call: Callable[[], object]) -> None:
        """Undo a change in memory with `call()` if the transaction fails."""
        if not self._depth:
            raise RuntimeError("an undo outside a transaction")
        self._changed = self._depth
        self._undo.append(call)

    def conclude(self, call: Callable[[], object]) -> None:
        """Run `call()` as a part of the transaction under way, once all others are through: what
        follows from a change that is made in several steps. An exception fails the transaction."""
        if not self._depth:
            raise RuntimeError("a conclusion outside a transaction")
        self._last.append(call)

    def on_commit(self, call: Callable[[], object]) -> None:
        """Run `call()` once the transaction is committed."""
        self._commit.append(call)

    def on_end(self, call: Callable[[], object]) -> None:
        """Run `call()` once the transaction is committed or rolled back: for something that holds
        of a refused call, too. It may make a transaction of its own."""
        self._end.append(call)

    # -- statements, for rooms that have tables of their own -------------------------------------

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """The rows that a SELECT finds. A text that is no UTF-8, as names of files may be, is found
        nowhere."""
        self._settle()
        try:
            return self._db.execute(sql, values)
        except UnicodeEncodeError:
            return self._db.execute(sql, tuple(map(_as_bytes, values)))

    def write(self, sql: str, values: tuple[Any, ...]) -> None:
        """Run a statement as a part of the transaction under way."""
        if not self._depth:
            raise RuntimeError("a write outside a transaction")
        if self._failure is not None:
            raise self._failure
        self._changed = self._depth
        try:
            size = PAGES + _length(values)
            self._room -= size
            if self._room < 0:
                self._ask_for_room(size)
            if not self._direct:
                self._go_beside()
            self._db.execute(sql, values)
        except sqlite3.Error as failure:
            self._failure = failure  # SQLite has ended its transaction in some cases: write no more
            raise

    def change(self, *change: Any) -> None:
        """Make a change that the log can have (see `ChangeKind`), as a part of the transaction
        under way."""
        if not self._depth:
            raise RuntimeError("a write outside a transaction")
        if self._failure is not None:
            raise self._failure
        self._changed = self._depth
        size = _length(change) + (PAGES if self._direct else FOLDED_PAGES)
        try:
            self._room -= size
            if self._room < 0:
                self._ask_for_room(size)
            if self._direct:
                self._write_now([change])
                return
        except sqlite3.Error as failure:
            self._failure = failure
            raise
        self._length += size
        self._changes.append(change)
        if (
            size > LONG_CONTENT
            or self._length > LONG_TRANSACTION
            or len(self._changes) > MOST_CHANGES
            or (self._ballast is not None and self._ballast.full)
        ):
            self._go_beside()

    # -- meta ----------------------------------------------------------------------------------

    def meta(self, key: str, default: str = "") -> str:
        if key in self._metas:
            return self._metas[key]
        logged = self._unfolded.metas.get(key)
        if logged is not None:
            return logged
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """All that a transaction sets is written in one statement, when it is committed."""
        if not self._depth:
            raise RuntimeError("a write outside a transaction")
        self._changed = self._depth
        self._metas[key] = value

    def next_number(self, key: str) -> int:
        """The number after the last one that was given under this key, from 1 on: none is given
        twice, whatever became of what had it."""
        number = int(self.meta(key, "0")) + 1
        self.set_meta(key, str(number))
        return number

    # -- records: JSON by kind and key -----------------------------------------------------------

    def records(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, record) of every record of `kind`, by key."""
        self._settle()
        own = _OWN.get(kind)
        if own is None:
            query = "SELECT key, record FROM records WHERE kind = ? ORDER BY key"
            rows = self._db.execute(query, (kind,))
        else:
            rows = self._db.execute(own.read)
        for key, record in rows:
            yield str(key), _read(record)[0]

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """One record; None if there is none. Not of a kind that has a table of its own."""
        if any(change[1:3] == (kind, key) for change in self._changes):
            self._go_beside()
        if (kind, key) in self._unfolded.records:
            text = self._unfolded.records[kind, key]
        else:
            query = "SELECT record FROM records WHERE kind = ? AND key = ?"
            row = self._db.execute(query, (kind, key)).fetchone()
            text = None if row is None else row[0]
        found: dict[str, Any] | None = None if text is None else json.loads(text)
        return found

    def put_record(self, kind: str, key: str, record: Mapping[str, Any]) -> None:
        own, text = _OWN.get(kind), _dump(record)
        if own is None:
            self.change(ChangeKind.RECORD, kind, key, text)
        else:
            self.change(own.put, key, text)

    def delete_record(self, kind: str, key: str) -> None:
        own = _OWN.get(kind)
        if own is None:
            self.change(ChangeKind.NO_RECORD, kind, key)
        else:
            self.change(own.delete, key)

    # -- publications: what topics keep ----------------------------------------------------------

    def publications(self) -> Iterator[tuple[str, int, dict[str, Any], int]]:
        """(topic, seq, record, size of the content) of all that is kept, by topic and number."""
        self._settle()
        query = "SELECT topic, seq, record, length(content) FROM publications ORDER BY topic, seq"
        for topic, seq, record, size in self._db.execute(query):
            yield topic, seq, json.loads(record), size

    def publication(self, topic: str, seq: int) -> tuple[dict[str, Any], bytes]:
        """Record and content of one; KeyError if it is gone."""
        if any(topic in change[1:3] for change in self._changes):
            self._go_beside()
        row = self._unfolded.publication(topic, seq)
        if row is None:
            query = "SELECT record, content FROM publications WHERE topic = ? AND seq = ?"
            row = self._db.execute(query, (topic, seq)).fetchone()
        if row is None:
            raise KeyError(topic, seq)
        return json.loads(row[0]), row[1]

    def put_publication(self, topic: str, seq: int, record: dict[str, Any], content: bytes) -> None:
        self.change(ChangeKind.PUBLISHED, seq, topic, _dump(record), content)

    def delete_publications(self, topic: str, through: int) -> None:
        """Delete those of `topic` up to number `through`."""
        self.change(ChangeKind.UNPUBLISHED, through, topic)

    # -- messages ------------------------------------------------------------------------------

    def last_message(self) -> int:
        """A number that is at least that of the last message; 0 if there was none.

        Each message that is put has an event, so the number of the last event will do. A counter of
        their own would cost every message another page in the log.
        """
        (highest,) = self.read("SELECT max(seq) FROM messages").fetchone()
        return max(highest or 0, int(self.meta(LAST_EVENT, "0")))

    def messages(self) -> Iterator[tuple[int, str, str, str, dict[str, Any], int]]:
        """(seq, mailbox, state, filename, record, size of the content) of every message kept."""
        query = (
            "SELECT seq, mailbox, state, filename, record,"
            " coalesce(length(long_contents.content), length(messages.content))"
            " FROM messages LEFT JOIN long_contents USING (seq) ORDER BY seq"
        )
        for seq, mailbox, state, filename, record, size in self.read(query):
            yield seq, mailbox, state, filename, _read(record)[0], size

    def put_message(
        self,
        seq: int,
        mailbox: str,
        state: str,
        filename: str,
        record: dict[str, Any],
        content: bytes,
    ) -> None:
        self.change(ChangeKind.MESSAGE, seq, mailbox, state, filename, _dump(record), content)
        if len(content) > SHORT_CONTENT:
            return
        self._recent[seq] = content
        self._undo.append(lambda: self._recent.pop(seq, None))
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def update_message(self, seq: int, state: str, filename: str, record: dict[str, Any]) -> None:
        self.change(ChangeKind.CHANGED, seq, state, filename, _dump(record))

    def finish_message(
        self, seq: int, state: str, record: dict[str, Any], head: bytes | None
    ) -> None:
        """Keep a message that is in no mailbox any more; of a long one only `head`."""
        self._recent.pop(seq, None)
        if head is None:
            self.update_message(seq, state, "", record)
            return
        self.change(ChangeKind.FINISHED, seq, state, _dump(record), head)

    def delete_message(self, seq: int) -> None:
        self._recent.pop(seq, None)
        self.change(ChangeKind.DELETED, seq)

    def delete_finished(self, seqs: list[int]) -> None:
        """Delete messages of which no long content is kept."""
        for seq in seqs:
            self._recent.pop(seq, None)
        self.change(ChangeKind.ALL_DELETED, json.dumps(seqs))

    def content(self, seq: int) -> bytes:
        """The content of a message; KeyError if it is gone."""
        recent = self._recent.get(seq)
        if recent is not None:
            return recent
        if any(change[1] == seq for change in self._changes):
            self._go_beside()
        logged = self._unfolded.content(seq)
        if logged is not None:
            return logged
        row = self._db.execute("SELECT content FROM messages WHERE seq = ?", (seq,)).fetchone()
        if row == (b"",):
            query = "SELECT content FROM long_contents WHERE seq = ?"
            row = self._db.execute(query, (seq,)).fetchone() or row
        if row is None:
            raise KeyError(seq)
        return bytes(row[0])

    # -- power cuts ----------------------------------------------------------------------------

    async def checkpoint_regularly(self) -> None:
        """Fold the logs into the database every few seconds, off the event loop."""
        done = 0
        while True:
            with trio.move_on_after(CHECKPOINT_SECONDS):
                await self._long.wait()
            self._long = trio.Event()
            if self.commits != done:
                done = self.commits
                await self.checkpoint()
            await self.shrink()

    async def shrink(self) -> None:
        """Give free pages back to the disk, in small steps; the next checkpoint makes the file
        shorter. Nothing is done on a full disk: it would take room in the log."""
        if self.is_full:
            return
        try:
            steps = await self._shrinking.run()
        except sqlite3.Error as failure:
            log.warning("what was deleted is not given back to the disk: %s", failure)
            return
        self._room = 0  # the log is longer than it was
        self.commits += bool(steps)

    def copy_to(self, path: Path) -> StoreCopy:
        """A copy of everything that is committed now, and of nothing that comes later. It is at
        `path` once `StoreCopy.write` has run. Takes 0.2 ms, and a fold. Raises KernelError ENOSPC,
        EIO."""
        self.fold()
        self._copies += 1
        try:
            return StoreCopy(self.path, path, self._copied)
        except sqlite3.Error as failure:
            self._copied()
            number = errno.ENOSPC if is_full(failure) else errno.EIO
            raise KernelError(number, f"the store cannot be copied: {failure}") from failure

    def _copied(self) -> None:
        self._copies -= 1

    async def checkpoint(self) -> None:
        """Fold SQLite's log into the database, in a thread, and let a file of ours go that is in
        there. If SQLite's has become long, fold the rest as well, here, and begin it anew: little
        was written meanwhile. While a copy is made it is not begun anew: that would wait for the
        copy."""
        if self._fold_if_due():
            self._log.turn()
        pages = await trio.to_thread.run_sync(_checkpoint, self.path)
        if pages is None:
            return
        self._log.drop()
        if pages >= MOST_PAGES and not self._copies:
            try:
                self._db.execute("PRAGMA wal_checkpoint(RESTART)")
            except sqlite3.Error as failure:
                log.warning("the log could not be begun anew, trying again: %s", failure)


class StoreCopy:
    """One copy of a store, as it was when this was made. Closes itself at the end of a `with`."""

    def __init__(self, store: Path, path: Path, over: Callable[[], object]) -> None:
        self._path = path
        self._over = over
        self._seen = sqlite3.connect(store, isolation_level=None, check_same_thread=False)
        try:
            self._seen.execute("BEGIN")
            self._seen.execute("SELECT max(rowid) FROM sqlite_schema").fetchone()  # from here on
        except sqlite3.Error:
            self._seen.close()
            raise

    def write(self) -> None:
        """Write the copy and sync it: one file, without a log. For a thread: 3 ms a megabyte, in
        which the log of the store is not begun anew. Raises sqlite3.Error, OSError."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as target:
            self._seen.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        sync_file(self._path)

    def __enter__(self) -> StoreCopy:
        return self

    def __exit__(self, *failure: object) -> None:
        self._seen.close()
        self._over()


# What json.loads comes to, without the layers above it: a third of the time with short records, of
# which a start reads hundreds of thousands.
_read = json.JSONDecoder().raw_decode


def _as_bytes(value: object) -> object:
    """A text as bytes, which are equal to no text."""
    return value.encode(errors="surrogateescape") if isinstance(value, str) else value


def _length(values: tuple[Any, ...]) -> int:
    """Bytes that they take in a row, at most."""
    length = 0
    for value in values:
        if isinstance(value, str):
            length += len(value) if value.isascii() else 4 * len(value)
        elif isinstance(value, bytes):
            length += len(value)
        else:
            length += 9
    return length


def _dump(record: Mapping[str, Any]) -> str:
    """As JSON. If the name of a file is no UTF-8, everything that is not ASCII is escaped."""
    try:
        return to_json(record).decode()
    except PydanticSerializationError:
        return json.dumps(record)


class _Transaction(AbstractContextManager[None]):
    """The store's `with` block: the outermost commits or rolls back. It is a class because every
    system call comes by, and a generator takes three times as long."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        store = self._store
        if store._depth == 0:
            store._failure = None
            store._changed = 0
            store.acting = None
            store.promised = False
        store._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: object
    ) -> None:
        store = self._store
        depth = store._depth
        if depth > 1:
            store._depth = depth - 1
            if store._changed == depth:
                store._changed = depth - 1
                if failure is not None and store._failure is None:
                    store._failure = failure
            return
        try:
            if failure is None:
                store._commit_all()
        except BaseException as late:
            failure = late
            if not isinstance(late, sqlite3.Error):
                raise
        finally:
            try:
                if failure is not None:
                    store._roll_back()
            finally:
                store._depth = 0
                if failure is not None and store._end:
                    store._after_end()
        if failure is None:
            store._after_commit()
            if store._end:
                store._after_end()
        elif isinstance(failure, sqlite3.Error):
            raise _refusal(failure) from failure


def _refusal(failure: sqlite3.Error) -> KernelError:
    full = "full" in str(failure) or "disk I/O" in str(failure)
    number = errno.ENOSPC if full else errno.EIO
    return KernelError(number, f"the store cannot be written: {failure}")


def _call_all(calls: list[Callable[[], object]], after: str) -> None:
    for call in calls:
        try:
            call()
        except Exception:  # it is decided: the author of the change must not be told otherwise
            log.exception("a call after a %s failed", after)


def _checkpoint(path: Path) -> int | None:
    """Sync SQLite's log and fold it; returns the number of its pages, or None if that failed. If it
    has become long, a second round folds what was written during the first, so that little is left
    for the event loop. If the database finds no room to grow, it gets that of the reserve: once it
    has all, the whole log is free."""
    try:
        sync_file(Path(f"{path}-wal"))
        with closing(sqlite3.connect(path, timeout=1.0)) as connection:
            try:
                pages = _fold(connection)
            except sqlite3.Error as failure:
                if not is_full(failure):
                    raise
                let_go(path.parent)
                pages = _fold(connection)
            return pages if pages < MOST_PAGES else _fold(connection)
    except (sqlite3.Error, OSError) as failure:
        log.warning("the store could not be checkpointed, trying again: %s", failure)
        return None


def _fold(connection: sqlite3.Connection) -> int:
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)
