"""A mailbox as files: the Maildir `inbox`, and a file for each agent to write to.

inbox/       see maildir.py
outbox/PEER  what is written between open and close is one message
recv         see recv.py
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.mail.held import Held
from agentfs.mail.message import Draft, check_opening
from agentfs.mail.tally import GROUP
from agentfs.providers.dead import DeadDirectory
from agentfs.providers.host import HostDirectory
from agentfs.providers.mail_changes import mail_changes
from agentfs.providers.maildir import MAIL, CurDirectory, Mailroom, NewDirectory, TmpDirectory
from agentfs.providers.recv import Recv, RecvBatch
from agentfs.store.event import Event
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change
from agentfs.vfs.declare import directory, message, stream
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import Gathered
from agentfs.vfs.node import (
    Attributes,
    Directory,
    File,
    Handle,
    Node,
    Stat,
    StreamHandle,
    is_writing,
    regular,
)
from agentfs.vfs.on import on
from agentfs.vfs.table import AddedRows, DirectoryOf, Table

if TYPE_CHECKING:
    from agentfs.providers.agents import AgentDirectory

__all__ = ["DeadRows", "InboxDirectory", "MailRows", "OutboxDirectory", "room_of"]


def room_of(agent: AgentDirectory) -> Mailroom:
    """The room that the files of an agent's mail share."""
    return agent.attached(MailRows).room


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

    @directory("new", 0o700, private=True)
    def new(self) -> Directory:
        """Messages that wait, each a file `<sequence>.<sender>`. Renaming one into `cur` claims
        it, deleting it acknowledges it, creating one sends it. Fields and flags can be added
        to a name (`,U=7`, `:2,S`): it waits on in its place."""
        return NewDirectory(self.room)

    @directory("cur", 0o700, private=True)
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
    """/agents/NAME/outbox: a file for each agent that NAME may write to at the moment, and a file
    `@GROUP` for each group of agents that it is in, or owns: that message is for all its members.

    With more than `MANY` agents, others than NAME (the operator's `find`) are listed only NAME's
    parent and children: all of them together would be the square of the agents. Every agent
    that may be written to is found by name."""

    MANY = 100

    PATH = "/agents/NAME/outbox"
    mode = 0o700

    def __init__(self, room: Mailroom, key: Hashable) -> None:
        self.room = room
        self.key = key

    def owner(self) -> Owner:
        return self.room.owner()

    def guard(self, caller: Caller) -> None:
        self.room.private(caller)

    def lookup(self, name: str) -> Node:
        # Also one that may not be written to: its open can say why.
        if name.startswith(GROUP):
            self.room.kernel.agent_groups.get(name.removeprefix(GROUP))
        else:
            self.room.kernel.agents.get(name)
        return OutboxFile(self, name)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for name in self.room.kernel.mail.peers(self.room.name):
            yield name, OutboxFile(self, name)
        yield from self._groups()

    def _groups(self) -> Iterator[tuple[str, Node]]:
        """Those that the agent is in, or owns."""
        for name in self.room.kernel.agent_groups.of(self.room.name):
            yield f"{GROUP}{name}", OutboxFile(self, f"{GROUP}{name}")

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        kernel, name = self.room.kernel, self.room.name
        if caller.principal.name == name or len(kernel.agents) <= self.MANY:
            return self.entries()
        family = kernel.mail.peers(name, self._family())
        return [*((peer, OutboxFile(self, peer)) for peer in family), *self._groups()]

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

    # The agents that may be written to change with every spawn and exit; asking again is cheaper
    # than announcing it to everybody.
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

    All that can be refused is refused while it is written: a shell looks at what write(2) returned
    and not at what close(2) did."""

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
            kernel.asks.check_room(self._room.name)

    def truncate(self, size: int) -> None:
        super().truncate(size)
        self._opening = True

    async def take(self, content: bytes) -> None:
        kernel, held = self._room.kernel, self._held
        try:
            with kernel.store.transaction():
                if held:
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


class MailRows(AddedRows):
    """The mail of an agent."""

    INTO = "/agents/NAME"
    KEPT = True

    def __init__(self, agent: AgentDirectory) -> None:
        super().__init__(agent)
        self._kernel = agent.kernel
        self._name = agent.name
        self.room = Mailroom(self._kernel, agent.name, agent.key_of("inbox"))

    async def sync(self) -> None:
        await self._kernel.store.sync()

    @on(*MAIL, whose="agent")
    def _changes(self, event: Event) -> Sequence[Change]:
        self.room.touch()
        return mail_changes(self.room, event) if self.room.seen else ()

    @directory("inbox", 0o700, private=True)
    def inbox(self) -> Directory:
        """Its mail, as a Maildir."""
        return InboxDirectory(self.room)

    @directory("outbox", 0o700, private=True)
    def outbox(self) -> Directory:
        """A file for each agent that it may write to at the moment; with more than 100 agents,
        others than itself are listed only its parent and its children. All that is written to one
        between open and close is one message: a body, unless it opens with headers of ours and a
        blank line (messages.md says which)."""
        return OutboxDirectory(self.room, self.directory.key_of("outbox"))

    @message(
        "send",
        0o200,
        limit="limit",
        sync="sync",
        private=True,
        example="To: bob\nPriority: high\n\nHello.",
        errors={
            "ENOENT": "there is no such agent",
            "EACCES": "the role or a rule says no, or it is another user's and a stranger",
            "EINVAL": "a malformed header, two receivers, or a Type that is the kernel's",
            "EMSGSIZE": "more than messages.max_size bytes",
            "ENOSPC": "the receiver's inbox is full",
            "EDQUOT": "you have your share of what waits in that inbox",
        },
    )
    async def send(self, content: bytes, caller: Caller) -> None:
        """Every write is one message: headers (`To: NAME` at least), a blank line, the body. May
        be kept open; fsync makes what was sent survive a power cut."""
        draft = Draft.parse(content, now=self._kernel.clock.now())
        self._kernel.mail.send(caller.principal, self._name, draft)

    def limit(self) -> int:
        return self.room.limit()

    @stream(
        "recv",
        0o600,
        known_as="mailbox",
        private=True,
        errors={
            "EAGAIN": "O_NONBLOCK, and no message waits",
            "ESTALE": "the agent was removed",
            "ENOENT": "written: there is no message that is not settled yet",
            "EINVAL": "written: another word",
        },
    )
    def recv(self, caller: Caller) -> StreamHandle:
        """The next message: blocks until there is one, claims the best (priority with ageing),
        gives it whole, then end of file, which stays. For the next one it is opened again, or
        rewound. Asking for the next acknowledges the one before it that the same loop got here,
        also if nothing waits. A reader that does not want the next yet writes what became of the
        last: `done`, `back` (it waits again; this was no attempt), or `failed REASON` (the next
        attempt, or a dead letter). Opened with O_DIRECT (packet mode, as of a pipe) each read is a
        message, and there is no end of file after one that is shorter than the read."""
        self._kernel.processes.receives(caller.principal, self._name)
        return Recv(self.room, caller)

    @stream(
        "recv.batch",
        0o600,
        known_as="mailbox",
        private=True,
        errors={
            "EAGAIN": "O_NONBLOCK, and no message waits",
            "ESTALE": "the agent was removed",
            "EINVAL": "written: a number that is not from 1 to 1000, or another word",
        },
    )
    def recv_batch(self, caller: Caller) -> StreamHandle:
        """The next messages at once, as an mbox: blocks until there is one, claims up to N of them
        (N is written to the handle first; else 10) and at most messages.max_batch_bytes, then end
        of file, as `recv` does. Each says in `Claimed-As` which file in `inbox/cur` it is: deleting
        that acknowledges it alone; asking for the next batch acknowledges the rest. `done`, `back`
        and `failed REASON` can be written as to `recv`."""
        self._kernel.processes.receives(caller.principal, self._name)
        return RecvBatch(self.room, caller)


class DeadRows(AddedRows):
    """The dead letters of an agent."""

    INTO = "/agents/NAME"

    @directory("dead", 0o700, private=True)
    def dead(self) -> Directory:
        """Messages to it that were given up, each a file named by its id: a header `Reason`, then
        the message. Deleting one drops it; renaming it into `inbox/new` puts it back: it is
        delivered again, with the next Delivery-Attempt. Kept for messages.dead_retention, the
        newest messages.max_dead of them."""
        return DeadDirectory(room_of(self.directory))
