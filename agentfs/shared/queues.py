"""Queues: mailboxes that agents share. Each message goes to one of the agents that take from them.

Claims, acknowledgement, return and dead letters are those of `mail.delivery`. Here are the owner of
a queue, the bound on the messages that wait in it, and the wait for room.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.base.wait_list import WaitList
from agentfs.mail.events import MessageClaimed, MessageDone, MessageExpired
from agentfs.mail.mail import Mail
from agentfs.mail.mailbox import Mailbox
from agentfs.mail.message import Draft, Message, Relation
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access, Ownership
from agentfs.shared.events import QueueChanged, QueueCreated, QueuePurged, QueueRemoved
from agentfs.shared.registry import Registry
from agentfs.shared.settings import QueueSettings
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground

__all__ = ["PREFIX", "Queue", "Queues"]

PREFIX = "queues"
"""Before a slash and the queue's name, it is the name of the mailbox."""

PURGE_BATCH = 500  # messages that one call drops: 10,000 at once would hold up others for 0.3 s


@dataclass(slots=True, eq=False)
class Queue:
    """One queue. `limit` is how many messages may wait in it (None: `queues.max_waiting`),
    `changed` (ns) when its mode, owner or limit did last. Only `Queues` changes its fields."""

    name: str
    ownership: Ownership
    changed: int
    limit: int | None = None
    removed: bool = False

    def __str__(self) -> str:
        return f"queue {self.name}"

    @property
    def mailbox(self) -> str:
        return f"{PREFIX}/{self.name}"

    def record(self) -> dict[str, Any]:
        """Its record in the store, beside its messages."""
        return self.ownership.record() | {"changed": self.changed, "limit": self.limit}

    @classmethod
    def read(cls, name: str, record: dict[str, Any]) -> Queue:
        return cls(name, Ownership.from_record(record), record["changed"], record["limit"])


class Queues(Registry[Queue]):
    """All queues by name, the system calls on them, and what delivery asks about their mailboxes.
    Loads itself from the store."""

    KIND = "queue"
    FOLDER = "/dev/queues"
    CHANGED = QueueChanged

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        mail: Mail,
        made: Made,
    ) -> None:
        super().__init__(ground, gate, table, agents, made, Queue.read)
        self._mail = mail
        self._lines: dict[str, WaitList] = {}
        self._pollers: dict[str, dict[Callable[[], object], None]] = {}
        mail.owners.add(PREFIX, self)
        self._events.listen(
            self._heard, MessageClaimed, MessageDone, MessageExpired, QueueChanged, ConfigChanged
        )

    # -- look-ups --------------------------------------------------------------------------------

    def box(self, queue: Queue) -> Mailbox:
        """Its mailbox, without what has expired. ENOENT once the queue is removed."""
        return self._mail.mailbox(queue.mailbox)

    def limit(self, queue: Queue) -> int:
        """How many messages may wait in it."""
        return queue.limit or self._settings.of(QueueSettings).max_waiting

    def has_room(self, queue: Queue) -> bool:
        """Whether one more message may wait."""
        return self.box(queue).waiting < self.limit(queue)

    # -- making and removing ---------------------------------------------------------------------

    def create(self, principal: Principal, name: str, mode: int) -> Queue:
        """Make a queue with exactly these mode bits. EINVAL, EEXIST, EACCES, ENOSPC."""
        with self._gate.enter(principal) as actor:
            most = self._settings.of(QueueSettings).max_queues
            ownership = self._check_new(principal, actor, name, mode, most)
            queue = Queue(name, ownership, int(self._clock.now() * 1e9))
            self._add(queue)
            self._events.emit(QueueCreated(name, ownership.owner))
            return queue

    def remove(self, principal: Principal, name: str, *, force: bool = False) -> None:
        """Remove a queue. ENOENT; EPERM unless the owner agent or the operator asks; ENOTEMPTY if
        there are messages in it, unless by `force`: then they are dropped, and their senders see
        in `sent` that they were."""
        with self._gate.enter(principal):
            queue = self.get(name)
            queue.ownership.require_owner(principal, f"remove {queue}")
            box = self.box(queue)
            held = {folder: len(box.folder(folder)) for folder in ("new", "cur", "dead")}
            if any(held.values()) and not force:
                raise KernelError(
                    errno.ENOTEMPTY,
                    f"in {queue} {held['new']} messages wait, {held['cur']} are claimed and"
                    f" {held['dead']} are dead letters; `remove` in its ctl drops them",
                    rule="queue in use",
                )
            self._mail.remove(queue.mailbox)
            self._discard(queue)
            self._store.on_commit(lambda: self._end(queue))
            self._events.emit(QueueRemoved(name, principal.name, sum(held.values())))

    def purge(self, principal: Principal, name: str) -> int:
        """Drop what waits, the oldest files first, up to `PURGE_BATCH` messages; how many that
        were. ENOENT; EPERM unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            queue = self.get(name)
            queue.ownership.require_owner(principal, f"purge {queue}")
            found = list(self.box(queue).new.values())[:PURGE_BATCH]
            for message in found:
                self._mail.delivery.done(message, f"{principal.name} purged {queue}")
            if found:
                self._events.emit(QueuePurged(name, principal.name, len(found)))
            return len(found)

    def set_limit(self, principal: Principal, name: str, limit: int | None) -> None:
        """Let at most `limit` messages wait (None: as many as `queues.max_waiting` says). What
        waits beyond it stays. ENOENT, EPERM, EINVAL."""
        with self._gate.enter(principal):
            queue = self.get(name)
            queue.ownership.require_owner(principal, f"limit {queue}")
            most = self._settings.of(QueueSettings).max_limit
            if limit is not None and not 1 <= limit <= most:
                raise KernelError(
                    errno.EINVAL,
                    f"1 to {most} messages may wait, not {limit}",
                    rule="queues.max_limit",
                )
            self._update(queue, limit=limit)

    def close(self, principal: Principal, name: str, *, closed: bool = True) -> None:
        """Let nobody send to a queue or take from it any more (ESTALE), because it is about to be
        removed. ENOENT; EPERM unless the owner agent or the operator asks."""
        with self._gate.enter(principal):
            queue = self.get(name)
            queue.ownership.require_owner(principal, f"remove {queue}")
            if closed:
                self._end(queue)
            queue.removed = closed

    def _end(self, queue: Queue) -> None:
        queue.removed = True
        for call in tuple(self._pollers.get(queue.name, ())):
            call()
        self.hand_on(queue)
        self._mail.boxes.waiters.line(queue.mailbox).call_everybody()

    # -- sending ---------------------------------------------------------------------------------

    def check(self, principal: Principal, queue: Queue, size: int = 0) -> None:
        """Raise what `send` of `size` bytes would, but ENOSPC: EACCES, ESTALE, EMSGSIZE."""
        actor = self._gate.actor(principal)
        self._admit(principal, actor, queue)
        self._gate.count_message(actor, 0)
        self._mail.check_size(size)

    def send(self, principal: Principal, queue: Queue, draft: Draft) -> Message:
        """Accept a message. EACCES, EINVAL, EEXIST (its file name), EMSGSIZE, ESTALE (the queue
        was removed), ENOSPC (it is full)."""
        if not queue.removed:
            self.box(queue)  # lets go what has expired
        with self._gate.enter(principal) as actor:
            self._admit(principal, actor, queue, draft.body, draft.about())
            self._mail.check_size(max(draft.size, len(draft.body)))
            if not self.has_room(queue):
                raise self.full(queue)
            if draft.expires is not None and draft.expires <= self._clock.now():
                raise KernelError(errno.EINVAL, "the message has expired already")
            self._gate.count_message(actor)
            # What the sender is to the owner means nothing to those that take it: all are alike.
            return self._mail.accept(queue.mailbox, principal.agent, draft, Relation.OTHER, actor)

    def full(self, queue: Queue) -> KernelError:
        """The refusal for want of room."""
        return KernelError(
            errno.ENOSPC,
            f"{queue} is full: {self.limit(queue)} messages wait in it",
            rule="queues.max_waiting" if queue.limit is None else "max of its ctl",
        )

    # -- who waits for room ----------------------------------------------------------------------

    def line(self, queue: Queue) -> WaitList:
        """Those who wait for room, each for the room of one message. A waiter that joins the list
        must leave it, and then call `hand_on`."""
        return self._lines.setdefault(queue.name, WaitList())

    def hand_on(self, queue: Queue) -> None:
        """Call the next in the line if there is more room than those who were called can take."""
        line = self._lines.get(queue.name)
        if line is None:
            return
        if line.idle:
            del self._lines[queue.name]
        elif queue.removed:
            line.call_everybody()
        else:
            line.call(self.limit(queue) - self.box(queue).waiting)

    def on_room(self, queue: Queue, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call()` whenever there may be room, until what is returned is called."""
        self._pollers.setdefault(queue.name, {})[call] = None

        def unsubscribe() -> None:
            calls = self._pollers.get(queue.name, {})
            calls.pop(call, None)
            if not calls:
                self._pollers.pop(queue.name, None)

        return unsubscribe

    def _room_in(self, name: str) -> None:
        for call in tuple(self._pollers.get(name, ())):
            call()
        queue = self._by_name.get(name)
        if queue is not None:
            self.hand_on(queue)

    def _heard(self, record: Record) -> None:
        if not (self._lines or self._pollers):
            return
        match record.event:
            case MessageClaimed(agent=box) | MessageDone(agent=box) | MessageExpired(agent=box):
                kind, _, name = box.partition("/")
                if kind == PREFIX and name:
                    self._room_in(name)
            case QueueChanged(name=name):
                self._room_in(name)
            case ConfigChanged():
                for name in {*self._lines, *self._pollers}:
                    self._room_in(name)

    # -- what delivery asks ----------------------------------------------------------------------

    def check_exists(self, name: str) -> None:
        self.get(name.partition("/")[2])

    def require(self, principal: Principal, name: str) -> None:
        queue = self.get(name.partition("/")[2])
        queue.ownership.require(principal, Access.TAKE, str(queue))

    def check_room(self, box: Mailbox, principal: Principal) -> None:
        queue = self.get(box.name.partition("/")[2])
        if box.waiting >= self.limit(queue):
            raise self.full(queue)

    def claimant(self, name: str, actor: Process) -> Process | None:
        return actor

    def never_end(self, name: str) -> Iterable[int | None]:
        return (INIT,)
