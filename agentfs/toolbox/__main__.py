"""Serves the daemon: requests are packets on descriptor 0, with the descriptors they are about.

Each is a JSON object with a number `n`; so is the answer, `{"n": N}`, or with `"errno": "EINVAL",
"words": "…"`. Contents go through the descriptors: a file of the arguments, one of the schema, a
pipe for what comes back.

    check   arguments [schema]    `server`, `tool`: the schema is that of the tool
    serve   [source, sink]        begin with a server: of these two pipes, or at `url`
    tools   output                the tools of a server, as JSON
    call    arguments, output     call a tool of a server
    cancel                        nobody waits for request `of` any more
    stop                          end the session with a server

It says by itself `{"do": "changed", "server": …}` when a server has other tools, and `ended`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from agentfs.toolbox.arguments import BadArgumentsError, BadSchemaError, Schemas, read

if TYPE_CHECKING:
    from agentfs.toolbox.servers import Server

PACKET = 64 * 1024
DESCRIPTORS = 4
NO_SDK = (
    "tools of MCP servers need the package `mcp`, and it is not installed: "
    "pip install 'agentfs-kernel[mcp]'"
)


class Refused(Exception):  # noqa: N818  # an answer, as an exception
    def __init__(self, errno: str, words: str) -> None:
        super().__init__(words)
        self.errno = errno


class Toolbox:
    """The requests under way, and the sessions."""

    def __init__(self, daemon: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        self._daemon = daemon
        self._nursery = nursery
        self._schemas = Schemas()
        self._servers: dict[str, Server] = {}
        self._scopes: dict[int, trio.CancelScope] = {}

    async def take(self, packet: bytes, descriptors: list[int]) -> None:
        """One request, to its answer."""
        request = json.loads(packet)
        do, number = request["do"], request.get("n", 0)
        if do == "cancel":
            if request["of"] in self._scopes:
                self._scopes[request["of"]].cancel()
            return
        answer: dict[str, Any] = {"n": number}
        serve: Callable[[dict[str, Any], list[int]], Any] = getattr(self, f"_{do}")
        scope = self._scopes[number] = trio.CancelScope()
        try:
            with scope:
                await serve(request, descriptors)
        except Refused as refused:
            answer |= {"errno": refused.errno, "words": str(refused)}
        except Exception as bad:  # noqa: BLE001  # one request must not end the others
            answer |= {"errno": "EREMOTEIO", "words": f"{type(bad).__name__}: {bad}"[:1000]}
        finally:
            del self._scopes[number]
            for descriptor in descriptors:
                os.close(descriptor)
        await self._say(answer)

    async def _say(self, words: dict[str, Any]) -> None:
        with suppress(OSError):  # the daemon is gone, and so are we
            await self._daemon.send(json.dumps(words).encode())

    # -- requests ----------------------------------------------------------------------------------

    async def _check(self, request: dict[str, Any], given: list[int]) -> None:
        try:
            arguments = read(_content(given[0]))
            if "server" in request:
                schema = self._of_server(request, lambda server: server.schema(request["tool"]))
            else:
                schema = _content(given[1])
            self._schemas.check(schema, arguments)
        except BadArgumentsError as bad:
            raise Refused("EINVAL", str(bad)) from None
        except BadSchemaError as bad:
            raise Refused("EREMOTEIO", f"its schema cannot be used: {bad}") from None

    async def _serve(self, request: dict[str, Any], given: list[int]) -> None:
        try:
            from agentfs.toolbox.servers import Server, ServerError
        except ModuleNotFoundError:
            raise Refused("EREMOTEIO", NO_SDK) from None
        name = request["server"]

        def changed() -> None:
            self._nursery.start_soon(self._say, {"do": "changed", "server": name})

        def ended(words: str) -> None:
            if self._servers.get(name) is server:
                del self._servers[name]
                self._nursery.start_soon(self._say, {"do": "ended", "server": name, "words": words})

        server = Server(changed, ended)
        try:
            if "url" in request:
                headers = json.loads(_content(given[0])) if given else {}
                start = request["url"], headers, request["start"]
                await self._nursery.start(server.run_url, *start)
            else:
                pipes, given[:] = list(given), []  # the session closes them
                await self._nursery.start(server.run_pipes, *pipes, request["start"])
        except ServerError as bad:
            raise Refused(bad.errno, str(bad)) from None
        self._servers[name] = server

    async def _tools(self, request: dict[str, Any], given: list[int]) -> None:
        if request.get("again"):
            await self._server(request["server"]).refresh()
        tools = [
            {"name": tool.name, "description": tool.description or "", "schema": tool.input_schema}
            for tool in self._server(request["server"]).tools.values()
        ]
        await _write(given.pop(), json.dumps(tools).encode())

    async def _call(self, request: dict[str, Any], given: list[int]) -> None:
        from agentfs.toolbox.servers import ServerError

        server = self._server(request["server"])
        try:
            arguments = read(_content(given[0]))
            text, failed = await server.call(request["tool"], arguments, request["seconds"])
        except BadArgumentsError as bad:
            raise Refused("EINVAL", str(bad)) from None
        except ServerError as bad:
            raise Refused(bad.errno, str(bad)) from None
        if failed:
            words = text.decode().strip()[:2000]
            raise Refused("EREMOTEIO", words or "it failed, and says no more")
        await _write(given.pop(), text)

    async def _stop(self, request: dict[str, Any], given: list[int]) -> None:
        server = self._servers.pop(request["server"], None)
        if server is not None:
            server.close()

    def _server(self, name: str) -> Server:
        server = self._servers.get(name)
        if server is None or server.is_over:
            raise Refused("ESHUTDOWN", "the server has ended")
        return server

    def _of_server(self, request: dict[str, Any], ask: Callable[[Server], bytes]) -> bytes:
        from agentfs.toolbox.servers import ServerError

        try:
            return ask(self._server(request["server"]))
        except ServerError as bad:
            raise Refused(bad.errno, str(bad)) from None


def _content(descriptor: int) -> bytes:
    """All of a file in memory."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)


async def _write(descriptor: int, text: bytes) -> None:
    """All of it into a pipe, which is closed."""
    async with trio.lowlevel.FdStream(descriptor) as stream:
        with suppress(trio.BrokenResourceError):  # nobody reads it any more
            await stream.send_all(text)


async def serve() -> None:
    """Until the daemon closes its end."""
    channel = socket.socket(fileno=os.dup(0))
    daemon = trio.socket.from_stdlib_socket(channel)
    room = socket.CMSG_SPACE(DESCRIPTORS * 4)
    async with trio.open_nursery() as nursery:
        toolbox = Toolbox(daemon, nursery)
        while True:
            packet, notes, _, _ = await daemon.recvmsg(PACKET, room, socket.MSG_CMSG_CLOEXEC)
            if not packet:
                break
            descriptors = [
                int.from_bytes(data[at : at + 4], sys.byteorder)
                for _, kind, data in notes
                if kind == socket.SCM_RIGHTS
                for at in range(0, len(data), 4)
            ]
            nursery.start_soon(toolbox.take, packet, descriptors)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Interrupts are for the agent's program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trio.run(serve)
    os._exit(0)  # whatever threads a library has


if __name__ == "__main__":
    main()
