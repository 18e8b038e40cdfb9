"""What a provider is to the gateway: something that is sent a request, and gives a reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import h11
import trio

from agentfs.dialects.dialect import Request
from agentfs.gateway.catalogue import Patience

__all__ = [
    "AGAIN",
    "Deadline",
    "Event",
    "FailedError",
    "Headers",
    "Incoming",
    "Outgoing",
    "Source",
]

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""

Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]
"""The next step of HTTP."""

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Answers that another try can change."""


class FailedError(Exception):
    """A provider did not answer, or not to the end. `again`: before it had the request, so that
    another try costs nothing."""

    def __init__(self, words: str, errno: str = "EREMOTEIO", *, again: bool = True) -> None:
        super().__init__(words)
        self.words, self.errno, self.again = words, errno, again

    def again_said(self) -> FailedError:
        """The same to raise once more, without what the first one has gone through."""
        return FailedError(self.words, self.errno, again=self.again)


@dataclass(slots=True)
class Outgoing:
    """A request to a provider: the caller's, and what of it is sent. `target` is the path with its
    query. `sent`: all of it has been written, so that the provider may work on it."""

    request: Request
    target: str
    headers: Headers
    body: bytes
    sent: bool = False


class Deadline:
    """How long the provider may take for what it does now. One scope has all deadlines of a try,
    one after the other; `passed` says which was the last."""

    __slots__ = ("_patience", "_scope", "_seconds", "_words")

    def __init__(self, scope: trio.CancelScope, patience: Patience) -> None:
        self._scope, self._patience = scope, patience
        self._words, self._seconds = "", 0.0

    @property
    def passed(self) -> str:
        return f"{self._words} {self._seconds:g} seconds"

    def connect(self) -> None:
        self._allow(self._patience.connect, "could not be connected to in")

    def first_byte(self) -> None:
        self._allow(self._patience.first_byte, "sent no byte of an answer in")

    def idle(self) -> None:
        self._allow(self._patience.idle, "sent nothing more for")

    def _allow(self, seconds: float, words: str) -> None:
        self._words, self._seconds = words, seconds
        self._scope.deadline = trio.current_time() + seconds

    def rest(self) -> None:
        """It is not the provider's turn."""
        self._scope.deadline = math.inf


class Incoming(Protocol):
    """A provider's answer: its head, and its body as it comes."""

    status: int
    headers: Headers

    async def read(self) -> bytes:
        """The next bytes of the body, all that are there; b"" is its end. Raises FailedError."""

    def complete(self) -> None:
        """What was read is a whole answer, even if the end of the body did not come yet."""

    def close(self) -> None:
        """No more of it is wanted. If it was not over, the provider is stopped."""


class Source(Protocol):
    """A provider."""

    async def send(self, request: Outgoing, deadline: Deadline) -> Incoming:
        """Ask it; returns with the head of its reply. Raises FailedError."""

    async def aclose(self) -> None:
        """Not wanted any more: end its connections and processes."""
