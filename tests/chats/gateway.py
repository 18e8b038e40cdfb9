"""The other end of a connection to the gateway, as a test wants it: HTTP, spoken by h11."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

__all__ = ["Gateway", "Heard"]

Answer = Callable[["Heard"], Awaitable[None]]


@dataclass
class Heard:
    """A request that came, and the connection to answer on. `gone`: the other end was closed."""

    pid: int
    stream: trio.SocketStream
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    gone: trio.Event = field(default_factory=trio.Event)
    _http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.SERVER))

    @property
    def asked(self) -> Any:
        return json.loads(self.body)

    async def receive(self) -> None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Request):
                self.path = event.target.decode()
                self.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                self.body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                return

    async def say(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            await self.stream.send_all(data)

    async def begin(self, status: int = 200, kind: str = "text/plain", **headers: str) -> None:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        await self.say(h11.Response(status_code=status, headers=[("content-type", kind), *named]))

    async def data(self, *pieces: bytes) -> None:
        for piece in pieces:
            await self.say(h11.Data(data=piece))

    async def end(self, **trailers: str) -> None:
        named = [(name.replace("_", "-"), value) for name, value in trailers.items()]
        await self.say(h11.EndOfMessage(headers=named))

    async def answer(self, *pieces: str, **trailers: str) -> None:
        await self.begin()
        await self.data(*(piece.encode() for piece in pieces))
        await self.end(**trailers)

    async def refuse(self, status: int, **said: object) -> None:
        await self.begin(status, "application/json")
        await self.data(json.dumps(said).encode())
        await self.end()


class Gateway:
    """`connect` is what the kernel calls. Each request is answered by what `then` says."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._answers: list[Answer] = []
        self.heard: list[Heard] = []

    def then(self, answer: Answer) -> None:
        """Answer one more request so."""
        self._answers.append(answer)

    def connect(self, pid: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self._nursery.start_soon(self._serve, Heard(pid, stream))
        return ours

    async def _serve(self, heard: Heard) -> None:
        async with heard.stream:
            await heard.receive()
            self.heard.append(heard)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, heard, nursery)
                await self._answers.pop(0)(heard)
                nursery.cancel_scope.cancel()

    async def _watch(self, heard: Heard, nursery: trio.Nursery) -> None:
        try:
            while await heard.stream.receive_some():
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        heard.gone.set()
        nursery.cancel_scope.cancel()
