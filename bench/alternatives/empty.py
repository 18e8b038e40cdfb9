"""A box of the empty mail, see `bench/empty_mail.py`."""

from __future__ import annotations

import os

from bench.alternatives.transport import Receiver, Sender

__all__ = ["EmptyReceiver", "EmptySender"]


class EmptySender(Sender):
    """One write, one message."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY)

    def send(self, body: bytes) -> None:
        os.write(self._file, body)


class EmptyReceiver(Receiver):
    """One read, one message."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def receive(self) -> bytes:
        return os.read(self._file, 1 << 16)

    def acknowledge(self) -> None:
        """Nothing is kept of it."""
