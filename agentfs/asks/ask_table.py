"""All asks as records: in memory and in the store at once, with their texts and deadlines.

Changes belong inside a transaction of the store and are undone with it.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from agentfs.asks.ask import Ask
from agentfs.asks.events import AskDropped
from agentfs.base.clock import Clock, change_time
from agentfs.base.errors import KernelError
from agentfs.mail.mailbox import Queue
from agentfs.store.event_log import EventLog
from agentfs.store.store import Store

__all__ = ["KIND", "TEXTS", "AskBook"]

KIND, TEXTS = "ask", "ask-text"
"""The records: what an ask is, by its id; its texts, by `ID.question` and `ID.answer`."""


class AskBook:
    """Asks by number, by who asked, and by the messages that put them to somebody."""

    def __init__(self, store: Store, events: EventLog, clock: Clock) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._asks: dict[int, Ask] = {}
        self._open: dict[str, dict[int, Ask]] = {}
        self._closed: dict[str, dict[int, Ask]] = {}  # in the order in which they were closed
        self._questions: dict[int, Ask] = {}  # message -> the open ask that it is a question of
        self._due: Queue[Ask] = Queue()
        self._tickets = itertools.count(1)
        self._watching: dict[int, list[Callable[[], object]]] = {}

    def read(self) -> None:
        """Read everything from the store."""
        for index in (self._asks, self._open, self._closed, self._questions):
            index.clear()
        self._due = Queue()
        asks = [Ask.from_record(key, record) for key, record in self._store.records(KIND)]
        for ask in sorted(asks, key=lambda ask: ask.closed):
            self._put(ask)

    # -- looking ---------------------------------------------------------------------------------

    def expire_due(self, question: int = 0) -> int:
        """Close what nobody answered in time, the ask of `question` at least; how many."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """How many are open."""
        return len(self._due)

    @property
    def open_asks(self) -> Mapping[str, Mapping[int, Ask]]:
        """Those that are open, by who asked."""
        return self._open

    def of(self, agent: str) -> Mapping[int, Ask]:
        """What `agent` has asked, by number, the open ones last."""
        self.expire_due()
        return self._closed.get(agent, {}) | self._open.get(agent, {})

    def find(self, number: int) -> Ask | None:
        """The ask with that number; None if there is none."""
        self.expire_due(number)
        return self._asks.get(number)

    def get(self, agent: str, number: int) -> Ask:
        """Raises ENOENT."""
        ask = self.find(number)
        if ask is None or ask.asker != agent:
            raise KernelError(errno.ENOENT, f"{agent} has no question {number:012d}")
        return ask

    def question(self, ask: Ask) -> bytes:
        """The first message of it, whole. ENOENT if the ask is gone."""
        return self._text(ask, "question")

    def answer(self, ask: Ask) -> bytes:
        """The message that answered it, whole. ENOENT if there is none, or the ask is gone."""
        return self._text(ask, "answer")

    def _text(self, ask: Ask, part: str) -> bytes:
        found = self._store.record(TEXTS, f"{ask.key}.{part}")
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no {part} of {ask.key}")
        return str(found["text"]).encode("latin-1")

    def _keep_text(self, ask: Ask, part: str, content: bytes) -> None:
        # Latin-1 because JSON has no bytes, and it maps every byte to a character.
        record = {"text": content.decode("latin-1")}
        self._store.put_record(TEXTS, f"{ask.key}.{part}", record)

    def on_end(self, ask: Ask, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call()` when `ask` is answered or ends without, until the function that is
        returned is called."""
        self._watching.setdefault(ask.id, []).append(call)

        def unsubscribe() -> None:
            calls = self._watching.get(ask.id, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self._watching.pop(ask.id, None)

        return unsubscribe

    # -- changes -----------------------------------------------------------------------------

    def _wake(self, ask: Ask) -> None:
        for call in tuple(self._watching.get(ask.id, ())):
            call()

    def _change(self, ask: Ask, **after: Any) -> None:
        before = [(slot, getattr(ask, slot)) for slot in (*after, "changed")]

        def undo() -> None:
            self._take(ask)
            for slot, value in before:
                setattr(ask, slot, value)
            self._put(ask)

        self._take(ask)
        for slot, value in after.items():
            setattr(ask, slot, value)
        ask.changed = change_time(self._clock.now(), ask.changed)
        self._put(ask)
        self._store.on_rollback(undo)
        self._store.put_record(KIND, ask.key, ask.record())

    def _drop(self, ask: Ask) -> None:
        self._take(ask)
        self._store.on_rollback(lambda: self._put(ask))
        self._store.delete_record(KIND, ask.key)
        for part in ("question", "answer"):
            self._store.delete_record(TEXTS, f"{ask.key}.{part}")
        self._store.on_commit(lambda: self._wake(ask))
        self._events.emit(AskDropped(ask.asker, ask.key))

    def _set_alarm(self, when: float) -> None:
        """See to it that `expire_due` is called at that time."""
        raise NotImplementedError

    def _put(self, ask: Ask) -> None:
        self._asks[ask.id] = ask
        index = self._open if ask.open else self._closed
        index.setdefault(ask.asker, {})[ask.id] = ask
        if ask.open:
            self._questions |= dict.fromkeys(ask.questions, ask)
            ask.ticket = next(self._tickets)
            self._due.add(ask.deadline, ask.ticket, ask)
            self._set_alarm(ask.deadline)

    def _take(self, ask: Ask) -> None:
        del self._asks[ask.id]
        index = self._open if ask.open else self._closed
        of_agent = index[ask.asker]
        del of_agent[ask.id]
        if not of_agent:
            del index[ask.asker]
        if ask.open:
            for seq in ask.questions:
                del self._questions[seq]
            self._due.discard(ask.ticket)
