"""One connection of a program that calls: HTTP requests on it, one after the other, and whether the
program is still there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import h11
import trio

from agentfs.gateway.source import Event, Headers

__all__ = ["BadHttpError", "BodyRoom", "ClientConnection", "HttpRequest"]

HEAD_BYTES = 1 << 16
MOST_BODY = 32 << 20
"""Bytes of a request's body: what Anthropic takes."""

MOST_BODIES = 64 << 20
"""Of all requests of one process that are being read or answered."""

READ_BYTES = 1 << 16
AHEAD_BYTES = 1 << 16
"""So much of the next requests is read while one is answered."""

IDLE_SECONDS = 300.0
"""A connection on which no whole request comes for so long is closed."""

STALLED_SECONDS = 300.0
"""A program that takes nothing of its answer for so long is not there any more."""

LINGER_SECONDS = 2.0

REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadHttpError(Exception):
    """What came is no request that is answered; `status` says why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    path: str
    query: str
    """With its question mark; "" if there is none."""

    headers: Headers
    body: bytes

    def header(self, name: bytes) -> str:
        """The value of a header; "" if it is not there."""
        return next((v.decode("latin-1") for n, v in self.headers if n == name), "")


class BodyRoom:
    """Memory for the bodies of one process's requests."""

    def __init__(self) -> None:
        self._left = MOST_BODIES

    def take(self, size: int) -> None:
        """Raises BadHttpError."""
        if size > self._left:
            words = f"your requests have {MOST_BODIES} bytes in all that wait for an answer"
            raise BadHttpError(429, words)
        self._left -= size

    def give(self, size: int) -> None:
        self._left += size


class ClientConnection:
    """`watch` is a task of its own, for as long as the connection lasts: it reads ahead, so that
    the end of the connection is seen at once, whatever is being done for the caller. An end of its
    sending side counts as that, as for other servers: programs that call a model stay."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._more = trio.Event()
        self._ahead = 0
        self._room = trio.Event()
        self.gone = False
        self._ended = trio.Event()
        self._discards = False
        self._torn = False  # a piece was sent in part only: nothing can follow
        self.begun = False
        """Whether anything of the present answer was sent."""

        self._when_gone: Callable[[], None] | None = None
        self._bodies = BodyRoom()
        self._taken = 0

    # -- the end of the connection -----------------------------------------------------------------

    async def watch(self) -> None:
        """Read until the end of the connection, or its reset."""
        while True:
            if self._ahead >= AHEAD_BYTES and not self._discards:
                self._room = trio.Event()
                await self._room.wait()
            data = await self._receive()
            if self._discards:
                await trio.lowlevel.checkpoint()  # there may be no end of it
            else:
                self._ahead += len(data)
                self._h11.receive_data(data)
                self._more.set()
            if not data:
                self.gone = True
                self._ended.set()
                if self._when_gone is not None:
                    self._when_gone()
                return

    async def _receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError:
                return b""  # a reset

    def on_end(self, act: Callable[[], None] | None) -> None:
        """Call `act` as soon as the caller is gone."""
        self._when_gone = act
        if act is not None and self.gone:
            act()

    # -- requests ----------------------------------------------------------------------------------

    async def request(self, room: BodyRoom) -> HttpRequest | None:
        """The next one; None at the end. The memory of its body is given back when the next one is
        asked for, or by `close`. Raises BadHttpError."""
        self.begun = False
        self._give_back()
        self._bodies = room
        with trio.move_on_after(IDLE_SECONDS):
            return await self._request()
        return None

    async def _request(self) -> HttpRequest | None:
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        try:
            head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            body = await self._body(head)
        except h11.RemoteProtocolError as bad:
            if self.gone:
                return None
            raise BadHttpError(bad.error_status_hint, str(bad)) from None
        path, _, query = head.target.decode("latin-1").partition("?")
        return HttpRequest(
            head.method.decode("latin-1"),
            path,
            f"?{query}" if query else "",
            list(head.headers),
            body,
        )

    async def _body(self, head: h11.Request) -> bytes:
        for name, value in head.headers:
            if name == b"content-length" and int(value) > MOST_BODY:
                raise BadHttpError(413, f"a request has at most {MOST_BODY} bytes")
        if self._h11.they_are_waiting_for_100_continue:
            goes_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._write(self._h11.send(goes_on))
        pieces: list[bytes] = []
        size = 0
        while isinstance(event := await self._event(), h11.Data):
            self._bodies.take(len(event.data))
            self._taken += len(event.data)
            pieces.append(event.data)
            size += len(event.data)
            if size > MOST_BODY:
                raise BadHttpError(413, f"a request has at most {MOST_BODY} bytes")
        return b"".join(pieces)

    async def _event(self) -> Event:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._more = trio.Event()
            self._ahead = 0
            self._room.set()
            await self._more.wait()
        return event

    # -- answers -----------------------------------------------------------------------------------

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        length = (b"content-length", str(len(body)).encode())
        data = self._head(status, [*headers, length])
        data += self._h11.send(h11.Data(body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        await self._write(data)

    async def start(self, status: int, headers: Headers, data: bytes) -> None:
        """The head of an answer that comes in pieces, and its first."""
        head = self._head(status, headers)
        await self._write(head + (self._h11.send(h11.Data(data)) or b""))

    async def send(self, data: bytes) -> None:
        """A piece."""
        if data:
            await self._write(self._h11.send(h11.Data(data)))

    async def end(self, data: bytes = b"", trailers: Headers = ()) -> None:
        """The last piece."""
        last = (self._h11.send(h11.Data(data)) or b"") if data else b""
        chunked = self._h11.their_http_version != b"1.0"
        end = h11.EndOfMessage(headers=list(trailers) if chunked else [])
        await self._write(last + (self._h11.send(end) or b""))

    @property
    def goes_on(self) -> bool:
        """Whether another request can come."""
        return not self.gone and self._h11.our_state is h11.DONE

    def _head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        self.begun = True
        reason = REASONS.get(status, "").encode()
        head = h11.Response(status_code=status, reason=reason, headers=list(headers))
        return self._h11.send(head) or b""

    async def _write(self, data: bytes | None) -> None:
        """Send it. Raises BrokenResourceError if nobody is there, or takes it."""
        if not data:
            return
        if self._torn:
            raise trio.BrokenResourceError
        left = memoryview(data)
        while left := left[self._sent(left) :]:
            self._torn = True  # unless the rest follows
            with trio.move_on_after(STALLED_SECONDS) as patience:
                await trio.lowlevel.wait_writable(self._socket)
            if patience.cancelled_caught:
                raise trio.BrokenResourceError
        self._torn = False

    def _sent(self, data: memoryview) -> int:
        """How much of it could be sent at once, as a rule all."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            raise trio.BrokenResourceError from None

    # -- the end -----------------------------------------------------------------------------------

    async def linger(self) -> None:
        """No more is said. Wait a moment until the caller has read it all: an end with bytes unread
        would be a reset, which takes the answer away."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._discards = True
        self._room.set()
        with trio.move_on_after(LINGER_SECONDS):
            await self._ended.wait()

    def _give_back(self) -> None:
        self._bodies.give(self._taken)
        self._taken = 0

    def close(self) -> None:
        self._give_back()
        self._socket.close()
