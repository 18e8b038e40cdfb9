"""The ways of AgentFS, as an agent's own program uses them."""

from __future__ import annotations

import os
import select
import time

from inotify_simple import INotify, flags, masks

from bench.alternatives.transport import END, Receiver, Sender

__all__ = [
    "BatchReceiver",
    "OutboxSender",
    "PollReceiver",
    "RecvReceiver",
    "SendSender",
    "Watcher",
]

PIECE = 1 << 16
PATIENCE_MS = 10_000
"""How long a watcher waits for the next event before it takes it for lost."""


def _own(path: str) -> str:
    return f"{os.environ['AGENTFS']}/{path}"


class SendSender(Sender):
    """A `send` that is kept open: one write, one message. With `sync` it is fsynced."""

    def __init__(self, to: str, path: str = "agents/self/send", *, sync: bool = False) -> None:
        self._file = os.open(_own(path), os.O_WRONLY)
        self._head = f"To: {to}\n\n".encode()
        self._sync = sync

    def send(self, body: bytes) -> None:
        os.write(self._file, self._head + body)
        if self._sync:
            os.fsync(self._file)


class OutboxSender(Sender):
    """A file of the outbox for each message: open, write, close."""

    def __init__(self, to: str) -> None:
        self._path = _own(f"agents/self/outbox/{to}")

    def send(self, body: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, body)
        finally:
            os.close(file)


class RecvReceiver(Receiver):
    """A `recv` that is kept open, in packet mode: a read that waits is a message, and asking for
    the next acknowledges."""

    FLAGS = os.O_RDWR | os.O_DIRECT

    def __init__(self, path: str = "agents/self/recv") -> None:
        self._file = os.open(_own(path), self.FLAGS)

    def receive(self) -> bytes:
        content = piece = os.read(self._file, PIECE)
        while len(piece) == PIECE:
            piece = os.read(self._file, PIECE)
            content += piece
        return content

    def acknowledge(self) -> None:
        """The next `receive` does."""

    def rest(self) -> None:
        os.write(self._file, b"done")


class BatchReceiver(RecvReceiver):
    """A `recv.batch` that is kept open: up to so many messages in one read."""

    def __init__(self, size: int) -> None:
        super().__init__("agents/self/recv.batch")
        os.write(self._file, str(size).encode())

    def drain(self) -> int:
        handled = 0
        while True:
            batch = self.receive()
            handled += batch.count(b"\nClaimed-As: ")
            if batch.rstrip().endswith(END.rstrip()):
                self.rest()
                return handled - 1


class PollReceiver(RecvReceiver):
    """A `recv` that does not wait: poll(2) says when there is something."""

    FLAGS = RecvReceiver.FLAGS | os.O_NONBLOCK

    def __init__(self) -> None:
        super().__init__()
        self._poller = select.poll()
        self._poller.register(self._file, select.POLLIN)

    def receive(self) -> bytes:
        while True:
            try:
                return super().receive()
            except BlockingIOError:
                self._poller.poll()


class Watcher(RecvReceiver):
    """A program that watches its `inbox/new` with inotify: for what is created there, or for
    `everything`."""

    FLAGS = RecvReceiver.FLAGS | os.O_NONBLOCK

    def __init__(self, *, everything: bool = False) -> None:
        super().__init__()
        self._inotify = INotify()
        wanted = masks.ALL_EVENTS if everything else flags.CREATE
        self._inotify.add_watch(_own("agents/self/inbox/new"), wanted)

    def notice(self, count: int) -> list[int]:
        """When each event came; fewer than `count` if events were lost. The mail is taken
        afterwards."""
        wakes: list[int] = []
        while len(wakes) < count:
            events = self._inotify.read(timeout=PATIENCE_MS)
            now = time.perf_counter_ns()
            if not events:
                break
            wakes += [now for event in events if event.mask & flags.CREATE]
        while True:
            try:
                self.receive()
            except BlockingIOError:
                break
        while self._inotify.read(timeout=100):
            pass
        return wakes
