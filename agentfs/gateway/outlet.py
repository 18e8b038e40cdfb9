"""How a caller is told what became of its call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from agentfs.dialects.dialect import Dialect
from agentfs.dialects.refusal import refusal
from agentfs.dialects.stream import TokenStream
from agentfs.gateway.client import ClientConnection
from agentfs.gateway.failure import Failure
from agentfs.gateway.ledger import RefusedError
from agentfs.gateway.source import Headers

__all__ = ["DialectOutlet", "Outlet", "TextOutlet", "encoded"]

Clean = Callable[[bytes], bytes]

OURS = frozenset(
    {
        # of one connection
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"content-encoding",
        # of the operator's account
        b"set-cookie",
        b"alt-svc",
        b"strict-transport-security",
    }
)
"""Headers of a provider's answer that are not passed on."""


FORGED = (b"x-agentfs-served-by", b"x-agentfs-err", b"x-agentfs-finish", b"x-agentfs-rule")
"""Headers that only the gateway itself says."""


BUDGET: Headers = ((b"x-agentfs-finish", b"budget"),)


class Outlet(Protocol):
    """An answer is one of `refuse`, `fail`, `whole`; or begins as a stream, with the first `relay`,
    and ends with one of the other three. `tells_end`: how the answer ended is said beside it, and
    whether that was the budget's end."""

    tells_end: bool

    async def refuse(self, why: RefusedError) -> None:
        """There was no call."""

    async def fail(self, failure: Failure) -> None:
        """The provider failed before the first byte."""

    async def whole(self, model: str, headers: Headers, body: bytes) -> None:
        """A model has answered, all at once."""

    async def begin(self, model: str, headers: Headers) -> None:
        """A model answers in a stream."""

    async def relay(self, stream: TokenStream, events: Sequence[bytes]) -> None:
        """A part of the stream."""

    async def finish(self, stream: TokenStream, events: Sequence[bytes], *, spent: bool) -> None:
        """The last part. `spent`: it ends there because the budget does."""

    async def cut(self, stream: TokenStream) -> None:
        """The budget ended."""

    async def break_off(
        self, stream: TokenStream, events: Sequence[bytes], failure: Failure
    ) -> None:
        """It failed in the middle."""


class DialectOutlet:
    """Over HTTP, in the dialect of the request. `beside`: the daemon reads it, for whom the errno
    and the words of a failure are in headers and trailers as well."""

    def __init__(
        self, client: ClientConnection, dialect: str, shown: Clean, *, beside: bool = False
    ) -> None:
        self._client, self._dialect, self._shown = client, dialect, shown
        self.tells_end = beside
        self._head: Headers | None = None

    async def refuse(self, why: RefusedError) -> None:
        said = refusal(self._dialect, why.errno, why.rule, why.words, why.retry_after)
        headers = [*encoded(said.headers), *self._words(why.words)]
        await self._client.respond(said.status, headers, said.body)

    async def fail(self, failure: Failure) -> None:
        if failure.status is None:
            await self.refuse(failure.refused)
            return
        headers = list(self._passed(failure.headers))
        if failure.futile:
            headers.append((b"x-should-retry", b"false"))
        if self.tells_end:
            headers += [(b"x-agentfs-errno", failure.errno.encode()), *self._words(failure.words)]
        await self._client.respond(failure.status, headers, self._shown(failure.body))

    async def whole(self, model: str, headers: Headers, body: bytes) -> None:
        await self._client.respond(200, self._all(model, headers), self._shown(body))

    async def begin(self, model: str, headers: Headers) -> None:
        self._head = self._all(model, headers)

    async def relay(self, stream: TokenStream, events: Sequence[bytes]) -> None:
        if events:
            await self._send(self._shown(b"".join(events)))

    async def finish(self, stream: TokenStream, events: Sequence[bytes], *, spent: bool) -> None:
        await self._end(self._shown(b"".join(events)), BUDGET if spent else ())

    async def cut(self, stream: TokenStream) -> None:
        await self._end(stream.cut("the budget ended here"), BUDGET)

    async def break_off(
        self, stream: TokenStream, events: Sequence[bytes], failure: Failure
    ) -> None:
        last = stream.fail(failure.words)
        errno = (b"x-agentfs-errno", failure.errno.encode())
        trailers = [errno, *self._words(failure.words)]
        await self._end(self._shown(b"".join([*events, last])), trailers)

    async def _send(self, data: bytes) -> None:
        if self._head is None:
            await self._client.send(data)
        else:
            head, self._head = self._head, None
            await self._client.start(200, head, data)

    async def _end(self, data: bytes, trailers: Headers = ()) -> None:
        if self._head is not None:
            await self._send(data)
            data = b""
        await self._client.end(data, trailers if self.tells_end else ())

    def _words(self, words: str) -> Headers:
        return [(b"x-agentfs-error", one_line(words))] if self.tells_end else []

    def _all(self, model: str, headers: Headers) -> Headers:
        return [*self._passed(headers), (b"x-agentfs-served-by", model.encode())]

    def _passed(self, headers: Headers) -> Iterable[tuple[bytes, bytes]]:
        for name, value in headers:
            if name not in OURS and not name.startswith(FORGED):
                yield name, self._shown(value)


class TextOutlet:
    """The text alone, as it comes; trailers say how it ended. It is for the daemon, which makes a
    file of it."""

    def __init__(self, client: ClientConnection, dialect: Dialect, shown: Clean) -> None:
        self._client, self._dialect, self._shown = client, dialect, shown
        self.tells_end = True
        self._model = ""

    async def refuse(self, why: RefusedError) -> None:
        said = {
            "errno": why.errno,
            "words": why.words,
            "rule": why.rule,
            "retry_after": why.retry_after,
        }
        kind = [(b"content-type", b"application/json")]
        status = refusal(self._dialect.name, why.errno, why.rule, "").status
        await self._client.respond(status, kind, json.dumps(said).encode())

    async def fail(self, failure: Failure) -> None:
        await self.refuse(failure.refused)

    async def whole(self, model: str, headers: Headers, body: bytes) -> None:
        reply = json.loads(body)
        await self.begin(model, headers)
        await self._send(self._dialect.text(reply))
        await self._end(self._dialect.finish(reply))

    async def begin(self, model: str, headers: Headers) -> None:
        self._model = model

    async def relay(self, stream: TokenStream, events: Sequence[bytes]) -> None:
        await self._send(stream.text)

    async def finish(self, stream: TokenStream, events: Sequence[bytes], *, spent: bool) -> None:
        await self._send(stream.text)
        await self._end("budget" if spent else stream.finish)

    async def cut(self, stream: TokenStream) -> None:
        await self._end("budget")

    async def break_off(
        self, stream: TokenStream, events: Sequence[bytes], failure: Failure
    ) -> None:
        await self._send(stream.text if events else "")
        await self._end(
            "",
            (
                (b"x-agentfs-errno", failure.errno.encode()),
                (b"x-agentfs-error", one_line(failure.words)),
            ),
        )

    async def _send(self, text: str) -> None:
        if not text and not self._model:
            return
        data = self._shown(text.encode("utf-8", "replace"))
        if self._model:
            kind = (b"content-type", b"text/plain; charset=utf-8")
            head = [kind, (b"x-agentfs-served-by", self._model.encode())]
            self._model = ""
            await self._client.start(200, head, data)
        else:
            await self._client.send(data)

    async def _end(self, finish: str, trailers: Headers = ()) -> None:
        await self._send("")
        finished = [(b"x-agentfs-finish", finish.encode())] if finish else []
        await self._client.end(trailers=[*finished, *trailers])


def one_line(words: str) -> bytes:
    """Words as the value of a header, in UTF-8."""
    plain = "".join(letter if letter.isprintable() else " " for letter in words)
    return " ".join(plain.split()).encode("utf-8", "replace")[:2_000]


def encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    """Headers as HTTP has them."""
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
