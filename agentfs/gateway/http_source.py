"""A provider that is a server: connections to it, which are kept and used again."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from contextlib import suppress
from functools import cache
from urllib.parse import urlsplit

import h11
import trio

from agentfs.gateway.source import Deadline, Event, FailedError, Headers, Outgoing

__all__ = ["HttpSource"]

KEEP_SECONDS = 30.0
"""A connection that was not used for so long is closed. Servers close theirs without a word after 5
(llama.cpp) to 75 seconds."""

MOST_KEPT = 32
HEAD_BYTES = 1 << 16
READ_BYTES = 1 << 16
DRAIN_SECONDS = 2.0
"""An answer that is complete for its client may end a packet later; the connection is used again
if that comes in time."""


@cache
def _context() -> ssl.SSLContext:
    """The system's certificates. Made when the first provider needs it: it takes 6 MB."""
    return ssl.create_default_context()


class _Plain:
    """A connection without TLS. It costs a third less than trio's, whose every call lets all other
    tasks run once: here the calls that wait do."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection

    async def send_all(self, data: bytes) -> None:
        """Raises BrokenResourceError."""
        left = memoryview(data)
        try:
            while left:
                try:
                    left = left[self.socket.send(left) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)
        except OSError:
            raise trio.BrokenResourceError from None

    async def receive_some(self, most: int) -> bytes:
        """Raises BrokenResourceError."""
        waited = False
        while True:
            try:
                data = self.socket.recv(most)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
                waited = True
            except OSError:
                raise trio.BrokenResourceError from None
            else:
                if not waited:  # a server that is faster than we are holds up nobody
                    await trio.lowlevel.checkpoint()
                return data


Secure = trio.SSLStream[trio.SocketStream]


class _Connection:
    """One connection to the server."""

    def __init__(self, stream: _Plain | Secure) -> None:
        self.stream = stream
        self._secure = isinstance(stream, trio.SSLStream)
        self._socket = stream.socket if isinstance(stream, _Plain) else _below(stream)
        self.h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self.used = False  # for a request before this one
        self.since = trio.current_time()

    def close(self) -> None:
        """At once: no farewell of TLS, for which nobody waits."""
        self._socket.close()

    @property
    def alive(self) -> bool:
        """Whether the server has not closed it while it was idle, as far as one sees."""
        if trio.current_time() - self.since > KEEP_SECONDS:
            return False
        # A server of plain HTTP has nothing to say before it is asked; TLS has tickets.
        ended = select.POLLRDHUP if self._secure else select.POLLRDHUP | select.POLLIN
        poll = select.poll()
        poll.register(self._socket, ended)
        return not poll.poll(0)


def _below(stream: Secure) -> trio.socket.SocketType:
    return stream.transport_stream.socket


class HttpSource:
    """A server, at a URL without `/v1`. `nursery` has the tasks that outlive a call. `bearer`: it
    takes its key as OpenAI does, whatever the dialect."""

    def __init__(
        self,
        name: str,
        url: str,
        key: str | None,
        nursery: trio.Nursery,
        *,
        bearer: bool = False,
    ) -> None:
        self._bearer = bearer
        self.name = name
        self._nursery = nursery
        self._key = key
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc.encode()
        self._idle: deque[_Connection] = deque()

    async def aclose(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def send(self, request: Outgoing, deadline: Deadline) -> HttpReply:
        head = h11.Request(
            method="POST",
            target=(self._prefix + request.target).encode(),
            headers=list(self._headers(request)),
        )
        while True:
            connection = await self._connect(deadline)
            kept = connection.used
            try:
                return await self._ask(connection, head, request, deadline)
            except FailedError:
                connection.close()
                # Closed by the server while it was idle, as a rule: that is no failure.
                if not kept:
                    raise
                await self.aclose()  # the others are as old
            except BaseException:
                connection.close()
                raise

    def _headers(self, request: Outgoing) -> Headers:
        headers = [
            (b"host", self._authority),
            *request.headers,
            (b"accept-encoding", b"identity"),  # it is read here
            (b"content-length", str(len(request.body)).encode()),
        ]
        if self._key is not None:
            if request.request.dialect.name == "messages" and not self._bearer:
                headers.append((b"x-api-key", self._key.encode()))
            else:
                headers.append((b"authorization", b"Bearer " + self._key.encode()))
        return headers

    async def _connect(self, deadline: Deadline) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
            connection.close()
        deadline.connect()
        try:
            plain = await trio.open_tcp_stream(self._host, self._port)
        except OSError as failure:
            why = str(failure.__cause__ or failure.strerror or failure)
            raise FailedError(f"{self.name} cannot be reached: {why}") from None
        if not self._secure:
            return _Connection(_Plain(socket.socket(fileno=plain.socket.detach())))
        stream = trio.SSLStream(
            plain, _context(), server_hostname=self._host, https_compatible=True
        )
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError) as failure:
            plain.socket.close()
            said = failure.__cause__ or failure
            raise FailedError(f"{self.name} cannot be reached: TLS: {said}") from None
        except BaseException:
            plain.socket.close()
            raise
        return _Connection(stream)

    async def _ask(
        self, connection: _Connection, head: h11.Request, request: Outgoing, deadline: Deadline
    ) -> HttpReply:
        deadline.first_byte()
        wire = connection.h11
        data = wire.send(head) or b""
        data += wire.send(h11.Data(request.body)) or b""
        data += wire.send(h11.EndOfMessage()) or b""
        # A server may answer, and close, before it has read everything: then the answer says why.
        with suppress(trio.BrokenResourceError):
            await connection.stream.send_all(data)
        request.sent = True
        while True:
            event = await self.event(connection)
            if isinstance(event, h11.Response):
                return HttpReply(self, connection, event)
            if not isinstance(event, h11.InformationalResponse):
                raise FailedError(f"{self.name} closed the connection before it answered")

    async def event(self, connection: _Connection) -> Event:
        """The next event of HTTP. Raises FailedError."""
        try:
            while (event := connection.h11.next_event()) is h11.NEED_DATA:
                data = await connection.stream.receive_some(READ_BYTES)
                connection.h11.receive_data(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            raise FailedError(f"{self.name} broke the connection off") from None
        except h11.RemoteProtocolError as failure:
            raise FailedError(f"{self.name} does not speak HTTP as it should: {failure}") from None
        return event

    def done(self, connection: _Connection) -> None:
        """A reply is not read any further: keep its connection if it is at its end, or soon."""
        wire = connection.h11
        if wire.their_state is h11.DONE and wire.our_state is h11.DONE:
            self._keep(connection)
        else:
            connection.close()

    def finish(self, connection: _Connection) -> None:
        """The reply is complete, and its last packet may be on its way."""
        self._nursery.start_soon(self._drain, connection)

    async def _drain(self, connection: _Connection) -> None:
        with trio.move_on_after(DRAIN_SECONDS), suppress(FailedError):
            while isinstance(await self.event(connection), h11.Data):
                pass
        self.done(connection)

    def _keep(self, connection: _Connection) -> None:
        try:
            connection.h11.start_next_cycle()
        except h11.LocalProtocolError:
            connection.close()
            return
        connection.used, connection.since = True, trio.current_time()
        self._idle.append(connection)
        if len(self._idle) > MOST_KEPT:
            self._idle.popleft().close()


class HttpReply:
    """An answer that is coming."""

    def __init__(self, source: HttpSource, connection: _Connection, head: h11.Response) -> None:
        self._source, self._connection = source, connection
        self.status = head.status_code
        self.headers: Headers = list(head.headers)
        self._over = False
        self._closed = False

    async def read(self) -> bytes:
        pieces: list[bytes] = []
        wire = self._connection.h11
        while not self._over:
            if not pieces:
                event: Event = await self._source.event(self._connection)
            else:
                try:
                    event = wire.next_event()
                except h11.RemoteProtocolError:
                    break  # it is raised again by the next read
            if isinstance(event, h11.Data):
                pieces.append(event.data)
            elif event is h11.NEED_DATA:
                break
            else:
                self._over = True
        return b"".join(pieces)  # of bytearrays, as a rule

    def complete(self) -> None:
        """What was read is a whole answer, even if the connection does not say so yet."""
        if not self._closed and not self._over:
            self._closed = True
            self._source.finish(self._connection)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._source.done(self._connection)
