"""A Maildir driven by the standard library's `mailbox`: on a disk, or the inbox of an agent."""

from __future__ import annotations

import mailbox
import time
from typing import IO, Any

from bench.alternatives.transport import END, Receiver, Sender

__all__ = ["MaildirReceiver", "MaildirSender"]

PAUSE = 0.001
"""Seconds between two looks into an empty Maildir."""


def _flush_only(file: IO[Any]) -> None:
    file.flush()


class MaildirSender(Sender):
    """`Maildir.add`, which syncs every file unless told otherwise."""

    def __init__(self, path: str, *, sync: bool) -> None:
        self._box = mailbox.Maildir(path)
        if not sync:
            mailbox._sync_flush = _flush_only  # type: ignore[attr-defined]

    def send(self, body: bytes) -> None:
        self._box.add(body)


class MaildirReceiver(Receiver):
    """List, read, remove: what there is to do where one program reads a mailbox. No claim."""

    def __init__(self, path: str) -> None:
        self._box = mailbox.Maildir(path)
        self._keys: list[str] = []
        self._current = ""

    def receive(self) -> bytes:
        while not self._keys:
            self._keys = sorted(self._box.keys(), reverse=True)
            if not self._keys:
                time.sleep(PAUSE)
        self._current = self._keys.pop()
        return self._box.get_bytes(self._current)

    def acknowledge(self) -> None:
        self._box.discard(self._current)

    def drain(self) -> int:
        """A listing is in no order: the end is where nothing is left."""
        handled, ended = 0, False
        while not ended or self._keys or self._box.keys():
            if self.receive().endswith(END):
                ended = True
            else:
                handled += 1
            self.acknowledge()
        return handled
