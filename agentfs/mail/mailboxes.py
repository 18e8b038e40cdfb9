"""All mailboxes: in memory and in the store at once, with expiry and wake-ups. Permission is for
the callers to ask.

Changes belong inside a transaction of the store and are undone with it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from operator import attrgetter
from typing import Any

from agentfs.base.alarm import Alarm
from agentfs.base.due_heap import DueHeap
from agentfs.base.errors import KernelError
from agentfs.machine.proc import boot_id
from agentfs.mail.archive import FINISHED, Archive
from agentfs.mail.claims import Claims
from agentfs.mail.events import BroadcastChanged, MessageExpired
from agentfs.mail.mailbox import FOLDERS, Mailbox
from agentfs.mail.message import Message
from agentfs.mail.readers import Reader
from agentfs.mail.retention import Retention
from agentfs.mail.settings import MessageSettings
from agentfs.mail.tally import still_waiting
from agentfs.mail.waiters import Waiters
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import keep_item
from agentfs.store.store import SHORT_CONTENT

__all__ = ["Mailboxes", "expired"]

log = logging.getLogger(__name__)

Follower = Callable[[Message, str, str], object]


class Mailboxes(Part):
    """From name (an agent's, or `queues/NAME`) to mailbox; one is made when it is first asked
    for. `archive` has every message, those that are finished too."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._boxes: dict[str, Mailbox] = {}
        self.archive = Archive()
        self.retention = Retention(ground, self)
        self.claimed = Claims(ground)
        self._expiring: DueHeap[Message] = DueHeap()
        self._alarm = Alarm(ground.clock, ground.timers, self._fall_due)
        self.waiters = Waiters(self._count_waiting)
        self._followed: dict[int, Follower] = {}
        self._last_seq = 0
        self._last_arrival = 0.0
        self.doubts = False
        """Whether any message may be in doubt (see `load`)."""
        self.offer: Callable[[str], object] = lambda name: None
        ground.events.listen(self._heard, ConfigChanged)

    def offer_by(self, offer: Callable[[str], object]) -> None:
        """Have `offer(name)` called at the end of a transaction that has put a new message into
        mailbox `name`, for which somebody waits."""
        self.offer = offer

    def load(self) -> None:
        """Read everything from the store.

        Of what was claimed through `recv` nobody knows whether the answer reached the reader
        before the daemon ended: it is in doubt, and its reader gets it again.
        """
        self._boxes.clear()
        self.claimed.clear()
        self.archive = Archive()
        self._expiring = DueHeap()
        self.doubts = False
        now, same_boot = self._clock.monotonic(), self._store.meta("boot_id") == boot_id()
        for seq, name, folder, file, record, size in self._store.messages():
            message = Message.from_record(seq, name, folder, file, record, size)
            self._last_arrival = max(self._last_arrival, message.arrived)
            if message.folder == "cur" and not (same_boot and message.claimed_since >= 0):
                message.claimed_since = now  # it has all of its time again
            message.doubted = message.folder == "cur" and message.through_recv
            self.doubts = self.doubts or message.doubted
            self.archive.note(message)
            self._put(message)
        self._last_seq = self._store.last_message()
        for sender in self.archive.senders:
            self.archive.order(sender)

    def __iter__(self) -> Iterator[Mailbox]:
        return iter(list(self._boxes.values()))

    def box(self, name: str) -> Mailbox:
        """The mailbox called `name`."""
        box = self._boxes.get(name)
        if box is None:
            box = Mailbox(name, self._settings.of(MessageSettings).ageing_per_second)
            self._boxes[name] = box
        return box

    def content(self, message: Message) -> bytes:
        """The whole text, with the headers that change. ENOENT if it is gone."""
        try:
            content = self._store.content(message.seq)
            return message.head() + content if message.attempt > 1 else content
        except KeyError:
            raise KernelError(errno.ENOENT, f"message {message.id} is gone") from None

    def size(self, message: Message) -> int:
        """The length of `content`, in bytes."""
        return len(message.head()) + message.size

    def busy(self, pid: int) -> bool:
        """Whether process `pid` has claimed anything, be it through `recv` or by renaming."""
        return self.claimed.count(pid) > 0

    def busy_beside(self, pid: int, reader: Reader | None) -> bool:
        """Whether process `pid` has claimed anything by renaming, or through an open file that
        is not `reader`."""
        return any(
            not message.through_recv
            or (message.through not in (None, reader) and not message.through.closed)
            for message in self.claimed.of(pid)
        )

    # -- changes ---------------------------------------------------------------------------------

    def stamp(self) -> tuple[int, float]:
        """Number and time of arrival of the next message. Time never goes back here, though the
        wall clock may: first in stays first out."""
        return self._last_seq + 1, max(self._last_arrival, self._clock.now())

    def insert(self, message: Message, content: bytes) -> None:
        """Keep a new message, which was stamped."""
        undo = partial(self._take_back, message, self._last_seq, self._last_arrival)
        self._last_seq, self._last_arrival = message.seq, message.arrived
        self.archive.note(message)
        self._put(message)
        self._store.on_rollback(undo)
        self._store.put_message(
            message.seq, message.mailbox, message.folder, message.file, message.record(), content
        )
        name = message.mailbox
        if message.folder == "new" and self.waiters.is_parked(name):
            self._store.conclude(partial(self.offer, name))

    def _take_back(self, message: Message, last_seq: int, last_arrival: float) -> None:
        """Undo `insert`."""
        self._take(message)
        self.archive.remove(message)
        self._last_seq, self._last_arrival = last_seq, last_arrival

    def insert_done(self, message: Message, content: bytes) -> None:
        """Keep a new message that was handed over already, as `finish` leaves one."""
        message.folder, message.file, message.named = "done", "", ""
        message.finished = self._clock.now()
        if len(content) <= SHORT_CONTENT:
            self.insert(message, content)
        else:
            head = content[: content.index(b"\n\n") + 2]
            message.size, message.dropped = len(head), len(content)
            self.insert(message, b"")
            self._store.finish_message(message.seq, "done", message.record(), head)
        self.retention.bound_sent(message.sender)

    def claim(
        self,
        message: Message,
        file: str,
        pid: int | None,
        claimant: str,
        reader: int | None,
        through: Reader | None,
    ) -> None:
        """Put `message` into cur/ as `file`: agent `claimant` and its process `pid` have it from
        now on. `reader` and `through` are those of `Message`."""
        self._leave(message)
        message.folder = "cur"
        message.file = file
        message.claimed_by = pid
        message.claimed_at = self._clock.now()
        message.claimed_since = self._clock.monotonic()
        message.claimant = claimant
        message.reader = reader
        message.through = through
        self._arrive(message)

    def rename(self, message: Message, file: str) -> None:
        """Let `message` be called `file` where it is; whoever has it has it still."""
        held = _claim(message)
        self._leave(message)
        for slot, value in zip(_CLAIM, held, strict=True):
            setattr(message, slot, value)
        message.file = file
        if message.folder == "new":
            message.named = file
        self._arrive(message)

    def move(
        self,
        message: Message,
        folder: str,
        file: str,
        *,
        attempt: int = 0,
        revived: int = 0,
        reason: str = "",
    ) -> None:
        """Put `message` elsewhere, where nobody has it; `attempt` and `revived` 0 leave them as
        they are."""
        if message.broadcast and "dead" in (folder, message.folder):
            self._count_copy(message, "dead", 1 if folder == "dead" else -1)
        finished = message.folder in FINISHED
        self._leave(message)
        message.folder = folder
        message.file = file
        if folder == "new":
            message.named = file
        if attempt:
            message.attempt = attempt
        if revived:
            message.revived = revived
        message.reason = reason
        message.finished = self._clock.now() if folder == "dead" else 0.0
        if finished:
            self.archive.note(message)
        self._arrive(message)
        if folder == "dead":
            self.retention.bound_dead(self.box(message.mailbox))

    def finish(self, message: Message, state: str, reason: str = "") -> None:
        """Take `message` out of its mailbox, as `done` or `expired`. It is kept for its sender;
        of a long content the headers only. One that has a reason, its own as a dead letter or
        this one, shows there as dead."""
        if message.broadcast and message.folder != "dead":
            self._count_copy(message, "removed" if reason else state)
        if message.seq in self._followed:
            self._followed[message.seq](message, state, reason)
        if message.unlisted:
            self.delete(message)
            return
        head, size, dropped = None, message.size, 0
        if size > SHORT_CONTENT and not message.dropped:
            content = self._store.content(message.seq)
            head = content[: content.index(b"\n\n") + 2]
            size, dropped = len(head), size
        self._leave(message)
        message.folder = state
        message.file = message.named = ""
        if reason:
            message.reason = reason
        message.finished = self._clock.now()
        message.size = size
        if dropped:
            message.dropped = dropped
        self.archive.note(message)
        self._store.finish_message(message.seq, state, message.record(), head)
        self.retention.bound_sent(message.sender)

    def _count_copy(self, copy: Message, outcome: str, by: int = 1) -> None:
        """One copy of a broadcast more (or, `by` -1, less) came to this end."""
        logical = self.archive.find(copy.broadcast)
        if logical is None or logical.tally is None:
            return  # the sender's record of it is not kept any more
        tally = logical.tally | {outcome: logical.tally.get(outcome, 0) + by}
        waiting = still_waiting(tally)
        self.mark(logical, tally=tally)
        event = BroadcastChanged(logical.sender, logical.id, waiting)
        if not waiting and logical.folder not in FINISHED:
            self.finish(logical, "done")
        elif waiting and logical.folder in FINISHED:
            self.move(logical, "new", logical.id)
        self._events.emit(event)

    def mark(self, message: Message, **after: Any) -> None:
        """Set slots of `message` that do not say where it is."""
        before = [(slot, getattr(message, slot)) for slot in after]

        def undo() -> None:
            for slot, value in before:
                setattr(message, slot, value)
            self.archive.note(message)

        for slot, value in after.items():
            setattr(message, slot, value)
        self.archive.note(message)
        self._store.on_rollback(undo)
        self._store.update_message(message.seq, message.folder, message.file, message.record())

    def _leave(self, message: Message) -> None:
        """Take `message` from where it is, and from who has it: its slots (those of `_STATE`) are
        about to say another place. A rollback puts it back."""
        before = _state(message)
        self._take(message)
        self._store.on_rollback(partial(self._return, message, before))
        message.claimed_by = message.reader = message.through = None
        message.claimed_at = 0.0
        message.claimed_since = -1.0
        message.doubted = False

    def _arrive(self, message: Message) -> None:
        """It is where it says, in memory and in the store."""
        self._put(message)
        self._store.update_message(message.seq, message.folder, message.file, message.record())
        if message.seq in self._followed:
            self._followed[message.seq](message, message.folder, message.reason)

    def _return(self, message: Message, before: tuple[Any, ...]) -> None:
        """Undo what was done since `_leave`."""
        self._take(message)
        for slot, value in zip(_STATE, before, strict=True):
            setattr(message, slot, value)
        self.archive.note(message)
        self._put(message)

    def delete(self, message: Message) -> None:
        """Drop `message` for good."""
        self._take(message)
        self.archive.remove(message)

        def undo() -> None:
            self.archive.note(message)
            self._put(message)

        self._store.on_rollback(undo)
        self._store.delete_message(message.seq)

    def delete_finished(self, sender: str, messages: list[Message]) -> None:
        """Drop these finished messages of `sender` for good."""
        for message in messages:
            self.archive.remove(message)

        def undo() -> None:
            for message in messages:
                self.archive.note(message)
            self.archive.order(sender)

        self._store.on_rollback(undo)
        self._store.delete_finished([message.seq for message in messages])

    def forget(self, name: str) -> None:
        """Drop the mailbox of `name` with all that is in it, and what its owner could see of the
        messages it sent; readers that wait are woken. Senders keep a record of what is in it."""
        box = self.box(name)
        for message in list(self.archive.sent(name).values()):
            self.unlist(message)
        for message in [each for folder in FOLDERS for each in box.folder(folder).values()]:
            self.finish(message, "done", message.reason or f"{name} was removed")
        del self._boxes[name]

        def undo() -> None:
            self._boxes[name] = box

        self._store.on_rollback(undo)
        self._store.on_commit(lambda: self.waiters.wake(name, everybody=True))

    def unlist(self, message: Message) -> None:
        """Nobody is to see it in `sent` any more: its sender said so, or was removed, and the next
        one of that name is another."""
        if message.folder in FINISHED:
            self.delete(message)
            return
        self.mark(message, unlisted=True)

    def _put(self, message: Message) -> None:
        if message.folder in FINISHED:
            return
        box = self._boxes.get(message.mailbox) or self.box(message.mailbox)
        box.put(message)
        if message.claimed_by is not None and message.folder == "cur":
            self.claimed.add(message)
        if message.folder != "new":
            return
        if message.expires is not None:
            if message.expires < self._expiring.soonest:  # else it rings before
                self._alarm.set(message.expires)
            self._expiring.add(message.expires, message.seq, message)
        if message.mailbox in self.waiters and self._store.in_transaction:
            self._store.on_commit(partial(self.waiters.wake, message.mailbox))

    def _take(self, message: Message) -> None:
        if message.folder in FINISHED:
            return
        self._boxes[message.mailbox].take(message)
        if message.claimed_by is not None and message.folder == "cur":
            self.claimed.remove(message)
        if message.expires is not None:
            self._expiring.discard(message.seq)

    def _count_waiting(self, name: str) -> int:
        box = self._boxes.get(name)
        return 0 if box is None else box.waiting

    # -- messages that somebody follows ------------------------------------------------------------

    def follow(self, seq: int, follower: Follower) -> None:
        """Tell `follower` of each change of the place of message `seq`, inside the transaction of
        the change: the message, the place (`new`, `cur`, `dead`, `done`, `expired`) and the reason.
        It may change nothing there; see `Store.conclude`."""
        if self._store.in_transaction:
            keep_item(self._store, self._followed, seq)
        self._followed[seq] = follower

    def unfollow(self, seq: int) -> None:
        """Tell nobody any more, inside a transaction."""
        keep_item(self._store, self._followed, seq)
        self._followed.pop(seq, None)

    # -- readers ---------------------------------------------------------------------------------

    def close(self, reader: Reader, *, closed: bool = True) -> None:
        """The open file is closed, or used again by somebody who has inherited it: say so, and
        keep what it got where it is looked for then."""
        if reader.closed is closed:
            return
        box = self._boxes.get(reader.mailbox)
        held: list[Message] = []
        if box is not None and closed:
            held = box.reading(reader)
        elif box is not None:
            held = [message for message in box.cur.values() if message.through is reader]
        for message in held:
            self._boxes[reader.mailbox].take(message)
        if closed:
            reader.close()
        else:
            reader.closed = False
        for message in held:
            self._boxes[reader.mailbox].put(message)

    # -- expiry ----------------------------------------------------------------------------------

    def expire_due(self) -> None:
        """Drop what waits and has expired, and end the claims that have lasted too long. Timers do
        it when it is time; calls that look at messages or count them do it before, so that nothing
        depends on when a timer runs."""
        if self.claimed.due.soonest <= self._clock.monotonic():
            self.claimed.time_out_due()
        if self._expiring.soonest == inf:
            return
        now = self._clock.now()
        message = self._expiring.due(now)
        if message is None or self._store.in_transaction:
            return
        try:
            with self._store.transaction():
                while message is not None:
                    self.expire(message)
                    message = self._expiring.due(now)
        except KernelError as failure:
            log.warning("expired messages stay for now: %s", failure)

    def expire(self, message: Message) -> None:
        """Take `message` out and record that it expired."""
        event = MessageExpired(message.mailbox, message.id, message.folder, message.file)
        self.finish(message, "expired")
        self._events.emit(event)

    def _fall_due(self) -> float | None:
        self.expire_due()
        first = self._expiring.first()
        return None if first is None else first.expires

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            for box in self:
                box.age_by(self._settings.of(MessageSettings).ageing_per_second)


_CLAIM = ("claimed_by", "claimed_at", "claimed_since", "reader", "through", "doubted")
"""The slots that say who has a message."""
_claim = attrgetter(*_CLAIM)

_STATE = (
    *_CLAIM,
    "folder",
    "file",
    "named",
    "attempt",
    "revived",
    "reason",
    "claimant",
    "finished",
    "size",
    "dropped",
)
"""The slots that say where a message is, and what came of it."""
_state = attrgetter(*_STATE)


def expired(message: Message, now: float) -> bool:
    """Whether `message` is past its time."""
    return message.expires is not None and message.expires <= now
