"""All mailboxes: in memory and in the store at once, with expiry and wake-ups. No rule who may.

`insert`, `move`, `finish`, `delete` and `forget` belong inside a transaction of the store and are
undone with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from agentfs.clock import Clock, Timer, Timers
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import ConfigChanged, EventLog, MessageExpired, Record
from agentfs.ipc.archive import FINISHED, Archive
from agentfs.ipc.mailbox import FOLDERS, Mailbox, Queue
from agentfs.ipc.message import Message
from agentfs.storage.store import SHORT_CONTENT, Store

__all__ = ["Mailboxes", "expired"]

log = logging.getLogger(__name__)

# The wall clock can be stepped while a timer runs: look again after this many seconds.
LONGEST_WAIT = 60.0
# After a failure of the store, and against a timer that fires a rounding error too early.
RETRY, SHORTEST_WAIT = 1.0, 0.001


class Mailboxes:
    """From name (an agent's, or `queues/NAME`) to mailbox; one is made when it is first asked
    for. `archive` has every message, those that are finished too."""

    def __init__(
        self, store: Store, events: EventLog, clock: Clock, timers: Timers, settings: Settings
    ) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._timers = timers
        self._settings = settings
        self._boxes: dict[str, Mailbox] = {}
        self.archive = Archive()
        self._claims: dict[int, dict[int, Message]] = {}  # pid -> what it claimed, by number
        self._expiring: Queue[Message] = Queue()
        self._timer: Timer | None = None
        self._due = 0.0  # when the timer fires, wall clock
        self._waiting: dict[str, list[Callable[[], object]]] = {}
        self._last_seq = 0
        self._last_arrival = 0.0
        events.listen(self._heard)

    def load(self) -> None:
        """Read everything from the store."""
        self._boxes.clear()
        self._claims.clear()
        self.archive = Archive()
        self._expiring = Queue()
        for seq, name, folder, file, record, size in self._store.messages():
            message = Message.from_record(seq, name, folder, file, record, size)
            self._last_arrival = max(self._last_arrival, message.arrived)
            self._put(message)
        self._last_seq = self._store.last_message()

    def __iter__(self) -> Iterator[Mailbox]:
        return iter(list(self._boxes.values()))

    def box(self, name: str) -> Mailbox:
        """The mailbox called `name`."""
        box = self._boxes.get(name)
        if box is None:
            box = Mailbox(name, self._settings.now.messages.ageing_per_second)
            self._boxes[name] = box
        return box

    def claims(self, pid: int) -> list[Message]:
        """What process `pid` has claimed, in whatever mailbox, oldest first."""
        return list(self._claims.get(pid, {}).values())

    @property
    def claimants(self) -> list[int]:
        """The processes that have claimed something."""
        return list(self._claims)

    def busy(self, pid: int) -> bool:
        """Whether process `pid` has claimed anything, be it through `recv` or by renaming."""
        return pid in self._claims

    def busy_beside_recv(self, pid: int) -> bool:
        """Whether process `pid` has claimed anything by renaming."""
        return any(not message.through_recv for message in self.claims(pid))

    # -- changes ---------------------------------------------------------------------------------

    def stamp(self) -> tuple[int, float]:
        """Number and time of arrival of the next message. Time never goes back here, though the
        wall clock may: first in stays first out."""
        return self._last_seq + 1, max(self._last_arrival, self._clock.now())

    def insert(self, message: Message, content: bytes) -> None:
        """Keep a new message, which was stamped."""
        last = self._last_seq, self._last_arrival

        def undo() -> None:
            self._take(message)
            self.archive.remove(message)
            self._last_seq, self._last_arrival = last

        self._last_seq, self._last_arrival = message.seq, message.arrived
        self._put(message)
        self._store.on_rollback(undo)
        self._store.put_message(
            message.seq, message.mailbox, message.folder, message.file, message.record(), content
        )

    def move(
        self,
        message: Message,
        folder: str,
        file: str,
        *,
        claimed_by: int | None = None,
        claimed_at: float = 0.0,
        reader: int | None = None,
        attempt: int = 0,
        reason: str = "",
        claimant: str = "",
    ) -> None:
        """Put `message` elsewhere. Claims end with it unless they are said again; `attempt` 0
        and `claimant` "" leave them as they are."""
        self._change(
            message,
            folder=folder,
            file=file,
            named=file if folder == "new" else message.named,
            claimed_by=claimed_by,
            claimed_at=claimed_at,
            reader=reader,
            attempt=attempt or message.attempt,
            reason=reason,
            claimant=claimant or message.claimant,
            finished=self._clock.now() if folder == "dead" else 0.0,
        )
        self._store.update_message(message.seq, folder, file, message.record())

    def finish(self, message: Message, state: str) -> None:
        """Take `message` out of its mailbox, as `done` or `expired`. It is kept for its sender;
        of a long content the headers only."""
        if message.unlisted:
            self.delete(message)
            return
        head, size, dropped = None, message.size, 0
        if size > SHORT_CONTENT:
            content = self._store.content(message.seq)
            head = content[: content.index(b"\n\n") + 2]
            size, dropped = len(head), size
        self._change(
            message,
            folder=state,
            file="",
            named="",
            claimed_by=None,
            claimed_at=0.0,
            reader=None,
            finished=self._clock.now(),
            size=size,
            dropped=dropped,
        )
        self._store.finish_message(message.seq, state, message.record(), head)

    def _change(self, message: Message, **after: Any) -> None:
        """Set these slots of `message`, and be where they say, until that is rolled back."""
        before = [(slot, getattr(message, slot)) for slot in after]

        def undo() -> None:
            self._take(message)
            for slot, value in before:
                setattr(message, slot, value)
            self._put(message)

        self._take(message)
        for slot, value in after.items():
            setattr(message, slot, value)
        self._put(message)
        self._store.on_rollback(undo)

    def delete(self, message: Message) -> None:
        """Drop `message` for good."""
        self._take(message)
        self.archive.remove(message)
        self._store.on_rollback(lambda: self._put(message))
        self._store.delete_message(message.seq, message.size)

    def forget(self, name: str) -> None:
        """Drop the mailbox of `name` with all that is in it, and what its owner could see of the
        messages it sent; who waits for mail is woken."""
        box = self.box(name)
        for message in list(self.archive.sent(name).values()):
            self._unlist(message)
        messages = [message for folder in FOLDERS for message in box.folder(folder).values()]
        for message in messages:
            self._take(message)
            self.archive.remove(message)
        del self._boxes[name]

        def undo() -> None:
            self._boxes[name] = box
            for message in messages:
                self._put(message)

        self._store.on_rollback(undo)
        self._store.on_commit(lambda: self._wake(name))
        for message in messages:
            self._store.delete_message(message.seq, message.size)

    def _unlist(self, message: Message) -> None:
        """Its sender is no more: nobody is to see it in `sent`, whoever takes the name over."""
        if message.folder in FINISHED:
            self.delete(message)
            return
        self._change(message, unlisted=True)
        self._store.update_message(message.seq, message.folder, message.file, message.record())

    def _put(self, message: Message) -> None:
        self.archive.note(message)
        if message.folder in FINISHED:
            return
        self.box(message.mailbox).put(message)
        if message.claimed_by is not None and message.folder == "cur":
            self._claims.setdefault(message.claimed_by, {})[message.seq] = message
        if message.folder != "new":
            return
        if message.expires is not None:
            self._expiring.add(message.expires, message.seq, message)
            self._arm()
        if message.mailbox in self._waiting and self._store.in_transaction:
            name = message.mailbox
            self._store.on_commit(lambda: self._wake(name))

    def _take(self, message: Message) -> None:
        if message.folder in FINISHED:
            return
        self._boxes[message.mailbox].take(message)
        if message.claimed_by is not None and message.folder == "cur":
            claims = self._claims[message.claimed_by]
            del claims[message.seq]
            if not claims:
                del self._claims[message.claimed_by]
        if message.expires is not None:
            self._expiring.discard(message.seq)

    # -- who waits -------------------------------------------------------------------------------

    def on_waiting(self, name: str, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call()` whenever mail comes to wait for `name`, or its mailbox is removed, until
        the function that is returned is called."""
        self._waiting.setdefault(name, []).append(call)

        def unsubscribe() -> None:
            calls = self._waiting.get(name, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self._waiting.pop(name, None)

        return unsubscribe

    def _wake(self, name: str) -> None:
        for call in tuple(self._waiting.get(name, ())):
            call()

    # -- expiry ----------------------------------------------------------------------------------

    def expire_due(self) -> None:
        """Drop what waits and has expired. The timer does it when it is time; whoever is to see
        or count messages does it before, so that nobody depends on when the timer runs."""
        now = self._clock.now()
        message = self._expiring.first()
        if message is None or not expired(message, now) or self._store.in_transaction:
            return
        try:
            with self._store.transaction():
                while message is not None and expired(message, now):
                    self.expire(message)
                    message = self._expiring.first()
        except KernelError as failure:
            log.warning("expired messages stay for now: %s", failure)

    def expire(self, message: Message) -> None:
        """Take `message` out and record that it expired."""
        event = MessageExpired(message.mailbox, message.id, message.folder, message.file)
        self.finish(message, "expired")
        self._events.emit(event)

    def _arm(self) -> None:
        """Set the one timer to the earliest expiry."""
        first = self._expiring.first()
        if first is None or first.expires is None:
            return
        if self._timer is not None and self._timer.active:
            if self._due <= first.expires:
                return
            self._timer.cancel()
        wait = first.expires - self._clock.now()
        shortest = SHORTEST_WAIT if wait > -RETRY else RETRY
        self._due = first.expires
        self._timer = self._timers.call_later(
            min(max(wait, shortest), LONGEST_WAIT), self._fall_due
        )

    def _fall_due(self) -> None:
        self.expire_due()
        self._arm()

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            for box in self:
                box.age_by(self._settings.now.messages.ageing_per_second)


def expired(message: Message, now: float) -> bool:
    """Whether `message` is past its time."""
    return message.expires is not None and message.expires <= now
