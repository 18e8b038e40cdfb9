"""A caller of models for the benchmark: a client of HTTP that costs as little as one can.

It makes calls of the same kind directly and through what is compared, over connections that are
kept open. As a program, `caller.py PORT KEY MODEL LINES CHUNKS GAP` streams on so many connections
at once, prints a line when all of them have begun, and ends when all have ended.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["Caller"]


@dataclass(slots=True)
class _Line:
    """A connection, and the answer that is under way on it."""

    socket: socket.socket
    got: bytearray = field(default_factory=bytearray)
    started: int = 0
    first: int = 0
    head: int = -1

    def is_whole(self) -> bool:
        """Whether the answer is complete: by its length, or by its last chunk."""
        if self.head < 0:
            self.head = self.got.find(b"\r\n\r\n")
            if self.head < 0:
                return False
        head = bytes(self.got[: self.head]).lower()
        if b"content-length:" in head:
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            return len(self.got) >= self.head + 4 + length
        return self.got.endswith(b"0\r\n\r\n")


class Caller:
    """Calls `host:port`, at most `lines` at once."""

    def __init__(self, port: int, key: str, model: str, lines: int) -> None:
        self._model = model
        self._key = key
        self._port = port
        self._lines = [_Line(self._connected()) for _ in range(lines)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            line.socket.close()

    def _connected(self) -> socket.socket:
        line = socket.create_connection(("127.0.0.1", self._port))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line

    def call(
        self,
        count: int,
        lines: int,
        chunks: int,
        gap: float = 0.0,
        stream: bool = False,
        begun_all: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """So many calls, on so many connections at once, each answered by `chunks` words.
        Nanoseconds: of all of them, of each, and to the first byte of the body of each."""
        request = self._request(chunks, gap, stream)
        free = self._lines[:lines]
        self._refresh(free)
        whole: list[int] = []
        first: list[int] = []
        words = answering = 0
        started = time.perf_counter_ns()
        with selectors.DefaultSelector() as waiting:
            for line in free:
                waiting.register(line.socket, selectors.EVENT_READ, line)
            begun = 0
            for line in free[:count]:
                self._begin(line, request)
                begun += 1
            while len(whole) < count:
                for key, _ in waiting.select():
                    line = key.data
                    data = line.socket.recv(1 << 18)
                    if not data:
                        raise RuntimeError(f"closed after {bytes(line.got)[-500:]!r}")
                    line.got += data
                    if not line.first and b"word" in line.got:
                        line.first = time.perf_counter_ns()
                        answering += 1
                        if answering == count:
                            begun_all()
                    if not line.is_whole():
                        continue
                    whole.append(time.perf_counter_ns() - line.started)
                    first.append(line.first - line.started)
                    words += line.got.count(b"word")
                    if b" 200 " not in line.got[:20]:
                        raise RuntimeError(f"refused: {bytes(line.got)[:500]!r}")
                    if begun < count:
                        self._begin(line, request)
                        begun += 1
        took = time.perf_counter_ns() - started
        return {"took": took, "whole": whole, "first": first, "words": words}

    def _refresh(self, lines: list[_Line]) -> None:
        """Servers close a connection that was idle for some seconds."""
        for line in lines:
            with selectors.DefaultSelector() as closed:
                closed.register(line.socket, selectors.EVENT_READ)
                if closed.select(0):
                    line.socket.close()
                    line.socket = self._connected()

    def _begin(self, line: _Line, request: bytes) -> None:
        line.got.clear()
        line.first, line.head, line.started = 0, -1, time.perf_counter_ns()
        line.socket.sendall(request)

    def _request(self, chunks: int, gap: float, stream: bool) -> bytes:
        message = {"role": "user", "content": f"say {chunks} {gap}"}
        asked = {"model": self._model, "messages": [message], "max_tokens": max(16, chunks)}
        body = json.dumps(asked | ({"stream": True} if stream else {})).encode()
        return (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def main(port: str, key: str, model: str, lines: str, chunks: str, gap: str) -> None:
    """Stream on all connections at once."""
    number = int(lines)
    with Caller(int(port), key, model, number) as caller:
        caller.call(
            number, number, int(chunks), float(gap), True, lambda: print("begun", flush=True)
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
