"""Readers of `recv`: a message is acknowledged by the next read of the reader that got it.

Several loops may read for one agent, and each acknowledges its own message alone. An open file is a
reader of its own. Once it is closed (`cat` opens one for each message), what it got belongs to the
loop that it was opened for, and the next file of the same path that this loop opens comes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agentfs.machine.lineage import Lineage

if TYPE_CHECKING:
    from agentfs.mail.message import Message

__all__ = ["Reader"]


class Reader:
    """One open file `path` (`recv`, `recv.batch`) of the mailbox `mailbox`. `began`: it has tried
    to claim; `claimed`: it got something; `settled`: somebody said what became of that, by a word
    or by deleting it; `went_without`: it asked for more in vain, which acknowledged what it had;
    `closed`: what it got waits for the next file of its loop; `handed`: what was claimed for it
    while it waited in a read (see `hand_over`), and no read has been answered with yet."""

    __slots__ = (
        "_find",
        "_origin",
        "began",
        "claimed",
        "closed",
        "handed",
        "mailbox",
        "path",
        "settled",
        "went_without",
    )

    def __init__(
        self, mailbox: str, find: Callable[[], Lineage] | None = None, path: str = "recv"
    ) -> None:
        self.mailbox = mailbox
        self.path = path
        self.began = False
        self.claimed = False
        self.settled = False
        self.went_without = False
        self.closed = False
        self.handed: tuple[Message, ...] = ()
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

    def is_over(self) -> bool:
        """Whether it was a walker that read here, which has ended: nobody asks for more."""
        return self._origin is not None and self._origin.is_over()

    def has_left(self) -> bool:
        """Whether the program that read here has ended, and the one for which it did."""
        return self._origin is not None and self._origin.has_left()

    @property
    def was_asked(self) -> bool:
        """Whether somebody named this file, or that is not known."""
        return self._origin is None or self._origin.was_asked

    def continues(self, before: Reader | None) -> bool:
        """Whether a claim of this reader acknowledges those of `before`, which is closed."""
        if before is None:
            return True
        if before.path != self.path:
            return False
        origin = self._locate()
        return origin is None or before._origin is None or origin.continues(before._origin)

    def follows(self, before: Reader | None) -> bool:
        """Whether this reader may say what became of the claims of `before`, which is closed."""
        if before is None:
            return True
        if before.path != self.path:
            return False
        origin = self._locate()
        return origin is None or before._origin is None or origin.follows(before._origin)

    def _locate(self) -> Lineage | None:
        if self._origin is None and self._find is not None:
            self._origin = self._find()
        return self._origin
