"""Which path is for what, and what is asked of a caller's request before it is a call."""

from __future__ import annotations

from typing import Any

from agentfs.dialects.body import BadRequest, Body, parse_json
from agentfs.dialects.dialect import Dialect
from agentfs.dialects.messages import COUNT_TOKENS
from agentfs.dialects.models_list import model_entry, models_list
from agentfs.dialects.refusal import refusal
from agentfs.dialects.table import DIALECTS
from agentfs.gateway.bodies import bounded, parsed
from agentfs.gateway.client import ClientConnection, HttpRequest
from agentfs.gateway.counting import count_tokens
from agentfs.gateway.forward import forward
from agentfs.gateway.ledger import CallingProcess, RefusedError
from agentfs.gateway.office import Interrupt, Job, Office
from agentfs.gateway.outlet import DialectOutlet, TextOutlet, encoded
from agentfs.gateway.source import Headers

__all__ = ["RoutedRequest", "dialect_of"]

PATHS = {dialect.path: dialect for dialect in DIALECTS.values()}
ASK, RAW = "/agentfs/ask", "/agentfs/raw"
"""For the daemon, on connections that it has handed over."""

KEPT_BACK = frozenset(
    {
        # of one connection
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"content-length",
        b"accept-encoding",
        # of another account than the operator's
        b"authorization",
        b"proxy-authorization",
        b"x-api-key",
        b"api-key",
        b"cookie",
        b"openai-organization",
        b"openai-project",
    }
)
"""Headers of a caller that its provider does not get."""


class RoutedRequest:
    """One request, by its path."""

    def __init__(
        self,
        office: Office,
        client: ClientConnection,
        caller: CallingProcess,
        request: HttpRequest,
        handed: bool,
    ) -> None:
        self._office, self._client, self._caller = office, client, caller
        self._request, self._handed = request, handed

    async def answer(self) -> None:
        request = self._request
        try:
            if request.header(b"upgrade").lower() == "websocket":
                # Codex asks for one. After 426 it goes on over HTTP at once; after 404, 405 and
                # 501 it has tried six or seven times (measured).
                await self._say(426, "websockets are not offered: POST the same path")
            elif request.path == "/" and request.method in ("GET", "HEAD"):
                await self._client.respond(200, [(b"content-type", b"text/plain")], b"")
            elif request.method == "GET" and request.path.startswith("/v1/models"):
                await self._models()
            elif request.method == "POST" and request.path in PATHS:
                await self._dialect(PATHS[request.path].name)
            elif request.method == "POST" and request.path == COUNT_TOKENS.path:
                await self._count_tokens()
            elif self._handed and request.method == "POST" and request.path == ASK:
                await self._ask()
            elif self._handed and request.method == "POST" and request.path == RAW:
                await self._raw()
            else:
                await self._say(404, f"there is no {request.method} {request.path} here")
        except RefusedError as why:
            await self._refuse(why)
        except BadRequest as bad:
            await self._refuse(RefusedError("EINVAL", str(bad)))

    # -- calls -------------------------------------------------------------------------------------

    async def _dialect(self, dialect: str) -> None:
        request = self._request
        asked = await parsed(DIALECTS[dialect], request.body)
        target = request.path + request.query
        job = Job(self._caller, asked, target, self._passed(), self._answer(dialect))
        await self._forward(job, asked.model)

    async def _forward(self, job: Job, model: str) -> None:
        self._client.on_end(job.interrupt.gone)
        try:
            await forward(self._office, job, model)
        finally:
            self._client.on_end(None)

    async def _ask(self) -> None:
        """The text of an answer, for a conversation: no dialect is visible."""
        asked = _object(self._request.body)
        model, most = asked.get("model"), asked.get("max_output")
        system, messages = asked.get("system") or "", asked.get("messages")
        if not (
            isinstance(model, str)
            and isinstance(system, str)
            and isinstance(messages, list)
            and (most is None or isinstance(most, int))
        ):
            raise BadRequest('{"model", "system", "messages", "max_output"} was expected')
        dialect = DIALECTS[self._spoken(model, ("chat", "messages", "responses"))]
        request = dialect.parse(dialect.ask(system, messages, model, most, True))
        headers = [(b"content-type", b"application/json")]
        if dialect.name == "messages":
            headers.append((b"anthropic-version", b"2023-06-01"))
        answer = self._text(dialect)
        await self._forward(Job(self._caller, request, dialect.path, headers, answer), model)

    async def _raw(self) -> None:
        """A request of a dialect, which its own fields tell, of the model of the header."""
        model = self._request.header(b"x-agentfs-model")
        body = Body(bounded(self._request.body))
        if "input" in body.members:
            name = self._spoken(model, ("responses", "embeddings"))
        else:
            name = self._spoken(model, ("chat", "messages"))
        asked = await parsed(DIALECTS[name], body.replaced({"model": model}))
        headers = [(b"content-type", b"application/json")]
        if name == "messages":
            headers.append((b"anthropic-version", b"2023-06-01"))
        answer = self._answer(name)
        await self._forward(Job(self._caller, asked, DIALECTS[name].path, headers, answer), model)

    def _spoken(self, model: str, wanted: tuple[str, ...]) -> str:
        """The first of some dialects in which a model is offered. If there is none, or no such
        model, the daemon says so."""
        offer = self._office.catalogue.find(model)
        speaks = () if offer is None else self._office.catalogue.speaks(offer)
        return next((name for name in wanted if name in speaks), wanted[0])

    # -- what is not metered -----------------------------------------------------------------------

    async def _models(self) -> None:
        told = await self._office.ledger.models(self._caller.pid)
        names = [model["name"] for model in told]
        messages = bool(self._request.header(b"anthropic-version"))
        rest = self._request.path.removeprefix("/v1/models")
        if rest in ("", "/"):
            body = models_list(names, messages)
        elif rest.startswith("/") and rest[1:] in names:
            body = model_entry(rest[1:], messages)
        else:
            raise RefusedError("ENOENT", f"there is no model {rest[1:]} for you", "model")
        await self._client.respond(200, [(b"content-type", b"application/json")], body)

    async def _count_tokens(self) -> None:
        interrupt = Interrupt()
        self._client.on_end(interrupt.gone)
        try:
            target = self._request.path + self._request.query
            answered = await count_tokens(
                self._office,
                self._caller.pid,
                interrupt,
                target,
                self._passed(),
                self._request.body,
            )
        finally:
            self._client.on_end(None)
        if answered is not None:
            await self._client.respond(*answered)

    async def _refuse(self, why: RefusedError) -> None:
        if self._request.path == ASK:
            await self._text(DIALECTS["chat"]).refuse(why)
        else:
            await self._answer(dialect_of(self._request)).refuse(why)

    # -- words -------------------------------------------------------------------------------------

    def _answer(self, dialect: str) -> DialectOutlet:
        beside = self._request.path == RAW
        return DialectOutlet(self._client, dialect, self._office.providers.shown, beside=beside)

    def _text(self, dialect: Dialect) -> TextOutlet:
        return TextOutlet(self._client, dialect, self._office.providers.shown)

    def _passed(self) -> Headers:
        return [
            (name, value)
            for name, value in self._request.headers
            if name not in KEPT_BACK and not name.startswith(b"x-agentfs-")
        ]

    async def _say(self, status: int, words: str) -> None:
        said = refusal(dialect_of(self._request), "EINVAL", "path", words)
        await self._client.respond(status, encoded(said.headers), said.body)


def dialect_of(request: HttpRequest) -> str:
    """The dialect in which a caller reads what goes wrong."""
    dialect = PATHS.get(request.path)
    if dialect is not None:
        return dialect.name
    anthropic = request.header(b"anthropic-version") or request.path.startswith("/v1/messages")
    return "messages" if anthropic else "chat"


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = parse_json(body)
    except ValueError as bad:
        raise BadRequest(f"the request is no JSON: {bad}") from None
    if not isinstance(value, dict):
        raise BadRequest("a request is a JSON object: { … }")
    return value
