"""Every message that is kept, by number and by sender: what `sent` shows and replies refer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agentfs.mail.message import Message

__all__ = ["FINISHED", "Archive"]

FINISHED = ("done", "expired")
"""Where a message is that is in no mailbox any more: it is kept for its sender alone."""

_NONE: Mapping[int, Message] = {}


class Archive:
    """A view on the messages of all mailboxes, and the only place of those that are finished."""

    def __init__(self) -> None:
        self._all: dict[int, Message] = {}
        self._sent: dict[str, dict[int, Message]] = {}
        self._finished: dict[str, dict[int, Message]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Message]:
        return iter(list(self._all.values()))

    def find(self, seq: int) -> Message | None:
        """The message with that number, wherever it is; None if it is not kept any more."""
        return self._all.get(seq)

    def sent(self, sender: str) -> Mapping[int, Message]:
        """The messages of `sender` that it can see, by number."""
        return self._sent.get(sender, _NONE)

    def finished(self, sender: str) -> Mapping[int, Message]:
        """Those of `sent` that are done or expired, in the order they became so, without questions
        that may still be answered."""
        return self._finished.get(sender, _NONE)

    @property
    def senders(self) -> list[str]:
        """Everybody of whom `finished` has something."""
        return list(self._finished)

    def note(self, message: Message) -> None:
        """Take in a message, or see that it is somewhere else now."""
        self._all[message.seq] = message
        if message.unlisted:
            self._drop(self._sent, message)
            return
        sent = self._sent.get(message.sender)
        if sent is None:
            sent = self._sent[message.sender] = {}
        sent[message.seq] = message
        if message.folder in FINISHED and not message.awaited:
            self._finished.setdefault(message.sender, {})[message.seq] = message
        elif message.seq in self._finished.get(message.sender, _NONE):
            self._drop(self._finished, message)

    def remove(self, message: Message) -> None:
        """It is not kept any more."""
        self._all.pop(message.seq, None)
        self._drop(self._sent, message)
        self._drop(self._finished, message)

    def order(self, sender: str) -> None:
        """Put `finished` of `sender` into its order again."""
        finished = self._finished.get(sender)
        if finished is not None:
            items = sorted(finished.items(), key=lambda item: (item[1].finished, item[0]))
            self._finished[sender] = dict(items)

    @staticmethod
    def _drop(index: dict[str, dict[int, Message]], message: Message) -> None:
        listed = index.get(message.sender)
        if listed is not None and listed.pop(message.seq, None) is not None and not listed:
            del index[message.sender]
