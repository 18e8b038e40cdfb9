"""A provider of models whose behaviour tests write down: it runs as a process of its own, on
loopback, and speaks chat/completions, responses, messages (with count_tokens), embeddings and
models as the real ones do. It never thinks: an answer is the words of its script.

    with Provider() as provider:
        provider.script("slow", tokens=50, delay=0.1)
        ...                                   # ask provider.url for the model `slow`
        (call,) = provider.wait(lambda log: len(log) == 1 and log[0].over)
        assert call.hung_up and call.chunks < 50

A model without a script answers with TEXT. `python -m tests.llm.server [PORT [CERTIFICATE]]` is the
process: it prints its port, and ends with its standard input. `POST /_script` and `GET /_log` are
its controls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["TEXT", "Call", "Provider", "Script"]

TEXT = "The capital of France is Paris."
"""The answer where nothing else is written."""

READ_SECONDS = 0.2
"""Before a reset in mid-stream: Linux throws away what was not read by then."""

DIALECTS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/embeddings": "embeddings",
}


@dataclass(slots=True)
class Script:
    """How one model behaves: seconds, and counts of tokens, each a chunk of a stream."""

    text: str | None = None
    """The answer; each of its words is a token. None: TEXT, or as many words as `tokens`."""
    tokens: int | None = None
    input: int | None = None
    """Tokens of input that usage tells; None: a quarter of the request's bytes."""
    output: int | None = None
    """Tokens of output that usage tells; None: as many as were sent."""
    cache_read: int = 0
    cache_write: int = 0
    usage: bool = True
    """Whether anything is told of usage."""
    tool: dict[str, Any] | None = None
    """Instead of text: a call of a tool, `{"name": ..., "arguments": {...}}`."""
    obey: bool = True
    """Whether the maximum of a request holds."""
    first_byte: float = 0.0
    """Seconds until the head of the answer; `hang` never sends it."""
    hang: bool = False
    delay: float = 0.0
    """Seconds before each chunk."""
    status: int = 200
    """Something else is an error, whose words are `error`."""
    headers: dict[str, str] = field(default_factory=dict)
    error: str = "it failed"
    quote_key: bool = False
    """Whether the error's words quote the key that came with the request."""
    error_after: int | None = None
    """After so many chunks of a stream: an error event, in a stream whose status is 200. 0: nothing
    comes before it."""
    reset_after: int | None = None
    """After so many chunks: a reset of the connection; 0 is before the head."""
    close_after: int | None = None
    """After so many chunks: the end of the connection, in the middle of the body."""
    stall_after: int | None = None
    """After so many chunks: nothing more, with the connection open."""
    raw: str | None = None
    """The body of a stream, instead of one that is right."""
    line: int | None = None
    """One line of so many bytes without an end, instead of a stream."""
    bytes_at_once: int | None = None
    """The body comes in pieces of so many bytes, `delay` seconds apart (else: a chunk a token)."""
    burst: bool = False
    """All chunks of a stream in one piece."""
    close_idle: float | None = None
    """The connection is closed this long after the answer, without a word before."""
    times: int | None = None
    """After so many requests the model answers as if it had no script."""


@dataclass(slots=True)
class Call:
    """A request that came, as the log has it."""

    number: int
    path: str
    dialect: str
    model: str
    headers: dict[str, str]
    body: Any
    size: int
    connection: int
    started: float
    chunks: int = 0
    hung_up: bool = False
    """The caller went before the answer was complete."""
    over: bool = False
    ended: float = 0.0


class HungUpError(Exception):
    """The caller is gone."""


class Connection:
    """One client; keep-alive, one request after the other."""

    def __init__(
        self,
        server: Server,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server, self._number = server, number
        self._reader, self._writer = reader, writer
        self._gone = asyncio.Event()
        self._requests: asyncio.Queue[tuple[str, str, dict[str, str], bytes]] = asyncio.Queue()

    async def serve(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            while True:
                request = asyncio.ensure_future(self._requests.get())
                gone = asyncio.ensure_future(self._gone.wait())
                await asyncio.wait({request, gone}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                if not request.done():
                    request.cancel()
                    return
                if not await self._answer(*request.result()):
                    return
        finally:
            reading.cancel()
            self._writer.close()

    async def _read(self) -> None:
        """Requests; the end of the connection is seen at once, also while an answer is made."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, ValueError):
            while True:
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip().split("\r\n")
                method, target, _ = first.split(" ")
                headers = {}
                for line in lines:
                    name, _, value = line.partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = await self._body(headers)
                self._requests.put_nowait((method, target, headers, body))
        self._gone.set()

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "") != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        while True:
            size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
            body += (await self._reader.readexactly(size + 2))[:-2]
            if size == 0:
                return body

    async def pause(self, seconds: float | None) -> None:
        """Wait, or raise HungUpError as soon as the caller is gone; None is for ever."""
        if seconds == 0 and not self._gone.is_set():
            await asyncio.sleep(0)  # the end of a connection is seen between two chunks
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)
            raise HungUpError

    async def send(self, data: bytes) -> None:
        if self._gone.is_set():
            raise HungUpError
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            raise HungUpError from None

    def reset(self) -> None:
        """End it with a reset instead of an end."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bool:
        """Whether the connection goes on."""
        path = target.partition("?")[0]
        if path.startswith("/_"):
            await self.send(_whole(200, self._server.control(path, body)))
            return True
        if path == "/v1/models":
            data = [{"id": m, "object": "model", "owned_by": "test"} for m in self._server.scripts]
            await self.send(_whole(200, {"object": "list", "data": data}))
            return True
        if method != "POST" or path not in DIALECTS:
            await self.send(_whole(404, {"error": {"message": f"no {method} {path} here"}}))
            return True
        try:
            asked = json.loads(body)
        except ValueError:
            await self.send(_whole(400, {"error": {"message": "this is not JSON"}}))
            return True
        call, script = self._server.enter(target, DIALECTS[path], headers, asked, len(body))
        call.connection = self._number
        try:
            return await Answer(self, call, script).send()
        except HungUpError:
            call.hung_up = True
            return False
        finally:
            call.over, call.ended = True, time.time()


class Answer:
    """One answer."""

    def __init__(self, connection: Connection, call: Call, script: Script) -> None:
        self._connection, self._call, self._script = connection, call, script
        self._asked = call.body
        words = [f"{word} " for word in (script.text or TEXT).split()]
        if script.tokens is not None:
            words = [words[i % len(words)] for i in range(script.tokens)]
        most = next(
            (
                self._asked[name]
                for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")
                if isinstance(self._asked.get(name), int)
            ),
            None,
        )
        self._cut = script.obey and most is not None and most < len(words)
        self._words = words[:most] if self._cut else words
        if self._words and not self._cut:
            self._words[-1] = self._words[-1].rstrip()
        self._input = call.size // 4 if script.input is None else script.input
        self._id = f"{call.number:08d}"

    async def send(self) -> bool:
        """Whether the connection may go on."""
        script, connection = self._script, self._connection
        await connection.pause(None if script.hang else script.first_byte)
        if script.reset_after == 0:
            connection.reset()
            return False
        if script.close_after == 0:
            return False
        if script.status != 200:
            key = self._call.headers.get("authorization") or self._call.headers.get("x-api-key")
            words = f"{script.error} (key: {key})" if script.quote_key else script.error
            await connection.send(_whole(script.status, self._failure(words), script.headers))
        elif self._asked.get("stream") and self._call.dialect not in ("embeddings", "count_tokens"):
            if not await self._stream():
                return False
        else:
            body = json.dumps(getattr(self, f"_{self._call.dialect}")()).encode()
            await connection.send(_head(200, script.headers, length=len(body)))
            step = script.bytes_at_once or len(body) or 1
            for start in range(0, len(body), step):
                await connection.pause(script.delay)
                await connection.send(body[start : start + step])
            self._call.chunks = len(self._words)
        if script.close_idle is not None:
            await connection.pause(script.close_idle)
            return False
        return True

    async def _stream(self) -> bool:
        script, connection = self._script, self._connection
        await connection.send(_head(200, {"content-type": "text/event-stream"} | script.headers))
        if script.line is not None:
            await connection.send(_chunk(b"data: "))
            for _ in range(script.line >> 16):
                await connection.send(_chunk(b"x" * (1 << 16)))
            await connection.pause(None)
        if script.error_after == 0:
            events: Iterator[tuple[str, bool]] = iter([(self._error_event(script.error), False)])
        elif script.raw is not None:
            events = iter([(script.raw, False)] if script.raw else [])
        else:
            events = getattr(self, f"_{self._call.dialect}_events")()
        if script.burst:
            text = "".join(event for event, _ in events)
            self._call.chunks = len(self._words)
            await connection.send(_chunk(text.encode()) + b"0\r\n\r\n")
            return True
        for event, is_word in events:
            if is_word:
                if self._call.chunks == script.error_after:
                    await connection.send(_chunk(self._error_event(script.error).encode()))
                    break
                if self._call.chunks == script.reset_after:
                    await connection.pause(READ_SECONDS)
                    connection.reset()
                    return False
                if self._call.chunks == script.close_after:
                    return False
                if self._call.chunks == script.stall_after:
                    await connection.pause(None)
                await connection.pause(script.delay)
            data = event.encode()
            step = script.bytes_at_once or len(data)
            for start in range(0, len(data), step):
                if script.bytes_at_once:
                    await connection.pause(script.delay)
                await connection.send(_chunk(data[start : start + step]))
            self._call.chunks += is_word
        await connection.send(b"0\r\n\r\n")
        return True

    # -- errors --------------------------------------------------------------------------------

    def _failure(self, words: str) -> dict[str, Any]:
        if self._call.dialect in ("messages", "count_tokens"):
            return {"type": "error", "error": {"type": "api_error", "message": words}}
        return {"error": {"message": words, "type": "server_error", "code": None, "param": None}}

    def _error_event(self, words: str) -> str:
        if self._call.dialect == "messages":
            return _event(self._failure(words), "error")
        if self._call.dialect == "responses":
            failure = {"type": "error", "code": "server_error", "message": words, "param": None}
            return _event(failure | {"sequence_number": 99}, "error")
        return _event(self._failure(words)) + "data: [DONE]\n\n"

    # -- usage ---------------------------------------------------------------------------------

    @property
    def _output(self) -> int:
        return len(self._words) if self._script.output is None else self._script.output

    def _openai_usage(self, words: tuple[str, str]) -> dict[str, Any] | None:
        """`words`: the dialect's for input and output. Its input has the cached tokens in it."""
        script = self._script
        if not script.usage:
            return None
        given, made = words
        whole = self._input + script.cache_read
        return {
            f"{given}_tokens": whole,
            f"{made}_tokens": self._output,
            "total_tokens": whole + self._output,
            f"{given}_tokens_details": {"cached_tokens": script.cache_read},
            f"{made}_tokens_details": {"reasoning_tokens": 0},
        }

    def _anthropic_usage(self, output: int) -> dict[str, int]:
        if not self._script.usage:
            return {"input_tokens": 0, "output_tokens": 0}
        return {
            "input_tokens": self._input,
            "output_tokens": output,
            "cache_read_input_tokens": self._script.cache_read,
            "cache_creation_input_tokens": self._script.cache_write,
        }

    # -- chat ----------------------------------------------------------------------------------

    def _chat_tool(self) -> list[dict[str, Any]]:
        tool = self._script.tool
        assert tool is not None
        function = {"name": tool["name"], "arguments": json.dumps(tool["arguments"])}
        return [{"index": 0, "id": f"call_{self._id}", "type": "function", "function": function}]

    def _chat(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._words)}
        finish = "length" if self._cut else "stop"
        if self._script.tool:
            message, finish = (
                message | {"content": None, "tool_calls": self._chat_tool()},
                "tool_calls",
            )
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        choices = [choice | {"index": i} for i in range(self._asked.get("n") or 1)]
        return self._chat_head("chat.completion") | {
            "choices": choices,
            "usage": self._openai_usage(("prompt", "completion")),
        }

    def _chat_head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._id}",
            "object": kind,
            "created": 1,
            "model": self._call.model,
            "system_fingerprint": "fp_test",
        }

    def _chat_events(self) -> Iterator[tuple[str, bool]]:
        options = self._asked.get("stream_options") or {}
        asks_usage = bool(options.get("include_usage")) and self._script.usage
        head = self._chat_head("chat.completion.chunk")

        def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
            return _event(head | {"choices": [choice]} | ({"usage": None} if asks_usage else {}))

        yield chunk({"role": "assistant", "content": ""}), False
        if self._script.tool:
            yield chunk({"tool_calls": self._chat_tool()}), True
            yield chunk({}, "tool_calls"), False
        else:
            for word in self._words:
                yield chunk({"content": word}), True
            yield chunk({}, "length" if self._cut else "stop"), False
        if asks_usage:
            usage = self._openai_usage(("prompt", "completion"))
            yield _event(head | {"choices": [], "usage": usage}), False
        yield "data: [DONE]\n\n", False

    # -- responses -----------------------------------------------------------------------------

    def _item(self, text: str, status: str) -> dict[str, Any]:
        tool = self._script.tool
        if tool:
            return {
                "type": "function_call",
                "id": f"fc_{self._id}",
                "call_id": f"call_{self._id}",
                "name": tool["name"],
                "arguments": json.dumps(tool["arguments"]) if text else "",
                "status": status,
            }
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {
            "type": "message",
            "id": f"msg_{self._id}",
            "role": "assistant",
            "status": status,
            "content": [part] if text else [],
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        over = status in ("completed", "incomplete")
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": 1,
            "status": status,
            "model": self._call.model,
            "output": output,
            "error": None,
            "incomplete_details": (
                {"reason": "max_output_tokens"} if status == "incomplete" else None
            ),
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": self._openai_usage(("input", "output")) if over else None,
        }

    def _responses(self) -> dict[str, Any]:
        text = "".join(self._words)
        return self._response(self._end, [self._item(text, "completed")])

    @property
    def _end(self) -> str:
        return "incomplete" if self._cut else "completed"

    def _responses_events(self) -> Iterator[tuple[str, bool]]:
        numbers = iter(range(1_000_000))

        def event(kind: str, **rest: Any) -> str:
            return _event({"type": kind, "sequence_number": next(numbers)} | rest, kind)

        text = "".join(self._words)
        yield event("response.created", response=self._response("in_progress", [])), False
        yield event("response.in_progress", response=self._response("in_progress", [])), False
        item = self._item("", "in_progress")
        yield event("response.output_item.added", output_index=0, item=item), False
        where = {"item_id": item["id"], "output_index": 0}
        if self._script.tool:
            text = json.dumps(self._script.tool["arguments"])
            yield event("response.function_call_arguments.delta", **where, delta=text), True
            kind = "response.function_call_arguments.done"
            yield event(kind, **where, name=self._script.tool["name"], arguments=text), False
        else:
            where["content_index"] = 0
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield event("response.content_part.added", **where, part=part), False
            for word in self._words:
                yield event("response.output_text.delta", **where, delta=word, logprobs=[]), True
            yield event("response.output_text.done", **where, text=text, logprobs=[]), False
            whole = part | {"text": text}
            yield event("response.content_part.done", **where, part=whole), False
        done = self._item(text, "completed")
        yield event("response.output_item.done", output_index=0, item=done), False
        last = self._response(self._end, [done])
        yield event(f"response.{self._end}", response=last), False

    # -- messages ------------------------------------------------------------------------------

    @property
    def _stop(self) -> str:
        return "tool_use" if self._script.tool else "max_tokens" if self._cut else "end_turn"

    def _block(self) -> dict[str, Any]:
        tool = self._script.tool
        if tool is None:
            return {"type": "text", "text": "".join(self._words)}
        return {
            "type": "tool_use",
            "id": f"toolu_{self._id}",
            "name": tool["name"],
            "input": tool["arguments"],
        }

    def _message(
        self, content: list[dict[str, Any]], stop: str | None, output: int
    ) -> dict[str, Any]:
        return {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "model": self._call.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": self._anthropic_usage(output),
        }

    def _messages(self) -> dict[str, Any]:
        return self._message([self._block()], self._stop, self._output)

    def _messages_events(self) -> Iterator[tuple[str, bool]]:
        def event(kind: str, **rest: Any) -> str:
            return _event({"type": kind} | rest, kind)

        yield event("message_start", message=self._message([], None, 1)), False
        tool = self._script.tool
        empty = {"type": "text", "text": ""} if tool is None else self._block() | {"input": {}}
        yield event("content_block_start", index=0, content_block=empty), False
        yield event("ping"), False
        if tool:
            part = {"type": "input_json_delta", "partial_json": json.dumps(tool["arguments"])}
            yield event("content_block_delta", index=0, delta=part), True
        else:
            for word in self._words:
                part = {"type": "text_delta", "text": word}
                yield event("content_block_delta", index=0, delta=part), True
        yield event("content_block_stop", index=0), False
        end = {"stop_reason": self._stop, "stop_sequence": None}
        yield event("message_delta", delta=end, usage=self._anthropic_usage(self._output)), False
        yield event("message_stop"), False

    def _count_tokens(self) -> dict[str, Any]:
        return {"input_tokens": self._input}

    # -- embeddings ----------------------------------------------------------------------------

    def _embeddings(self) -> dict[str, Any]:
        asked = self._asked.get("input")
        texts = asked if isinstance(asked, list) else [asked]
        data = [
            {"object": "embedding", "index": i, "embedding": [0.25, -0.5, 0.125]}
            for i in range(len(texts))
        ]
        usage = {"prompt_tokens": self._input, "total_tokens": self._input}
        body = {"object": "list", "model": self._call.model, "data": data}
        return body | ({"usage": usage} if self._script.usage else {})


def _event(data: Any, name: str = "") -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _head(status: int, headers: dict[str, str], length: int | None = None) -> bytes:
    """Of an answer of `length` bytes; None: it comes in chunks."""
    every = {"content-type": "application/json", "x-request-id": "req_test"} | headers
    if length is None:
        every["transfer-encoding"] = "chunked"
    else:
        every["content-length"] = str(length)
    lines = "".join(f"{name}: {value}\r\n" for name, value in every.items())
    return f"HTTP/1.1 {status} Written\r\n{lines}\r\n".encode()


def _whole(status: int, body: Any, headers: dict[str, str] | None = None) -> bytes:
    text = json.dumps(body).encode()
    return _head(status, headers or {}, len(text)) + text


class Server:
    """Scripts by model, and what was asked."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self._log: list[Call] = []
        self._connections = 0

    def control(self, path: str, body: bytes) -> Any:
        if path == "/_script":
            asked = json.loads(body)
            model = asked.pop("model")
            self.scripts[model] = Script(**asked)
            return {}
        if path in ("/_forget", "/_reset"):
            self._log = []
            self.scripts = {} if path == "/_reset" else self.scripts
            return {}
        return [asdict(call) for call in self._log]

    def enter(
        self, target: str, dialect: str, headers: dict[str, str], asked: Any, size: int
    ) -> tuple[Call, Script]:
        model = asked.get("model", "") if isinstance(asked, dict) else ""
        call = Call(
            len(self._log) + 1, target, dialect, model, headers, asked, size, 0, time.time()
        )
        self._log.append(call)
        script = self.scripts.get(model) or Script()
        if script.times is not None:
            if script.times == 0:
                return call, Script()
            script.times -= 1
        return call, script

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        with contextlib.suppress(OSError, HungUpError, asyncio.CancelledError):  # last: at the end
            await Connection(self, self._connections, reader, writer).serve()


async def _main(port: int, certificate: str) -> None:
    server = Server()
    secure = None
    if certificate:
        secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secure.load_cert_chain(certificate)
    listening = await asyncio.start_server(
        server.connected, "127.0.0.1", port, limit=1 << 20, ssl=secure
    )
    print(listening.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, lambda: sys.stdin.buffer.raw.read(1 << 10) or ended.set())
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


class Provider:
    """The process, from `with` until the end of the block."""

    def __init__(self, port: int = 0, certificate: str = "") -> None:
        """`certificate`: a file with it and its key; then it speaks TLS."""
        self._port = port
        self._certificate = certificate
        self._trust = ssl.create_default_context(cafile=certificate) if certificate else None

    def __enter__(self) -> Provider:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.llm.server", str(self._port), self._certificate],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """Without /v1."""
        return f"http{'s' if self._certificate else ''}://127.0.0.1:{self._port}"

    def script(self, model: str, **behaviour: Any) -> None:
        """How `model` answers from now on: the fields of `Script`."""
        asdict(Script(**behaviour))
        self._ask("/_script", {"model": model} | behaviour)

    def forget(self) -> None:
        """Empty the log."""
        self._ask("/_forget", {})

    def reset(self) -> None:
        """Forget the scripts, too."""
        self._ask("/_reset", {})

    def log(self) -> list[Call]:
        """Every request so far."""
        return [Call(**call) for call in self._ask("/_log", None)]

    def wait(self, what: Callable[[list[Call]], object], patience: float = 60.0) -> list[Call]:
        """The log, as soon as `what` is true of it."""
        deadline = time.monotonic() + patience
        while not what(log := self.log()):
            assert time.monotonic() < deadline, log
            time.sleep(0.01)
        return log

    def _ask(self, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        with urllib.request.urlopen(request, timeout=60, context=self._trust) as answer:
            return json.load(answer)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 0, "".join(sys.argv[2:])))
