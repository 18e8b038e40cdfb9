"""A provider of models for the benchmark: `provider.py`, which prints its port.

It speaks chat completions as OpenAI does, and costs next to nothing, so that what is measured is
what stands between it and the caller. The prompt says what the answer is: `say N GAP` is N chunks
of a word, all different, with GAP milliseconds between two; in one document if no stream was asked
for.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from typing import Any

__all__ = ["main"]

CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "
STREAM = HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Provider(asyncio.Protocol):
    """One connection, kept open."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._transport: Any = None
        self._answers: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        for answer in self._answers:
            answer.cancel()

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._got[:end]).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._got) < end + 4 + length:
                return
            body = bytes(self._got[end + 4 : end + 4 + length])
            del self._got[: end + 4 + length]
            if body:
                self._serve(json.loads(body))
            else:  # a look whether there is somebody
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def _serve(self, request: dict[str, Any]) -> None:
        words = str(request["messages"][-1]["content"]).split()
        count, gap = int(words[1]), float(words[2]) / 1000
        usage = {"prompt_tokens": 4, "completion_tokens": count, "total_tokens": 4 + count}
        if not request.get("stream"):
            message = {"role": "assistant", "content": "word" * count}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = CHUNK | {"object": "chat.completion", "choices": [choice], "usage": usage}
            text = json.dumps(whole).encode()
            length = f"application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            self._transport.write(HEAD + length + text)
            return
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        last = [CHUNK | {"choices": [end]}]
        if (request.get("stream_options") or {}).get("include_usage"):
            last.append(CHUNK | {"choices": [], "usage": usage})
        closing = b"".join(map(_chunk, last)) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        if not gap:
            self._transport.write(STREAM + b"".join(map(_word, range(count))) + closing)
            return
        answer = asyncio.create_task(self._pace(count, gap, closing))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _pace(self, count: int, gap: float, closing: bytes) -> None:
        self._transport.write(STREAM)
        for number in range(count):
            self._transport.write(_word(number))
            await asyncio.sleep(gap)
        self._transport.write(closing)


def _framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@functools.cache
def _word(number: int) -> bytes:
    delta = {"content": f" word{number}"}
    return _chunk(CHUNK | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def _chunk(chunk: dict[str, Any]) -> bytes:
    return _framed(b"data: " + json.dumps(chunk).encode() + b"\n\n")


async def main() -> None:
    """Serve on a free port of the loopback until the program is ended."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
