"""/dev/queues: mailboxes that agents share, each message for one of those who take from it.

send       every write is one message          recv, recv.batch   the next one, or some of them
new, cur   the same as a Maildir               dead               what was given up
"""

from __future__ import annotations

import errno
import stat as st
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.mail.events import (
    MessageArrived,
    MessageClaimed,
    MessageDone,
    MessageExpired,
    MessageReturned,
    MessageRevived,
)
from agentfs.providers.mail_changes import mail_changes
from agentfs.providers.maildir import MAIL
from agentfs.providers.queue_folders import (
    QueueCurDirectory,
    QueueDeadDirectory,
    QueueNewDirectory,
    QueueRoom,
    QueueTmpDirectory,
    each,
)
from agentfs.providers.queue_send import SendFile
from agentfs.providers.recv import Recv, RecvBatch
from agentfs.providers.system_table import SystemTable
from agentfs.rights.ownership import Access
from agentfs.shared.events import QueueChanged, QueueCreated, QueueRemoved
from agentfs.shared.queues import PREFIX, Queue
from agentfs.store.event_log import Record
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, directory, file, live, stream, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.node import Attributes, Directory, Node, Stat, StreamHandle, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import Entry, Table

__all__ = ["QueueDirectory", "QueuesDirectory"]

COUNTED = (
    MessageArrived,
    MessageClaimed,
    MessageDone,
    MessageExpired,
    MessageReturned,
    MessageRevived,
)
"""The events that change how many messages wait."""


class QueueDirectory(Table):
    """/dev/queues/NAME: a queue. Its mode says who may take messages from it (r) and who may send
    (w): the owner, agents with its group, all others."""

    PATH = "/dev/queues/NAME"
    mode = 0o777

    def __init__(self, queues: QueuesDirectory, queue: Queue) -> None:
        self._queues = queues
        self._queue = queue
        self.kernel = queues.kernel
        self.key = self.at(queue.name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a queue."""
        return (PREFIX, name)

    @staticmethod
    def name_at(key: tuple[str, str]) -> str:
        """The queue whose directory has this key."""
        return key[1]

    @property
    def room(self) -> QueueRoom:
        return self._queues.room(self._queue)

    def owner(self) -> Owner:
        who = self._queue.ownership
        return Owner(who.uid, who.gid, self._queue.changed)

    def stat(self) -> Stat:
        found = super().stat()
        mode = self._queue.ownership.mode
        found.mode = st.S_IFDIR | mode | each(mode, 0o4, 0o1) | each(mode, 0o2, 0o1)
        return found

    def guard(self, caller: Caller) -> None:
        who, principal = self._queue.ownership, caller.principal
        if not who.owned_by(principal) and not who.permits(principal, Access.SEND):
            who.require(principal, Access.READ, str(self._queue))

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, replace(wanted, mode=None))
        if wanted.mode is not None:
            self.kernel.queues.chmod(caller.principal, self._queue.name, wanted.mode)

    def lookup(self, name: str) -> Node:
        self._queues.room(self._queue)  # from now on somebody may watch what is in here
        return super().lookup(name)

    def node(self, entry: Entry) -> Node:
        made = super().node(entry)
        if entry.name in _MODES:
            setattr(made, "mode", _MODES[entry.name](self._queue.ownership.mode))  # noqa: B010
        return made

    @file(
        "send",
        0o222,
        known_as="control",
        on=(QueueChanged,),
        errors={
            "EACCES": "the queue's mode or the role says no, or the queue is not a task's parent's",
            "ENOSPC": "O_NONBLOCK, and the queue is full",
            "EINVAL": "a malformed header",
            "EMSGSIZE": "more than messages.max_size bytes",
            "ESTALE": "the queue was removed",
        },
    )
    def send(self) -> Node:
        """Every write is one message, as in `outbox`; or one as `recv` gave it. A `To` header says
        nothing. If the queue is full it waits for room, behind those that wait already. May be
        kept open; fsync makes what was sent survive a power cut."""
        return SendFile(self.room, self.key_of("send"), _MODES["send"](self._queue.ownership.mode))

    @stream(
        "recv",
        0o666,
        known_as="mailbox",
        on=(QueueChanged,),
        errors={
            "EACCES": "the queue's mode says no",
            "EAGAIN": "O_NONBLOCK, and no message waits",
            "ESTALE": "the queue was removed",
            "ENOENT": "written: there is no message that is not settled yet",
            "EINVAL": "written: another word",
        },
    )
    def recv(self, caller: Caller) -> StreamHandle:
        """The next message, as an agent's own `recv` gives it: claimed for the process that reads,
        acknowledged when the same loop asks for the next, or by a clean end; returned if its reader
        fails."""
        self.room.private(caller)
        return Recv(self.room, caller)

    @stream(
        "recv.batch",
        0o666,
        known_as="mailbox",
        on=(QueueChanged,),
        errors={
            "EACCES": "the queue's mode says no",
            "EAGAIN": "O_NONBLOCK, and no message waits",
            "ESTALE": "the queue was removed",
            "EINVAL": "written: no number from 1 to 1000, and no word that `recv` takes",
        },
    )
    def recv_batch(self, caller: Caller) -> StreamHandle:
        """Up to N messages at once as an mbox; N, 10 at first, is written."""
        self.room.private(caller)
        return RecvBatch(self.room, caller)

    @directory("new", 0o777, on=(QueueChanged,))
    def new(self) -> Directory:
        """Messages that wait, each a file `<sequence>.<sender>`."""
        return QueueNewDirectory(self.room)

    @directory("cur", 0o777, on=(QueueChanged,))
    def cur(self) -> Directory:
        """Messages that are claimed."""
        return QueueCurDirectory(self.room)

    @directory("tmp", 0o777, on=(QueueChanged,))
    def tmp(self) -> Directory:
        """Messages that are being written, at most 64."""
        return QueueTmpDirectory(self.room)

    @directory("dead", 0o777, on=(QueueChanged,))
    def dead(self) -> Directory:
        """Messages that were given up."""
        return QueueDeadDirectory(self.room)

    @value("length", on=COUNTED, example="17")
    def length(self) -> str:
        """How many messages wait."""
        return str(0 if self._queue.removed else self._queues.waiting(self._queue))

    @live("status", example="Owner:\talice\nMode:\t0770\nMax:\t10000\nWaiting:\t17\n…")
    def status(self) -> str:
        """Owner, Mode, Max (how many may wait), and how many are Waiting, Claimed and Dead."""
        who, box = self._queue.ownership, self.kernel.queues.box(self._queue)
        return fields(
            ("Owner", who.owner),
            ("Mode", f"{who.mode:04o}"),
            ("Max", self.kernel.queues.limit(self._queue)),
            ("Waiting", box.waiting),
            ("Claimed", len(box.cur)),
            ("Dead", len(box.dead)),
        )

    @control(
        "ctl",
        0o222,
        example="max 500",
        errors={
            "EINVAL": "unknown command, or no number",
            "EPERM": "only the owner agent and the operator",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `purge` drops what waits; `remove` removes the queue and drops all that is in
        it; `max N` lets at most N messages wait, `max default` as many as the configuration says.
        What is dropped shows as dead in the `sent` of its sender."""
        queues, name = self.kernel.queues, self._queue.name
        self.room.require_alive()
        match command.split():
            case ["purge"]:
                await self._purge(caller)
            case ["remove"]:
                queues.close(caller.principal, name)
                try:
                    await self._purge(caller)
                    queues.remove(caller.principal, name, force=True)
                except BaseException:
                    queues.close(caller.principal, name, closed=False)
                    raise
            case ["max", "default"]:
                queues.set_limit(caller.principal, name, None)
            case ["max", number] if number.isascii() and number.isdigit() and len(number) < 10:
                queues.set_limit(caller.principal, name, int(number))
            case _:
                raise KernelError(
                    errno.EINVAL, f"purge, remove, max N or max default, not {command!r}"
                )

    async def _purge(self, caller: Caller) -> None:
        while self.kernel.queues.purge(caller.principal, self._queue.name):
            await trio.lowlevel.checkpoint()  # others have their turn

    @on(*MAIL)
    def _changes(self, event: Any) -> Sequence[Change]:
        room = self.room
        room.touch()
        return mail_changes(room, event)


class QueuesDirectory(SystemTable):
    """/dev/queues: `mkdir` makes a queue, for everybody unless a mode or a tight umask
    says otherwise; `rmdir` removes an empty one."""

    PATH = "/dev/queues"
    WHAT = "Mailboxes that agents share: a directory for each queue."
    EACH = QueueDirectory
    mode = 0o1777
    key = (PREFIX,)

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self._rooms: dict[str, QueueRoom] = {}
        self.kernel.events.listen(self._heard, QueueRemoved)

    def changed(self) -> Time:
        return self.kernel.queues.changed

    def room(self, queue: Queue) -> QueueRoom:
        """The room that the files of one queue share."""
        found = self._rooms.get(queue.name)
        if found is None or found.queue is not queue:
            found = QueueRoom(self.kernel, queue, QueueDirectory.at(queue.name))
            if not queue.removed:
                self._rooms[queue.name] = found
        return found

    def waiting(self, queue: Queue) -> int:
        """How many messages wait in it. Changes nothing: expired ones go in their own time."""
        return self.kernel.mail.boxes.box(queue.mailbox).waiting

    def find(self, name: str) -> Node | None:
        queue = self.kernel.queues.find(name)
        return None if queue is None else QueueDirectory(self, queue)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.queues:
            yield name, QueueDirectory(self, self.kernel.queues.get(name))

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        mode = caller.unmasked(mode)
        return QueueDirectory(self, self.kernel.queues.create(caller.principal, name, mode))

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.queues.remove(caller.principal, name)

    def _heard(self, record: Record) -> None:
        assert isinstance(record.event, QueueRemoved)
        self._rooms.pop(record.event.name, None)

    def each(self, key: Any) -> QueueDirectory:
        return QueueDirectory(self, self._rooms[QueueDirectory.name_at(key)].queue)

    def concerned(self, event: Any) -> Sequence[Hashable]:
        if isinstance(event, QueueChanged):
            return (QueueDirectory.at(event.name),)
        if not self._rooms:
            return ()
        kind, _, name = event.agent.partition("/")
        room = self._rooms.get(name) if kind == PREFIX else None  # if anybody ever looked into it
        return () if room is None else (room.key,)

    @on(QueueCreated)
    def _created(self, event: QueueCreated) -> Iterator[Change]:
        queue = self.kernel.queues.find(event.name)
        if queue is not None:
            yield Created(self.key, event.name, QueueDirectory(self, queue))

    @on(QueueRemoved)
    def _removed(self, event: QueueRemoved) -> Iterator[Change]:
        yield Removed(self.key, event.name, QueueDirectory.at(event.name), is_directory=True)

    @on(QueueChanged)
    def _changed(self, event: QueueChanged) -> Iterator[Change]:
        yield Modified(QueueDirectory.at(event.name))


# Linux is told these modes of the files, made from the queue's mode: that matters where agents are
# different users. The owner of the queue may do with `ctl` what the mode does not say.
_MODES: dict[str, Callable[[int], int]] = {
    "send": lambda mode: mode & 0o222,
    "recv": lambda mode: each(mode, 0o4, 0o6),
    "recv.batch": lambda mode: each(mode, 0o4, 0o6),
}
