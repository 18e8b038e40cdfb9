"""Sent messages as files: each with its state in front, until it is swept."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentfs.base.errors import KernelError
from agentfs.mail.events import BroadcastChanged, BroadcastSent, MessageArrived, SentForgotten
from agentfs.mail.message import Message, number_of
from agentfs.process.events import AgentRemoved
from agentfs.providers.mail import room_of
from agentfs.providers.maildir import MAIL, MailFile, Mailroom
from agentfs.shared.events import QueuePurged, QueueRemoved
from agentfs.shared.queues import PREFIX
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import Rendered, Snapshot
from agentfs.vfs.node import Handle, Node, is_writing
from agentfs.vfs.on import on
from agentfs.vfs.table import DirectoryOf

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["SentDirectory", "SentFile"]

# Bytes up to which the content is served from the page cache. More is not worth being kept there,
# nor beside the inode: it is rendered at open.
CACHED = 64 * 1024


class SentDirectory(DirectoryOf):
    """/agents/NAME/sent: what NAME sent, a file each, named by the message's id."""

    PATH = "/agents/NAME/sent"
    WHAT = (
        "What it sent, each message a file named by its id: `State` (queued, claimed, done,"
        " expired, dead) and what else became of it as header lines, then the message. Kept for"
        " messages.sent_retention after it is finished, the newest messages.max_sent of them;"
        " deleting a finished one drops the record."
    )
    PRIVATE = True
    KEPT = True
    mode = 0o700

    def __init__(self, agent: AgentDirectory) -> None:
        self.room = room_of(agent)
        self.key = agent.key_of("sent")

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

    # -- what events change ----------------------------------------------------------------------

    @on(MessageArrived, BroadcastSent, whose="sender")
    def _sent(self, event: MessageArrived | BroadcastSent) -> Sequence[Change]:
        seq = int(event.id)
        if seq not in self.room.kernel.mail.archive.sent(self.room.name):
            return ()
        return (Created(self.key, event.id, SentFile(self.room, seq, announcing=True)),)

    @on(SentForgotten)
    def _forgotten(self, event: SentForgotten) -> Iterator[Change]:
        for number in event.ids:
            yield Removed(self.key, number, SentFile.at(int(number)))

    @staticmethod
    @on(BroadcastChanged, *(kind for kind in MAIL if kind is not MessageArrived))
    def _changed(event: Any) -> Sequence[Change]:
        return (Modified(SentFile.at(int(event.id))),)

    @on(AgentRemoved, every=True)
    def _agent_removed(self, event: AgentRemoved) -> Iterator[Change]:
        return self._dropped(event.agent)

    @on(QueuePurged, QueueRemoved, every=True)
    def _queue_dropped(self, event: QueuePurged | QueueRemoved) -> Iterator[Change]:
        return self._dropped(f"{PREFIX}/{event.name}")

    def _dropped(self, mailbox: str) -> Iterator[Change]:
        """The messages that waited in a mailbox whose content was dropped at once."""
        for message in self.room.kernel.mail.archive.sent(self.room.name).values():
            if message.mailbox == mailbox and message.reason:
                yield Modified(SentFile.at(message.seq))


class SentFile(MailFile):
    """/agents/NAME/sent/ID."""

    def __init__(self, room: Mailroom, seq: int, *, announcing: bool = False) -> None:
        super().__init__(room, seq, announcing=announcing)

    @staticmethod
    def at(seq: int) -> Hashable:
        return ("sent", seq)

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
