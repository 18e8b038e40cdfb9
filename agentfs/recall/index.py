"""The index: `recall.db`, a database of its own beside the store. The files are the truth, and it
is made of them anew whenever it is damaged, of another release, or gone.

Each agent has a table of words of its own. So how often others use a word does not show in a score,
another agent's notes are in no table that a query reads, and an agent goes with one statement. An
agent is known by its number, which no other agent ever gets.

It is not for the event loop: `Follower` uses it in threads, one at a time.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agentfs.quota.disk_shares import KEPT
from agentfs.recall.note import Heading
from agentfs.recall.query import MemoryQuery
from agentfs.recall.vectors import CLOSE, Vector, nearest
from agentfs.recall.words import TOKENIZER, phrase

__all__ = ["FILE", "IndexRow", "MemoryIndex", "Seen", "Stamp"]

FILE = "recall.db"

_VERSION = 1

_Values = Sequence[object] | dict[str, object]

_TABLES = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    agent INTEGER NOT NULL,
    path BLOB NOT NULL,
    stamp TEXT NOT NULL,
    links INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    type TEXT NOT NULL,
    tags TEXT NOT NULL,
    expires REAL,
    UNIQUE (agent, path)
);
CREATE INDEX expiring ON files (expires) WHERE expires IS NOT NULL;
CREATE INDEX stamps ON files (agent, stamp);
CREATE TABLE vectors (
    file INTEGER PRIMARY KEY REFERENCES files ON DELETE CASCADE,
    model TEXT NOT NULL,
    data BLOB NOT NULL,
    signs BLOB NOT NULL
);
"""

_COLUMNS = "files.id, path, stamp, type, tags"

_FITS = """
    (files.expires IS NULL OR files.expires > :now) AND :type IN ('', files.type)
    AND NOT EXISTS (SELECT 1 FROM json_each(:tags) WHERE NOT instr(files.tags, value))
"""
"""A file is one that a query may find. `tags` is a list of tags as they stand in a row."""

_NUMBERED = f"SELECT {_COLUMNS}, 0.0 FROM files WHERE id = :id AND {_FITS}"  # noqa: S608

# `WORDS` stands for the table of the words of an agent, which has no other letters in its name.
_LOOK = f"""
    SELECT {_COLUMNS}, -WORDS.rank FROM WORDS CROSS JOIN files ON files.id = WORDS.rowid
    WHERE WORDS MATCH :words AND {_FITS} ORDER BY WORDS.rank LIMIT :most
"""  # noqa: S608
_NEWEST = f"""
    SELECT {_COLUMNS}, 0.0 FROM files WHERE agent = :agent AND {_FITS}
    ORDER BY modified DESC, path DESC LIMIT :most
"""  # noqa: S608
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM WORDS WHERE WORDS MATCH ? LIMIT ?)"
_ADD = "INSERT INTO WORDS (rowid, words) VALUES (?, ?)"
_TAKE = "DELETE FROM WORDS WHERE rowid = ?"
_MAKE = f'CREATE VIRTUAL TABLE WORDS USING fts5(words, tokenize="{TOKENIZER}")'

_TELLING, _FEW = 0.05, 2000
"""Where not all words are found together, those count that are in at most so many of the files, or
in so few of them: to rank 100,000 files by a word that is in each takes 70 ms, and says nothing."""


_TICK = 20_000_000
"""Nanoseconds: two ticks of the clock of a Linux without fine-grained times (before 6.13)."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file was when it was read: another one, or a change of it, has another stamp. `young`:
    it was changed just before, and a later change may have the same times; so a scan reads it
    again."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    links: int
    young: bool

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        modified, changed = found.st_mtime_ns, found.st_ctime_ns
        return cls(
            *(found.st_dev, found.st_ino, found.st_size, modified, changed, found.st_nlink),
            young=changed > time.time_ns() - _TICK,
        )

    @property
    def text(self) -> str:
        """As a row has it. It begins with what all names of one file have."""
        return f"{self._same} young" if self.young else self._same

    @property
    def _same(self) -> str:
        return f"{self.device} {self.inode} {self.size} {self.modified} {self.changed}"

    def fits(self, row: str) -> bool:
        """Whether this is the file that a row is about, unchanged as far as one can tell."""
        return self._same == row.removesuffix(" young")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read of a file."""

    stamp: Stamp
    heading: Heading
    words: Sequence[str]


@dataclass(frozen=True, slots=True)
class IndexRow:
    """A file that a query found. `rank` is FTS5's BM25 with the sign changed: higher is better, and
    above all for this query and this memory."""

    id: int
    path: bytes
    stamp: str
    type: str
    tags: tuple[str, ...]
    rank: float


class MemoryIndex:
    """Every method raises sqlite3.Error; `is_damage` says which of those mean that it has to be
    made anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._tables: dict[int, int] = {}  # agents with a table, and how many files it has

    # -- the file ----------------------------------------------------------------------------------

    def open(self) -> bool:
        """Have it open. Whether what was open before is gone: everything is to be read again."""
        if self._connection is not None and self._is_there():
            return False
        if self._connection is not None:
            self.discard()  # another file is there, or none: the old log must not get into it
        try:
            self._open()
        except sqlite3.Error as failure:
            if not self.is_damage(failure):
                raise
            self.discard()
            self._open()
        return True

    def _is_there(self) -> bool:
        with suppress(OSError):
            found = self._path.stat()
            return (found.st_dev, found.st_ino) == self._identity
        return False

    def _open(self) -> None:
        made = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(made, 0o600)
        found = os.fstat(made)
        os.close(made)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # After a power cut the last notes may be missing: the scan at the start finds them.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA cache_size = -16384")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION}; END")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"it is of version {version}")
            elif connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("it is damaged")
            names = "SELECT name FROM sqlite_schema WHERE name GLOB 'words_*' AND sql GLOB '*fts5*'"
            agents = [int(name.removeprefix("words_")) for (name,) in connection.execute(names)]
            counts = dict(connection.execute("SELECT agent, count(*) FROM files GROUP BY agent"))
            self._tables = {agent: counts.get(agent, 0) for agent in agents}
            if not counts.keys() <= self._tables.keys():
                raise sqlite3.DatabaseError("the words of an agent are missing")
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, (found.st_dev, found.st_ino)

    @staticmethod
    def is_damage(failure: sqlite3.Error) -> bool:
        """Whether it has to be made anew. A full disk, or a lock, is no damage."""
        code = getattr(failure, "sqlite_errorcode", None)
        if code is None:
            return isinstance(failure, sqlite3.DatabaseError)
        if code & 0xFF == sqlite3.SQLITE_ERROR:
            return "no such" in str(failure) or "vtable" in str(failure)
        return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

    def discard(self) -> None:
        """Remove it. The next `open` makes it anew."""
        self.close()
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}{ending}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One change: all that is in the block, or nothing of it. Raises OSError, ENOSPC, before
        it takes what the disk keeps for the store."""
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < min(KEPT, disk.f_blocks * disk.f_frsize // 8):
            raise OSError(errno.ENOSPC, "the disk is full")
        tables = dict(self._tables)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._tables = tables
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    # -- files, inside `writing` -------------------------------------------------------------------

    def put(self, agent: int, path: bytes, seen: Seen, *, expires: bool) -> None:
        """Have what was read of a file. `expires`: what it says of that counts."""
        if agent not in self._tables:
            self._of(agent, _MAKE)
            self._tables[agent] = 0
        heading, stamp = seen.heading, seen.stamp
        (number,) = self._db.execute(
            "INSERT INTO files (agent, path, stamp, links, modified, type, tags, expires)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET stamp = excluded.stamp,"
            " links = excluded.links, modified = excluded.modified, type = excluded.type,"
            " tags = excluded.tags, expires = excluded.expires RETURNING id",
            (
                *(agent, path, stamp.text, stamp.links, stamp.modified, heading.type),
                json.dumps(heading.tags, ensure_ascii=False) if heading.tags else "",
                heading.expires if expires else None,
            ),
        ).fetchone()
        self._db.execute("DELETE FROM vectors WHERE file = ?", (number,))
        gone = self._of(agent, _TAKE, (number,)).rowcount
        self._tables[agent] += 1 - max(gone, 0)
        self._of(agent, _ADD, (number, " ".join(seen.words)))

    def drop(self, agent: int, path: bytes) -> list[bytes]:
        """The file at this path, and all that are below it, are gone. Returns the names that those
        with several had beside these."""
        if agent not in self._tables:
            return []
        rows = self._db.execute(
            "SELECT id, path, stamp, links FROM files"
            " WHERE agent = ? AND (path = ? OR path >= ? AND path < ?)",
            (agent, path, *self._below(path)),
        ).fetchall()
        others: list[bytes] = []
        for number, name, stamp, links in rows:
            if links > 1:
                others += self.others(agent, stamp, name)
            self._of(agent, _TAKE, (number,))
            self._db.execute("DELETE FROM files WHERE id = ?", (number,))
            self._tables[agent] -= 1
        return others

    def drop_agent(self, agent: int) -> None:
        """It is no more, and nothing that it knew."""
        if agent in self._tables:
            self._db.execute(f"DROP TABLE words_{agent}")
            del self._tables[agent]
        self._db.execute("DELETE FROM files WHERE agent = ?", (agent,))

    def _of(self, agent: int, statement: str, values: _Values = ()) -> sqlite3.Cursor:
        """Run a statement on the words of an agent."""
        return self._db.execute(statement.replace("WORDS", f"words_{agent}"), values)

    @staticmethod
    def _below(path: bytes) -> tuple[bytes, bytes]:
        """The first path below a directory, and the first one behind those."""
        return (path + b"/", path + b"0") if path else (b"", b"\xff" * 8)

    # -- looking -----------------------------------------------------------------------------------

    def agents(self) -> tuple[int, ...]:
        """Those of whom it has something."""
        return tuple(self._tables)

    def stamps(self, agent: int, path: bytes) -> dict[bytes, str]:
        """The stamps of the files below a directory, by path."""
        return dict(
            self._db.execute(
                "SELECT path, stamp FROM files WHERE agent = ? AND path >= ? AND path < ?",
                (agent, *self._below(path)),
            )
        )

    def others(self, agent: int, stamp: str, path: bytes) -> list[bytes]:
        """Other names of the file with this stamp, or with one of it, as far as they are known."""
        same = " ".join((*stamp.split(" ", 2)[:2], ""))
        return [
            other
            for (other,) in self._db.execute(
                "SELECT path FROM files WHERE agent = ? AND stamp >= ? AND stamp < ? AND path != ?",
                (agent, same, same + ":", path),
            )
        ]

    def expired(self, now: float, most: int) -> list[tuple[int, bytes, str]]:
        """Some of the notes whose time is over: (agent, path, stamp)."""
        return self._db.execute(
            "SELECT agent, path, stamp FROM files WHERE expires <= ? LIMIT ?", (now, most)
        ).fetchall()

    def search(self, agent: int, query: MemoryQuery, now: float, most: int) -> list[IndexRow]:
        """At most so many files, the best first: those with all of the words, and then those with
        some. Without words the newest."""
        if agent not in self._tables:
            return []
        asked = {"agent": agent, "most": most, **_asked(query, now)}
        if not query.phrases:
            return _rows(self._db.execute(_NEWEST, asked))
        pieces = [phrase(each) for each in query.phrases]
        found = _rows(self._of(agent, _LOOK, asked | {"words": " AND ".join(pieces)}))
        if len(found) < most and len(pieces) > 1:
            telling = self._telling(agent, pieces)
            if telling:
                some = _rows(self._of(agent, _LOOK, asked | {"words": " OR ".join(telling)}))
                known = {row.id for row in found}
                found += [row for row in some if row.id not in known]
        return found[:most]

    def _telling(self, agent: int, pieces: Iterable[str]) -> list[str]:
        """Those pieces that say something."""
        most = max(_FEW, int(_TELLING * self._tables[agent]))
        return [
            each
            for each in pieces
            if self._of(agent, _COUNT, (each, most + 1)).fetchone()[0] <= most
        ]

    # -- vectors -----------------------------------------------------------------------------------

    def without_vector(self, agent: int, model: str, most: int) -> list[IndexRow]:
        """Files that have none of this model, the newest first."""
        found = self._db.execute(
            f"SELECT {_COLUMNS}, 0.0 FROM files LEFT JOIN vectors"  # noqa: S608
            " ON vectors.file = files.id AND model = ?"
            " WHERE agent = ? AND data IS NULL ORDER BY modified DESC LIMIT ?",
            (model, agent, most),
        )
        return _rows(found)

    def put_vector(self, row: IndexRow, model: str, vector: Vector | None) -> None:
        """Keep the vector of a file, if that is as it was; None: it has no text. Inside
        `writing`."""
        data, signs = (b"", b"") if vector is None else (vector.data, vector.signs)
        self._db.execute(
            "INSERT OR REPLACE INTO vectors (file, model, data, signs)"
            " SELECT id, ?, ?, ? FROM files WHERE id = ? AND stamp = ?",
            (model, data, signs, row.id, row.stamp),
        )

    def meant(
        self, agent: int, query: MemoryQuery, now: float, model: str, vector: Vector
    ) -> list[IndexRow]:
        """The files whose vectors are like this one, the likest first."""
        signs = self._db.execute(
            "SELECT file, signs FROM vectors JOIN files ON files.id = file"
            " WHERE agent = ? AND model = ?",
            (agent, model),
        )
        asked, found = _asked(query, now), []
        for number in nearest(vector, signs, CLOSE):
            (data,) = self._db.execute(
                "SELECT data FROM vectors WHERE file = ?", (number,)
            ).fetchone()
            rows = _rows(self._db.execute(_NUMBERED, asked | {"id": number}))
            found += [(vector.likeness(data), row) for row in rows]
        found.sort(key=lambda each: -each[0])
        return [row for _, row in found]


def _asked(query: MemoryQuery, now: float) -> dict[str, object]:
    tags = [json.dumps(tag, ensure_ascii=False) for tag in query.tags]
    return {"now": now, "type": query.type, "tags": json.dumps(tags)}


def _rows(found: Iterable[tuple[int, bytes, str, str, str, float]]) -> list[IndexRow]:
    return [
        IndexRow(number, path, stamp, kind, tuple(json.loads(tags or "[]")), rank)
        for number, path, stamp, kind, tags, rank in found
    ]
