"""MCP servers, through the official SDK: one session each, its tools, and calls of them."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import trio
from mcp import ClientSession, MCPError
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import streamable_http_client

from agentfs.toolbox.lines import LONGEST, Garbage, stdio

__all__ = ["Server", "ServerError"]

MOST_TOOLS = 500
MOST_PAGES = 100
"""Of a list of tools: a server may give the same cursor for ever."""

CLOSE_SECONDS = 1.0
"""How long the end of a session may take: a server over HTTP is told of it."""

HTTP_SECONDS = 30.0
"""How long a server over HTTP may be silent before it has taken a request."""


FAILURES = (MCPError, RuntimeError, ValueError, OSError, httpx2.HTTPError)
"""What the SDK raises when a server answers with an error, with something else, or not at all."""


class ServerError(Exception):
    """A call that failed. `errno` is the name of what the caller gets."""

    def __init__(self, words: str, errno: str = "EREMOTEIO") -> None:
        super().__init__(words)
        self.errno = errno


class Server:
    """A session with one server. `changed` is called when its tools are others, `ended` with words
    when it is over, and not by us."""

    def __init__(self, changed: Callable[[], object], ended: Callable[[str], object]) -> None:
        self._changed = changed
        self._ended = ended
        self._garbage = Garbage()
        self._session: ClientSession | None = None
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._started = False
        self._over = ""  # why, in words
        self.tools: dict[str, types.Tool] = {}

    # -- its life ----------------------------------------------------------------------------------

    async def run_pipes(
        self, source: int, sink: int, start: float, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Speak with a program over two descriptors until it ends, or `close`."""
        streams = stdio(source, sink, self._garbage, self._broken)
        await self._run(streams, start, task_status)

    async def run_url(
        self,
        url: str,
        headers: Mapping[str, str],
        start: float,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """The same with a server at `url`."""
        await self._run(_http(url, headers), start, task_status)

    async def _run(self, streams: Any, start: float, task_status: trio.TaskStatus[None]) -> None:
        """Raises ServerError if it is not there within `start` seconds."""
        self._scope.deadline = trio.current_time() + start
        try:
            with self._scope:
                async with AsyncExitStack() as stack:
                    await self._begin(stack, streams)
                    self._started, self._scope.deadline = True, math.inf
                    task_status.started()
                    await self._done.wait()
                    self._scope.deadline = trio.current_time() + CLOSE_SECONDS
            if not self._started:
                late = f"it did not begin within {start:g} s"
                words = f"{self._over or late}{self._printed()}"
                raise ServerError(words, "EREMOTEIO" if self._over else "ETIMEDOUT")
        except Exception as bad:  # noqa: BLE001  # a session must not end the others
            mine = _only(bad)
            if not self._started:
                raise mine if isinstance(mine, ServerError) else ServerError(self._said(mine))
            self._broken(self._said(mine))
        finally:
            self._session = None
        self._ended(self._over)

    async def _begin(self, stack: AsyncExitStack, streams: Any) -> None:
        try:
            reading, writing = await stack.enter_async_context(streams)
            session = ClientSession(reading, writing, message_handler=self._heard)
            self._session = await stack.enter_async_context(session)
            await session.initialize()
            await self.refresh()
        except FAILURES as bad:
            raise ServerError(self._said(bad)) from None

    @property
    def is_over(self) -> bool:
        """Whether nothing can be asked of it any more."""
        return self._done.is_set()

    def close(self) -> None:
        """End the session."""
        self._done.set()

    def _broken(self, words: str) -> None:
        self._over = self._over or words
        self._done.set()
        if not self._started:
            self._scope.cancel()

    def _printed(self) -> str:
        first = self._garbage.first
        return f"; it wrote {first!r}, which is no message of MCP" if first else ""

    def _said(self, bad: BaseException) -> str:
        if self._over:
            return f"{self._over}{self._printed()}"
        return f"{str(bad) or type(bad).__name__}{self._printed()}"

    async def _heard(self, message: object) -> None:
        kind = getattr(message, "root", message)
        if isinstance(kind, types.ToolListChangedNotification):
            self._changed()

    # -- its tools ---------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Ask for the list of its tools. Raises MCPError."""
        assert self._session is not None
        found: dict[str, types.Tool] = {}
        cursor = None
        for _ in range(MOST_PAGES):
            params = types.PaginatedRequestParams(cursor=cursor)
            page = await self._session.list_tools(params=params)
            found |= {tool.name: tool for tool in page.tools}
            cursor = page.next_cursor
            if cursor is None or len(found) > MOST_TOOLS:
                break
        self.tools = dict(list(found.items())[:MOST_TOOLS])

    def schema(self, name: str) -> bytes:
        """The JSON schema of the arguments of a tool. Raises ServerError (ENOENT)."""
        tool = self.tools.get(name)
        if tool is None:
            raise ServerError(f"the server has no tool {name!r} any more", "ENOENT")
        return json.dumps(tool.input_schema).encode()

    async def call(
        self, name: str, arguments: dict[str, Any], seconds: float
    ) -> tuple[bytes, bool]:
        """The answer, and whether the tool says that it failed. Raises ServerError; ETIMEDOUT after
        `seconds`: the server is told then that nobody waits."""
        session = self._session
        if session is None:
            raise ServerError(self._over or "the server has ended")
        asked = types.CallToolRequest(
            params=types.CallToolRequestParams(name=name, arguments=arguments)
        )
        try:
            with trio.fail_after(seconds if math.isfinite(seconds) else math.inf):
                # Not `call_tool`: it checks the answer against a schema of the server's own, which
                # may take for ever.
                answer = await session.send_request(asked, types.CallToolResult)
        except trio.TooSlowError:
            raise ServerError(f"no answer within {seconds:g} s", "ETIMEDOUT") from None
        except FAILURES as bad:
            raise ServerError(self._said(bad)) from None
        return _text(answer), bool(answer.is_error)


def _text(answer: types.CallToolResult) -> bytes:
    """What a model is given of an answer: its texts; other content as JSON, a block a line."""
    parts = [
        block.text
        if isinstance(block, types.TextContent)
        else block.model_dump_json(by_alias=True, exclude_none=True)
        for block in answer.content
    ]
    if not parts and answer.structured_content is not None:
        parts = [json.dumps(answer.structured_content, ensure_ascii=False)]
    text = "\n".join(parts)
    return (text if not text or text.endswith("\n") else f"{text}\n").encode()


def _only(bad: BaseException) -> BaseException:
    """The first of what went wrong at the same time."""
    while isinstance(bad, BaseExceptionGroup):
        bad = bad.exceptions[0]
    return bad


@asynccontextmanager
async def _http(url: str, headers: Mapping[str, str]) -> AsyncIterator[TransportStreams]:
    timeout = httpx2.Timeout(HTTP_SECONDS, read=None)
    client = httpx2.AsyncClient(
        headers=dict(headers), timeout=timeout, transport=_Bounded(), trust_env=False
    )
    async with client, streamable_http_client(url, http_client=client) as streams:
        yield streams


class _Bounded(httpx2.AsyncHTTPTransport):
    """Answers of at most `LONGEST` bytes; streams of events are bounded by the SDK, event by
    event."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await super().handle_async_request(request)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.stream = _BoundedBody(answer.stream)
        return answer


class _BoundedBody(httpx2.AsyncByteStream):
    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._body:
            size += len(chunk)
            if size > LONGEST:
                raise httpx2.ReadError(f"it answered with more than {LONGEST // 2**20} MiB")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()
