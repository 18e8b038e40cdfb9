"""Verifies that an audit is what the kernel wrote: every record, in order, none missing at either
end.

It reads a store beside its daemon, or one without a daemon, in one snapshot, and changes nothing.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from agentfs.audit import audit_table as tables
from agentfs.audit.gaps import Gap, first_of, is_gap
from agentfs.audit.mirror import Mirror
from agentfs.audit.seal import GENESIS, Checkpoint, Seal
from agentfs.base.errors import KernelError
from agentfs.store.replay import reading

__all__ = ["Verification", "verify"]

# Records between two pauses, which take about 0.3 ms; in a pause other threads have their turn.
TURN, PAUSE = 200, 0.0001


@dataclass(frozen=True, slots=True)
class Verification:
    """`fault` is empty if the audit is sound; otherwise it says the first fault, and where it
    is."""

    records: int = 0
    head: str = ""
    fault: str = ""

    def __str__(self) -> str:
        if self.fault:
            return f"bad: {self.fault}"
        return f"ok {self.records} records, head {self.head}".removesuffix(", head ")


class _BadError(Exception):
    """The first fault."""


def verify(store: Path, key: Path, *, folded: bool = False) -> Verification:
    """Check the audit in the store at `store` with the key at `key`. That takes about 5 s for a
    million records. A store that cannot be read is a fault, too. `folded`: its daemon has just
    folded the log, so that need not be looked at."""
    try:
        lines = Mirror(key).lines()  # before the snapshot, so that their records are in it
        with reading(store, folded=folded) as connection:
            connection.text_factory = bytes
            return _Audit(connection, key, lines).verify()
    except (_BadError, KernelError) as bad:
        return Verification(fault=str(bad.args[0]))
    except (sqlite3.Error, OSError) as failure:
        return Verification(fault=f"the store cannot be read: {failure}")


class _Audit:
    """The audit as one snapshot has it."""

    def __init__(self, connection: sqlite3.Connection, key: Path, lines: list[bytes]) -> None:
        self._connection = connection
        self._key = key
        self._lines = lines
        self._head, self._count = tables.search(connection)
        self._checkpoints = tables.checkpoints(connection)
        self._records = 0

    def verify(self) -> Verification:
        if not (self._head or self._count or self._checkpoints or self._lines):
            return Verification()
        if not self._key.exists():
            raise _BadError(
                f"{self._count} records cannot be verified: their key is not at {self._key}"
            )
        self._seal = Seal(self._key)
        kept = self._read_checkpoints()
        cut = next((each for each in kept.values() if each.cut), None)
        start = (0, GENESIS) if cut is None else (cut.seq, cut.digest)
        seq, digest = self._walk(start, kept)
        self._check_head(seq, digest)
        self._check_mirror(start[0], seq)
        return Verification(self._records, f"{seq} {digest.hex()}" if seq else "")

    def _read_checkpoints(self) -> dict[int, Checkpoint]:
        found = {}
        for number, (seq, text) in enumerate(self._checkpoints):
            try:
                read = self._seal.read_checkpoint(text)
            except ValueError as bad:
                raise _BadError(f"checkpoint {seq}: {bad}") from None
            if read.seq != seq:
                raise _BadError(f"checkpoint {seq}: it is that of record {read.seq}")
            if read.cut and number:
                raise _BadError(f"checkpoint {seq}: records were cut off behind an older one")
            found[seq] = read
        return found

    def _walk(self, start: tuple[int, bytes], kept: dict[int, Checkpoint]) -> tuple[int, bytes]:
        """Go from record to record. Returns number and hash of the last one."""
        seq, digest = start
        marks = {each.seq: each.digest for each in kept.values() if each.seq > seq}
        rows = self._connection.execute(
            "SELECT seq, CAST(record AS BLOB), hash FROM audit ORDER BY seq"
        )
        for found, record, said in rows:
            gap = is_gap(record)
            first = first_of(record) if gap else found
            if first != seq + 1:
                raise _BadError(_gap(seq + 1, first, at_the_head=seq == start[0]))
            if gap:
                self._check_gap(found, record, digest, said)
                while marks and next(iter(marks)) < found:  # of a record that was dropped
                    del marks[next(iter(marks))]
                digest = said
            else:
                self._records += 1
                digest = hashlib.sha256(digest + record).digest()
            seq = found
            if digest != said:
                raise _BadError(
                    f"record {seq}: its hash is not that of its content and the hash before it"
                )
            if marks and marks.pop(seq, digest) != digest:
                raise _BadError(f"record {seq}: it is not the one of which there is a checkpoint")
            if seq % TURN == 0:
                time.sleep(PAUSE)
        if marks:
            raise _BadError(
                f"record {seq + 1}: it is missing, and everything after it: there is a checkpoint"
                f" of record {max(marks)}"
            )
        return seq, digest

    def _check_gap(self, found: int, record: bytes, before: bytes, digest: bytes) -> None:
        try:
            gap = Gap.read(self._seal, record, before, digest)
        except ValueError:
            gap = None
        if gap is None or gap.last != found:
            raise _BadError(
                f"record {found}: it stands for refusals that were dropped, and is not signed with"
                " this key for this place"
            )

    def _check_head(self, seq: int, digest: bytes) -> None:
        if not self._head and not seq:
            return
        if not self._head:
            raise _BadError(f"record {seq}: it is the last one, and there is no signed head")
        try:
            head, said = self._seal.read_head(self._head)
        except (ValueError, IndexError):
            raise _BadError(
                "the head: it is not signed with this key, so the records may not be the kernel's"
            ) from None
        if head > seq:
            raise _BadError(f"record {seq + 1}: it is missing; the head is record {head}")
        if (head, said) != (seq, digest):
            raise _BadError(f"record {min(head + 1, seq)}: it is not what the head is of")

    def _check_mirror(self, cut: int, last: int) -> None:
        """Compare the mirror with the store."""
        kept = dict(self._checkpoints)
        path = Mirror(self._key).path
        if not self._lines:
            raise _BadError(f"the checkpoints beside the key are gone: {path}")
        before = -1
        for number, line in enumerate(self._lines, start=1):
            where = f"line {number} of {path}"
            try:
                read = self._seal.read_checkpoint(line)
            except ValueError as bad:
                raise _BadError(f"{where}: {bad}") from None
            if read.seq > last:
                raise _BadError(
                    f"record {last + 1}: it is missing, and the store is an older one or its end"
                    f" was cut: {where} is the checkpoint of record {read.seq}"
                )
            if read.seq <= before:
                raise _BadError(
                    f"record {read.seq}: the store was put back to an older one before it: {where}"
                    f" comes behind the checkpoint of record {before}"
                )
            if read.seq > cut and kept.get(read.seq) != line:
                raise _BadError(f"checkpoint {read.seq}: it is not what {where} says")
            before = read.seq


def _gap(expected: int, found: int, *, at_the_head: bool) -> str:
    words = f"record {expected}: it is missing; the next one is record {found}"
    if at_the_head and found > expected:
        words += ", and no signed checkpoint says that the kernel cut off what was before it"
    return words
