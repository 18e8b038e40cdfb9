"""Tools: which there are, for whom, and calls of them.

A tool runs beside the program of the agent that calls it, with all that holds for that (or of an
agent of its own, which has the secrets). The daemon decides who may call what, counts, passes
bytes on, and keeps the time; it reads neither arguments nor results.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.dialects.clean import clean
from agentfs.machine.sidecar import Sidecar
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process
from agentfs.process.calls import Processes
from agentfs.quota.calls import Calls
from agentfs.rights.gate import Gate
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.live_document import LiveDocument
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.tooling.commands import Commands, Sink, command_of, reads_of
from agentfs.tooling.document import FORM, Definition
from agentfs.tooling.events import (
    ToolAdded,
    ToolChanged,
    ToolRemoved,
    ToolServerEnded,
    ToolServerStarted,
)
from agentfs.tooling.session import MARGIN, McpServer, Session
from agentfs.tooling.settings import ToolSettings
from agentfs.tooling.sidecars import Sidecars
from agentfs.tooling.tool import ANYTHING, Tool, named, tools_of
from agentfs.tooling.tool_agents import ToolAgents
from agentfs.vfs.exchange import PendingReply

__all__ = ["KIND", "Tooling"]

log = logging.getLogger(__name__)

KIND = "tool_list"
"""The records in the store: by server, the tools that it said it has, to the operator or as an
agent of its own. Its answers to other agents hold for those alone."""


class Tooling(Part):
    """`document` is /etc/tools.yaml."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        calls: Calls,
        sidecars: Sidecars,
        processes: Processes,
        catalog: Catalog,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._settings = ground.settings
        self._gate = gate
        self._calls = calls
        self._sidecars = sidecars
        self._apart = ToolAgents(sidecars.table, processes, catalog.secrets)
        self._commands = Commands(sidecars)
        self._sessions: dict[int, Session] = {}
        self._lists: Records[str, dict[str, Any]] = Records(
            ground.store, KIND, lambda key, record: (key, record), dict
        )
        self.document = LiveDocument(ground.store, ground.events, FORM)
        self._known = dict(self.document.now)
        self._listed: dict[Definition, dict[str, Tool]] = {}  # what `_lists` says of each
        self._open: dict[str, int] = {}  # how many calls of each are under way
        ground.events.listen(self._document_changed, ConfigChanged)

    def load(self) -> None:
        self._lists.load()

    def take_up(self) -> None:
        self.document.take_up()

    # -- which there are ---------------------------------------------------------------------------

    def definition(self, name: str) -> Definition | None:
        """The tool or server of that name in the document."""
        return self.document.now.get(name)

    def server_of(self, name: str) -> Definition | None:
        """The server whose tool, perhaps, has that name: the one with the longest name."""
        servers = [
            each
            for each in self.document.now.values()
            if each.is_server and name.startswith(f"{each.name}_")
        ]
        return max(servers, key=lambda server: len(server.name), default=None)

    def exists(self, name: str) -> bool:
        """Whether anybody may have a tool of that name: one of the document, or of a server that
        has it, or was never asked."""
        if name in self.document.now:
            return True
        server = self.server_of(name)
        if server is None:
            return False
        lists = [*self._asked(server)]
        return not lists or any(name in tools for tools in lists)

    def _asked(self, server: Definition) -> Iterator[dict[str, Tool]]:
        """All that is known of the tools of a server."""
        shared = self._shared(server)
        if shared is not None:
            yield shared
        for session in self._sessions.values():
            found = session.servers.get(server.name)
            if found is not None and found.definition == server and found.tools is not None:
                yield found.tools

    def _shared(self, server: Definition) -> dict[str, Tool] | None:
        known = self._listed.get(server)
        if known is None:
            record = self._lists.get(server.name)
            if record is None or record["of"] != _of(server):
                return None
            known = self._listed[server] = tools_of(server, record["tools"])
        return known

    def names(self, principal: Principal) -> list[str]:
        """The tools that `principal` may call now. A server stands for its tools until they are
        known."""
        actor = self._gate.actor(principal)
        allows = self._gate.policy.capabilities(actor).allows
        found: list[str] = []
        for definition in self.document.now.values():
            tools = self._tools_for(actor, definition) if definition.is_server else None
            if tools is None or actor.pid == INIT:
                found.append(definition.name)
            found += tools or ()
        return [name for name in dict.fromkeys(found) if allows(f"tool:{name}")]

    def _tools_for(self, actor: Process, server: Definition) -> dict[str, Tool] | None:
        """The tools of a server, as `actor` knows them: its own answer first."""
        own = self._server_at_work(actor, server)
        if own is not None and own.tools is not None:
            return own.tools
        return self._shared(server)

    def _server_at_work(self, actor: Process, server: Definition) -> McpServer | None:
        runner = self._runner_at_work(actor, server)
        session = None if runner is None else self._sessions.get(runner.pid)
        found = None if session is None else session.servers.get(server.name)
        return found if found is not None and found.definition == server else None

    def _runner_at_work(self, actor: Process, tool: Definition) -> Process | None:
        return self._apart.at_work(tool) if tool.apart else actor

    def may_use(self, principal: Principal, name: str) -> None:
        """Raise EACCES unless `principal` may call tool `name`."""
        actor = self._gate.actor(principal)
        self._gate.policy.require_capability(actor, f"tool:{name}")

    def state(self, principal: Principal, name: str) -> list[tuple[str, object]]:
        """What is to be said of a tool, for its `status`."""
        definition = self.definition(name) or self._server_named(name)
        lines: list[tuple[str, object]] = [
            ("Name", name),
            ("Kind", definition.kind),
            ("RunAs", "tool" if definition.apart else "caller"),
            ("Calls", self._open.get(name, 0)),
            ("Timeout", f"{self._timeout(definition):g}s"),
        ]
        if definition.is_server:
            actor = self._gate.actor(principal)
            server = self._server_at_work(actor, definition)
            running = None if server is None else server.running
            tools = self._tools_for(actor, definition)
            lines += [
                ("Server", definition.name),
                ("State", "stopped" if server is None else server.state),
                ("OSPid", "" if running is None else running.program.ospid),
                ("Starts", 0 if server is None else server.starts),
                ("Tools", "" if tools is None else len(tools)),
                ("Failure", "" if server is None else server.failure),
                ("Again", f"{server.wait:.0f}s" if server is not None and server.wait else ""),
            ]
        return lines

    def source(self, name: str) -> str:
        """What it is, for its `source`."""
        definition = self.definition(name) or self._server_named(name)
        return definition.source

    def _server_named(self, name: str) -> Definition:
        found = self.server_of(name)
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no tool {name!r}")
        return found

    # -- what they are -----------------------------------------------------------------------------

    async def describe(self, principal: Principal, name: str) -> Tool:
        """All there is to know of a tool: what is not known is asked of it now, as a call would be
        made. Raises what a call raises."""
        actor = self._gate.actor(principal)
        self._gate.policy.require_capability(actor, f"tool:{name}")
        definition = self.definition(name)
        if definition is None:
            server = self._server_named(name)
            known = self._tools_for(actor, server) or {}
            if name in known:
                return known[name]
            return await self._tool_of_server(actor, server, name)
        return await self._described(actor, definition)

    async def _described(self, actor: Process, definition: Definition) -> Tool:
        if definition.schema is not None:
            return named(definition, {"parameters": definition.schema, "description": ""})
        if definition.is_server:
            return Tool(definition.name, definition, _about_server(definition), ANYTHING)
        if definition.kind == "exec" and not definition.says_schema:
            return Tool(definition.name, definition, definition.description, ANYTHING)
        runner = await self._runner(actor, definition)
        session = self._session(runner)
        known = session.said.get(definition)
        if known is None:
            seconds = definition.start_timeout or self._settings.of(ToolSettings).start_timeout
            asked = self._sidecar(definition, schema=True)
            text = await self._commands.schema(runner, asked, seconds)
            try:
                known = named(definition, json.loads(text))
            except (ValueError, RecursionError):
                raise KernelError(
                    errno.EREMOTEIO, f"{definition.name} --schema did not answer with JSON"
                ) from None
            session.said[definition] = known
        return known

    async def _tool_of_server(self, actor: Process, server: Definition, name: str) -> Tool:
        found = await self._start_server(actor, server)
        tool = (found.tools or {}).get(name)
        if tool is None:
            raise KernelError(errno.ENOENT, f"the server {server.name} has no tool {name!r}")
        return tool

    async def _start_server(self, actor: Process, server: Definition) -> McpServer:
        runner = await self._runner(actor, server)
        found = self._session(runner).server(server)
        if found.state not in ("running", "starting") and server.command:
            self._gate.check_launch(actor.agent)
        seconds = server.start_timeout or self._settings.of(ToolSettings).start_timeout
        await found.start(self._apart.environment(server), seconds)
        return found

    async def _runner(self, actor: Process, tool: Definition) -> Process:
        """The process beside whose program it runs."""
        return await self._apart.process_of(tool) if tool.apart else actor

    def _session(self, runner: Process) -> Session:
        found = self._sessions.get(runner.pid)
        if found is None or found.process is not runner:
            found = self._sessions[runner.pid] = Session(runner, self._sidecars, self._told)
        return found

    def _sidecar(self, tool: Definition, *, schema: bool = False) -> Sidecar:
        return Sidecar(
            exec=command_of(tool, schema=schema),
            env=self._apart.environment(tool),
            reads=reads_of(tool),
        )

    def _timeout(self, tool: Definition) -> float:
        return tool.timeout or self._settings.of(ToolSettings).call_timeout

    # -- calls -------------------------------------------------------------------------------------

    def call(self, principal: Principal, name: str, arguments: bytes, reply: PendingReply) -> None:
        """Begin a call; its result goes to `reply`. Raises EACCES, and EAGAIN while the system
        begins or ends."""
        self.may_use(principal, name)
        scope = trio.CancelScope()
        reply.on_cancel(scope.cancel)  # now: it may be given up before its task runs
        self._sidecars.work(self._serve, principal, name, arguments, (reply, scope))

    async def _serve(
        self,
        principal: Principal,
        name: str,
        arguments: bytes,
        to: tuple[PendingReply, trio.CancelScope],
    ) -> None:
        reply, scope = to
        self._open[name] = self._open.get(name, 0) + 1
        failure: KernelError | None = KernelError(errno.ECANCELED, f"the call of {name} was ended")
        try:
            with scope:
                await reply.wanted()
                await self._make(principal, name, arguments, reply)
                failure = None
        except KernelError as bad:
            failure = self._cleaned(name, bad)
        except OSError as bad:
            failure = KernelError.from_os(bad, f"{name} cannot be called")
        except Exception as bad:
            log.exception("a call of the tool %s", name)
            failure = KernelError(errno.EIO, f"the call of {name} broke off: {bad}")
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
            reply.end(failure)

    def _cleaned(self, name: str, failure: KernelError) -> KernelError:
        """The failure, without the secrets of the tool in its words."""
        definition = self.definition(name) or self.server_of(name)
        if definition is not None and definition.secrets:
            failure.reason = clean(failure.reason, self._apart.secrets_of(definition))
        return failure

    async def _make(
        self, principal: Principal, name: str, arguments: bytes, reply: PendingReply
    ) -> None:
        actor = self._gate.actor(principal)
        tool = await self.describe(principal, name)
        runner = await self._runner(actor, tool.definition)
        await self._check(actor, runner, tool, arguments)
        number = self._calls.tool(principal, actor.pid, name)
        if isinstance(number, str):
            await reply.put(f"skipped {number}\n".encode())
            return
        made = trio.Event()
        try:
            if not tool.definition.is_server:
                self._gate.check_launch(actor.agent)
            await self._run(actor, runner, tool, arguments, (reply.put, made.set))
        finally:
            with suppress(KernelError):  # its process has ended, and the call was charged
                if made.is_set():
                    self._calls.settle(principal, actor.pid, number)
                else:
                    self._calls.cancel(principal, actor.pid, number)

    async def _check(self, actor: Process, runner: Process, tool: Tool, arguments: bytes) -> None:
        """Check arguments, by the server whose tool it is, which then runs."""
        session = self._session(runner)
        if tool.original:
            server = await self._start_server(actor, tool.definition)
            try:
                await session.check(tool, arguments)
                return
            except KernelError as failure:
                if failure.errno != errno.ESHUTDOWN:
                    raise
            server.was_lost("it ended")  # and nobody had told us yet
            await self._start_server(actor, tool.definition)
        await session.check(tool, arguments)

    async def _run(
        self,
        actor: Process,
        runner: Process,
        tool: Tool,
        arguments: bytes,
        told: tuple[Sink, Callable[[], object]],
    ) -> None:
        """`told`: where the result goes, and what is called once the tool is at work."""
        sink, made = told
        definition = tool.definition
        seconds = self._timeout(definition)
        with trio.move_on_after(seconds + MARGIN * bool(tool.original)) as clock:
            if not definition.is_server:
                sidecar = self._sidecar(definition)
                await self._commands.run(runner, sidecar, arguments, sink, made)
            elif tool.original:
                made()
                await self._session(runner).call(tool, arguments, seconds, sink)
            else:
                made()
                server = await self._start_server(actor, definition)
                await sink(_list_of(server).encode())
        if clock.cancelled_caught:
            raise KernelError(errno.ETIMEDOUT, f"{tool.name} did not finish within {seconds:g} s")

    # -- commands ----------------------------------------------------------------------------------

    def command(self, principal: Principal, name: str, words: list[str]) -> None:
        """A line of a tool's `ctl`: `start`, `stop` and `restart` its server, or `refresh` what is
        known of it. The work goes on when this returns. Raises EINVAL, EACCES."""
        self.may_use(principal, name)
        actor = self._gate.actor(principal)
        definition = self.definition(name) or self._server_named(name)
        known = ("start", "stop", "restart", "refresh") if definition.is_server else ("refresh",)
        if len(words) != 1 or words[0] not in known:
            raise KernelError(errno.EINVAL, f"one of {', '.join(known)} was expected")
        if definition.apart and actor.pid != INIT:
            raise KernelError(
                errno.EACCES,
                f"{name} works for all agents together: only the operator may {words[0]} it",
                rule="operator",
            )
        server = self._server_at_work(actor, definition) if definition.is_server else None
        if words[0] in ("stop", "restart") and server is not None:
            server.stop()
        if words[0] in ("start", "restart"):
            self.work(self._noted, self._start_server, actor, definition)
        if words[0] == "refresh":
            self.work(self._noted, self._refresh, actor, definition)

    def work(self, task: Callable[..., Awaitable[object]], *given: object) -> None:
        """Run `task` until it is done, or the daemon ends. Raises EAGAIN while it begins or
        ends."""
        self._sidecars.work(task, *given)

    async def _noted(self, task: Callable[..., Awaitable[object]], *given: object) -> None:
        try:
            await task(*given)
        except KernelError as failure:
            log.warning("a tool: %s", failure)  # and its `status` says so

    async def _refresh(self, actor: Process, definition: Definition) -> None:
        if definition.is_server:
            server = await self._start_server(actor, definition)
            await server.list_tools(again=True)
            self._told(server)
            return
        for session in self._sessions.values():
            session.said.pop(definition, None)
        await self._described(actor, definition)
        with self._store.transaction():
            self._events.emit(ToolChanged(definition.name))

    # -- what changes ------------------------------------------------------------------------------

    def _told(self, server: McpServer) -> None:
        """A server came, went, or has other tools."""
        process, definition = server.session.process, server.definition
        with self._store.transaction():
            if server.state == "running":
                tools = server.tools or {}
                started = (process.pid, process.name, definition.name, len(tools))
                new = server.is_new()
                self._events.emit(
                    ToolServerStarted(*started) if new else ToolChanged(definition.name)
                )
                if process.pid == INIT or definition.apart:
                    self._share(definition, tools)
            else:
                reason = server.failure or server.state
                ended = (process.pid, process.name, definition.name, reason)
                self._events.emit(ToolServerEnded(*ended))

    def _share(self, server: Definition, tools: dict[str, Tool]) -> None:
        """All agents are shown these tools, until their own server says something else."""
        before = self._shared(server) or {}
        said = [
            {"name": tool.original, "description": tool.description, "schema": dict(tool.schema)}
            for tool in tools.values()
        ]
        record = {"of": _of(server), "tools": said}
        if self._lists.get(server.name) == record:
            return
        self._lists.put(server.name, record)
        self._listed.pop(server, None)
        for name in tools.keys() - before.keys():
            self._events.emit(ToolAdded(name))
        for name in before.keys() - tools.keys():
            self._events.emit(ToolRemoved(name))
        for name in tools.keys() & before.keys():
            if tools[name] != before[name]:
                self._events.emit(ToolChanged(name))

    def _document_changed(self, record: Record) -> None:
        if not isinstance(record.event, ConfigChanged) or record.event.path != self.document.path:
            return
        before, now = self._known, self.document.now
        self._listed.clear()
        self._known = dict(now)
        with self._store.transaction():
            for name in now.keys() - before.keys():
                self._events.emit(ToolAdded(name))
            for name in before.keys() - now.keys():
                self._events.emit(ToolRemoved(name))
                if name in self._lists:
                    self._lists.drop(name)
            for name in now.keys() & before.keys():
                if now[name] != before[name]:
                    self._events.emit(ToolChanged(name))
        for name, old in before.items():
            if now.get(name) != old:
                self._forget(old, gone=name not in now or not now[name].apart)

    def _forget(self, old: Definition, *, gone: bool) -> None:
        """End what runs of a tool that is no more, or is another one."""
        for session in self._sessions.values():
            session.said.pop(old, None)
            server = session.servers.pop(old.name, None)
            if server is not None:
                server.stop()
        if old.apart and gone:
            with suppress(KernelError):
                self._apart.end(old)

    def program_ended(self, process: Process, code: int) -> None:
        """All that was beside its program ends with it."""
        self._store.on_commit(lambda: self._sessions.pop(process.pid, None))

    def tidy(self) -> None:
        """End toolboxes that nobody needs."""
        for session in tuple(self._sessions.values()):
            session.end_idle(self._settings.of(ToolSettings).idle)


def _of(server: Definition) -> list[str]:
    """The part of a definition for which a list of tools holds."""
    return [server.source, *server.offered]


def _about_server(server: Definition) -> str:
    about = server.description or f"The tools of the server {server.name}."
    return f"{about} Call this to be told which there are, and what each takes."


def _list_of(server: McpServer) -> str:
    tools = server.tools or {}
    return "".join(f"{json.dumps(tool.shown(), ensure_ascii=False)}\n" for tool in tools.values())
