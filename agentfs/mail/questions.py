"""Mail tells the room that keeps questions: a message opens one, and another answers it."""

from __future__ import annotations

from typing import Protocol

from agentfs.mail.message import Message

__all__ = ["NO_QUESTIONS", "Question", "Questions"]


class Question(Protocol):
    """One that waits for its answer. `apart`: the answer is read from the question alone, and lies
    in no mailbox."""

    @property
    def id(self) -> int: ...

    @property
    def key(self) -> str: ...

    @property
    def apart(self) -> bool: ...


class Questions(Protocol):
    """All of them. Calls belong inside a transaction, but `expire_due`."""

    def expire_due(self, question: int = 0) -> object:
        """Close what nobody answered in time, the one that message `question` put at least."""

    def awaiting(self, sender: str, mailbox: str, parent: Message) -> Question | None:
        """The open question that a reply of `sender` to `parent`, sent to `mailbox`, answers."""

    def open(self, message: Message, deadline: float, *, apart: bool) -> object:
        """Wait for a reply to `message`, which was just accepted. EAGAIN: too many are open."""

    def answered(self, question: int, message: Message, content: bytes) -> None:
        """`message` is the answer to question `question`."""

    def mailbox_removed(self, name: str) -> None:
        """A mailbox is about to be removed: what its owner has asked goes with it, and nobody
        there answers any more."""


class _NoQuestions:
    """Nobody keeps any: a question is a message like others."""

    def expire_due(self, question: int = 0) -> None: ...

    def awaiting(self, sender: str, mailbox: str, parent: Message) -> None: ...

    def open(self, message: Message, deadline: float, *, apart: bool) -> None: ...

    def answered(self, question: int, message: Message, content: bytes) -> None: ...

    def mailbox_removed(self, name: str) -> None: ...


NO_QUESTIONS: Questions = _NoQuestions()
