"""Readers: who got a message through `recv`, and so by whose next claim it is acknowledged.

Several loops may read for one agent, and each acknowledges its own message alone. An open file is a
reader of its own. Once it is closed (`cat` opens one for each message), what it got belongs to the
loop that it was opened for, and the next file of the same loop comes after it.
"""

from __future__ import annotations

from collections.abc import Callable

from agentfs.process.lineage import Lineage

__all__ = ["Reader"]


class Reader:
    """One open `recv` of the mailbox `mailbox`. `began`: it has tried to claim; `claimed`: it got
    something; `closed`: what it got waits for the next file of its loop."""

    __slots__ = ("_find", "_origin", "began", "claimed", "closed", "mailbox")

    def __init__(self, mailbox: str, find: Callable[[], Lineage] | None = None) -> None:
        self.mailbox = mailbox
        self.began = False
        self.claimed = False
        self.closed = False
        self._find = find
        self._origin: Lineage | None = None

    def begin(self) -> None:
        """It is about to claim: find out whom it reads for, while that can be told."""
        self.began = True
        self._locate()

    def close(self) -> None:
        self.closed = True
        if self._origin is not None:
            self._origin.watch()

    def failure(self) -> int:
        """The exit code with which what read here failed; 0: it did not."""
        return 0 if self._origin is None else self._origin.failure()

    def follows(self, before: Reader | None) -> bool:
        """Whether the claims of this reader come after those of `before`, which is closed."""
        if before is None or before._origin is None:
            return True
        origin = self._locate()
        return origin is None or origin.continues(before._origin)

    def _locate(self) -> Lineage | None:
        if self._origin is None and self._find is not None:
            self._origin = self._find()
        return self._origin
