"""/lib/tools: the tools that agents call, as `agentfs.tooling` has them."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import trio

from agentfs.base.errors import KernelError
from agentfs.process.events import CapabilityDropped
from agentfs.providers.caps import ROLES
from agentfs.providers.system_table import SystemTable
from agentfs.tooling.events import (
    ToolAdded,
    ToolChanged,
    ToolRemoved,
    ToolServerEnded,
    ToolServerStarted,
)
from agentfs.tooling.tool import Tool
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, exchange, file, link
from agentfs.vfs.exchange import Answerer, PendingReply
from agentfs.vfs.files import Basics, Live, Owner, fields
from agentfs.vfs.handles import MAX_DOCUMENT, Late
from agentfs.vfs.node import Handle, Node, Time, is_writing
from agentfs.vfs.on import on
from agentfs.vfs.table import AddedRows, Table, key_in

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["LibDirectory", "ToolDirectory", "ToolLink", "ToolsDirectory"]

KEY = ("lib", "tools")

PATIENCE = 10.0
"""Seconds that an open waits for what a tool says of itself. A call on a tree that waits in open(2)
cannot be interrupted."""

Told = Callable[[Caller], Awaitable[str]]


class _Asked(Live):
    """A text that each caller is told anew."""

    def __init__(self, basics: Basics, tell: Told) -> None:
        super().__init__(basics)
        self._tell = tell

    def content(self) -> bytes | None:
        return None

    def open(self, flags: int, caller: Caller) -> Handle:
        if is_writing(flags):
            raise KernelError(errno.EACCES, "this file can only be read")

        async def render() -> bytes:
            return (await self._tell(caller)).encode()

        return Late(render)


class _Caller(Answerer):
    """Somebody who has the `call` of a tool open."""

    def __init__(self, kernel: Kernel, caller: Caller, name: str) -> None:
        self._kernel = kernel
        self._principal = caller.principal
        self._name = name

    def limit(self) -> int:
        return MAX_DOCUMENT

    def ask(self, request: bytes, reply: PendingReply) -> None:
        self._kernel.tooling.call(self._principal, self._name, request, reply)

    def waits(self) -> Callable[[], object]:
        return self._kernel.why.waits.begin(self._principal.pid, "tool", self._name)


class ToolDirectory(Table):
    """/lib/tools/NAME: a tool."""

    PATH = "/lib/tools/NAME"

    def __init__(self, tools: ToolsDirectory, name: str) -> None:
        self._tools = tools
        self._name = name
        self.kernel = tools.kernel
        self.key = self.at(name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a tool."""
        return (*KEY, name)

    def owner(self) -> Owner:
        return self._tools.owned(self._tools.changed_of(self._name))

    def guard(self, caller: Caller) -> None:
        if not self.kernel.tooling.exists(self._name):
            raise KernelError(errno.ESTALE, f"there is no tool {self._name} any more")
        self.kernel.tooling.may_use(caller.principal, self._name)

    def _asked(self, name: str, tell: Told) -> Node:
        return _Asked(Basics(self.key_of(name), 0o444, self.owner, self.guard), tell)

    async def _described(self, caller: Caller) -> Tool:
        """What is not known is asked of the tool; who does not wait so long finds it later."""
        found: list[Tool | KernelError] = []
        done = trio.Event()

        async def ask() -> None:
            try:
                found.append(await self.kernel.tooling.describe(caller.principal, self._name))
            except KernelError as failure:
                found.append(failure)
            finally:
                done.set()

        self.kernel.tooling.work(ask)
        with trio.move_on_after(PATIENCE):
            await done.wait()
        if not found:
            raise KernelError(
                errno.EAGAIN, f"{self._name} is still starting: read this again in a moment"
            )
        if isinstance(found[0], KernelError):
            raise found[0]
        return found[0]

    @exchange(
        "call",
        0o666,
        example='{"city": "Paris"}',
        errors={
            "EINVAL": "no JSON object, or it does not fit the schema; the reason says where",
            "EACCES": "no capability `tool:NAME`; not opened for both; a secret is not set",
            "EPERM": "the capability is denied by name",
            "EDQUOT": "a limit or the group has no calls left",
            "EAGAIN": "so many calls are open, or were made in the minute; O_NONBLOCK",
            "EMSGSIZE": "more than 1 MiB of arguments",
            "EREMOTEIO": "the tool failed: the reason has its own words",
            "ETIMEDOUT": "it did not start, or not finish, in time",
            "ENODATA": "nothing was written",
        },
    )
    def call(self, caller: Caller) -> Answerer:
        """Write the arguments, a JSON object. The first read makes the call; its result comes as
        the tool makes it, up to the end of the file. Then the next arguments may be written.
        Closing it ends the call."""
        self.kernel.tooling.may_use(caller.principal, self._name)
        return _Caller(self.kernel, caller, self._name)

    @file("schema", 0o444, kind="Live", example='{"name": "weather", "description": …}')
    def schema(self) -> Node:
        """`{"name", "description", "parameters"}` as JSON, the parameters a JSON schema that every
        provider takes. Where the document does not say it, the tool is asked: its server is started
        for that (EAGAIN after 10 s: read it again)."""

        async def tell(caller: Caller) -> str:
            return f"{json.dumps((await self._described(caller)).shown(), ensure_ascii=False)}\n"

        return self._asked("schema", tell)

    @file("help", 0o444, kind="Live", example="The weather of a city.\n  city (string)\n…\n")
    def help(self) -> Node:
        """What it does, what it takes, and how it is called from a shell."""

        async def tell(caller: Caller) -> str:
            return (await self._described(caller)).help()

        return self._asked("help", tell)

    @file("source", 0o444, kind="Live", example="exec /usr/local/bin/weather --json\n")
    def source(self) -> Node:
        """What it is: `exec` and the program, `python` and the function, or `mcp` and the
        server."""

        async def tell(caller: Caller) -> str:
            return f"{self.kernel.tooling.source(self._name)}\n"

        return self._asked("source", tell)

    @file("status", 0o444, kind="Live", example="Name:\tweather\nKind:\texec\nRunAs:\tcaller\n…\n")
    def status(self) -> Node:
        """Name, Kind, RunAs, Calls (under way), Timeout; of a server's tool also Server, State
        (stopped, starting, running, ending, failed: of the one that works for the caller), OSPid,
        Starts, Tools (how many), Failure (why it ended), Again (when it may be started again)."""

        async def tell(caller: Caller) -> str:
            return fields(*self.kernel.tooling.state(caller.principal, self._name))

        return self._asked("status", tell)

    @control(
        "ctl",
        0o222,
        example="restart",
        errors={
            "EINVAL": "another word",
            "EACCES": "no capability `tool:NAME`, or it runs for all agents together",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `start`, `stop` and `restart` the MCP server that works for the caller,
        `refresh` what is known of the tool. `status` says what becomes of it."""
        self.kernel.tooling.command(caller.principal, self._name, command.split())


class ToolsDirectory(SystemTable):
    """/lib/tools: a directory for each tool that the caller may call. An MCP server stands here
    itself until its tools, `SERVER_TOOL`, are known. The listing differs from caller to
    caller."""

    PATH = "/lib/tools"
    WHAT = "The tools that the caller may call."
    EACH = ToolDirectory
    key = KEY

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self._times: dict[str, Time] = {}
        self._changed = super().changed()

    def changed(self) -> Time:
        return self._changed

    def changed_of(self, name: str) -> Time:
        """When a tool changed last."""
        return self._times.get(name, super().changed())

    def _note(self, name: str, *, there: bool = True) -> None:
        now = max(int(self.kernel.clock.now() * 1e9), self._changed + 1)
        if there:
            self._times[name] = now
        else:
            self._times.pop(name, None)
        self._changed = now

    def find(self, name: str) -> Node | None:
        return ToolDirectory(self, name) if self.kernel.tooling.exists(name) else None

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.tooling.document.now:
            yield name, ToolDirectory(self, name)

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        try:
            names = self.kernel.tooling.names(caller.principal)
        except KernelError:
            return  # no agent calls tools
        for name in names:
            yield name, ToolDirectory(self, name)

    def each(self, key: Any) -> ToolDirectory:
        return ToolDirectory(self, key[-1])

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (ToolDirectory.at(event.name),)

    @on(ToolAdded)
    def _added(self, event: ToolAdded) -> Iterator[Change]:
        self._note(event.name)
        yield Created(self.key, event.name, ToolDirectory(self, event.name))

    @on(ToolRemoved)
    def _removed(self, event: ToolRemoved) -> Iterator[Change]:
        self._note(event.name, there=False)
        yield Removed(self.key, event.name, ToolDirectory.at(event.name), is_directory=True)

    @on(ToolChanged)
    def _told(self, event: ToolChanged) -> Iterator[Change]:
        self._note(event.name)
        for name in ToolDirectory.TABLE:
            yield Modified(key_in(ToolDirectory.at(event.name), name))

    @on(ToolServerStarted, ToolServerEnded)
    def _server(self, event: ToolServerStarted | ToolServerEnded) -> Iterator[Change]:
        yield Modified(key_in(ToolDirectory.at(event.server), "status"))
        yield Modified(self.key)

    @on(CapabilityDropped, ROLES)
    def _rights(self, event: object) -> Iterator[Change]:
        yield Modified(self.key)


class LibDirectory(SystemTable):
    """/lib: what programs use."""

    PATH = "/lib"
    WHAT = "What programs use: tools."
    key = ("lib",)


class ToolLink(AddedRows):
    """/dev/tools."""

    INTO = "/dev"

    @link("tools", example="../lib/tools")
    def tools(self, caller: Caller) -> str:
        """The tools that the caller may call."""
        return "../lib/tools"
