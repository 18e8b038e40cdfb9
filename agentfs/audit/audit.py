"""The audit: who changed what, and who was refused, as a chain that cannot be edited unseen.

One record for each committed transaction that emitted events, a refusal being such an event, in
that same transaction: no change without its record, no record without its change. Each carries a
hash over itself and the hash before; the newest hash is signed, in every transaction, with a key
that is no part of the store. `agentfs.audit.verify` checks all that.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from agentfs.audit import records
from agentfs.audit.audit_table import AuditTables
from agentfs.audit.events import AuditCut, AuditFull, AuditHalfFull, CallRefused, RefusalsRepeated
from agentfs.audit.mirror import Mirror
from agentfs.audit.pruning import Pruning
from agentfs.audit.seal import GENESIS, Checkpoint, Seal, make_key
from agentfs.audit.settings import AuditSettings
from agentfs.audit.verify import Verdict, verify
from agentfs.base.clock import Clock, Timers
from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.store.event import Event
from agentfs.store.event_log import EventLog
from agentfs.store.part import Part
from agentfs.store.settings import Settings
from agentfs.store.store import Store

__all__ = ["Audit"]

log = logging.getLogger(__name__)

REFUSED = (CallRefused, RefusalsRepeated)
# Lines that come to the file of checkpoints before it is looked through for old ones.
TIDY_EVERY = 1000


class Audit(Part):
    """Appends to the audit of `store`. `seq` is the number of its newest record.

    Raises KernelError where there is an audit already but not its key, at `key`; without an audit
    a new key is made.
    """

    def __init__(
        self,
        store: Store,
        events: EventLog,
        clock: Clock,
        timers: Timers,
        settings: Settings,
        key: Path,
    ) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._timers = timers
        self._settings = settings
        self.key = key
        self._tables = AuditTables(store)
        self._seal = self._open_key()
        self._mirror = Mirror(key)
        self.seq, self._digest = self._resume()
        marks = [seq for seq, _ in self._tables.checkpoints() if seq <= self.seq]
        self._marked = max(marks, default=0)  # the record of the last checkpoint
        self._acting: Principal | None = None  # of the last record: the next one's, mostly
        self._actor = records.actor(None)
        self.pruning = Pruning(
            store, self._tables, self._seal, clock, timers, settings, lambda: self.seq
        )
        self._stopped = False  # nobody but the operator changes anything
        self._noted: list[Event] = []  # of the transaction under way
        self._untold: list[str] = []  # checkpoints for the mirror
        self._told = TIDY_EVERY  # lines it got since it was tidied
        self._due = trio.Event()
        self._verifying = trio.CapacityLimiter(1)
        store.before_commit.append(self._record)

    # -- the start -------------------------------------------------------------------------------

    def _open_key(self) -> Seal:
        if not self.key.exists():
            if self._tables.head() or self._tables.last() is not None:
                raise KernelError(
                    errno.ENOENT,
                    f"{self._store.path} has an audit, and its key is not at {self.key}:"
                    " --audit-key FILE says where it is",
                    rule="audit",
                )
            make_key(self.key)
        if self.key.stat().st_mode & 0o077:
            log.warning("others can read the key of the audit: chmod 600 %s", self.key)
        return Seal(self.key)

    def _resume(self) -> tuple[int, bytes]:
        """Number and hash of the newest record. If somebody was at the tables since the last run,
        what comes now follows nothing: the chain stays broken there, and `verify` says so."""
        head, last = self._tables.head(), self._tables.last()
        told = self._mirrored()
        if not head and last is None and not told:
            if not self._mirror.lines():
                beginning = Checkpoint(0, GENESIS, 0, records.stamp(self._clock.now()))
                self._mirror.append([self._seal.checkpoint(beginning)])
            return 0, GENESIS
        seqs = [told, 0 if last is None else last[0]]
        try:
            seq, digest = self._seal.read_head(head.encode())
            seqs.append(seq)
            if last is not None and (last[0], last[2]) == (seq, digest) and told <= seq:
                return seq, digest
        except (ValueError, IndexError) as bad:
            log.error("the head of the audit: %s", bad)
        log.error("the audit was tampered with, or put back to an older one: see /sys/audit/verify")
        return max(seqs), secrets.token_bytes(len(GENESIS))

    def _mirrored(self) -> int:
        """The number of the newest record that the mirror has a checkpoint of."""
        for line in reversed(self._mirror.lines()):
            try:
                return self._seal.read_checkpoint(line).seq
            except ValueError as bad:
                log.error("a checkpoint in %s: %s", self._mirror.path, bad)
        return 0

    # -- records ---------------------------------------------------------------------------------

    def note(self, change: Event) -> None:
        """Let the record of the transaction under way say this as well, which no event tells of."""
        if not self._noted:
            self._store.on_rollback(self._noted.clear)
            self._store.on_commit(self._noted.clear)
        self._noted.append(change)

    def _record(self) -> None:
        """What the transaction about to be committed did. Fails it if it cannot be written."""
        changes: Sequence[Event] = self._events.pending
        if self._noted:
            changes = (*changes, *self._noted)
        if not changes:
            return
        if self.pruning.stops and all(isinstance(change, REFUSED) for change in changes):
            return  # `/dev/events` and `kernel.log` have it
        before = self.seq, self._digest, self._marked
        seq = before[0] + 1
        if self._store.acting is not self._acting:
            self._acting = self._store.acting
            self._actor = records.actor(self._acting)
        text = records.record(seq, self._clock.now(), self._actor, changes)
        digest = hashlib.sha256(before[1] + text.encode("ascii")).digest()
        self._tables.append(seq, text, digest, self._seal.head(seq, digest))
        self._store.on_rollback(lambda: self._back(before))
        self.seq, self._digest = seq, digest
        self._watch_room()
        if seq - self._marked >= self._settings.of(AuditSettings).checkpoint_every:
            self._mark()

    def _watch_room(self) -> None:
        """Tell when half of what may be kept is, and when that is an end."""
        limits, kept = self._settings.of(AuditSettings), self.pruning.kept
        if kept == (limits.max_records + 1) // 2:
            self._store.on_commit(lambda: self._tell_of(AuditHalfFull(kept, limits.max_records)))
        if limits.when_full == "stop" or self._stopped:
            self._store.on_commit(self._look)

    def _look(self) -> None:
        """Whether everybody has to stop has perhaps changed."""
        self.pruning.recorded()
        before, self._stopped = self._stopped, self.pruning.stops
        if self._stopped and not before:
            most = self._settings.of(AuditSettings).max_records
            self._tell_of(AuditFull(self.pruning.kept, most))

    def _tell_of(self, event: Event) -> None:
        """In a transaction of its own."""

        def tell() -> None:
            try:
                self._events.emit(event)
            except KernelError as failure:
                log.warning("%s is not told: %s", event, failure)

        self._timers.call_later(0, tell)

    def _back(self, before: tuple[int, bytes, int]) -> None:
        self.seq, self._digest, self._marked = before

    # -- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Make a checkpoint of the newest record, if it has none; on a full disk there is none."""
        if self._marked == self.seq:
            return
        before = self.seq, self._digest, self._marked
        try:
            with self._store.transaction():
                self._store.on_rollback(lambda: self._back(before))
                self._mark()
        except KernelError as failure:
            log.warning("no checkpoint of the audit was made: %s", failure)

    def _mark(self) -> None:
        time = records.stamp(self._clock.now())
        text = self._seal.checkpoint(Checkpoint(self.seq, self._digest, self.pruning.kept, time))
        self._tables.put_checkpoint(self.seq, text)
        self._store.on_commit(lambda: self._tell(text))
        self._marked = self.seq

    def _tell(self, text: str) -> None:
        self._untold.append(text)
        self._due.set()

    async def run(self) -> None:
        """Mirror the checkpoints, until cancelled. What they are of survives a power cut by then:
        the file is never ahead of the store."""
        self._untold = self._missed() + self._untold
        while True:
            await self._due.wait()
            self._due = trio.Event()
            try:
                await self._store.sync()
            except OSError as failure:
                log.warning("the store cannot be synced: %s", failure)
            else:
                await trio.to_thread.run_sync(self.mirror)

    def _missed(self) -> list[str]:
        """The checkpoints that the last run made and had no time to mirror."""
        told, missed = self._mirrored(), []
        for _, text in self._tables.checkpoints():
            with suppress(ValueError):  # `verify` says that it is none
                read = self._seal.read_checkpoint(text.encode())
                if told < read.seq and not read.cut and text not in self._untold:
                    missed.append(text)
        return missed

    def mirror(self) -> None:
        """Mirror what is to be mirrored, at once: the disk is waited for. Belongs behind a sync of
        the store. What fails is tried again with the next checkpoint."""
        lines = list(self._untold)
        try:
            if lines:
                self._mirror.append(lines)
                del self._untold[: len(lines)]
                self._told += len(lines)
            if self._told >= TIDY_EVERY:
                self._mirror.keep(self._is_kept)
                self._told = 0
        except KernelError as failure:
            log.warning("checkpoints of the audit are mirrored later: %s", failure)

    def _is_kept(self, line: bytes) -> bool:
        """Whether it is of a record that is kept; what cannot be read stays for `verify`."""
        try:
            return self._seal.read_checkpoint(line).seq >= self.pruning.first
        except ValueError:
            return True

    # -- pruning ---------------------------------------------------------------------------------

    def admit(self, principal: Principal) -> None:
        """Before what `principal` did in the transaction under way is accepted: raise ENOSPC if its
        record has no room, and the operator chose to stop then. What was promised before goes on.
        For the gate."""
        if not self.pruning.stops or principal.is_operator or self._store.promised:
            return
        if not all(isinstance(change, REFUSED) for change in self._events.pending):
            self.pruning.require_room()

    def require_room(self, principal: Principal | None) -> None:
        """The same of what gets its record later, or has none. None: somebody, not the operator."""
        if principal is None or not principal.is_operator:
            self.pruning.require_room()

    def complaint(self) -> str:
        """What is wrong, for the maid; empty if nothing is."""
        if not self.pruning.stops:
            return ""
        return "the audit is full, and all but the operator have to stop: see docs/audit.md"

    def tidy(self) -> int:
        """Take away one batch of what is too old or too much, and go on soon if there may be more;
        the number of records gone. The newest one stays. For the maid."""
        return self.pruning.sweep()

    def cut(self, principal: Principal, through: int) -> None:
        """Forget the records up to number `through`, and record who had that done. EINVAL."""
        self.pruning.check_there(through)
        with self._store.transaction():
            self._store.acting = principal
            self._events.emit(AuditCut(through))
        self.pruning.cut(through)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The store's file, for whoever reads on a connection of its own."""
        return self._store.path

    def head(self) -> str:
        """Number, hash and signature of the newest record; empty if there is none."""
        return self._tables.head()

    async def verify(self) -> Verdict:
        """Check everything, in a thread; one caller at a time."""
        return await trio.to_thread.run_sync(verify, self.path, self.key, limiter=self._verifying)
