"""All asks as records: in memory and in the store at once, with their texts and deadlines."""

from __future__ import annotations

import errno
import itertools
from typing import Any

from agentfs.asks.ask import Ask
from agentfs.base.clock import change_time
from agentfs.base.due_heap import DueHeap
from agentfs.base.errors import KernelError
from agentfs.store.ground import Ground
from agentfs.store.records import Records

__all__ = ["KIND", "TEXTS", "AskTable"]

KIND, TEXTS = "ask", "ask-text"
"""The records: what an ask is, by its id; its texts, by `ID.question` and `ID.answer`."""


class AskTable:
    """Asks by number, by their asker, and by the messages that put them to somebody.

    Changes belong inside a transaction of the store and are undone with it.
    """

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self.by_number: Records[int, Ask] = Records(
            ground.store,
            KIND,
            lambda key, record: (int(key), Ask.from_record(key, record)),
            Ask.record,
            "{:012d}".format,
        )
        self.open = self.by_number.index(lambda ask: ask.asker if ask.open else None, "state")
        """Those that wait for an answer, by their asker."""
        self.closed = self.by_number.index(lambda ask: None if ask.open else ask.asker, "state")
        """The others, of each asker in the order in which they were closed."""
        self.of_message: dict[int, Ask] = {}
        """The open ask that a message is a question of."""
        self._due: DueHeap[Ask] = DueHeap()
        self._tickets = itertools.count(1)
        self.by_number.follow(self._entered, self._left, ("state", "questions", "deadline"))

    def load(self) -> None:
        """Read everything from the store."""
        self.by_number.load()
        for asks in self.closed.values():
            in_order = sorted(asks.items(), key=lambda item: item[1].closed)
            asks.clear()
            asks.update(in_order)

    @property
    def waiting(self) -> int:
        """How many are open."""
        return len(self._due)

    def due(self) -> Ask | None:
        """The open one that ends first, if nobody answers; None if none is open."""
        return self._due.first()

    def put(self, ask: Ask) -> None:
        """Keep a new one."""
        self.by_number.put(ask.id, ask)

    def change(self, ask: Ask, **fields: Any) -> None:
        """Set fields of it."""
        changed = change_time(self._clock.now(), ask.changed)
        self.by_number.change(ask.id, changed=changed, **fields)

    def drop(self, ask: Ask) -> None:
        """Do not keep it any longer, nor its texts."""
        self.by_number.drop(ask.id)
        for part in ("question", "answer"):
            self._store.delete_record(TEXTS, f"{ask.key}.{part}")

    def text(self, ask: Ask, part: str) -> bytes:
        """The text of its `question` or its `answer`. ENOENT if there is none."""
        found = self._store.record(TEXTS, f"{ask.key}.{part}")
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no {part} of {ask.key}")
        return str(found["text"]).encode("latin-1")

    def keep_text(self, ask: Ask, part: str, content: bytes) -> None:
        """Keep the text of its `question` or its `answer`."""
        # Latin-1 because JSON has no bytes, and it maps every byte to a character.
        record = {"text": content.decode("latin-1")}
        self._store.put_record(TEXTS, f"{ask.key}.{part}", record)

    def _entered(self, number: int, ask: Ask) -> None:
        if ask.open:
            self.of_message |= dict.fromkeys(ask.questions, ask)
            ask.ticket = next(self._tickets)
            self._due.add(ask.deadline, ask.ticket, ask)

    def _left(self, number: int, ask: Ask) -> None:
        if ask.open:
            for seq in ask.questions:
                del self.of_message[seq]
            self._due.discard(ask.ticket)
