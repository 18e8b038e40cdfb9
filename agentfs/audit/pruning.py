"""Pruning: which records of the audit go, and who has to stop when none may go.

A record goes when it is older than `audit.retention`, or when the operator has exported it and says
so. When there are more than `audit.max_records`, the oldest refusals go first, except those among
the newest tenth. Then the oldest records go; or, if the operator chose `when_full: stop`, nothing
more goes, and every call that would need a record is refused to everybody but the operator.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from agentfs.audit import records
from agentfs.audit.audit_table import AuditTables, Row
from agentfs.audit.gaps import Gap, first_of, is_gap
from agentfs.audit.seal import GENESIS, Checkpoint, Seal
from agentfs.audit.settings import AuditSettings
from agentfs.base.clock import Timer
from agentfs.base.errors import KernelError
from agentfs.store.ground import Ground

__all__ = ["BATCH", "Pruning"]

log = logging.getLogger(__name__)

# The records of one transaction, which takes about 2 ms. In the pause (seconds) between two of them
# others have their turn.
BATCH, PAUSE = 500, 0.002

REFUSALS = frozenset({"call_refused", "refusals_repeated"})

SPARED = 10
"""One in so many of the records that may be kept: refusals among the newest of that number stay.
They are what an operator looks for while it happens."""


@dataclass(slots=True)
class _Run:
    """Refusals in a row that go, and records that stand for earlier ones. One record will replace
    all `rows`. `fresh` says that there is something new among them."""

    first: int
    before: bytes
    last: int = 0
    digest: bytes = b""
    time: str = ""
    count: int = 0
    rows: list[int] = field(default_factory=list)
    fresh: bool = False

    def add(self, row: Row, time: str, count: int) -> None:
        self.last, _, self.digest = row
        self.time = time
        self.count += count
        self.rows.append(self.last)


class Pruning:
    """Takes records away, in batches. `first` is the number after the last record that was cut off;
    `dropped` counts the numbers since then that have no record of their own. `newest()` is the
    number of the newest record."""

    def __init__(
        self, ground: Ground, tables: AuditTables, seal: Seal, newest: Callable[[], int]
    ) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._tables = tables
        self._seal = seal
        self._newest = newest
        self.first = self._oldest()
        self.dropped = tables.dropped()
        self._exported = 0  # what the operator does not need any more, up to this number
        # The last record that was looked at for refusals: number, hash, and the run that it ends.
        self._passed: tuple[int, bytes, _Run | None] | None = None
        self._next: Timer | None = None

    def _oldest(self) -> int:
        for seq, record, _ in self._tables.oldest(1):
            return first_of(record) if is_gap(record) else seq
        return 1

    @property
    def kept(self) -> int:
        """How many records there are."""
        return self._newest() - self.first + 1 - self.dropped

    # -- when it is full -------------------------------------------------------------------------

    @property
    def stops(self) -> bool:
        """Whether the audit is full and nothing may go: only the operator may change anything
        then."""
        limits = self._settings.of(AuditSettings)
        return limits.when_full == "stop" and self.kept >= limits.max_records

    def require_room(self, ahead: int = 0) -> None:
        """Raise ENOSPC while `stops`, or once `ahead` more records are made."""
        limits = self._settings.of(AuditSettings)
        most = limits.max_records
        if limits.when_full == "stop" and self.kept + ahead >= most:
            raise KernelError(
                errno.ENOSPC,
                f"the audit keeps {most} records, as many as it may, and the operator chose to stop"
                " then (audit.when_full): nothing is changed until some were exported and cut off",
                rule="audit.when_full",
            )

    def recorded(self) -> None:
        """There is one more record. Drop refusals soon if the audit would stop because of them."""
        limits = self._settings.of(AuditSettings)
        most = limits.max_records
        if limits.when_full == "stop" and 4 * self.kept > 3 * most:
            looked = 0 if self._passed is None else self._passed[0]
            if self._spared_from() - looked > (1 if self.stops else most // 20):
                self._soon()

    # -- pruning ---------------------------------------------------------------------------------

    def check_there(self, through: int) -> None:
        """Raise EINVAL unless everything up to number `through` can go: the newest record stays."""
        if not self.first <= through < self._newest():
            raise KernelError(
                errno.EINVAL,
                f"the records are {self.first} to {self._newest()}, and the last one stays",
            )

    def cut(self, through: int) -> None:
        """Forget everything up to number `through`, a batch at once and the rest soon."""
        self._exported = through
        self.sweep()

    def sweep(self) -> int:
        """Take away one batch, and go on soon if there may be more. Returns how many records
        went."""
        limits = self._settings.of(AuditSettings)
        before = self.kept
        stop = limits.when_full == "stop"
        try:
            more = self._cut_old(limits.retention)
            room = limits.max_records * 3 // 4 if stop else limits.max_records
            if self.kept > room:
                looked = self._drop_refusals(self.kept - room)
                more = more or not looked
                if looked and not stop and self.kept > limits.max_records:
                    more = self._cut_surplus(self.kept - limits.max_records)
        except KernelError as failure:
            log.warning("old records of the audit stay for now: %s", failure)
            return before - self.kept
        if more:
            self._soon()
        return before - self.kept

    def _soon(self) -> None:
        if self._next is None or not self._next.active:
            self._next = self._timers.call_later(PAUSE, self.sweep)

    def _cut_old(self, retention: float) -> bool:
        oldest = records.stamp(self._clock.now() - retention).encode()
        exported = self._exported
        return self._cut(lambda seq, record: seq <= exported or record[-29:-2] <= oldest)

    def _cut_surplus(self, surplus: int) -> bool:
        left = [surplus]

        def goes(_: int, record: bytes) -> bool:
            if is_gap(record):
                return left[0] > 0
            left[0] -= 1
            return left[0] >= 0

        return self._cut(goes)

    def _cut(self, goes: Callable[[int, bytes], bool]) -> bool:
        """Take away the oldest records, as long as `goes(seq, record)` says so, a batch at most.
        The newest one stays. Returns whether there may be more."""
        newest, end, before, dropped = self._newest(), None, self.first - 1, 0
        batch = self._tables.oldest(BATCH)
        for seq, record, digest in batch:
            if seq >= newest or not goes(seq, record):
                break
            if is_gap(record):
                dropped += seq - before
            before, end = seq, (seq, digest)
        if end is None:
            return False
        left = max(0, self.dropped - dropped)
        count = newest - end[0] - left
        mark = Checkpoint(*end, count, records.stamp(self._clock.now()), cut=True)
        with self._store.transaction():
            self._tables.cut(end[0], self._seal.checkpoint(mark))
            self._tables.set_dropped(left)
        self.first, self.dropped = end[0] + 1, left
        if self._passed is not None and self._passed[0] <= end[0]:
            self._passed = (*end, None)
        return len(batch) == BATCH and end[0] == batch[-1][0]

    # -- refusals --------------------------------------------------------------------------------

    def _spared_from(self) -> int:
        """From this number on no refusal is dropped."""
        return self._newest() - max(1, self._settings.of(AuditSettings).max_records // SPARED)

    def _drop_refusals(self, surplus: int) -> bool:
        """Drop up to `surplus` refusals of the next batch. A record that somebody tampered with is
        left alone, for `verify` to find. Returns whether all records were looked at."""
        passed = self._passed or self._start()
        if passed is None:
            return True
        seq, digest, run = passed
        spared, dropped = self._spared_from(), 0
        runs: list[_Run] = []
        rows = [row for row in self._tables.after(seq, BATCH) if row[0] < spared]
        for row in rows:
            if dropped == surplus:
                break
            told = self._told(row, seq, digest)
            if told is None:
                run = None
            else:
                if run is None:
                    run = _Run(seq + 1, digest)
                if not any(each is run for each in runs):
                    runs.append(run)
                run.add(row, *told)
                if not is_gap(row[1]):
                    run.fresh = True
                    dropped += 1
            seq, _, digest = row
        self._write([each for each in runs if each.fresh], dropped)
        self._passed = seq, digest, run
        return len(rows) < BATCH and (not rows or seq == rows[-1][0])

    def _start(self) -> tuple[int, bytes, None] | None:
        """Number and hash before the oldest record; None if that cannot be told."""
        if self.first == 1:
            return 0, GENESIS, None
        for seq, text in self._tables.checkpoints():
            if seq == self.first - 1:
                try:
                    return seq, self._seal.read_checkpoint(text.encode()).digest, None
                except ValueError as bad:
                    log.error("a checkpoint of the audit: %s", bad)
        return None

    def _told(self, row: Row, seq: int, before: bytes) -> tuple[str, int] | None:
        """The time of a refusal that may go, and how many refusals it stands for; None for any
        other record, and for one that does not follow the one before."""
        number, record, digest = row
        try:
            if is_gap(record):
                gap = Gap.read(self._seal, record, before, digest)
                return (gap.time, gap.count) if gap.first == seq + 1 else None
            if b"refus" not in record or number != seq + 1:
                return None
            if hashlib.sha256(before + record).digest() != digest:
                return None
            changes = json.loads(record)["changes"]
            if all(change["type"] in REFUSALS for change in changes):
                return record[-29:-2].decode(), 1
        except (ValueError, LookupError, TypeError):
            pass
        return None

    def _write(self, runs: list[_Run], dropped: int) -> None:
        if not runs:
            return
        with self._store.transaction():
            for run in runs:
                gap = Gap(run.first, run.last, run.count, run.time, run.before, run.digest)
                self._tables.replace(run.rows, (run.last, gap.text(self._seal), run.digest))
            self._tables.set_dropped(self.dropped + dropped)
        self.dropped += dropped
        for run in runs:
            run.rows, run.fresh = [run.last], False
