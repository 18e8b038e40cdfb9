"""The dead letters of a mailbox, an agent's or a queue's, as files."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from agentfs.base.errors import KernelError
from agentfs.mail.message import Message
from agentfs.providers.maildir import (
    RENAME_NOREPLACE,
    MailFile,
    Mailroom,
    MessageHandle,
    NewDirectory,
)
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Directory, Handle, Node, is_writing
from agentfs.vfs.table import DirectoryOf

__all__ = ["DeadDirectory", "DeadFile"]


class DeadDirectory(DirectoryOf):
    """/agents/NAME/dead: messages that were given up. Deleting one drops it; renaming it into
    `inbox/new` puts it back."""

    PATH = "/agents/NAME/dead"
    mode = 0o700

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.key = room.folder_key("dead")
        room.seen = True
        room.box()  # so that what comes here from now on can be looked at

    def owner(self) -> Owner:
        return self.room.owner()

    def guard(self, caller: Caller) -> None:
        self.room.private(caller)

    def lookup(self, name: str) -> Node:
        message = self.room.box().dead.get(name)
        if message is None:
            raise self.missing(name)
        return DeadFile(self.room, message.seq, name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for name, message in sorted(self.room.box().dead.items()):
            yield name, DeadFile(self.room, message.seq, name)

    def unlink(self, name: str, caller: Caller) -> None:
        self.room.kernel.mail.delivery.acknowledge(caller.principal, self.room.name, "dead", name)

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        if not isinstance(target, NewDirectory) or target.room is not self.room:
            raise KernelError(errno.EPERM, f"a dead letter goes back to new/ of {self.room.name}")
        if flags & ~RENAME_NOREPLACE:
            raise KernelError(errno.EINVAL, "messages cannot be exchanged")
        self.room.kernel.mail.delivery.revive(caller.principal, self.room.name, name, new_name)


class DeadFile(MailFile):
    """A dead letter."""

    def __init__(self, room: Mailroom, seq: int, file: str, *, announcing: bool = False) -> None:
        super().__init__(room, seq, announcing=announcing)
        self._file = file

    def message(self) -> Message:
        """ENOENT if it was dropped, or put back."""
        found = self._room.box().dead.get(self._file)
        if found is None or found.seq != self._seq:
            raise KernelError(errno.ENOENT, f"message {self._seq:012d} is no dead letter any more")
        return found

    def shown(self, message: Message) -> tuple[int, float, bytes | None]:
        size = len(_reason(message)) + self._room.kernel.mail.size(message)
        return size, message.finished, None

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "a message is not changed once it was sent")
        message = self.message()
        return MessageHandle(_reason(message) + self._room.kernel.mail.content(message))


def _reason(message: Message) -> bytes:
    return f"Reason: {message.reason}\n".encode()
