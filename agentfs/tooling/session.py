"""What works for tools beside the program of one process: its toolbox, and its MCP servers."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.sidecar import Sidecar
from agentfs.model.process import Process
from agentfs.process.failure import ended_how
from agentfs.tooling.commands import CHUNK
from agentfs.tooling.document import Definition
from agentfs.tooling.sidecars import Running, Sidecars
from agentfs.tooling.tool import ANYTHING, Tool, tools_of
from agentfs.tooling.toolbox_process import ToolboxProcess, in_memory

__all__ = ["MARGIN", "McpServer", "Session"]

log = logging.getLogger(__name__)

MAX_LIST = 1024 * 1024
"""Bytes of a list of tools: they are read in one step of 10 ms, which no thread shortens."""

LAST_DELAY = 60.0
"""Seconds between two starts of a server that ends again and again. The first time there are none,
then 1, 2, 4 … of them; one that has run so long as this begins anew."""

CHECK_SECONDS = 60.0
"""How long the check of arguments may take, of which half a second is work: as long as that, the
machine may be busy."""

PAUSE = 0.2
"""Seconds between two questions for the tools of a server that says that they changed."""

CODE_SECONDS = 0.3
"""How long a server that closed its output has to end, before its exit code is not waited for."""

MARGIN = 5.0
"""How long after its own time a toolbox has to say that it is over."""

Told = Callable[["McpServer"], object]


class McpServer:
    """An MCP server of one process. `state` is stopped, starting, running, ending or failed;
    `failure` why it ended, or did not start; `tools` what it has, None before it was asked."""

    def __init__(self, session: Session, definition: Definition) -> None:
        self.session = session
        self.definition = definition
        self.running: Running | None = None
        self.state = "stopped"
        self.failure = ""
        self.tools: dict[str, Tool] | None = None
        self.starts = 0
        self._told_start = 0
        self.id = ""  # of this start of it, for the toolbox
        self._begun = trio.Event()
        self._settled = trio.Event()
        self._errno = errno.EREMOTEIO
        self._changes = 0  # how often it said so, since its tools were asked for
        self._failures = 0
        self._since = 0.0
        self._not_before = 0.0

    def is_new(self) -> bool:
        """Whether it runs since it was last asked this."""
        new, self._told_start = self._told_start != self.starts, self.starts
        return new

    @property
    def wait(self) -> float:
        """Seconds until it may be started again."""
        return max(0.0, self._not_before - trio.current_time())

    async def start(self, env: Mapping[str, str], seconds: float) -> None:
        """Have it run; that goes on if this is cancelled. Raises EREMOTEIO if it does not, or is
        not to be started again yet, ETIMEDOUT if it does not begin in time."""
        if self.state == "ending":
            await self._settled.wait()
        if self.state == "running":
            return
        if self.state != "starting":
            if self.wait:
                again = f"{self.definition.name} is started again in {self.wait:.0f} s"
                raise KernelError(errno.EREMOTEIO, f"{again}: {self.failure}")
            self.state, self.starts, self._begun = "starting", self.starts + 1, trio.Event()
            self.id = self.session.next_id()
            self.session.sidecars.work(self._begin, env, seconds)
        await self._begun.wait()
        if self.state != "running":
            raise KernelError(self._errno, f"{self.definition.name}: {self.failure}")

    async def _begin(self, env: Mapping[str, str], seconds: float) -> None:
        try:
            await self._start(env, seconds)
        except KernelError as failure:
            self._errno = failure.errno
            self._failed(failure.reason)
        except Exception as failure:
            log.exception("the start of the MCP server %s", self.definition.name)
            self._errno = errno.EIO
            self._failed(str(failure))
        else:
            self.state, self.failure, self._since = "running", "", trio.current_time()
            self.session.tell(self)
        finally:
            self._begun.set()

    async def _start(self, env: Mapping[str, str], seconds: float) -> None:
        toolbox = await self.session.toolbox()
        request = {"do": "serve", "server": self.id, "start": seconds}
        with trio.move_on_after(seconds + MARGIN):
            if self.definition.url:
                headers = json.dumps(_with(self.definition.headers, env)).encode()
                with in_memory(headers) as given:
                    await toolbox.ask(request | {"url": self.definition.url}, given)
            else:
                await self._start_program(toolbox, request, env)
            await self.list_tools()
            return
        toolbox.close()  # it should have said so itself
        raise KernelError(errno.ETIMEDOUT, f"it did not begin within {seconds:g} s")

    async def _start_program(
        self, toolbox: ToolboxProcess, request: dict[str, Any], env: Mapping[str, str]
    ) -> None:
        theirs_in, ours_in = os.pipe2(os.O_CLOEXEC)
        ours_out, theirs_out = os.pipe2(os.O_CLOEXEC)
        try:
            wanted = Sidecar(
                exec=self.definition.command,
                env=env,
                reads=self.definition.reads,
                stdio=(theirs_in, theirs_out, None),
            )
            try:
                running = await self.session.sidecars.start(self.session.process, wanted)
            finally:
                os.close(theirs_in)
                os.close(theirs_out)
            self.running = running
            self.session.sidecars.work(self._watch, running)
            try:
                await toolbox.ask(request, ours_out, ours_in)
            except KernelError as failure:
                with trio.move_on_after(CODE_SECONDS):
                    await running.ended.wait()
                    words = f"{failure.reason}; {ended_how(running.code)}"
                    raise KernelError(failure.errno, words) from None
                raise
        finally:
            os.close(ours_in)
            os.close(ours_out)

    async def _watch(self, running: Running) -> None:
        await running.ended.wait()
        if self.running is running:
            self.was_lost("")

    async def list_tools(self, *, again: bool = False) -> None:
        """Ask for its tools."""
        found = bytearray()

        async def keep(chunk: bytes) -> None:
            found.extend(chunk[: MAX_LIST + 1 - len(found)])

        request = {"do": "tools", "server": self.id, "again": again}
        await self.session.ask(request, keep)
        if len(found) > MAX_LIST:
            raise KernelError(errno.EREMOTEIO, "its list of tools has more than 1 MiB")

        def read() -> dict[str, Tool]:
            return tools_of(self.definition, json.loads(found))

        try:
            self.tools = await trio.to_thread.run_sync(read)
        except (ValueError, RecursionError) as bad:
            raise KernelError(errno.EREMOTEIO, f"its list of tools cannot be read: {bad}") from None

    def has_changed(self) -> None:
        """It says that its tools are others now."""
        self._changes += 1
        if self._changes == 1:
            self.session.sidecars.work(self._list_again)

    async def _list_again(self) -> None:
        """As often as it says so, but not at the same time."""
        try:
            while self._changes and self.state == "running":
                self._changes = 1
                await self.list_tools(again=True)
                self.session.tell(self)
                self._changes -= 1
                await trio.sleep(PAUSE)
        except KernelError as failure:
            log.warning("%s does not say its tools: %s", self.definition.name, failure)
        finally:
            self._changes = 0

    def was_lost(self, reason: str, *, by_itself: bool = True) -> None:
        """Nothing more comes from it; or, not `by_itself`, from what spoke with it."""
        if self.state == "running":
            self.state, self._settled = "ending", trio.Event()
            self.session.sidecars.work(self._settle, reason, by_itself)

    async def _settle(self, reason: str, by_itself: bool) -> None:
        """Its exit code says more than that it is silent, if it is about to end."""
        running = self.running
        if running is not None and by_itself:
            with trio.move_on_after(CODE_SECONDS):
                await running.ended.wait()
                reason = ended_how(running.code)
        if self.state == "ending":
            self._failed(reason)
        self._settled.set()

    def stop(self) -> None:
        """End it; the next call starts it again."""
        self._failures, self._not_before = 0, 0.0
        if self.state in ("running", "ending", "failed"):
            self._end("stopped")
            self.session.forget(self)
            self.session.tell(self)

    def _failed(self, reason: str) -> None:
        now = trio.current_time()
        if self.state == "ending" and now - self._since > LAST_DELAY:
            self._failures = 0
        delay = min(LAST_DELAY, 2.0 ** (self._failures - 1)) if self._failures else 0.0
        self._failures += 1
        self._not_before = now + delay
        self.failure = reason
        self._end("failed")
        self.session.forget(self)
        self.session.tell(self)

    def _end(self, state: str) -> None:
        self.state = state
        running, self.running = self.running, None
        if running is not None:
            self.session.sidecars.stop(running)


class Session:
    """Of one process, from its first call to the end of its program. `tell` is called when a server
    comes, goes, or has other tools. `said` is what programs said of themselves."""

    def __init__(self, process: Process, sidecars: Sidecars, tell: Told) -> None:
        self.process = process
        self.sidecars = sidecars
        self.tell = tell
        self.servers: dict[str, McpServer] = {}
        self.said: dict[Definition, Tool] = {}
        self.used = trio.current_time()
        self._toolbox: ToolboxProcess | None = None
        self._starting = trio.Lock()
        self._ids = 0

    async def toolbox(self) -> ToolboxProcess:
        """Its toolbox, started if it is not there. Raises what a launch raises."""
        self.used = trio.current_time()
        async with self._starting:
            if self._toolbox is None or not self._toolbox.is_alive:
                self._toolbox = await ToolboxProcess.start(self.sidecars, self.process, self._heard)
                self.sidecars.work(self._watch, self._toolbox)
            return self._toolbox

    async def _watch(self, toolbox: ToolboxProcess) -> None:
        await toolbox.running.ended.wait()
        for server in self.servers.values():
            how = ended_how(toolbox.running.code)
            server.was_lost(f"what spoke with it is gone: {how}", by_itself=False)

    def _heard(self, said: dict[str, Any]) -> None:
        wanted = said.get("server")
        server = next((each for each in self.servers.values() if each.id == wanted), None)
        if server is None:
            return
        if said["do"] == "changed":
            server.has_changed()
        elif said["do"] == "ended":
            server.was_lost(str(said.get("words", ""))[:500] or "it ended")

    def next_id(self) -> str:
        """A name for one start of a server."""
        self._ids += 1
        return str(self._ids)

    def id_of(self, tool: Tool) -> str:
        """The server, as the toolbox knows it, whose tool that is."""
        return self.server(tool.definition).id

    def server(self, definition: Definition) -> McpServer:
        """That which the document says now."""
        found = self.servers.get(definition.name)
        if found is not None and found.definition != definition:
            found.stop()
            found = None
        if found is None:
            found = self.servers[definition.name] = McpServer(self, definition)
        return found

    async def check(self, tool: Tool, arguments: bytes) -> None:
        """Raise EINVAL with the place where the arguments do not fit."""
        with trio.move_on_after(CHECK_SECONDS):
            toolbox = await self.toolbox()
            with in_memory(arguments) as given:
                if tool.original:
                    about = {"server": self.id_of(tool), "tool": tool.original}
                    await toolbox.ask({"do": "check", **about}, given)
                else:
                    with in_memory(json.dumps(dict(tool.schema or ANYTHING)).encode()) as schema:
                        await toolbox.ask({"do": "check"}, given, schema)
            return
        toolbox.close()
        raise KernelError(errno.ETIMEDOUT, f"the arguments were not checked in {CHECK_SECONDS:g} s")

    async def call(
        self, tool: Tool, arguments: bytes, seconds: float, sink: Callable[[bytes], Awaitable[Any]]
    ) -> None:
        """Call a tool of a server. Raises EREMOTEIO, ETIMEDOUT."""
        request = {
            "do": "call",
            "server": self.id_of(tool),
            "tool": tool.original,
            "seconds": seconds,
        }
        with in_memory(arguments) as given:
            try:
                await self.ask(request, sink, given)
            except KernelError as failure:
                if failure.errno != errno.ESHUTDOWN:
                    raise
                raise KernelError(errno.EREMOTEIO, failure.reason) from None

    async def ask(
        self,
        request: dict[str, Any],
        sink: Callable[[bytes], Awaitable[Any]],
        *descriptors: int,
    ) -> None:
        """A request whose answer comes through a pipe, to `sink`."""
        toolbox = await self.toolbox()
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        failure: KernelError | None = None
        async with trio.lowlevel.FdStream(ours) as output, trio.open_nursery() as nursery:

            async def relay() -> None:
                with suppress(trio.BrokenResourceError):
                    while chunk := await output.receive_some(CHUNK):
                        await sink(chunk)

            nursery.start_soon(relay)
            try:
                await toolbox.ask(request, *descriptors, theirs)
            except KernelError as bad:
                failure = bad
                nursery.cancel_scope.cancel()
            finally:
                os.close(theirs)
            self.used = trio.current_time()
        if failure is not None:
            raise failure

    def forget(self, server: McpServer) -> None:
        """A server has ended: its toolbox need not listen to it any more."""
        if self._toolbox is not None and self._toolbox.is_alive:
            self.sidecars.work(self._stop_in_toolbox, self._toolbox, server.id)

    async def _stop_in_toolbox(self, toolbox: ToolboxProcess, server: str) -> None:
        with suppress(KernelError):
            await toolbox.ask({"do": "stop", "server": server})

    def end_idle(self, seconds: float) -> None:
        """End its toolbox, if nothing needed it for so long."""
        box = self._toolbox
        at_work = any(server.state in ("running", "starting") for server in self.servers.values())
        if box is None or at_work or box.is_busy:
            return
        if trio.current_time() - self.used >= seconds:
            box.close()


def _with(headers: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Headers, with the values of variables (`${TOKEN}`) in them."""
    found = dict(headers)
    for name, value in env.items():
        found = {key: text.replace(f"${{{name}}}", value) for key, text in found.items()}
    return found
