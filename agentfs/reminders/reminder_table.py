"""The calendar: every reminder in memory and in the store at once, the first that is due first.

No rule who may. `_insert`, `_remove`, `_move`, `_reschedule` and `_repeat` belong inside a
transaction of the store and are undone with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from agentfs.base.clock import Clock, change_time
from agentfs.base.due_heap import DueHeap
from agentfs.mail.message import number_of
from agentfs.reminders.schedule import Schedule
from agentfs.store.store import Store

__all__ = ["KIND", "Calendar", "Reminder"]

KIND = "reminder"
"""The records in the store, by id."""


@dataclass(slots=True, eq=False)
class Reminder:
    """`next` is the time it is for and `due` when delivery is tried, which is later if that failed:
    wall clock, seconds. `message` is the number of the last one that was delivered, `place` its own
    number in the queue, `changed` in nanoseconds."""

    seq: int
    agent: str
    schedule: Schedule
    text: str
    set_at: float
    next: float
    due: float
    fired: int = 0
    message: int | None = None
    place: int = 0
    changed: int = 0

    @property
    def id(self) -> str:
        """Unique in the system, sorts by when it was set."""
        return f"{self.seq:012d}"

    def record(self) -> dict[str, Any]:
        return {
            "agent": self.agent,
            "kind": self.schedule.kind,
            "expression": self.schedule.expression,
            "text": self.text,
            "set": self.set_at,
            "next": self.next,
            "fired": self.fired,
            "message": self.message,
        }

    @classmethod
    def from_record(cls, seq: int, record: dict[str, Any]) -> Reminder:
        return cls(
            seq,
            record["agent"],
            Schedule(record["kind"], record["expression"]),
            record["text"],
            record["set"],
            record["next"],
            record["next"],
            record["fired"],
            record["message"],
        )


class Calendar:
    """The reminders of all agents."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._by_agent: dict[str, dict[int, Reminder]] = {}
        self._queue: DueHeap[Reminder] = DueHeap()
        self._places = itertools.count(1)
        self._last_seq = 0
        self._changed: dict[str, int] = {}
        self._sooner = trio.Event()  # there is one that is due before all others

    def read(self, last_seq: int) -> None:
        """Read everything from the store; none ever had a higher number than `last_seq`."""
        self._by_agent = {}
        self._queue = DueHeap()
        for key, record in self._store.records(KIND):
            self._put(Reminder.from_record(int(key), record))
        self._last_seq = last_seq

    def __len__(self) -> int:
        return len(self._queue)

    def of(self, agent: str) -> list[Reminder]:
        """Those of `agent`, in the order they were set."""
        mine = self._by_agent.get(agent, {})
        return [mine[seq] for seq in sorted(mine)]

    def find(self, agent: str, name: str) -> Reminder | None:
        """The one with the id `name`; None if `agent` has no such reminder."""
        return self._by_agent.get(agent, {}).get(number_of(name))

    def every(self) -> list[Reminder]:
        """All of them, in no order."""
        return [each for mine in self._by_agent.values() for each in mine.values()]

    def pending(self, agent: str) -> int:
        """How many of `agent` are still to fire."""
        return len(self._by_agent.get(agent, ()))

    @property
    def by_agent(self) -> Mapping[str, Mapping[int, Reminder]]:
        """All that are still to fire, by agent and number."""
        return self._by_agent

    def changed(self, agent: str) -> int:
        """When its reminders or their figures changed last in this run, in ns; 0 if never."""
        return self._changed.get(agent, 0)

    # -- changes -----------------------------------------------------------------------------------

    def _insert(
        self, agent: str, schedule: Schedule, text: str, now: float, first: float
    ) -> Reminder:
        last = self._last_seq
        reminder = Reminder(last + 1, agent, schedule, text, now, first, first)

        def undo() -> None:
            self._take(reminder)
            self._last_seq = last

        self._last_seq = reminder.seq
        self._put(reminder)
        self._store.on_rollback(undo)
        self._store.put_record(KIND, reminder.id, reminder.record())
        self._touch(agent, reminder)
        return reminder

    def _remove(self, reminder: Reminder) -> None:
        self._take(reminder)
        self._store.on_rollback(lambda: self._put(reminder))
        self._store.delete_record(KIND, reminder.id)
        self._touch(reminder.agent)

    def _move(self, reminder: Reminder, due: float) -> None:
        """Have it delivered at `due`."""
        before = reminder.due

        def undo() -> None:
            self._take(reminder)
            reminder.due = before
            self._put(reminder)

        self._take(reminder)
        reminder.due = due
        self._put(reminder)
        self._store.on_rollback(undo)

    def _reschedule(self, reminder: Reminder, next_time: float, due: float, now: float) -> None:
        """It is for another time, as the clock was wrong; so it was not set after `now` either."""
        before = reminder.next, reminder.set_at

        def undo() -> None:
            reminder.next, reminder.set_at = before

        reminder.next, reminder.set_at = next_time, min(reminder.set_at, now)
        self._store.on_rollback(undo)
        self._move(reminder, due)
        self._store.put_record(KIND, reminder.id, reminder.record())
        self._touch(reminder.agent, reminder)

    def _repeat(self, reminder: Reminder, next_time: float, message: int) -> None:
        """It has fired, and will again."""
        before = reminder.next, reminder.message

        def undo() -> None:
            reminder.next, reminder.message = before
            reminder.fired -= 1

        reminder.next, reminder.message = next_time, message
        reminder.fired += 1
        self._store.on_rollback(undo)
        self._move(reminder, next_time)
        self._store.put_record(KIND, reminder.id, reminder.record())
        self._touch(reminder.agent, reminder)

    def _put(self, reminder: Reminder) -> None:
        self._by_agent.setdefault(reminder.agent, {})[reminder.seq] = reminder
        reminder.place = next(self._places)
        self._queue.add(reminder.due, reminder.place, reminder)
        if self._queue.first() is reminder:
            self._sooner.set()

    def _take(self, reminder: Reminder) -> None:
        mine = self._by_agent[reminder.agent]
        del mine[reminder.seq]
        if not mine:
            del self._by_agent[reminder.agent]
        self._queue.discard(reminder.place)

    def _touch(self, agent: str, reminder: Reminder | None = None) -> None:
        moment = change_time(self._clock.now(), self.changed(agent))
        self._changed[agent] = moment
        if reminder is not None:
            reminder.changed = moment
