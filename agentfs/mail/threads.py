"""Threads: which message a reply may refer to, and how that reads in its headers.

A reference is valid if the message is kept, was not in vain (it expired, or it was a question that
nobody answered in time) and concerns the replier: it lies, or lay, in its mailbox, the replier
claimed it, or sent it. Any other `In-Reply-To` is dropped without a word, so that nobody
learns from it which messages there are.
"""

from __future__ import annotations

import re

from agentfs.mail.mailboxes import Mailboxes
from agentfs.mail.message import Message

__all__ = ["Threads"]

# `<000000000042@node>` as Message-ID says it, or the number alone.
_REFERENCE = re.compile(r"<([0-9]{1,15})@([^<>@\s]{1,255})>|([0-9]{1,15})")

# Message-IDs in `References` beside the first: more than any mail program shows, little enough to
# be written with every reply of an endless conversation.
NEWEST = 20


class Threads:
    """A view on the messages that are kept. `node` is this machine's name in their ids."""

    def __init__(self, boxes: Mailboxes, node: str) -> None:
        self._boxes = boxes
        self._node = node

    def parent(self, replier: str, said: str) -> Message | None:
        """The message that `replier` refers to by the text `said`; None if it is not valid."""
        found = self._boxes.archive.find(self.number(said))
        if found is None or found.lapsed or found.folder == "expired":
            return None
        return found if replier in (found.mailbox, found.claimant, found.sender) else None

    def wrote(self, writer: str, reader: str) -> bool:
        """Whether a message from `writer` to `reader`, or that `reader` took, is kept: so long may
        `reader` answer, whatever both are."""
        sent = self._boxes.archive.sent(writer).values()
        return any(reader in (m.mailbox, m.claimant) for m in sent) or writer in self.writers(
            reader
        )

    def writers(self, reader: str) -> set[str]:
        """From whom there is mail in the inbox of `reader`, taken or not."""
        box = self._boxes.box(reader)
        return {message.sender for held in (box.cur, box.new) for message in held.values()}

    def number(self, said: str) -> int:
        """The number that the text `said` names; 0, which no message has, if it names none."""
        match = _REFERENCE.fullmatch(said)
        if match is None or match[2] not in (None, self._node):
            return 0
        return int(match[1] or match[3])

    def below(self, parent: Message | None) -> tuple[int, ...]:
        """The thread of a reply to `parent`: the messages before it, oldest first, the last one
        being `parent` itself. Of a long one only the first and the newest."""
        if parent is None:
            return ()
        thread = (*parent.thread, parent.seq)
        return thread if len(thread) <= NEWEST + 1 else (thread[0], *thread[-NEWEST:])

    def headers(self, thread: tuple[int, ...]) -> list[tuple[str, str]]:
        """How a thread reads in the headers of its newest message."""
        if not thread:
            return []
        names = [self.name(seq) for seq in thread]
        return [("In-Reply-To", names[-1]), ("References", " ".join(names))]

    def name(self, seq: int) -> str:
        """A message's Message-ID."""
        return f"<{seq:012d}@{self._node}>"
