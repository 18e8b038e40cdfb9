"""/agents: the agents by name, whether or not anything runs for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from agentfs.base.errors import KernelError
from agentfs.base.within import is_directory
from agentfs.mail.events import BroadcastSent, MessageArrived, MessageGivenUp
from agentfs.mail.message import Draft
from agentfs.model.process import Agent, Process
from agentfs.model.spec import parse_spec
from agentfs.process.events import (
    AgentChanged,
    AgentDefined,
    AgentRemoved,
    ProcessChanged,
    ProcessExited,
    ProcessReaped,
    ProcessRestarted,
    ProcessSpawned,
    ShownStateChanged,
    StateChanged,
)
from agentfs.providers import mail
from agentfs.providers.asks import ASKS, AsksDirectory
from agentfs.providers.dead import DeadDirectory
from agentfs.providers.devices import Devices
from agentfs.providers.host import HostTree
from agentfs.providers.log import LogFile, LogWatcher
from agentfs.providers.mail import (
    MAIL,
    InboxDirectory,
    Mailroom,
    OutboxDirectory,
)
from agentfs.providers.overheard import OverheardStream
from agentfs.providers.recv import Recv, RecvBatch
from agentfs.providers.reminders import REMINDERS, RemindersDirectory
from agentfs.providers.replacing import Desk, Replacing
from agentfs.providers.sent import SentDirectory
from agentfs.providers.sent import changes as sent_changes
from agentfs.providers.shm import AgentShmDirectory
from agentfs.shared.events import ArtifactEvent
from agentfs.store.event import Event
from agentfs.store.event_log import Record
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, directory, document, file, link, message, stream, value
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Directory, Node, StreamHandle
from agentfs.vfs.table import Entry, Table, modified

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["AgentDirectory", "AgentsDirectory", "LogWatcher", "tell_of_withdrawals"]

# What can change which process is at work for an agent, and what that does.
AT_WORK = (ProcessSpawned, ProcessExited, ProcessReaped, ProcessRestarted, AgentChanged)


# Files beside the definition of an agent, each at most a megabyte.
MAX_SCRATCH = 8


class AgentDirectory(Replacing):
    """/agents/NAME: an agent, its definition, its mail and its memory."""

    PATH = "/agents/NAME"
    REPLACED = frozenset({"spec.yaml"})

    def __init__(self, agents: AgentsDirectory, name: str) -> None:
        self.agents = agents
        self.kernel = agents.kernel
        self.name = name
        self.key = ("agents", name)

    @property
    def agent(self) -> Agent:
        """The agent itself. ESTALE once it is removed."""
        found = self.kernel.agents.find(self.name)
        if found is None:
            raise KernelError(errno.ESTALE, f"the agent {self.name} was removed")
        return found

    @property
    def process(self) -> Process | None:
        """The process that is at work for it."""
        return self.kernel.table.by_name(self.name)

    def owner(self) -> Owner:
        agent = self.agent
        return Owner(agent.uid, agent.gid, agent.changed or int(self.kernel.started * 1e9))

    def private_guard(self, caller: Caller) -> None:
        if not caller.principal.acts_for(self.name):
            raise KernelError(
                errno.EACCES,
                f"this is private to {self.name}, and you are {caller.principal.name}",
                rule="private",
            )

    def exists(self, entry: Entry) -> bool:
        # A person may have removed it from the state directory.
        if entry.name == "memory":
            return is_directory(os.fspath(self.kernel.agents.memory_dir(self.name)))
        return super().exists(entry)

    @property
    def desk(self) -> Desk:
        return self.agents.desks[self.name]

    @property
    def used_desk(self) -> Desk | None:
        return self.agents.desks.get(self.name)

    def replace(self, name: str, content: bytes, caller: Caller) -> None:
        self.kernel.agents.redefine(caller.principal, self.name, as_text(content))

    def may_define(self, caller: Caller) -> None:
        self.kernel.agents.require_definer(caller.principal, self.name)

    @property
    def room(self) -> Mailroom:
        return self.agents.rooms[self.name]

    @document(
        "spec.yaml",
        0o644,
        write="redefine",
        sync="sync",
        check="may_define",
        guard="may_see_definition",
        on=(AgentChanged,),
        example="name: alice\nrole: worker\nexec: [python3, alice.py]\n",
        errors={
            "EINVAL": "not a valid definition; the old one stays",
            "EACCES": "only the operator and the agent that made it may write it, and these and it"
            " itself read it",
        },
    )
    def spec(self) -> str:
        """The definition (YAML): role, tier, model, exec, restart, heartbeat, env, cwd, user,
        limits, caps, deny, read. A valid write replaces it when the file is closed and holds from
        the next start."""
        return self.agent.spec

    def may_see_definition(self, caller: Caller) -> None:
        """Its environment is in there: for itself (with the capability `secret`, if there is one),
        whoever made it, and whom a rule names."""
        principal = caller.principal
        own = principal.is_agent and principal.name == self.name
        if own and parse_spec(self.agent.spec).env:
            self.kernel.capabilities.require(principal, "secret")
        made = principal.is_agent and self.kernel.agents.made(principal.name, self.agent)
        if not made:
            rules = self.kernel.rules
            rules.read_process(principal, self.process or self.agent, "spec.yaml")

    async def redefine(self, content: bytes, caller: Caller) -> None:
        self.replace("spec.yaml", content, caller)

    async def sync(self) -> None:
        await self.kernel.store.sync()

    @control(
        "ctl",
        0o200,
        example="start",
        errors={
            "EINVAL": "unknown command, or a definition that cannot be started",
            "EEXIST": "start: it runs already",
            "ESRCH": "stop, restart: it does not run",
            "EACCES": "only the operator and the agent that made it",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `start`, `stop`, `restart`."""
        await self.kernel.processes.agent_command(caller.principal, self.name, command)

    @value("pid", on=AT_WORK, example="7")
    def pid(self) -> str:
        """The pid of the process that works for it; empty if none does."""
        process = self.process
        return "" if process is None else str(process.pid)

    @value("state", on=(*AT_WORK, StateChanged, ShownStateChanged), example="idle")
    def state(self) -> str:
        """The state of its newest process, as in /proc/PID; empty if there is none."""
        process = self.process
        if process is None and self.agent.pid is not None:
            process = self.kernel.table.find(self.agent.pid)
        return "" if process is None else self.kernel.why.state(process)

    @value(
        "prompt",
        check="may_see_definition",
        on=(AgentChanged,),
        example="You review patches.",
        errors={"EACCES": "only itself, the agent that made it, and the operator"},
    )
    def prompt(self) -> str:
        """What it is to do, in words: `prompt:` of its definition."""
        return self.agent.prompt

    @value("exit", on=AT_WORK, example="0")
    def exit(self) -> str:
        """The exit code of its last process that has ended for good, also when that is reaped and
        after a restart of the daemon; empty if none has."""
        code = self.agent.exit_code
        return "" if code is None else str(code)

    @value("result", check="may_read_result", on=AT_WORK, example="42 files reviewed")
    def result(self) -> str:
        """The last words of its last process that has ended for good: the TEXT of its
        `done CODE TEXT`, else the last lines of output of its program (4 KiB). Kept as `exit`
        is."""
        return self.agent.result

    def may_read_result(self, caller: Caller) -> None:
        """As for the log."""
        self.kernel.rules.read_process(caller.principal, self.process or self.agent, "result")

    @directory("inbox", 0o700, private=True)
    def inbox(self) -> Directory:
        """Its mail, as a Maildir."""
        return InboxDirectory(self.room)

    @directory("outbox", 0o700, private=True)
    def outbox(self) -> Directory:
        """A file for each agent that it may write to at the moment; with more than 100 agents,
        others than itself are listed only its parent and its children. What is written to one
        between open and close is one message: a body, unless it opens with headers of ours and a
        blank line (messages.md says which)."""
        return OutboxDirectory(self.room)

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
        draft = Draft.parse(content, now=self.kernel.clock.now())
        self.kernel.mail.send(caller.principal, self.name, draft)

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
        also if nothing waits. Whoever does not want the next yet writes what became of the last:
        `done`, `back` (it waits again; this was no attempt), or `failed REASON` (the next attempt,
        or a dead letter). Opened with O_DIRECT (packet mode, as of a pipe) each read is a message,
        and there is no end of file after one that is shorter than the read."""
        self.kernel.processes.receives(caller.principal, self.name)
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
        self.kernel.processes.receives(caller.principal, self.name)
        return RecvBatch(self.room, caller)

    @directory("sent", 0o700, on=(MessageArrived, BroadcastSent), private=True)
    def sent(self) -> Directory:
        """What it sent, each message a file named by its id: `State` (queued, claimed, done,
        expired, dead) and what else became of it as header lines, then the message. Kept for
        messages.sent_retention after it is finished, the newest messages.max_sent of them;
        deleting a finished one drops the record."""
        return SentDirectory(self.agents.sent[self.name])

    @directory("dead", 0o700, on=(MessageGivenUp,), private=True)
    def dead(self) -> Directory:
        """Messages to it that were given up, each a file named by its id: a header `Reason`, then
        the message. Deleting one drops it; renaming it into `inbox/new` puts it back: it is
        delivered again, with the next Delivery-Attempt. Kept for messages.dead_retention, the
        newest messages.max_dead of them."""
        return DeadDirectory(self.room)

    @stream(
        "overheard",
        0o400,
        private=True,
        example='{"seq": 42, "time": "…", "from": "ann", "to": "ben", "data": "Message-ID: …"}',
        errors={"EAGAIN": "O_NONBLOCK, and there is no more"},
    )
    def overheard(self, caller: Caller) -> StreamHandle:
        """What its children say to each other, one JSON object a line: seq (the number in the
        Message-ID), time (RFC 3339), from, to, data (the whole message, as its receiver reads it;
        or `data_base64`, if it is no UTF-8). First those that are kept, then those that come. It
        is no mail: nothing is claimed, and nothing waits in the inbox. The newest 100, of at most
        256 KiB, are kept, and none over a restart of the daemon; what fell out before it was read
        is announced by a record of type `lost` with its `count`."""
        return OverheardStream(self.kernel, self.name, caller.principal)

    @directory("asks", 0o700, private=True)
    def asks(self) -> Directory:
        """Its questions that wait for an answer, and those that were answered or never will be."""
        return AsksDirectory(self)

    @directory("reminders", 0o700, private=True)
    def reminders(self) -> Directory:
        """What it asked to be told at a time."""
        return self.agents.reminders[self.name]

    @directory("shm")
    def shm(self) -> Directory:
        """What it has of its own in shared memory; /dev/shm leads there."""
        return self.agents.shm[self.name]

    @file("log", 0o640)
    def log(self) -> Node:
        """What its processes wrote to stdout and stderr, appended, rotated."""
        return LogFile(self)

    @directory("memory", 0o700, private=True)
    def memory(self) -> Directory:
        """Its own durable files: a real directory. Needs the capability `memory`."""
        return self.agents.memories[self.name].root


Thing = TypeVar("Thing")


class Kept(dict[str, Thing]):
    """One thing for each agent, made when somebody looks there first: what has none nobody can be
    watching."""

    def __init__(self, make: Callable[[str], Thing]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> Thing:
        made = self[name] = self._make(name)
        return made


class AgentsDirectory(Table):
    """/agents: `mkdir` defines an agent, `rmdir` removes one that does not run.
    **EINVAL**: a name that is reserved, looks like such a one, is a number, or begins with neither
    letter nor digit. **EEXIST**: it differs from another by case only. **EACCES**: a rule of
    /etc/acl.yaml speaks of it: the operator alone makes it."""

    PATH = "/agents"

    def __init__(self, kernel: Kernel, devices: Devices) -> None:
        self.kernel = kernel
        self.devices = devices
        self.key = ("agents",)
        self.rooms = Kept(lambda name: Mailroom(kernel, name))  # what the files of its mail share
        self.memories = Kept(self._memory)
        self.sent = Kept(self.rooms.__getitem__)  # for those into whose `sent` somebody looked
        self.reminders = Kept(lambda name: RemindersDirectory(AgentDirectory(self, name)))
        self.shm = Kept(lambda name: AgentShmDirectory(AgentDirectory(self, name)))
        self.desks = Kept(self._desk)
        self._each: tuple[Kept[Any], ...] = (
            self.desks,
            self.rooms,
            self.memories,
            self.sent,
            self.reminders,
            self.shm,
        )
        kernel.events.listen(self._heard, AgentRemoved, *MAIL)
        kernel.agents.on_withdrawn.append(self._forget)

    def _heard(self, record: Record) -> None:
        event = record.event
        if isinstance(event, MAIL):
            room = self.rooms.get(event.agent)
            if room is not None:
                room.touch()
        elif isinstance(event, AgentRemoved):
            self._forget(event.agent)

    def _forget(self, name: str) -> None:
        for kept in self._each:
            kept.pop(name, None)

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, int(self.kernel.started * 1e9))

    @link("self", example="alice")
    def self_link(self, caller: Caller) -> str:
        """The caller's own agent; `init` for the operator. ENOENT for who is no agent."""
        if caller.principal.pid is None:
            raise KernelError(errno.ENOENT, f"{caller.principal.name} is no agent")
        return caller.principal.name

    def find(self, name: str) -> Node | None:
        return None if self.kernel.agents.find(name) is None else AgentDirectory(self, name)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.agents:
            yield name, AgentDirectory(self, name)

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        self.kernel.agents.define(caller.principal, name, caller.uid, caller.gid)
        return AgentDirectory(self, name)

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.agents.remove(caller.principal, name)

    def _desk(self, name: str) -> Desk:
        return Desk(self.kernel.clock, AgentDirectory(self, name).may_define, MAX_SCRATCH)

    def _memory(self, name: str) -> HostTree:
        private_guard = AgentDirectory(self, name).private_guard

        def guard(caller: Caller) -> None:
            private_guard(caller)
            self.kernel.capabilities.require(caller.principal, "memory")

        counted = self.kernel.disk.memory(name)
        return HostTree(self.kernel.agents.memory_dir(name), guard, self.devices, counted)

    def changes(self, event: Event) -> Iterable[Change]:
        """What an event changes in here."""
        if self.sent:
            yield from sent_changes(self.sent, event)
        if isinstance(event, MAIL):
            room = self.rooms.get(event.agent)
            if room is not None and room.seen:
                yield from mail.changes(room, event)
            return
        match event:
            case AgentDefined(agent=name):
                defined = AgentDirectory(self, name)
                defined.remember()
                yield Created(self.key, name, defined)
            case AgentRemoved(agent=name):
                yield _gone(name)
            case AgentChanged(agent=name) if name in self.memories:
                # Its files may have another owner now.
                yield Modified(self.memories[name].root.key)
                yield from modified(AgentDirectory, ("agents", name), event)
            case AgentChanged() | StateChanged() | ProcessSpawned() | ProcessExited():
                yield from modified(AgentDirectory, ("agents", event.agent), event)
            case ProcessReaped() | ProcessRestarted() | ProcessChanged() | ShownStateChanged():
                yield from modified(AgentDirectory, ("agents", event.agent), event)
            case _ if isinstance(event, ASKS):
                yield from AsksDirectory(AgentDirectory(self, event.agent)).changes(event)
            case ArtifactEvent():
                for shm in self.shm.values():  # of the others nobody ever looked at one
                    yield from shm.changes(event)
            case _ if isinstance(event, REMINDERS):
                if event.agent in self.reminders:  # else nobody ever looked
                    yield from self.reminders[event.agent].changes(event)


def tell_of_withdrawals(kernel: Kernel, notify: Callable[[Change], object]) -> None:
    """Call `notify` for each agent that has never been after all: a program that was to start has
    looked it up."""
    kernel.agents.on_withdrawn.append(lambda name: notify(_gone(name)))


def _gone(name: str) -> Removed:
    return Removed(("agents",), name, ("agents", name), is_directory=True)
