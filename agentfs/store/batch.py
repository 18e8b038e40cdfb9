"""Changes that are in the log and not in the database yet: what they come to, and how they are
written in the log.

A change is a kind and its values. A row that came and went since the last fold is not written, and
one that changed often is written once. Changes that are taken twice come to the same.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

__all__ = ["SHORT_CONTENT", "Batch", "Change", "ChangeKind", "encode"]

SHORT_CONTENT = 4096
"""Bytes. A content up to here is a column of its message; a longer one is kept apart, because
SQLite writes a whole row again when one of its columns changes (1 MiB: 5 ms, kept apart 50 µs)."""

Change = tuple[Any, ...]
"""The values of one change, whose first is its `ChangeKind`."""


class ChangeKind(IntEnum):
    """Kinds of change. A number is never used for another one."""

    META = 1
    RECORD = 2
    NO_RECORD = 3
    AGENT = 4
    NO_AGENT = 5
    PROCESS = 6
    NO_PROCESS = 7
    MESSAGE = 8
    CHANGED = 9
    FINISHED = 10
    DELETED = 11
    ALL_DELETED = 12
    AUDITED = 13
    PUBLISHED = 14
    UNPUBLISHED = 15


# Those that come most often. The compiled build looks up nothing that is Final.
_META: Final = ChangeKind.META
_RECORD: Final = ChangeKind.RECORD
_MESSAGE: Final = ChangeKind.MESSAGE
_CHANGED: Final = ChangeKind.CHANGED
_FINISHED: Final = ChangeKind.FINISHED
_AUDITED: Final = ChangeKind.AUDITED

# The values of each kind: numbers (q) first, then texts (s) and bytes (b).
_SHAPES = {
    ChangeKind.META: "ss",  # key, value
    ChangeKind.RECORD: "sss",  # kind, key, record
    ChangeKind.NO_RECORD: "ss",
    ChangeKind.AGENT: "ss",  # name, record
    ChangeKind.NO_AGENT: "s",
    ChangeKind.PROCESS: "ss",  # pid, record
    ChangeKind.NO_PROCESS: "s",
    ChangeKind.MESSAGE: "qssssb",  # number, mailbox, state, filename, record, content
    ChangeKind.CHANGED: "qsss",  # number, state, filename, record
    ChangeKind.FINISHED: "qssb",  # number, state, record, what is kept of the content
    ChangeKind.DELETED: "q",
    ChangeKind.ALL_DELETED: "s",  # a list of numbers as JSON
    ChangeKind.AUDITED: "qsb",  # number, record, hash
    ChangeKind.PUBLISHED: "qssb",  # number, topic, record, content
    ChangeKind.UNPUBLISHED: "qs",  # up to this number, of this topic
}
_COUNT = struct.Struct("<I")


_AGENTS = (
    "INSERT OR REPLACE INTO agents VALUES (?, ?)",
    "DELETE FROM agents WHERE name = ?",
)
_PROCESSES = (
    "INSERT OR REPLACE INTO processes VALUES (?, ?)",
    "DELETE FROM processes WHERE pid = ?",
)


def encode(changes: Iterable[Change]) -> bytes:
    """Changes as the log has them: how many integers follow; of each change its kind, its numbers
    and the lengths of its texts (in characters) and bytes; all texts as UTF-8; all bytes. Raises
    UnicodeEncodeError for a text that is no UTF-8. It is one function that packs everything at
    once, because every transaction comes by: one that packs each change takes twice as long."""
    integers: list[Any] = []
    texts: list[str] = []
    contents: list[bytes] = []
    for change in changes:
        for value in change:
            if isinstance(value, str):
                integers.append(len(value))
                texts.append(value)
            elif isinstance(value, bytes):
                integers.append(len(value))
                contents.append(value)
            else:
                integers.append(value)
    count = len(integers)
    head = struct.pack(f"<I{count}q", count, *integers) + "".join(texts).encode()
    return b"".join([head, *contents])


def decode(data: bytes) -> Iterator[Change]:
    """The changes of a record. Raises ValueError, KeyError or struct.error for what is none."""
    (count,) = _COUNT.unpack_from(data)
    integers = struct.unpack_from(f"<{count}q", data, _COUNT.size)
    heads = list(_heads(integers))
    behind = len(data) - sum(head[-1] for head in heads if _SHAPES[head[0]].endswith("b"))
    text = data[_COUNT.size + 8 * count : behind].decode()
    at = 0
    for kind, *values in heads:
        change: list[Any] = [kind]
        for value, sort in zip(values, _SHAPES[kind], strict=True):
            if sort == "q":
                change.append(value)
            elif sort == "s":
                change.append(text[at : at + value])
                at += value
            else:
                change.append(data[behind : behind + value])
                behind += value
        yield tuple(change)


def _heads(integers: tuple[int, ...]) -> Iterator[tuple[ChangeKind, *tuple[int, ...]]]:
    """Of each change its kind, its numbers and the lengths of the rest."""
    at = 0
    while at < len(integers):
        kind = ChangeKind(integers[at])
        behind = at + 1 + len(_SHAPES[kind])
        yield kind, *integers[at + 1 : behind]
        at = behind


@dataclass(slots=True)
class _Message:
    """What becomes of a message; `new` is not in the database yet, and `content` None is as it is
    there."""

    new: bool
    mailbox: str
    state: str
    filename: str
    record: str
    content: bytes | None
    cut: bool = False
    """Nothing of it is kept apart any more."""
    gone: bool = False


@dataclass(slots=True)
class _Topic:
    """What is published and not in the database yet, by number, and up to which number all goes
    that is there."""

    through: int
    published: dict[int, tuple[str, bytes]]


class Batch:
    """The sum of changes. `count` says how many transactions they are, `size` how many bytes of the
    log."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.metas: dict[str, str] = {}
        self.records: dict[tuple[str, str], str | None] = {}
        self._agents: dict[str, str | None] = {}
        self._processes: dict[str, str | None] = {}
        self._new: dict[int, Change] = {}  # messages of which nothing has changed since they came
        self._messages: dict[int, _Message] = {}  # the others
        self._audited: dict[int, tuple[str, bytes]] = {}
        self._topics: dict[str, _Topic] = {}
        self._takes: dict[int, Callable[..., None]] = {
            ChangeKind.NO_RECORD: self._no_record,
            ChangeKind.AGENT: self._agents.__setitem__,
            ChangeKind.NO_AGENT: lambda name: self._agents.__setitem__(name, None),
            ChangeKind.PROCESS: self._processes.__setitem__,
            ChangeKind.NO_PROCESS: lambda pid: self._processes.__setitem__(pid, None),
            ChangeKind.DELETED: self._deleted,
            ChangeKind.ALL_DELETED: self._all_deleted,
            ChangeKind.PUBLISHED: self._publish,
            ChangeKind.UNPUBLISHED: self._unpublish,
        }

    def take(self, changes: Iterable[Change], size: int = 0) -> None:
        """Add the changes of one transaction, which has `size` bytes in the log."""
        self.count += 1
        self.size += size
        takes = self._takes
        for change in changes:
            kind = change[0]
            if kind is _RECORD:  # what comes most often needs no look-up
                self.records[change[1], change[2]] = change[3]
            elif kind is _AUDITED:
                self._audited[change[1]] = change[2], change[3]
            elif kind is _META:
                self.metas[change[1]] = change[2]
            elif kind is _CHANGED:
                self._changed(change[1], change[2], change[3], change[4])
            elif kind is _MESSAGE:
                self._new[change[1]] = change
            elif kind is _FINISHED:
                self._finished(change[1], change[2], change[3], change[4])
            else:
                takes[kind](*change[1:])

    def _no_record(self, kind: str, key: str) -> None:
        self.records[kind, key] = None

    def _changed(self, seq: int, state: str, filename: str, record: str) -> None:
        new = self._new.pop(seq, None)
        if new is not None:
            self._messages[seq] = _Message(True, *new[2:])
        message = self._messages.get(seq)
        if message is None:
            self._messages[seq] = _Message(False, "", state, filename, record, None)
        else:
            message.state, message.filename, message.record = state, filename, record

    def _finished(self, seq: int, state: str, record: str, content: bytes) -> None:
        self._changed(seq, state, "", record)
        message = self._messages[seq]
        message.content, message.cut = content, True

    def _deleted(self, seq: int) -> None:
        self._new.pop(seq, None)
        self._messages[seq] = _Message(False, "", "", "", "", None, gone=True)

    def _all_deleted(self, seqs: str) -> None:
        for seq in json.loads(seqs):
            self._deleted(seq)

    def _publish(self, seq: int, topic: str, record: str, content: bytes) -> None:
        kept = self._topics.setdefault(topic, _Topic(-1, {}))
        kept.published[seq] = record, content

    def _unpublish(self, through: int, topic: str) -> None:
        kept = self._topics.setdefault(topic, _Topic(-1, {}))
        kept.through = max(kept.through, through)
        for seq in [seq for seq in kept.published if seq <= through]:
            del kept.published[seq]

    # -- looking things up -----------------------------------------------------------------------

    def content(self, seq: int) -> bytes | None:
        """The content of a message; None: as the database has it. KeyError if it is gone."""
        new = self._new.get(seq)
        if new is not None:
            content: bytes = new[-1]
            return content
        message = self._messages.get(seq)
        if message is None:
            return None
        if message.gone:
            raise KeyError(seq)
        return message.content

    def publication(self, topic: str, seq: int) -> tuple[str, bytes] | None:
        """Record and content; None: as the database has it. KeyError if it is gone."""
        kept = self._topics.get(topic)
        if kept is None:
            return None
        found = kept.published.get(seq)
        if found is None and seq <= kept.through:
            raise KeyError(topic, seq)
        return found

    # -- the fold --------------------------------------------------------------------------------

    def write(self, database: sqlite3.Connection) -> None:
        """Write everything, within a transaction. Raises sqlite3.Error."""
        many = database.executemany
        if self.metas:
            many("INSERT OR REPLACE INTO meta VALUES (?, ?)", self.metas.items())
        for (put, delete), found in ((_AGENTS, self._agents), (_PROCESSES, self._processes)):
            if found:
                many(put, [each for each in found.items() if each[1] is not None])
                many(delete, [(name,) for name, record in found.items() if record is None])
        if self.records:
            self._write_records(database)
        if self._new or self._messages:
            self._write_messages(database)
        if self._audited:
            records = [(seq, *row) for seq, row in self._audited.items()]
            many("INSERT OR REPLACE INTO audit VALUES (?, ?, ?)", records)
        for topic, kept in self._topics.items():
            if kept.through >= 0:
                gone = "DELETE FROM publications WHERE topic = ? AND seq <= ?"
                database.execute(gone, (topic, kept.through))
            rows = [(topic, seq, *row) for seq, row in kept.published.items()]
            many("INSERT OR REPLACE INTO publications VALUES (?, ?, ?, ?)", rows)

    def _write_records(self, database: sqlite3.Connection) -> None:
        put = [(*key, record) for key, record in self.records.items() if record is not None]
        gone = [key for key, record in self.records.items() if record is None]
        if put:
            database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", put)
        if gone:
            database.executemany("DELETE FROM records WHERE kind = ? AND key = ?", gone)

    def _write_messages(self, database: sqlite3.Connection) -> None:
        long, changed, cut, gone, whole = [], [], [], [], []
        rows = [change[1:] for change in self._new.values()]
        for seq, message in self._messages.items():
            content = message.content
            if message.gone:
                gone.append((seq,))
            if message.gone or message.cut:
                whole.append((seq,))
            if message.gone:
                continue
            if message.new:
                place = seq, message.mailbox, message.state, message.filename
                rows.append((*place, message.record, content))
            elif content is None:
                changed.append((message.state, message.filename, message.record, seq))
            else:
                cut.append((message.state, message.filename, message.record, content, seq))
        for number, row in enumerate(rows):
            if len(row[-1]) > SHORT_CONTENT:
                long.append((row[0], row[-1]))
                rows[number] = (*row[:-1], b"")
        many = database.executemany
        if whole:
            many("DELETE FROM long_contents WHERE seq = ?", whole)
        if rows:
            many("INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)
        if long:
            many("INSERT OR REPLACE INTO long_contents VALUES (?, ?)", long)
        if changed:
            many(
                "UPDATE messages SET state = ?, filename = ?, record = ? WHERE seq = ?",
                changed,
            )
        if cut:
            many(
                "UPDATE messages SET state = ?, filename = ?, record = ?, content = ?"
                " WHERE seq = ?",
                cut,
            )
        if gone:
            many("DELETE FROM messages WHERE seq = ?", gone)
