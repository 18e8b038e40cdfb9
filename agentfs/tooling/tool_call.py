"""One call of a tool: its result as it comes, and how it ended."""

from __future__ import annotations

from collections.abc import Callable

import trio

from agentfs.base.errors import KernelError

__all__ = ["ToolCall"]

MOST_WAITING = 256 * 1024
"""Bytes of a result that wait to be read; then its tool waits."""


class ToolCall:
    """`changed` is called whenever there is something new: it is accepted, or refused; there is
    more to read; it is over."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._scope = trio.CancelScope()
        self._waiting = bytearray()
        self._room = trio.Event()
        self._failure: KernelError | None = None
        self.accepted = False
        self.over = False

    @property
    def scope(self) -> trio.CancelScope:
        """All that is done for it."""
        return self._scope

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._scope.cancel()

    def accept(self) -> None:
        """The tool is at work: what goes wrong from now on is told to who reads."""
        self.accepted = True
        self._changed()

    async def put(self, content: bytes) -> None:
        """Add to the result; waits while nobody reads it."""
        self._waiting += content
        self._changed()
        while len(self._waiting) >= MOST_WAITING:
            self._room = trio.Event()
            await self._room.wait()

    def finish(self, failure: KernelError | None = None) -> None:
        """There is no more of it."""
        self._failure = failure
        self.over = True
        self._changed()

    def refusal(self) -> KernelError | None:
        """Why it was not made."""
        return self._failure if self.over and not self.accepted else None

    def ready(self) -> bool:
        """Whether `take` would answer at once."""
        return bool(self._waiting) or self.over

    def take(self, size: int) -> bytes | None:
        """The next bytes; empty at the end; None if there are none yet. Raises the failure, after
        all that came before it."""
        if self._waiting:
            found = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._room.set()
            return found
        if not self.over:
            return None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return b""
