"""The log before the database: every transaction is one record in it, written with one write(2).

Two files take turns, STORE-log0 and STORE-log1. Their records are folded into the database a little
later (`Batch`), and the place that a fold goes up to is a value in the same transaction of SQLite.
So a start finds everything that was answered: in the database, and behind that place of the log.

A file begins with a head: what it is, its generation, where the generation before it ended, and
salt. A record is its length, a CRC-32, and its content. The checksum begins with that of the head,
so that nothing passes for a record but what was written as one, by this run of the file. A record
that is cut or damaged was never answered: it and everything behind it are as if not written.
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

__all__ = ["Log", "LogPlace", "LogRecord", "Segment", "log_files", "written_after"]

log = logging.getLogger(__name__)

_MAGIC = b"agfslog1"
_HEAD = struct.Struct("<8sQQ8s")  # what it is, generation, end of the one before, salt
_CHECKED = struct.Struct("<I")
_RECORD = struct.Struct("<II")  # length and checksum of what follows
_BESIDE = struct.Struct("<Q")

# Bytes that a file is made longer at once, if it is synced: a sync of a file that has become longer
# writes what Linux knows of it as well, and takes twice as long.
AHEAD = 1 << 20

HEAD = _HEAD.size + _CHECKED.size


class LogPlace(NamedTuple):
    """A place in the log: bytes from the beginning of the file of a generation."""

    generation: int
    offset: int

    @classmethod
    def read(cls, text: str) -> LogPlace:
        """Raises ValueError."""
        generation, offset = text.split()
        return cls(int(generation), int(offset))

    def __str__(self) -> str:
        return f"{self.generation} {self.offset}"


class LogRecord(NamedTuple):
    """A record that is whole: how many transactions were committed beside the log before it, its
    content, and the place behind it."""

    beside: int
    content: bytes
    end: LogPlace


def log_files(store: Path) -> tuple[Path, Path]:
    """The two files of the log of `store`; that of generation G is number G modulo 2."""
    return store.with_name(f"{store.name}-log0"), store.with_name(f"{store.name}-log1")


class Segment(NamedTuple):
    """What one of the two files holds."""

    generation: int
    before: int
    """Where the generation before it ended."""
    seed: int
    data: bytes

    @classmethod
    def read(cls, path: Path) -> Segment | None:
        """None if there is nothing in it that begins as a log. Raises OSError."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if len(data) < HEAD:
            return None
        magic, generation, before, _ = _HEAD.unpack_from(data)
        seed = crc32(data[: _HEAD.size])
        if magic != _MAGIC or _CHECKED.unpack_from(data, _HEAD.size) != (seed,):
            return None
        return cls(generation, before, seed, data)

    def records(self, offset: int) -> Iterator[LogRecord]:
        """The whole records from `offset` on."""
        data, end = self.data, len(self.data)
        at = max(offset, HEAD)
        while at + _RECORD.size + _BESIDE.size <= end:
            length, checksum = _RECORD.unpack_from(data, at)
            begin = at + _RECORD.size
            at = begin + length
            if length < _BESIDE.size or at > end:
                return
            content = data[begin:at]
            if crc32(content, self.seed) != checksum:
                return
            (beside,) = _BESIDE.unpack_from(content)
            yield LogRecord(beside, content[_BESIDE.size :], LogPlace(self.generation, at))


def written_after(store: Path, place: LogPlace | None, beside: int) -> Iterator[LogRecord]:
    """The records of the log of `store` behind `place`, as far as they follow each other, and the
    transactions beside it: the database has `beside` of them, and a record that was written behind
    one more is not to be used without that. `place` None: all that there are, for who saves what is
    left. Raises OSError."""
    found = {each.generation: each for path in log_files(store) if (each := Segment.read(path))}
    if place is None:
        for generation in sorted(found):
            yield from found[generation].records(0)
        return
    file = found.get(place.generation)
    while True:
        for record in file.records(place.offset) if file is not None else ():
            if record.beside != beside:
                return
            place = record.end
            yield record
        file = found.get(place.generation + 1)
        if file is None or file.before != place.offset:
            return
        place = LogPlace(file.generation, HEAD)


class Log:
    """The log of an open store. `place` is its end; what is behind it in the files goes.

    `old` says whether the other file holds something: it goes with `drop`, once a synced checkpoint
    has it in the database.
    """

    def __init__(self, store: Path, place: LogPlace) -> None:
        """Go on at `place`. Raises OSError."""
        self._paths = log_files(store)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._files = tuple(os.open(path, flags, 0o600) for path in self._paths)
        self.usable = True
        self._unsynced = [True, True]  # of each file: whether the disk may lack something
        self._room = 0  # how long the file is at least; what is behind its end are zeros
        self._seed = 0
        found = Segment.read(self._path(place.generation))
        if found is not None and found.generation == place.generation:
            self.place, self._before, self._seed = place, found.before, found.seed
            os.ftruncate(self._file(), place.offset)
        else:
            self.place, self._before = LogPlace(place.generation + 1, 0), place.offset
            # What is in its file is older than that and in the database, or follows nothing.
            os.ftruncate(self._file(), 0)
        other = Segment.read(self._path(self.place.generation + 1))
        if other is not None and other.generation > self.place.generation:
            self.drop()
        self.old = other is not None and other.generation < self.place.generation

    def _path(self, generation: int) -> Path:
        return self._paths[generation % 2]

    def _file(self) -> int:
        return self._files[self.place.generation % 2]

    def append(self, beside: int, content: bytes) -> bool:
        """Write a record; False, and nothing was written, if the disk does not take all of it."""
        generation, end = self.place
        content = _BESIDE.pack(beside) + content
        head = b"" if end else self._head()
        data = head + _RECORD.pack(len(content), crc32(content, self._seed)) + content
        try:
            written = os.pwrite(self._files[generation % 2], data, end)
        except OSError as failure:
            log.warning("the log cannot be written: %s", failure)
            written = -1
        if written == len(data):
            self.place = LogPlace(generation, end + written)
            self._unsynced[generation % 2] = True
            return True
        self._room = 0
        try:
            os.ftruncate(self._file(), end)
        except OSError as failure:  # what comes would stand behind a piece of a record
            log.error("a piece of a record stays in the log: %s", failure)
            self.give_up()
        return False

    def give_up(self) -> None:
        """Nothing more is to be written to this file: nobody knows what is in it."""
        log.error("the log is not used any more until it is begun anew")
        self.usable = False

    def _head(self) -> bytes:
        head = _HEAD.pack(_MAGIC, self.place.generation, self._before, secrets.token_bytes(8))
        self._seed = crc32(head)
        return head + _CHECKED.pack(self._seed)

    def turn(self) -> bool:
        """Go on in the other file, if that is free. Everything so far has to be in the database,
        synced or not."""
        if self.old or not self.place.offset:
            return False
        self._before = self.place.offset
        self.place = LogPlace(self.place.generation + 1, 0)
        self._room = 0
        self.old = self.usable = True
        return True

    def drop(self) -> None:
        """The other file is not needed any more: a synced checkpoint has all of it."""
        with suppress(OSError):
            os.ftruncate(self._files[(self.place.generation + 1) % 2], 0)
            self.old = False

    def clear(self) -> None:
        """Nothing of the log is needed any more: a synced checkpoint has all of it."""
        for file in self._files:
            with suppress(OSError):
                os.ftruncate(file, 0)

    def unsynced(self) -> list[int]:
        """The files of which the disk may lack something, for who syncs them now, and goes on."""
        if self.place.offset > self._room:
            with suppress(OSError):
                os.posix_fallocate(self._file(), 0, self.place.offset + AHEAD)
            self._room = self.place.offset + AHEAD
        found = [file for file, lacks in zip(self._files, self._unsynced, strict=True) if lacks]
        self._unsynced = [False, False]
        return found

    def close(self) -> None:
        for file in self._files:
            os.close(file)
