"""Asking the gateway for answers: each over a connection of its own, which ends with it.

The answer goes to its reader as it comes. Where nobody reads, nothing is taken from the connection,
and the gateway takes nothing from the provider.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import h11
import trio

from agentfs.base.errors import KernelError
from agentfs.chats.model_request import ModelRequest
from agentfs.store.part import Part
from agentfs.vfs.exchange import PendingReply

__all__ = ["Asking", "Listener"]

log = logging.getLogger(__name__)

PIECE = 4096
"""Bytes that are taken from a connection at once: some 300 tokens, each a chunk of its own."""

STEP_SECONDS = 0.002
"""How long chunks are taken apart before others have their turn."""

MOST_OF_ERROR = 64 * 1024
"""Bytes of a refusal that are read."""

WORDS = 1000
"""Characters of it that are shown."""

PASSED_ON = frozenset(
    {
        *("EACCES", "EPERM", "ENOENT", "EDQUOT", "EAGAIN", "EMSGSIZE", "EINVAL", "ESRCH"),
        *("ETIMEDOUT", "EREMOTEIO", "ECANCELED", "ENOSPC"),
    }
)
"""The gateway may say these of a call that was refused, or failed; anything else is EREMOTEIO."""


class Listener(Protocol):
    """It keeps the answer."""

    def heard(self, content: bytes) -> None:
        """More of the answer has come."""

    def over(self, *, whole: bool) -> None:
        """Nothing more will come. Raises KernelError if it cannot be kept: the reader is told."""


class Nobody:
    """Nothing is kept of it."""

    def heard(self, content: bytes) -> None:
        pass

    def over(self, *, whole: bool) -> None:
        pass


class Asking(Part):
    """All that is being asked. `connect(pid)` is a connection to the gateway in the name of a
    process; it raises KernelError."""

    def __init__(self, connect: Callable[[int], socket.socket]) -> None:
        self._connect = connect
        self._nursery: trio.Nursery | None = None
        self.under_way = 0

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def begin(
        self,
        pid: int,
        request: ModelRequest,
        reply: PendingReply,
        listener: Listener | None = None,
    ) -> None:
        """Have process `pid` ask. Raises ENODEV while the daemon starts or ends."""
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            raise KernelError(errno.ENODEV, "the system is starting, or ending")
        call = _Call(partial(self._connect, pid), request, reply, listener or Nobody())
        self.under_way += 1
        self._nursery.start_soon(self._serve, call)

    async def _serve(self, call: _Call) -> None:
        try:
            await call.run()
        finally:
            self.under_way -= 1


class _Call:
    """One request and its answer."""

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        request: ModelRequest,
        reply: PendingReply,
        listener: Listener,
    ) -> None:
        self._connect = connect
        self._request = request
        self._reply = reply
        self._listener = listener
        self._scope = trio.CancelScope()
        self._http = h11.Connection(h11.CLIENT)
        self._told = False  # the listener knows that it is over
        reply.on_cancel(self._cancel)

    def _cancel(self) -> None:
        """Nobody wants the rest: what has come is all there is."""
        self._scope.cancel()
        try:
            self._over(whole=False)
        except KernelError as failure:
            log.warning("what a model has said is not kept: %s", failure)

    def _over(self, *, whole: bool) -> None:
        if not self._told:
            self._told = True
            self._listener.over(whole=whole)

    async def run(self) -> None:
        failure: KernelError | None = None
        try:
            with self._scope:
                await self._reply.wanted()
                failure = await self._ask()
        except KernelError as refusal:
            failure = refusal
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as lost:
            failure = _gone(str(lost))
        except Exception as fault:
            log.exception("a fault of ours, while a model was asked")
            failure = KernelError(errno.EIO, f"a fault of the daemon: {type(fault).__name__}")
        if self._scope.cancelled_caught:
            return
        try:
            self._over(whole=failure is None)
        except KernelError as unkept:
            failure = failure or unkept
        self._reply.end(failure)

    async def _ask(self) -> KernelError | None:
        """Why the answer is not whole; None if it is."""
        async with trio.SocketStream(trio.socket.from_stdlib_socket(self._connect())) as stream:
            await self._send(stream)
            head = await self._next(stream)
            if isinstance(head, h11.ConnectionClosed):
                return _gone("")
            assert isinstance(head, h11.Response)
            if head.status_code != 200:
                return await self._refusal(stream, head)
            return await self._answer(stream)

    async def _send(self, stream: trio.SocketStream) -> None:
        request, http = self._request, self._http
        headers = [
            ("host", "agentfs"),
            ("content-length", str(len(request.body))),
            *request.headers,
        ]
        head = http.send(h11.Request(method="POST", target=request.path, headers=headers))
        assert head is not None
        await stream.send_all(head)
        body = http.send(h11.Data(data=request.body))
        if body:
            await stream.send_all(body)
        http.send(h11.EndOfMessage())

    async def _next(self, stream: trio.SocketStream) -> Any:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await stream.receive_some(PIECE))

    async def _answer(self, stream: trio.SocketStream) -> KernelError | None:
        ended: h11.EndOfMessage | None = None
        while ended is None:
            pieces, ended = self._pieces()
            if pieces:
                if not self._told:  # else it was given up while they came
                    self._listener.heard(pieces)
                await self._reply.put(pieces)
                await trio.lowlevel.checkpoint()
            elif ended is None:
                self._http.receive_data(await stream.receive_some(PIECE))
        said = {name.decode(): value.decode("utf-8", "replace") for name, value in ended.headers}
        if "x-agentfs-errno" in said:
            return _failure(said["x-agentfs-errno"], said.get("x-agentfs-error", ""))
        if said.get("x-agentfs-finish") == "budget":
            return KernelError(
                errno.EDQUOT,
                "the answer was cut here: a budget, or a limit, has no token left",
                rule="budget",
            )
        return None

    def _pieces(self) -> tuple[bytes, h11.EndOfMessage | None]:
        """The content of the bytes that came, or of some of them, and the end if that is there."""
        pieces = bytearray()
        ends = time.monotonic() + STEP_SECONDS
        while not pieces or time.monotonic() < ends:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.EndOfMessage):
                return bytes(pieces), event
            assert isinstance(event, h11.Data)
            pieces += event.data
        return bytes(pieces), None

    async def _refusal(self, stream: trio.SocketStream, head: h11.Response) -> KernelError:
        """The refusal, or failure, that came instead of an answer."""
        body = bytearray()
        while len(body) < MOST_OF_ERROR:
            event = await self._next(stream)
            if not isinstance(event, h11.Data):
                break
            body += event.data
        said: dict[str, Any] = {
            name.decode().removeprefix("x-agentfs-"): value.decode("utf-8", "replace")
            for name, value in head.headers
        }
        try:
            more = json.loads(body)
            said = more if isinstance(more.get("errno"), str) else {"words": _words(more)} | said
        except (ValueError, AttributeError, RecursionError):
            pass
        words = said.get("words") or said.get("error") or f"it answered {head.status_code}"
        return _failure(
            str(said.get("errno", "EREMOTEIO")),
            str(words),
            str(said.get("rule") or ""),
            _seconds(said.get("retry_after", said.get("retry-after"))),
        )


def _words(said: dict[str, Any]) -> str:
    """The words of an error of a dialect."""
    error = said.get("error", said)
    return str(error.get("message", "")) if isinstance(error, dict) else str(error)


def _seconds(said: object) -> float | None:
    try:
        return None if said is None else max(0.0, float(str(said)))
    except ValueError:
        return None


def _failure(code: str, words: str, rule: str = "", retry: float | None = None) -> KernelError:
    number: int = getattr(errno, code) if code in PASSED_ON else errno.EREMOTEIO
    words = " ".join(words.split())[:WORDS] or "the provider did not say why"
    if number in (errno.EREMOTEIO, errno.ETIMEDOUT):
        rule = ""  # nobody has refused anything
    return KernelError(number, words, rule=rule, retry_after=retry)


def _gone(how: str) -> KernelError:
    """The gateway, or its end of the connection, is no more."""
    words = "the gateway of models has ended in the midst of the call"
    return KernelError(errno.EREMOTEIO, f"{words}: {how}" if how else words)
