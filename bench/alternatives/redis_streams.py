"""A Redis stream with a consumer group, through redis-py over loopback."""

from __future__ import annotations

import os
from typing import Any

import redis  # type: ignore[import-not-found]  # in .venv-bench

from bench.alternatives.transport import END, Receiver, Sender

__all__ = ["StreamBatchReceiver", "StreamReceiver", "StreamSender"]

GROUP = "agents"


def _client(port: int) -> Any:
    return redis.Redis(host="127.0.0.1", port=port, socket_timeout=None)


class StreamSender(Sender):
    """XADD."""

    def __init__(self, port: int, stream: str) -> None:
        self._client = _client(port)
        self._stream = stream

    def send(self, body: bytes) -> None:
        self._client.xadd(self._stream, {"body": body})


class StreamReceiver(Receiver):
    """XREADGROUP that blocks, and XACK."""

    def __init__(self, port: int, stream: str, size: int = 1) -> None:
        self._client = _client(port)
        self._stream = stream
        self._name = str(os.getpid())
        self._size = size
        self._current: list[bytes] = []
        try:
            self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as failure:  # another consumer was first
            if not str(failure).startswith("BUSYGROUP"):
                raise

    def read(self) -> list[bytes]:
        """The bodies of what comes next, at most `size`."""
        answer = self._client.xreadgroup(
            GROUP, self._name, {self._stream: ">"}, count=self._size, block=0
        )
        if isinstance(answer, dict):  # as RESP 3 has it
            [[entries]] = answer.values()
        else:
            [[_, entries]] = answer
        self._current = [number for number, _ in entries]
        return [fields[b"body"] for _, fields in entries]

    def receive(self) -> bytes:
        [body] = self.read()
        return body

    def acknowledge(self) -> None:
        self._client.xack(self._stream, GROUP, *self._current)


class StreamBatchReceiver(StreamReceiver):
    """The same, up to so many entries at once."""

    def drain(self) -> int:
        handled = 0
        while True:
            bodies = self.read()
            self.acknowledge()
            handled += len(bodies)
            if bodies[-1] == END:
                return handled - 1
