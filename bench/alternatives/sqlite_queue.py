"""A queue in a SQLite file: the library litequeue."""

from __future__ import annotations

import time

from litequeue import LiteQueue  # type: ignore[import-not-found]  # in .venv-bench

from bench.alternatives.transport import Receiver, Sender

__all__ = ["QueueReceiver", "QueueSender"]

PAUSE = 0.001
"""Seconds between two looks into an empty queue; the library has no waiting of its own."""
PATIENCE = 60.0
"""Seconds to wait for a lock of the database."""


class QueueSender(Sender):
    def __init__(self, path: str) -> None:
        self._queue = LiteQueue(path, timeout=PATIENCE)

    def send(self, body: bytes) -> None:
        self._queue.put(body.decode())


class QueueReceiver(Receiver):
    def __init__(self, path: str) -> None:
        self._queue = LiteQueue(path, timeout=PATIENCE)
        self._current = ""

    def receive(self) -> bytes:
        while (message := self._queue.pop()) is None:
            time.sleep(PAUSE)
        self._current = message.message_id
        return str(message.data).encode()

    def acknowledge(self) -> None:
        self._queue.done(self._current)
