"""The log that numbers the events and keeps the newest.

An event is emitted inside the transaction of the change it tells of and goes out, in order, when
that is committed; a change that is rolled back never happened and has no event.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, NamedTuple

from agentfs.base.clock import Clock, rfc3339
from agentfs.model.principal import Principal
from agentfs.store.event import Event
from agentfs.store.records import keep_fields, keep_value
from agentfs.store.store import LAST_EVENT, Store

__all__ = ["EventLog", "Record"]

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """An event with its number and time, as the log keeps it; `agent` and `pid` are those that it
    concerns."""

    seq: int
    time: float
    event: Event
    agent: str | None = None
    pid: int | None = None

    def line(self) -> bytes:
        """The record as `/dev/events` shows it: one JSON object and a newline. Fields that are
        marked `untold` are not everybody's business."""
        head: dict[str, Any] = {
            "seq": self.seq,
            "time": rfc3339(self.time),
            "type": self.event.type,
            "agent": self.agent,
            "pid": self.pid,
        }
        body = {
            field.name: getattr(self.event, field.name)
            for field in fields(self.event)
            if field.name not in ("agent", "pid") and "untold" not in field.metadata
        }
        text = json.dumps(head | body, ensure_ascii=False) + "\n"
        # A path may have bytes in it that are no UTF-8; escaped they are JSON all the same.
        return text.encode("utf-8", "backslashreplace")


class EventLog:
    """Numbers events without gaps, keeps the newest `capacity`, and tells the listeners.

    The last number is stored with each commit, so numbers go on rising after a restart; what was
    emitted before is not kept across one.
    """

    def __init__(self, store: Store, clock: Clock, capacity: int = 10_000) -> None:
        self._store = store
        self._clock = clock
        self._kept: deque[Record] = deque(maxlen=capacity)
        self._pending: list[Event] = []
        self._apart: tuple[tuple[Principal, int, int], ...] = ()  # see `apart`
        self._outgoing: deque[Event] = deque()
        self._publishing = False
        self._listeners: dict[Callable[[Record], object], tuple[type[Event], ...]] = {}
        self._concerned: dict[type[Event], tuple[Callable[[Record], object], ...]] = {}
        self.last = int(store.meta(LAST_EVENT, "0"))
        self.boot = secrets.token_hex(8)
        """The name of this run of the daemon: a watcher that sees another has missed a restart."""
        self._process_of: Callable[[str], int | None] = lambda agent: None
        self._agent_of: Callable[[int], str | None] = lambda pid: None
        store.prepare(self._number)

    def complete_with(
        self, process_of: Callable[[str], int | None], agent_of: Callable[[int], str | None]
    ) -> None:
        """From now on these say what an event does not say itself: the process of its agent, or the
        agent of its process."""
        self._process_of = process_of
        self._agent_of = agent_of

    def now(self) -> float:
        """The wall-clock time that an event would get."""
        return self._clock.now()

    def listen(self, listener: Callable[[Record], object], *kinds: type[Event]) -> None:
        """Call `listener(record)` for every event of `kinds`, or for every one if none is named,
        from now on, synchronously."""
        self._listeners[listener] = kinds
        self._concerned.clear()

    def unlisten(self, listener: Callable[[Record], object]) -> None:
        del self._listeners[listener]
        self._concerned.clear()

    def _listeners_of(self, kind: type[Event]) -> tuple[Callable[[Record], object], ...]:
        """The listeners that `kind` concerns, in the order in which they began to listen; kept."""
        found = self._concerned[kind] = tuple(
            listener
            for listener, kinds in self._listeners.items()
            if not kinds or issubclass(kind, kinds)
        )
        return found

    def apart(self, principal: Principal, change: Callable[[], object]) -> None:
        """Make `change()`, a part of the transaction under way that is the doing of `principal`,
        and not of whom the rest of it is for."""
        begin = len(self._pending)
        change()
        if len(self._pending) > begin:
            keep_fields(self._store, self, "_apart")
            self._apart = (*self._apart, (principal, begin, len(self._pending)))

    @property
    def records(self) -> int:
        """How many records the audit will have of the transaction under way, so far."""
        return bool(self._pending) + len(self._apart)

    def shares(self, acting: Principal | None) -> list[tuple[Principal | None, Sequence[Event]]]:
        """What the transaction under way has emitted so far, by whose doing it is: that of
        `acting`, for whom it is made, comes first."""
        if not self._apart:
            return [(acting, self._pending)]
        rest = self._pending.copy()
        for _, begin, end in reversed(self._apart):
            del rest[begin:end]
        others = [(principal, self._pending[begin:end]) for principal, begin, end in self._apart]
        return [(acting, rest), *others]

    @property
    def pending(self) -> Sequence[Event]:
        """What the transaction under way has emitted so far."""
        return self._pending

    def emit(self, event: Event) -> None:
        """Let `event` go out when the transaction around this call is committed."""
        if not self._store.take_part():
            with self._store.transaction():
                self.emit(event)
            return
        if not self._pending:
            keep_value(self._store, self._begin_with, [])
            self._store.on_commit(self._publish)
        self._pending.append(event)

    def _begin_with(self, pending: list[Event]) -> None:
        self._pending = pending

    def hint(self, event: Event) -> None:
        """Tell the listeners of something that shows in the tree and is no change of the system. It
        has no number, is not kept, and is in no audit. It goes out once the transaction is
        committed."""
        if self._store.in_transaction:
            self._store.on_commit(lambda: self._hint(event))
        else:
            self._hint(event)

    def _hint(self, event: Event) -> None:
        self._tell(Record(self.last, self._clock.now(), event, *self._whom(event)))

    def _number(self) -> None:
        if self._pending:
            last = self.last + len(self._outgoing) + len(self._pending)
            self._store.set_meta(LAST_EVENT, str(last))

    def _publish(self) -> None:
        """Send out what was committed. A listener may commit events of its own: they go out after
        those that are under way, so that every listener sees every number in order."""
        self._outgoing += self._pending
        self._pending, self._apart = [], ()
        if self._publishing:
            return
        self._publishing = True
        try:
            while self._outgoing:
                event = self._outgoing.popleft()
                self.last += 1
                record = Record(self.last, self._clock.now(), event, *self._whom(event))
                self._kept.append(record)
                self._tell(record)
        finally:
            self._publishing = False

    def _tell(self, record: Record) -> None:
        kind = type(record.event)
        listeners = self._concerned.get(kind)
        if listeners is None:
            listeners = self._listeners_of(kind)
        for listener in listeners:
            try:
                listener(record)
            except Exception:  # the event has happened: its author must not be told otherwise
                log.exception("a listener failed on event %s", record)

    def _whom(self, event: Event) -> tuple[str | None, int | None]:
        """The agent that an event concerns, and its process."""
        agent: str | None = getattr(event, event.whose, None) if event.whose else None
        pid: int | None = getattr(event, "pid", None)
        if agent is None:
            return (None, None) if pid is None else (self._agent_of(pid), pid)
        return agent, self._process_of(agent) if pid is None else pid

    @property
    def oldest(self) -> int:
        """The number of the oldest record kept; `last + 1` if none is."""
        return self._kept[0].seq if self._kept else self.last + 1

    def at(self, seq: int) -> Record | None:
        """The kept record of that number."""
        index = seq - self.oldest
        return self._kept[index] if 0 <= index < len(self._kept) else None

    def since(self, seq: int) -> Iterator[Record]:
        """The kept records with a number of at least `seq`, oldest first."""
        return iter(list(islice(self._kept, max(0, seq - self.oldest), None)))
