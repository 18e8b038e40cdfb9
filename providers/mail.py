"""A mailbox as files: the Maildir `inbox`, and a file for each agent to write to.

inbox/       see maildir.py
outbox/PEER  what is written between open and close is one message
recv         see recv.py
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace

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
from agentfs.mail.message import Draft, check_opening
from agentfs.providers.dead import DeadFile
from agentfs.providers.host import HostDirectory
from agentfs.providers.maildir import (
    CurDirectory,
    Mailroom,
    MessageFile,
    NewDirectory,
    TmpDirectory,
)
from agentfs.store.event import Event
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Moved, Removed
from agentfs.vfs.declare import directory
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import Gathered
from agentfs.vfs.node import (
    Attributes,
    Directory,
    File,
    Handle,
    Node,
    Stat,
    is_writing,
    regular,
)
from agentfs.vfs.table import DirectoryOf, Table

__all__ = ["MAIL", "InboxDirectory", "Mailroom", "OutboxDirectory", "changes"]


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


class InboxDirectory(Table):
    """/agents/NAME/inbox: a Maildir. Mail programs may keep files and folders of their own beside
    the mail, if their names begin with a full stop (`.uidvalidity`, `.notmuch`): they are private
    to the agent, survive restarts and are no mail; at most 64 in all (ENOSPC), each of at most 8
    MiB (EFBIG). Any other name is EPERM."""

    PATH = "/agents/NAME/inbox"
    mode = 0o700

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.key = room.key

    def owner(self) -> Owner:
        return self.room.owner()

    def may_list(self, caller: Caller) -> None:
        self.room.private(caller)

    @directory("new", 0o700, on=(MessageArrived, MessageReturned), private=True)
    def new(self) -> Directory:
        """Messages that wait, each a file `<sequence>.<sender>`. Renaming one into `cur` claims
        it, deleting it acknowledges it, creating one sends it. Fields and flags can be added
        to a name (`,U=7`, `:2,S`): it waits on in its place."""
        return NewDirectory(self.room)

    @directory("cur", 0o700, on=(MessageClaimed,), private=True)
    def cur(self) -> Directory:
        """Messages that are claimed; flags after `:2,` are kept. Deleting one acknowledges it;
        what is not acknowledged when the process that claimed it ends comes back to `new`."""
        return CurDirectory(self.room)

    @directory("tmp", 0o700, private=True)
    def tmp(self) -> Directory:
        """Messages that are being written, at most 64. Renaming or linking one into `new` sends
        it, with the caller as the sender."""
        return TmpDirectory(self.room)

    # -- what mail programs keep beside the mail -------------------------------------------------

    def find(self, name: str) -> Node | None:
        files = self.room.beside() if name.startswith(".") else None
        return None if files is None else files.root.lookup(name)

    def more(self) -> Iterator[tuple[str, Node]]:
        files = self.room.beside()
        if files is not None:
            yield from files.root.entries()

    def _files(self, name: str, doing: str, caller: Caller) -> HostDirectory:
        """Where `name` is kept. EPERM for a name that is not for this."""
        if not name.startswith("."):
            raise self._fixed(doing)
        self.room.private(caller)
        files = self.room.beside(make=True)
        assert files is not None
        return files.root

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        return self._files(name, "create a file", caller).create(name, mode, flags, caller)

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        return self._files(name, "make a directory", caller).mkdir(name, mode, caller)

    def symlink(self, name: str, target: str, caller: Caller) -> Node:
        return self._files(name, "make a link", caller).symlink(name, target, caller)

    def link(self, node: Node, name: str, caller: Caller) -> Node:
        return self._files(name, "make a link", caller).link(node, name, caller)

    def unlink(self, name: str, caller: Caller) -> None:
        self._files(name, "remove a file", caller).unlink(name, caller)

    def rmdir(self, name: str, caller: Caller) -> None:
        self._files(name, "remove a directory", caller).rmdir(name, caller)

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        files = self._files(name, "rename", caller)
        if target.key == self.key:
            target = self._files(new_name, "rename", caller)
        files.rename(name, target, new_name, flags, caller)


class OutboxDirectory(DirectoryOf):
    """/agents/NAME/outbox: a file for each agent that NAME may write to at the moment.

    With more than `MANY` agents, others than NAME (the operator's `find`) are listed only NAME's
    parent and children: all of them together would be the square of the agents. Whoever may be
    written to is found by name."""

    MANY = 100

    PATH = "/agents/NAME/outbox"
    mode = 0o700

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.key = (("agents", room.name), "outbox")

    def owner(self) -> Owner:
        return self.room.owner()

    def guard(self, caller: Caller) -> None:
        self.room.private(caller)

    def lookup(self, name: str) -> Node:
        # Also one that may not be written to: its open can say why.
        self.room.kernel.agents.get(name)
        return OutboxFile(self, name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for name in self.room.kernel.mail.peers(self.room.name):
            yield name, OutboxFile(self, name)

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        kernel, name = self.room.kernel, self.room.name
        if caller.principal.name == name or len(kernel.agents) <= self.MANY:
            return self.entries()
        return [(peer, OutboxFile(self, peer)) for peer in kernel.mail.peers(name, self._family())]

    def _family(self) -> list[str]:
        table = self.room.kernel.table
        process = table.by_name(self.room.name)
        if process is None:
            agents = self.room.kernel.agents
            agent = agents.get(self.room.name)
            return [agent.creator] if agents.made(agent.creator, agent) else []
        parent = table.find(process.ppid)
        family = [child.name for child in table.live_children(process.pid)]
        return sorted(family if parent is None else [*family, parent.name])

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        self.room.kernel.mail.check(caller.principal, self.room.name, name)
        found = OutboxFile(self, name)
        return found, found.open(flags, caller)


class OutboxFile(File):
    """/agents/NAME/outbox/PEER."""

    kind = "control"
    renewed = True

    # Who may be written to changes with every spawn and exit; asking again is cheaper than
    # announcing it to everybody.
    timeout = 0.0

    def __init__(self, outbox: OutboxDirectory, peer: str) -> None:
        self.key = (outbox.key, peer)
        self._room = outbox.room
        self._peer = peer

    def stat(self) -> Stat:
        owner = self._room.owner()
        return Stat(regular(0o200), owner.uid, owner.gid, 0, owner.mtime)

    def enter(self, caller: Caller) -> None:
        self._room.private(caller)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, replace(wanted, size=None))  # `>` truncates what is empty

    def open(self, flags: int, caller: Caller) -> Handle:
        if not is_writing(flags):
            return Handle()
        room, peer = self._room, self._peer
        room.kernel.mail.check(caller.principal, room.name, peer)
        return Letter(room, peer, caller)


class Letter(Gathered):
    """A message that is being written: sent by the close that ends it.

    What can be refused is refused while it is written: a shell looks at what write(2) returned and
    not at what close(2) did."""

    def __init__(self, room: Mailroom, peer: str, caller: Caller) -> None:
        super().__init__(caller.memory())
        self._room = room
        self._peer = peer
        self._principal = caller.principal
        self._opening = True  # what comes may belong to the headers that it opens with
        self._sent = False
        self._held = 0  # its number among those that were accepted and may not be whole
        self._kept = b""

    def limit(self) -> int:
        return self._room.limit()

    def too_large(self) -> KernelError:
        return KernelError(
            errno.EMSGSIZE,
            f"a message has at most {self.limit()} bytes",
            rule="messages.max_size",
        )

    async def write(self, offset: int, data: bytes) -> int:
        if self._sent:
            raise KernelError(errno.EPERM, "the message was sent when the file was closed")
        return await super().write(offset, data)

    def look(self, content: bytearray) -> None:
        if not self._opening:
            return
        kernel = self._room.kernel
        draft = check_opening(bytes(content), now=kernel.clock.now(), to=self._peer)
        if draft is None:
            return
        self._opening = False
        if draft.reply_by is not None:
            kernel.mail.asks.check_room(self._room.name)

    def truncate(self, size: int) -> None:
        super().truncate(size)
        self._opening = True

    async def take(self, content: bytes) -> None:
        kernel, held = self._room.kernel, self._held
        try:
            with kernel.store.transaction():
                kernel.held.discard(held)
                if content:
                    self._send(content)
                    self._sent = True
        except ApprovalError:
            raise
        except KernelError:
            kernel.held.discard(held)
            self._held = 0
            raise
        self._held = 0

    async def keep(self, content: bytes) -> None:
        if not content:
            return
        held = Held(self._peer, self._room.name, self._peer, "", content)
        keep = self._room.kernel.held.keep
        self._held = keep(self._held, held, lambda: self._send(content))
        self._kept = content

    def _send(self, content: bytes) -> None:
        kernel = self._room.kernel
        draft = Draft.parse(content, now=kernel.clock.now(), to=self._peer)
        kernel.mail.send(self._principal, self._room.name, draft)

    async def sync(self) -> None:
        await self._room.kernel.store.sync()

    def release(self) -> None:
        if self._held:
            self._room.kernel.held.deliver(self._held, lambda: self._send(self._kept))
        super().release()


def changes(room: Mailroom, event: Event) -> Iterable[Change]:
    """What an event about a message changes in the mailbox that it names."""
    new, cur, dead = map(room.folder_key, ("new", "cur", "dead"))
    match event:
        case MessageArrived(id=number, file=file):
            yield Created(new, file, MessageFile(room, int(number), announcing=True))
        case MessageClaimed(id=number, file=file, renamed=renamed):
            yield Moved(new, file, cur, renamed, MessageFile(room, int(number), announcing=True))
        case MessageReturned(id=number, file=file, renamed=renamed):
            yield Moved(cur, renamed, new, file, MessageFile(room, int(number), announcing=True))
        case MessageDone(id=number, folder=folder, file=file):
            yield Removed(room.folder_key(folder), file, ("msg", int(number)))
        case MessageExpired(id=number, folder=folder, file=file):
            yield Removed(room.folder_key(folder), file, ("msg", int(number)))
        case MessageGivenUp(id=number, folder=folder, file=file):
            letter = DeadFile(room, int(number), number, announcing=True)
            yield Moved(room.folder_key(folder), file, dead, number, letter)
        case MessageRevived(id=number, file=file, renamed=renamed):
            yield Moved(dead, renamed, new, file, MessageFile(room, int(number), announcing=True))
        case DeadLetterDropped(id=number, file=file):
            yield Removed(dead, file, ("msg", int(number)))
