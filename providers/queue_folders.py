"""The folders of a queue: those of an inbox, for all who may."""

from __future__ import annotations

import errno
import stat as st
from collections.abc import Hashable
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.mail.message import Draft, Message
from agentfs.providers.dead import DeadDirectory
from agentfs.providers.drafts import DraftFile
from agentfs.providers.maildir import (
    CurDirectory,
    Mailroom,
    NewDirectory,
    TmpDirectory,
    sendable,
)
from agentfs.rights.ownership import Access
from agentfs.shared.queues import Queue
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Stat
from agentfs.vfs.table import DirectoryOf

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = [
    "QueueCurDirectory",
    "QueueDeadDirectory",
    "QueueNewDirectory",
    "QueueRoom",
    "QueueTmpDirectory",
    "each",
]


class QueueRoom(Mailroom):
    """The files of one queue share this."""

    def __init__(self, kernel: Kernel, queue: Queue, key: Hashable) -> None:
        self.queue = queue
        super().__init__(kernel, queue.mailbox, key)

    def require_alive(self) -> None:
        if self.queue.removed:
            raise KernelError(errno.ENOENT, f"{self.queue} was removed")

    def owner(self) -> Owner:
        who = self.queue.ownership
        return Owner(who.uid, who.gid, max(self.queue.changed, self.changed))

    def private(self, caller: Caller) -> None:
        self.queue.ownership.require(caller.principal, Access.TAKE, str(self.queue))

    def file_mode(self) -> int:
        return 0o600 | self.queue.ownership.mode & 0o044

    def check(self, caller: Caller) -> None:
        self.kernel.queues.check(caller.principal, self.queue)
        if not self.kernel.queues.has_room(self.queue):
            raise self.kernel.queues.full(self.queue)

    def draft(self, folder: str, name: str, mode: int, caller: Caller) -> DraftFile:
        if folder == "cur":
            raise KernelError(errno.EPERM, f"what is for {self.queue} is put into its new/ or tmp/")
        return super().draft(folder, name, mode, caller)

    def deliver(self, draft: DraftFile, folder: str, name: str, caller: Caller) -> Message:
        if folder == "cur":
            raise KernelError(errno.EPERM, f"what is for {self.queue} is put into its new/")
        mail = self.read(bytes(draft.content), folder, name)
        return self.kernel.queues.send(caller.principal, self.queue, mail)

    def read(self, content: bytes, folder: str, name: str) -> Draft:
        return self.parse(content, filename=sendable(name))

    def parse(self, content: bytes, filename: str = "") -> Draft:
        """Read what was written as a message. The path alone says whom it is for, as in a Maildir:
        a message that came with another `To` can be put into the next queue as it is."""
        now = self.kernel.clock.now()
        return Draft.parse(content, now=now, to=self.name, filename=filename, forwarded=True)


class _Shared(DirectoryOf):
    """A folder of a queue: who may take from it, and for `open_to_senders` who may send too, gets
    in."""

    room: Mailroom
    open_to_senders = False

    def stat(self) -> Stat:
        found = super().stat()
        room = self.room
        assert isinstance(room, QueueRoom)
        mode = room.queue.ownership.mode
        found.mode = st.S_IFDIR | each(mode, 0o4, 0o7)
        if self.open_to_senders:
            found.mode |= each(mode, 0o2, 0o3)
        return found


class QueueNewDirectory(_Shared, NewDirectory):
    """/dev/queues/NAME/new: messages that wait. Renaming one into `cur` claims it, deleting it
    acknowledges it, making a file here sends one (ENOSPC if the queue is full)."""

    PATH = "/dev/queues/NAME/new"
    open_to_senders = True


class QueueCurDirectory(_Shared, CurDirectory):
    """/dev/queues/NAME/cur: messages that are claimed, by whomever."""

    PATH = "/dev/queues/NAME/cur"


class QueueTmpDirectory(_Shared, TmpDirectory):
    """/dev/queues/NAME/tmp: messages that are being written; each is for its writer only."""

    PATH = "/dev/queues/NAME/tmp"
    open_to_senders = True


class QueueDeadDirectory(_Shared, DeadDirectory):
    """/dev/queues/NAME/dead: messages that were given up. Deleting one drops it; renaming it into
    `new` puts it back."""

    PATH = "/dev/queues/NAME/dead"


def each(mode: int, bit: int, grant: int) -> int:
    """`grant` for each class, owner, group and others, that has `bit` in `mode`."""
    return sum(grant << shift for shift in (6, 3, 0) if mode >> shift & bit)
