"""What an agent sent, as files: each message with its state in front, until it is swept."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterable, Iterator, Mapping

from agentfs.base.errors import KernelError
from agentfs.mail.events import BroadcastChanged, BroadcastSent, MessageArrived, SentForgotten
from agentfs.mail.message import Message, number_of
from agentfs.process.events import AgentRemoved
from agentfs.providers.mail import MAIL
from agentfs.providers.maildir import MailFile, Mailroom
from agentfs.shared.events import QueuePurged, QueueRemoved
from agentfs.store.event import Event
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import Rendered, Snapshot
from agentfs.vfs.node import Handle, Node, is_writing
from agentfs.vfs.table import DirectoryOf

__all__ = ["SentDirectory", "SentFile", "changes"]

# Bytes up to which the content is served from the page cache. More is not worth being kept there,
# nor beside the inode: it is rendered at open.
CACHED = 64 * 1024


class SentDirectory(DirectoryOf):
    """/agents/NAME/sent: what NAME sent, a file each, named by the message's id."""

    PATH = "/agents/NAME/sent"
    mode = 0o700

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.key = directory_key(room.name)

    def owner(self) -> Owner:
        return self.room.owner()

    def guard(self, caller: Caller) -> None:
        _may_see(self.room, caller)

    def lookup(self, name: str) -> Node:
        message = self.room.kernel.mail.archive.sent(self.room.name).get(number_of(name))
        if message is None:
            raise self.missing(name)
        return SentFile(self.room, message.seq)

    def entries(self) -> Iterator[tuple[str, Node]]:
        messages = self.room.kernel.mail.archive.sent(self.room.name)
        for seq, message in sorted(messages.items()):
            yield message.id, SentFile(self.room, seq)

    def unlink(self, name: str, caller: Caller) -> None:
        number = number_of(name)
        self.room.kernel.mail.sent.forget(caller.principal, self.room.name, number)


class SentFile(MailFile):
    """/agents/NAME/sent/ID."""

    def __init__(self, room: Mailroom, seq: int, *, announcing: bool = False) -> None:
        super().__init__(room, seq, announcing=announcing)
        self.key = ("sent", seq)

    def message(self) -> Message:
        """ENOENT if it is not kept any more."""
        found = self._room.kernel.mail.archive.sent(self._room.name).get(self._seq)
        if found is None:
            raise KernelError(errno.ENOENT, f"message {self._seq:012d} is not kept any more")
        return found

    def content(self) -> bytes:
        return self._room.kernel.mail.sent.content(self.message())

    def shown(self, message: Message) -> tuple[int, float, bytes | None]:
        size = self._room.kernel.mail.sent.size(message)
        time = max(message.arrived, message.claimed_at, message.finished)
        return size, time, self.content() if size <= CACHED else None

    def enter(self, caller: Caller) -> None:
        _may_see(self._room, caller)

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "what was sent cannot be changed")
        if self._room.kernel.mail.sent.size(self.message()) > CACHED:
            return Snapshot(self.content())
        return Rendered(self.content)


def _may_see(room: Mailroom, caller: Caller) -> None:
    kernel, name = room.kernel, room.name
    whose = kernel.table.by_name(name) or kernel.agents.get(name)
    kernel.rules.read_process(caller.principal, whose, "sent")


def directory_key(name: str) -> Hashable:
    return (("agents", name), "sent")


def changes(rooms: Mapping[str, Mailroom], event: Event) -> Iterable[Change]:
    """What an event changes in the `sent` of `rooms`: those in which somebody looked there."""
    match event:
        case MessageArrived(sender=sender, id=number) | BroadcastSent(sender=sender, id=number):
            room, seq = rooms.get(sender), int(number)
            if room is not None and seq in room.kernel.mail.archive.sent(sender):
                yield Created(directory_key(sender), number, SentFile(room, seq, announcing=True))
        case SentForgotten(sender=sender, ids=ids) if sender in rooms:
            for number in ids:
                yield Removed(directory_key(sender), number, ("sent", int(number)))
        case AgentRemoved(agent=name):
            yield from _dropped(rooms, name)
        case QueuePurged(name=name) | QueueRemoved(name=name):
            yield from _dropped(rooms, f"queues/{name}")
        case _ if isinstance(event, (BroadcastChanged, *MAIL)):
            yield Modified(("sent", int(event.id)))


def _dropped(rooms: Mapping[str, Mailroom], mailbox: str) -> Iterator[Modified]:
    """What waited in a mailbox whose messages were dropped at once."""
    for sender, room in rooms.items():
        for message in room.kernel.mail.archive.sent(sender).values():
            if message.mailbox == mailbox and message.reason:
                yield Modified(("sent", message.seq))
