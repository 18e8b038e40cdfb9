"""The folders of a Maildir: the messages of one agent, and those that are being written to it.

    new/  what arrived        rename into cur/: claim      delete: acknowledge
    cur/  what is claimed     rename into new/: put back   rename within: flags
    tmp/  what is being written, by whomever; rename or link into new/: send

Every change is a system call of `kernel.mail`; the files in tmp/ live in memory here.
"""

from __future__ import annotations

import errno
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from agentfs.base.clock import change_time
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.mail.events import (
    DeadLetterDropped,
    MessageArrived,
    MessageClaimed,
    MessageDone,
    MessageExpired,
    MessageGivenUp,
    MessageReturned,
    MessageRevived,
)
from agentfs.mail.held import Held
from agentfs.mail.mailbox import Mailbox
from agentfs.mail.message import Draft, Message
from agentfs.mail.settings import MessageSettings
from agentfs.providers import disk
from agentfs.providers.dotfiles import DotFiles
from agentfs.providers.drafts import DeliveringHandle, DraftFile, DraftHandle
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Directory, File, Handle, Node, Stat, is_writing, regular
from agentfs.vfs.table import DirectoryOf

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = [
    "MAIL",
    "CurDirectory",
    "MailFile",
    "Mailroom",
    "MessageFile",
    "NewDirectory",
    "TmpDirectory",
    "checked",
    "sendable",
]

MAIL = (
    MessageArrived,
    MessageClaimed,
    MessageDone,
    MessageExpired,
    MessageGivenUp,
    MessageReturned,
    MessageRevived,
    DeadLetterDropped,
)
"""The events about a message; `agent` says in whose mailbox."""

RENAME_NOREPLACE = 1

# Files that one writer has in one tmp/: mail programs write one at a time.
MAX_DRAFTS = 64
# Seconds after which a file in tmp/ is rubbish: the Maildir rule (36 hours).
STALE_DRAFT = 36 * 3600.0


class Mailroom:
    """The files of one mailbox share this: whose it is, and what is being written. `seen`:
    somebody looked for one of the folders; else no change in them needs to be told."""

    def __init__(self, kernel: Kernel, name: str, key: Hashable) -> None:
        self.kernel = kernel
        self.name = name
        self.key = key
        self.drafts: dict[str, dict[str, DraftFile]] = {"new": {}, "cur": {}, "tmp": {}}
        self.changed = 0
        self._beside: DotFiles | None = None
        self.seen = False
        self.touch()

    def box(self) -> Mailbox:
        """The mailbox, without what has expired. ENOENT once the agent is removed."""
        return self.kernel.mail.mailbox(self.name)

    def find(self, seq: int) -> Message | None:
        """The message `seq`, if it is in new/ or cur/, under whatever name. Changes nothing, in
        whatever thread: expired mail goes in its own time."""
        found = self.kernel.mail.archive.find(seq)
        return found if found is not None and found.folder in ("new", "cur") else None

    def beside(self, *, make: bool = False) -> DotFiles | None:
        """The files that mail programs keep beside the mail; None if they never did, unless they
        are to be made."""
        if self._beside is None:
            place = self.kernel.agents.beside_mail(self.name)
            if make:
                with disk.reported("making room beside the mail"):
                    place.mkdir(mode=0o700, exist_ok=True)
            elif not place.is_dir():
                return None
            self._beside = DotFiles(place, self.private, self.kernel.disk.beside_mail(self.name))
        return self._beside

    def touch(self) -> None:
        """Something came or went: mail programs look at the folders' st_mtime."""
        self.changed = change_time(self.kernel.clock.now(), self.changed)

    def owner(self) -> Owner:
        """The agent's user and group. ENOENT once it is removed."""
        agent = self.kernel.agents.get(self.name)
        return Owner(agent.uid, agent.gid, max(agent.changed, self.changed))

    def private(self, caller: Caller) -> None:
        """Raise EACCES unless the mail is the caller's own."""
        if not caller.principal.acts_for(self.name):
            raise KernelError(
                errno.EACCES,
                f"the mail of {self.name} is private, and you are {caller.principal.name}",
                rule="private",
            )

    def require_alive(self) -> None:
        """ENOENT if the mailbox that was opened is no more, even if there is one of that name."""

    def file_mode(self) -> int:
        """The mode of the messages."""
        return 0o600

    def folder_key(self, folder: str) -> Hashable:
        return (self.key, folder)

    def limit(self) -> int:
        """Bytes that a message may have."""
        return self.kernel.settings.of(MessageSettings).max_size

    def check(self, caller: Caller) -> None:
        """Ask whether the caller may write to this agent at all."""
        principal = caller.principal
        self.kernel.mail.check(principal, principal.name, self.name)

    def draft(self, folder: str, name: str, mode: int, caller: Caller) -> DraftFile:
        """Begin a file in `folder`. EEXIST, ENOSPC, and what `check` raises."""
        self.check(caller)
        drafts = self.drafts[folder]
        if name in drafts or (folder != "tmp" and name in self.box().folder(folder)):
            raise KernelError(errno.EEXIST, f"{name} is there already")
        self._sweep()
        made = DraftFile(self, mode & ~caller.umask, caller)
        others = [each for drafts in self.drafts.values() for each in drafts.values()]
        if sum(each.writer == made.writer for each in others) >= MAX_DRAFTS:
            raise KernelError(
                errno.ENOSPC, f"you are writing {MAX_DRAFTS} messages to {self.name} already"
            )
        drafts[name] = made
        return made

    def _sweep(self) -> None:
        old = self.kernel.clock.now() - STALE_DRAFT
        for drafts in self.drafts.values():
            for name, draft in tuple(drafts.items()):
                if draft.began < old * 1e9 and not draft.opened:
                    drafts.pop(name).drop()

    def deliver(self, draft: DraftFile, folder: str, name: str, caller: Caller) -> Message:
        """Send what was written, as `folder`/`name`, from the caller."""
        if folder == "cur":
            self.private(caller)
        mail = self.read(bytes(draft.content), folder, name)
        return self.kernel.mail.send(caller.principal, caller.principal.name, mail)

    def read(self, content: bytes, folder: str, name: str) -> Draft:
        """Read what was written as `folder`/`name` as a message. EINVAL."""
        return Draft.parse(
            content,
            now=self.kernel.clock.now(),
            to=self.name,
            filename=sendable(name) if folder == "new" else checked(name),
            claimed=folder == "cur",
        )


def checked(name: str) -> str:
    """A file name that a Maildir can have. EINVAL."""
    if name.startswith(".") or not name.isprintable():
        raise KernelError(
            errno.EINVAL, "a message's file name is printable and begins with no full stop"
        )
    return name


def sendable(name: str) -> str:
    """A file name that a sender may give: what the kernel numbers by arrival begins with 0, and
    nothing of others sorts among it or before it. EINVAL."""
    if name[:1] <= "0":
        raise KernelError(
            errno.EINVAL,
            f"{name!r} would sort as what the kernel numbers; mail programs begin a file name with"
            " the time: 1700000000.M1P2.host",
            rule="file name",
        )
    return checked(name)


def _unique(name: str) -> str:
    """The beginning of a file name in a Maildir, without fields (`,U=7`) and flags (`:2,S`)."""
    return re.split("[,:]", name, maxsplit=1)[0]


class MailFile(File, ABC):
    """A message as a file, found by its number. `announcing`: it may be gone when its watchers hear
    of it; then it is empty."""

    def __init__(self, room: Mailroom, seq: int, *, announcing: bool = False) -> None:
        self.key = self.at(seq)
        self._room = room
        self._seq = seq
        self._announcing = announcing

    @staticmethod
    def at(seq: int) -> Hashable:
        """The key of the file of a message."""
        return ("msg", seq)

    @abstractmethod
    def message(self) -> Message:
        """ENOENT if it is not here any more."""

    def mode(self) -> int:
        return 0o400

    @abstractmethod
    def shown(self, message: Message) -> tuple[int, float, bytes | None]:
        """How many bytes it reads as, its time (wall clock, seconds), and what may be cached."""

    def stat(self) -> Stat:
        owner = self._room.owner()
        size, time, content = 0, owner.mtime, None
        try:
            size, seconds, content = self.shown(self.message())
            time = int(seconds * 1e9)
        except KernelError:
            if not self._announcing:
                raise
        mode = regular(self.mode())
        return Stat(mode, owner.uid, owner.gid, size, time, 1, time, time, content=content)

    def enter(self, caller: Caller) -> None:
        self._room.private(caller)


class MessageFile(MailFile):
    """A message in new/ or cur/: by the time that it is announced under one name it may have
    another."""

    def message(self) -> Message:
        """ENOENT if it was acknowledged, or expired."""
        found = self._room.find(self._seq)
        if found is None:
            raise KernelError(errno.ENOENT, f"message {self._seq:012d} is gone")
        return found

    def mode(self) -> int:
        return self._room.file_mode()

    def shown(self, message: Message) -> tuple[int, float, bytes | None]:
        return self._room.kernel.mail.size(message), message.arrived, None

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags) or flags & os.O_TRUNC:
            raise KernelError(errno.EACCES, "a message is not changed once it was sent")
        self._room.box()  # what has expired is not read any more
        return MessageHandle(self._room.kernel.mail.content(self.message()))


class MessageHandle(Handle):
    """A message as it was at open: it can be read to the end whatever becomes of it."""

    direct = False

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def kept(self) -> int:
        return len(self._content)

    async def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]


class _Folder(DirectoryOf, ABC):
    """new/, cur/ and tmp/ have this in common: anybody may get in to deliver, the owner lists."""

    mode = 0o700
    name = ""
    restless = True

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.key = room.folder_key(self.name)
        room.seen = True
        room.box()  # so that what arrives from now on can be looked at

    def owner(self) -> Owner:
        return self.room.owner()

    def may_list(self, caller: Caller) -> None:
        self.room.private(caller)

    def drafts(self) -> dict[str, DraftFile]:
        return self.room.drafts[self.name]

    def lookup(self, name: str) -> Node:
        found = self.drafts().get(name)
        if found is None:
            raise self.missing(name)
        return found

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        draft = self.room.draft(self.name, name, mode, caller)
        return draft, DraftHandle(draft)

    def unlink(self, name: str, caller: Caller) -> None:
        draft = self.drafts().get(name)
        if draft is None:
            raise self.missing(name)
        if not caller.principal.acts_for(self.room.name):
            draft.enter(caller)
        self.drafts().pop(name).drop()

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        if not isinstance(target, _Folder) or target.room is not self.room:
            raise KernelError(errno.EXDEV, "a message cannot be moved out of its mailbox")
        if flags & ~RENAME_NOREPLACE:
            raise KernelError(errno.EINVAL, "messages cannot be exchanged")
        self._move(name, target, new_name, caller)

    @abstractmethod
    def _move(self, name: str, target: _Folder, new_name: str, caller: Caller) -> None:
        """Move the file `name` to another folder of the mailbox, or give it another name."""


class _Arrival:
    """A message that is being written where messages arrive."""

    def __init__(self, folder: _Folder, name: str, draft: DraftFile, caller: Caller) -> None:
        self._room = folder.room
        self._folder = folder.name
        self._drafts = folder.drafts()
        self._name = name
        self._draft = draft
        self._caller = caller
        self._held = 0
        self._kept = b""

    def deliver(self) -> None:
        """Send it."""
        held = self._room.kernel.held
        self._drop()
        try:
            with self._room.kernel.store.transaction():
                held.discard(self._held)
                self._room.deliver(self._draft, self._folder, self._name, self._caller)
        except ApprovalError:
            self._drafts[self._name] = self._draft  # it waits for that
            raise
        except KernelError:
            held.discard(self._held)
            self._held = 0
            raise
        self._held = 0

    def hold(self) -> None:
        """Accept it as it is now; more of it may come."""
        room, content = self._room, bytes(self._draft.content)
        draft = room.read(content, self._folder, self._name)
        held = Held(room.name, self._caller.principal.name, draft.to, draft.filename, content)
        self._held = room.kernel.held.keep(self._held, held, self._send)
        self._kept = content

    def end(self) -> None:
        """Deliver what was held, and drop what was not."""
        self._drop()
        if self._held:
            self._draft.content[:] = self._kept
            self._room.kernel.held.deliver(self._held, self._send)
        self._draft.drop()

    def _send(self) -> None:
        self._room.deliver(self._draft, self._folder, self._name, self._caller)

    def _drop(self) -> None:
        if self._drafts.get(self._name) is self._draft:
            del self._drafts[self._name]


class MessagesDirectory(_Folder):
    """Messages, by file name in order of arrival."""

    def lookup(self, name: str) -> Node:
        box = self.room.box()
        message = box.folder(self.name).get(name)
        if message is not None:
            return MessageFile(self.room, message.seq)
        return super().lookup(name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        box = self.room.box()
        for name, message in sorted(box.folder(self.name).items()):
            yield name, MessageFile(self.room, message.seq)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        if self.name == "cur":
            self.room.private(caller)
        named = sendable(name) if self.name == "new" else checked(name)
        draft = self.room.draft(self.name, named, mode, caller)
        draft.timeout = 0.0  # it becomes a message, or it is gone, when its writer ends

        return draft, DeliveringHandle(draft, _Arrival(self, name, draft, caller))

    def link(self, node: Node, name: str, caller: Caller) -> Node:
        if not isinstance(node, DraftFile) or node.room is not self.room:
            raise KernelError(errno.EPERM, "a message has one name: rename it")
        node.enter(caller)
        sent = self.room.deliver(node, self.name, name, caller)
        return MessageFile(self.room, sent.seq)

    def unlink(self, name: str, caller: Caller) -> None:
        if name in self.drafts():
            super().unlink(name, caller)
            return
        self.room.private(caller)
        delivery, agent = self.room.kernel.mail.delivery, self.room.name
        delivery.acknowledge(caller.principal, agent, self.name, name)

    def _move(self, name: str, target: _Folder, new_name: str, caller: Caller) -> None:
        self.room.private(caller)
        agent, principal = self.room.name, caller.principal
        delivery = self.room.kernel.mail.delivery
        match self.name, target.name:
            case "new", "cur":
                delivery.claim(principal, agent, name, checked(new_name))
            case "cur", "new":
                delivery.put_back(principal, agent, name, checked(new_name))
            case "cur", "cur":
                delivery.flag(principal, agent, name, checked(new_name))
            case "new", "new" if _unique(name) == _unique(new_name):
                delivery.flag(principal, agent, name, checked(new_name), "new")
            case _:
                raise KernelError(
                    errno.EPERM, f"a message cannot move from {self.name}/ to {target.name}/"
                )


class NewDirectory(MessagesDirectory):
    """/agents/NAME/inbox/new: messages that wait."""

    PATH = "/agents/NAME/inbox/new"
    name = "new"


class CurDirectory(MessagesDirectory):
    """/agents/NAME/inbox/cur: messages that are claimed."""

    PATH = "/agents/NAME/inbox/cur"
    name = "cur"


class TmpDirectory(_Folder):
    """/agents/NAME/inbox/tmp: messages that are being written; each is for its writer only."""

    PATH = "/agents/NAME/inbox/tmp"
    name = "tmp"

    def entries(self) -> Iterator[tuple[str, Node]]:
        yield from sorted(self.drafts().items())

    def _move(self, name: str, target: _Folder, new_name: str, caller: Caller) -> None:
        draft = self.drafts().get(name)
        if draft is None:
            raise self.missing(name)
        draft.enter(caller)
        if target.name != "tmp":
            self.room.deliver(draft, target.name, new_name, caller)
        elif new_name in self.drafts() and new_name != name:
            raise KernelError(errno.EEXIST, f"{new_name} is there already")
        self.drafts().pop(name)
        if target.name == "tmp":
            self.drafts()[new_name] = draft
        else:
            draft.drop()
