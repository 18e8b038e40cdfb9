"""Saves the rows of a damaged store into a new one, one by one, the mail first, and then what its
log has and the database lacks.

The damaged store is only read. If a page cannot be read, reading goes on behind its rows.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfs.audit.audit_table import DROPPED, HEAD
from agentfs.audit.check import GAPS
from agentfs.mail.message import Message
from agentfs.mail.tally import EVERYBODY
from agentfs.model.names import INIT_NAME
from agentfs.model.spec import NAME
from agentfs.store.migrations import migrate
from agentfs.store.opening import LAST_EVENT
from agentfs.store.replay import remains

__all__ = [
    "Saved",
    "add_lost_agents",
    "give_up_processes",
    "make_up_length",
    "mend_first_page",
    "salvage",
]

BY_NUMBER = ("messages", "long_contents", "processes", "audit", "checkpoints", "uses")
ORDER = (
    "messages",
    "long_contents",
    "agents",
    "meta",
    "records",
    "publications",
    "processes",
    "audit",
    "checkpoints",
    "uses",
    "usage",
)
LAST = 2**63 - 1

MOST_BYTES = 1 << 40
"""The greatest length of a store; a greater number is garbage."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """How many rows of a table were saved, and whether some may be missing."""

    table: str
    rows: int
    whole: bool


def mend_first_page(store: Path) -> None:
    """Give a store that has lost its first page that of a new store. The names of the tables and
    their first pages are the same in all stores that were made in the same way. There are three
    ways (see `shrinking`): the one that saves most rows is taken."""
    store.touch()
    found = {fresh: _saved_with(store, *fresh) for fresh in _first_pages()}
    _put_first_page(store, *max(found, key=lambda fresh: found[fresh]))


def _first_pages() -> Iterator[tuple[bytes, int]]:
    """The first page of a new store, and how many pages that has: as it is made, as it is made anew
    from one of an earlier release, and as those are."""
    for steps in (("INCREMENTAL", ""), ("INCREMENTAL", "VACUUM"), ("NONE", "")):
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "store.db"
            with closing(sqlite3.connect(fresh, isolation_level=None)) as database:
                database.execute(f"PRAGMA auto_vacuum = {steps[0]}")
                database.execute("PRAGMA journal_mode = WAL")
                migrate(database)
                database.execute(steps[1])
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            yield fresh.read_bytes()[:4096], fresh.stat().st_size // 4096


def _saved_with(store: Path, page: bytes, least: int) -> int:
    """How many rows can be saved with a first page; none if the names of the tables, which go on
    behind it, are elsewhere."""
    _put_first_page(store, page, least)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return sum(each.rows for each in salvage(store, Path(folder) / "store.db"))
        except sqlite3.Error:
            return 0


def _put_first_page(store: Path, page: bytes, least: int) -> None:
    """`least`: how many pages the store has at least."""
    with open(store, "r+b") as file:
        size = max(file.seek(0, 2) // 4096, least)
        # The list of free pages is empty: all pages are taken for used.
        head = page[:28] + size.to_bytes(4, "big") + bytes(8) + page[40:]
        file.seek(0)
        file.write(head)
        file.truncate(size * 4096)


def make_up_length(store: Path) -> None:
    """Add the pages that were cut off, empty: SQLite reads nothing of a file that is too short."""
    with open(store, "r+b") as file:
        head = file.read(32)
        pages = int.from_bytes(head[28:32], "big")
        if head.startswith(b"SQLite format 3\0") and file.seek(0, 2) < pages * 4096 < MOST_BYTES:
            file.truncate(pages * 4096)


def salvage(source: Path, target: Path) -> list[Saved]:
    """Copy every row that can be read from the store `source` into a new one, `target`. Raises
    sqlite3.Error where nothing can be read at all."""
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target, isolation_level=None)) as new,
    ):
        old.execute("SELECT name FROM sqlite_master").fetchall()  # raises if there is none
        old.text_factory = lambda text: text.decode("utf-8", "replace")
        new.execute("PRAGMA auto_vacuum = INCREMENTAL")
        new.execute("PRAGMA journal_mode = WAL")
        migrate(new)
        new.execute("BEGIN")
        saved = [_Table(old, new, table).copy() for table in ORDER]
        remains(new, source).write(new)
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return saved


class _Table:
    """One table on its way."""

    def __init__(self, old: sqlite3.Connection, new: sqlite3.Connection, name: str) -> None:
        self._old, self._new, self._name = old, new, name
        info = list(new.execute(f"PRAGMA table_info({name})"))
        self._columns = [row[1] for row in info]
        self._keys = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
        self._whole = True

    def copy(self) -> Saved:
        marks = ", ".join("?" * len(self._columns))
        insert = f"INSERT OR IGNORE INTO {self._name} VALUES ({marks})"  # noqa: S608
        count = 0
        for row in self._by_number() if self._name in BY_NUMBER else self._by_key():
            if not self._sound(row):
                self._whole = False
                continue
            with suppress(sqlite3.Error):  # it says what no row of this table may say
                count += self._new.execute(insert, row).rowcount
        return Saved(self._name, count, self._whole)

    def _sound(self, row: Row) -> bool:
        """Whether its record is JSON. Records of the audit are kept as they are: their hashes say
        the rest."""
        if "record" not in self._columns or self._name in ("audit", "checkpoints"):
            return True
        try:
            return isinstance(json.loads(row[self._columns.index("record")]), dict)
        except (ValueError, TypeError):
            return False

    def _select(self, where: str, order: str) -> str:
        columns = ", ".join(self._columns)
        return f"SELECT {columns} FROM {self._name} WHERE {where} ORDER BY {order}"  # noqa: S608

    def _by_number(self) -> Iterator[Row]:
        key = self._keys[0]
        place = self._columns.index(key)
        at = -LAST
        while True:
            try:
                for row in self._old.execute(self._select(f"{key} >= ?", key), (at,)):
                    yield row
                    at = row[place] + 1
                return
            except sqlite3.Error:
                self._whole = False
            # sqlite3 reads one row ahead: the last one before the damage was read, and not given.
            try:
                row = self._first(key, at)
            except sqlite3.Error:
                behind = self._behind(key, at)
                if behind is None:
                    return
                at = behind
            else:
                if row is None:
                    return
                yield row
                at = row[place] + 1

    def _behind(self, key: str, at: int) -> int | None:
        """The number of the next row that can be read, behind those on pages that cannot."""
        readable = None
        step = 1
        while readable is None and at + step < LAST:
            if self._readable(key, at + step):
                readable = at + step
            step *= 2
        if readable is None:
            return None
        lost = at + (readable - at) // 2
        while lost + 1 < readable:
            middle = (lost + readable) // 2
            if self._readable(key, middle):
                readable = middle
            else:
                lost = middle
        return readable

    def _first(self, key: str, at: int) -> Row | None:
        """The first row from number `at` on. Raises sqlite3.Error."""
        query = f"{self._select(f'{key} >= ?', key)} LIMIT 1"
        row: Row | None = self._old.execute(query, (at,)).fetchone()
        return row

    def _readable(self, key: str, at: int) -> bool:
        try:
            self._first(key, at)
        except sqlite3.Error:
            return False
        return True

    def _by_key(self) -> Iterator[Row]:
        """Forwards to the damage, then backwards to it."""
        for direction in ("", " DESC"):
            order = ", ".join(f"{key}{direction}" for key in self._keys)
            try:
                yield from self._old.execute(self._select("true", order))
                return
            except sqlite3.Error:
                self._whole = False


# -- making it consistent ------------------------------------------------------------------------


def add_lost_agents(store: Path, folder: Path) -> list[str]:
    """Make agents anew that have no definition any more, but mail, or files in `folder`, which the
    maid would take away. They are the operator's. Returns their names."""
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        known = {name for (name,) in database.execute("SELECT name FROM agents")}
        owners = {
            entry.name: (entry.stat().st_uid, entry.stat().st_gid)
            for entry in os.scandir(folder)
            if entry.is_dir(follow_symlinks=False) and NAME.fullmatch(entry.name)
        }
        wanted = "SELECT DISTINCT mailbox FROM messages WHERE state IN ('new', 'cur', 'dead')"
        for (name,) in database.execute(wanted):
            if "/" not in name and name != EVERYBODY:
                owners.setdefault(name, (os.geteuid(), os.getegid()))
        lost = sorted(set(owners) - known - {INIT_NAME})
        for name in lost:
            uid, gid = owners[name]
            record = json.dumps({"name": name, "uid": uid, "gid": gid, "creator": INIT_NAME})
            database.execute("INSERT INTO agents VALUES (?, ?)", (name, record))
    return lost


def give_up_processes(store: Path) -> None:
    """Make the saved rows consistent, at the cost of everything that was under way: no process is
    left, claimed messages wait again, and an audit that does not hold together goes."""
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        database.execute("BEGIN")
        _mend_messages(database)
        _mend_agents(database)
        kept = ("topic", "queue", "artifact")
        database.execute(f"DELETE FROM records WHERE kind NOT IN {kept}")  # noqa: S608
        database.execute("DELETE FROM processes")
        topics = "SELECT key FROM records WHERE kind = 'topic'"
        database.execute(f"DELETE FROM publications WHERE topic NOT IN ({topics})")  # noqa: S608
        for table in ("uses", "usage"):  # sums and rows have to agree
            database.execute(f"DELETE FROM {table}")  # noqa: S608
        _mend_audit(database)
        _mend_numbers(database)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _mend_messages(database: sqlite3.Connection) -> None:
    query = "SELECT seq, mailbox, state, filename, record FROM messages"
    for seq, box, state, file, text in database.execute(query).fetchall():
        try:
            Message.from_record(seq, box, state, file, json.loads(text), 0)
        except (TypeError, LookupError, ValueError):
            database.execute("DELETE FROM messages WHERE seq = ?", (seq,))
    database.execute(
        "DELETE FROM messages WHERE length(content) = 0 AND state IN ('new', 'cur', 'dead')"
        " AND seq NOT IN (SELECT seq FROM long_contents)"
    )
    database.execute("DELETE FROM long_contents WHERE seq NOT IN (SELECT seq FROM messages)")
    rows = database.execute("SELECT seq, filename, record FROM messages WHERE state = 'cur'")
    for seq, file, text in rows.fetchall():
        record = json.loads(text)
        for slot in ("claimed_by", "claimed_at", "reader"):
            record.pop(slot, None)
        name = f"{file.partition(':')[0]}-{seq}"  # there may be one in `new` that is called so
        change = "UPDATE messages SET state = 'new', filename = ?, record = ? WHERE seq = ?"
        database.execute(change, (name, json.dumps(record), seq))


def _mend_agents(database: sqlite3.Connection) -> None:
    for name, text in database.execute("SELECT name, record FROM agents").fetchall():
        record = json.loads(text) | {"pid": None}
        database.execute("UPDATE agents SET record = ? WHERE name = ?", (json.dumps(record), name))
    # made at the start, with process 1
    database.execute("DELETE FROM agents WHERE name = ?", (INIT_NAME,))


def _mend_audit(database: sqlite3.Connection) -> None:
    first, last, count = database.execute(
        "SELECT min(seq), max(seq), count(*) FROM audit"
    ).fetchone()
    for seq, text in database.execute(GAPS):
        begins = json.loads(text)["changes"][0]["first"]
        first, count = min(first, begins), count + seq - begins
    row = database.execute("SELECT value FROM meta WHERE key = ?", (HEAD,)).fetchone()
    if count and last - first + 1 == count and row and row[0].split(" ")[0] == str(last):
        return
    database.execute("DELETE FROM audit")
    database.execute("DELETE FROM checkpoints")
    database.execute("DELETE FROM meta WHERE key IN (?, ?)", (HEAD, DROPPED))


def _mend_numbers(database: sqlite3.Connection) -> None:
    """No number is given out twice."""
    (highest,) = database.execute("SELECT max(seq) FROM messages").fetchone()
    row = database.execute("SELECT value FROM meta WHERE key = ?", (LAST_EVENT,)).fetchone()
    before = int(row[0]) if row and str(row[0]).isdigit() else 0
    numbers = {LAST_EVENT: max(highest or 0, before), "last_pid": 0, "last_call": 0}
    numbers["last_approval"] = 0
    for key, number in numbers.items():
        database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(number)))
