"""The audit: who changed what, and who was refused, as a chain that cannot be edited unseen.

Each committed transaction that emitted events has one record, which is written in that same
transaction: no change without its record, and no record without its change. Where it hands a
message over to a reader that waits, that part of it has a record of its own, the reader's. A
refusal is such an event. Each record has a hash over itself and the hash before. The newest hash is
signed, in every transaction, with a key that is no part of the store. `agentfs.audit.verify` checks
all that.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from agentfs.audit import records
from agentfs.audit.audit_table import AuditTables
from agentfs.audit.events import AuditCut, AuditFull, AuditHalfFull, CallRefused, RefusalsRepeated
from agentfs.audit.mirror import Mirror, Mirroring
from agentfs.audit.pruning import Pruning
from agentfs.audit.seal import GENESIS, Checkpoint, Seal, make_key
from agentfs.audit.settings import AuditSettings
from agentfs.audit.verify import Verification, verify
from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.store.event import Event
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import keep_fields, keep_value

__all__ = ["MOST_ACTORS", "Audit"]

log = logging.getLogger(__name__)

REFUSED = (CallRefused, RefusalsRepeated)

MOST_ACTORS = 256
"""Those who act whose JSON is kept, a few hundred bytes each."""


class Audit(Part):
    """Appends to the audit. `seq` is the number of the newest record.

    The key is at the path `key`. Without an audit a new key is made there; if there is an audit
    and no key, KernelError is raised.
    """

    def __init__(self, ground: Ground, key: Path) -> None:
        store = self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self.key = key
        self._tables = AuditTables(store)
        self._seal = self._open_key()
        self._mirroring = Mirroring(
            ground, self._tables, self._seal, Mirror(key), lambda: self.pruning.first
        )
        self.seq, self._digest = self._resume()
        marks = [seq for seq, _ in self._tables.checkpoints() if seq <= self.seq]
        self._marked = max(marks, default=0)  # the record of the last checkpoint
        self._actors: dict[int, tuple[Principal, str]] = {}  # see `_actor`
        self._kernel = records.actor(None)
        self.pruning = Pruning(ground, self._tables, self._seal, lambda: self.seq)
        self._stopped = False  # nobody but the operator changes anything
        self._noted: tuple[Event, ...] = ()  # of the transaction under way
        self._verifying = trio.CapacityLimiter(1)
        store.prepare(self._record)

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
        """Number and hash of the newest record. If somebody tampered with the tables since the last
        run, the next record follows nothing: the chain stays broken there, and `verify` says so."""
        head, last = self._tables.head(), self._tables.last()
        mirrored = self._mirroring.newest()
        if not head and last is None and not mirrored:
            beginning = Checkpoint(0, GENESIS, 0, records.stamp(self._clock.now()))
            self._mirroring.begin(self._seal.checkpoint(beginning))
            return 0, GENESIS
        seqs = [mirrored, 0 if last is None else last[0]]
        try:
            seq, digest = self._seal.read_head(head.encode())
            seqs.append(seq)
            if last is not None and (last[0], last[2]) == (seq, digest) and mirrored <= seq:
                return seq, digest
        except (ValueError, IndexError) as bad:
            log.error("the head of the audit: %s", bad)
        log.error("the audit was tampered with, or put back to an older one: see /sys/audit/verify")
        return max(seqs), secrets.token_bytes(len(GENESIS))

    # -- records ---------------------------------------------------------------------------------

    def note(self, change: Event) -> None:
        """Put a change that no event tells of into the record of the transaction under way."""
        keep_fields(self._store, self, "_noted")
        if not self._noted:
            self._store.on_commit(self._noted_is_recorded)
        self._noted = (*self._noted, change)

    def _noted_is_recorded(self) -> None:
        self._noted = ()

    def _record(self) -> None:
        """Write the record of the transaction that is about to be committed, or the records, where
        a part of it is somebody else's doing. If that cannot be done, the transaction fails."""
        noted, before = self._noted, self.seq
        limits = self._settings.of(AuditSettings)
        for acting, changes in self._events.shares(self._store.acting):
            if noted:
                changes, noted = (*changes, *noted), ()
            if changes and (limits.when_full == "forget" or self._has_room(changes)):
                self._append(acting, changes)
                self._watch_room(limits)
        if self.seq != before:
            self._tables.put_head(self._seal.head(self.seq, self._digest))

    def _append(self, acting: Principal | None, changes: Sequence[Event]) -> None:
        """Make the next record."""
        keep_value(self._store, self._put_back, (self.seq, self._digest, self._marked))
        seq = self.seq + 1
        who = self._kernel if acting is None else self._actor(acting)
        text = records.record(seq, records.stamp(self._clock.now()), who, changes)
        digest = hashlib.sha256(self._digest + text.encode()).digest()  # it is ASCII alone
        self._tables.append(seq, text, digest)
        self.seq, self._digest = seq, digest

    def _put_back(self, before: tuple[int, bytes, int]) -> None:
        self.seq, self._digest, self._marked = before

    def _actor(self, acting: Principal) -> str:
        """Who acts, as JSON. Kept by the object, which is the same one in most calls of a program:
        to find it by what it says takes ten times as long."""
        known = self._actors.get(id(acting))
        if known is None:  # one that is kept stays alive, so nothing else has its id
            if len(self._actors) >= MOST_ACTORS:
                self._actors.clear()
            known = self._actors[id(acting)] = acting, records.actor(acting)
        return known[1]

    def _has_room(self, changes: Sequence[Event]) -> bool:
        """Refusals without room are in `/dev/events` and `kernel.log` alone."""
        return not self.pruning.stops or not all(isinstance(each, REFUSED) for each in changes)

    def _watch_room(self, limits: AuditSettings) -> None:
        """There is one more record: tell when the audit is half full, look whether everybody has to
        stop, and make a checkpoint if it is time for one."""
        pruning, most = self.pruning, limits.max_records
        kept = self.seq - pruning.first + 1 - pruning.dropped
        if kept == (most + 1) // 2:
            self._store.on_commit(lambda: self._tell_of(AuditHalfFull(kept, most)))
        if self._stopped or limits.when_full == "stop":
            self._store.on_commit(self._look)
        if self.seq - self._marked >= limits.checkpoint_every:
            self._mark()

    def _look(self) -> None:
        """Tell of it if everybody has to stop from now on."""
        self.pruning.recorded()
        before, self._stopped = self._stopped, self.pruning.stops
        if self._stopped and not before:
            most = self._settings.of(AuditSettings).max_records
            self._tell_of(AuditFull(self.pruning.kept, most))

    def _tell_of(self, event: Event) -> None:
        """Emit `event` soon, in a transaction of its own."""

        def tell() -> None:
            try:
                self._events.emit(event)
            except KernelError as failure:
                log.warning("%s is not told: %s", event, failure)

        self._timers.call_later(0, tell)

    # -- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Make a checkpoint of the newest record, if it has none and the disk is not full."""
        if self._marked == self.seq:
            return
        try:
            with self._store.transaction():
                keep_fields(self._store, self, "_marked")
                self._mark()
        except KernelError as failure:
            log.warning("no checkpoint of the audit was made: %s", failure)

    def _mark(self) -> None:
        time = records.stamp(self._clock.now())
        text = self._seal.checkpoint(Checkpoint(self.seq, self._digest, self.pruning.kept, time))
        self._tables.put_checkpoint(self.seq, text)
        self._store.on_commit(lambda: self._mirroring.add(text))
        self._marked = self.seq

    async def run(self) -> None:
        await self._mirroring.run()

    def mirror(self) -> None:
        """Mirror the new checkpoints now, and wait for the disk. The store has to be synced
        before."""
        self._mirroring.write()

    # -- pruning ---------------------------------------------------------------------------------

    def admit(self, principal: Principal, ahead: int = 0) -> None:
        """Raise ENOSPC if the record of the transaction under way (with `ahead` of others before
        it) has no room and the operator chose to stop then. Promises of before are kept."""
        if not (ahead or self.pruning.stops) or principal.is_operator or self._store.promised:
            return
        if not all(isinstance(change, REFUSED) for change in self._events.pending):
            self.pruning.require_room(ahead)

    def require_room(self, principal: Principal | None) -> None:
        """Raise ENOSPC under the same conditions, for a change that has its record later or has
        none."""
        if principal is None or not principal.is_operator:
            self.pruning.require_room()

    def complaint(self) -> str:
        """Says that the audit is full and everybody has to stop, if that is so."""
        if not self.pruning.stops:
            return ""
        return "the audit is full, and all but the operator have to stop: see docs/audit.md"

    def tidy(self) -> int:
        """Take away one batch of records that are too old or too many, and go on soon if there may
        be more. Returns how many went."""
        return self.pruning.sweep()

    def cut(self, principal: Principal, through: int) -> None:
        """Forget the records up to number `through`, and record who had that done. Raises
        EINVAL."""
        self.pruning.check_there(through)
        with self._store.transaction():
            self._store.act_for(principal)
            self._events.emit(AuditCut(through))
        self.pruning.cut(through)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The store's file, with all records in it. A reader opens a connection of its own. Raises
        ENOSPC or EIO if the disk does not take what is not in it yet."""
        self._store.fold()
        return self._store.path

    def head(self) -> str:
        """Number, hash and signature of the newest record; empty if there is none."""
        return self._tables.head()

    async def verify(self) -> Verification:
        """Check everything, in a thread and for one caller at a time."""
        look = partial(verify, self.path, self.key, folded=True)
        return await trio.to_thread.run_sync(look, limiter=self._verifying)
