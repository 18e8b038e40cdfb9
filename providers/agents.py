"""/agents: the agents by name, whether or not anything runs for them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentfs.base.errors import KernelError
from agentfs.model.process import Agent, Process
from agentfs.model.spec import parse_spec
from agentfs.process.events import (
    AgentChanged,
    AgentDefined,
    AgentRemoved,
    ProcessExited,
    ProcessReaped,
    ProcessRestarted,
    ProcessSpawned,
    ShownStateChanged,
    StateChanged,
)
from agentfs.providers.replacing import Desk, Replacing
from agentfs.providers.system_table import SystemTable
from agentfs.store.event import Event
from agentfs.store.event_log import Record
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import control, document, link, value
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Node
from agentfs.vfs.on import on
from agentfs.vfs.table import Attached, Kept

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.root import RootDirectory

__all__ = ["AgentDirectory", "AgentsDirectory", "tell_of_withdrawals"]

# These can change which process is at work for an agent, and what it does.
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
        self.key = self.at(name)

    @staticmethod
    def at(name: str) -> tuple[str, str]:
        """The key of the directory of an agent."""
        return ("agents", name)

    @staticmethod
    def name_at(key: tuple[str, str]) -> str:
        """The agent whose directory has this key."""
        return key[1]

    def attached(self, kind: type[Attached]) -> Attached:
        return self.agents.kept.made(self, kind) if kind.KEPT else super().attached(kind)

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

    @property
    def desk(self) -> Desk:
        return self.agents.desk(self)

    @property
    def used_desk(self) -> Desk | None:
        return self.agents.desks.get(self.name)

    async def replace(self, name: str, content: bytes, caller: Caller) -> None:
        self.kernel.agents.redefine(caller.principal, self.name, as_text(content))

    def may_define(self, caller: Caller) -> None:
        self.kernel.agents.require_definer(caller.principal, self.name)

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
        await self.replace("spec.yaml", content, caller)

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

    @value("state", on=(*AT_WORK, StateChanged, ShownStateChanged), polled=True, example="idle")
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


class AgentsDirectory(SystemTable):
    """/agents: `mkdir` defines an agent, `rmdir` removes one that does not run.
    **EINVAL**: a name that is reserved, looks like such a one, is a number, or begins with neither
    letter nor digit. **EEXIST**: it differs from another by case only. **EACCES**: a rule of
    /etc/acl.yaml speaks of it: the operator alone makes it."""

    PATH = "/agents"
    WHAT = "The agents by name."
    EACH = AgentDirectory
    named = staticmethod(AgentDirectory.at)
    key = ("agents",)

    def __init__(self, root: RootDirectory) -> None:
        super().__init__(root)
        self.devices = root.devices
        self.kept = Kept()
        self.desks: dict[str, Desk] = {}
        self.kernel.events.listen(self._heard, AgentRemoved)
        self.kernel.agents.on_withdrawn(self._forget)

    def desk(self, agent: AgentDirectory) -> Desk:
        """The files beside the definition of an agent."""
        found = self.desks.get(agent.name)
        if found is None:
            found = Desk(self.kernel.clock, agent.may_define, MAX_SCRATCH)
            self.desks[agent.name] = found
        return found

    def _heard(self, record: Record) -> None:
        assert isinstance(record.event, AgentRemoved)
        self._forget(record.event.agent)

    def _forget(self, name: str) -> None:
        self.kept.forget(AgentDirectory.at(name))
        self.desks.pop(name, None)

    @link("self", example="alice")
    def self_link(self, caller: Caller) -> str:
        """The caller's own agent; `init` for the operator. ENOENT for who is no agent."""
        if caller.principal.pid is None or caller.principal.behalf:
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

    def each(self, key: Any) -> AgentDirectory:
        return AgentDirectory(self, AgentDirectory.name_at(key))

    def concerned(self, event: Event) -> Sequence[Hashable]:
        return (AgentDirectory.at(getattr(event, event.whose)),)

    @on(AgentDefined)
    def _defined(self, event: AgentDefined) -> Iterator[Change]:
        defined = AgentDirectory(self, event.agent)
        defined.remember()
        yield Created(self.key, event.agent, defined)

    @on(AgentRemoved)
    def _removed(self, event: AgentRemoved) -> Iterator[Change]:
        yield _gone(event.agent)


def tell_of_withdrawals(kernel: Kernel, notify: Callable[[Change], object]) -> None:
    """Call `notify` for each agent that has never been after all: a program that was to start has
    looked it up."""
    kernel.agents.on_withdrawn(lambda name: notify(_gone(name)))


def _gone(name: str) -> Removed:
    return Removed(AgentsDirectory.key, name, AgentDirectory.at(name), is_directory=True)
