"""The table of reminders, in memory and in the store at once, the first that is due first.

It has no rule who may do what. Changes belong inside a transaction of the store, and are undone
with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from agentfs.base.clock import change_time
from agentfs.base.due_heap import DueHeap
from agentfs.mail.message import number_of
from agentfs.reminders.schedule import Schedule
from agentfs.store.ground import Ground
from agentfs.store.records import Records, keep_fields

__all__ = ["KIND", "Reminder", "ReminderTable"]

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
        return _name(self.seq)

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


class ReminderTable:
    """The reminders of all agents that are still to fire."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._reminders = Records(
            ground.store,
            KIND,
            lambda name, record: (int(name), Reminder.from_record(int(name), record)),
            Reminder.record,
            _name,
        )
        self._by_agent = self._reminders.index(lambda reminder: reminder.agent, "agent")
        self._reminders.follow(self._entered, self._left, ("due",))
        self._queue: DueHeap[Reminder] = DueHeap()
        self._places = itertools.count(1)
        self._last_seq = 0
        self._changed: dict[str, int] = {}
        self._sooner = trio.Event()

    def load(self, last_seq: int) -> None:
        """Read everything from the store; none ever had a higher number than `last_seq`."""
        self._reminders.load()
        self._last_seq = last_seq

    def __len__(self) -> int:
        return len(self._queue)

    def of(self, agent: str) -> list[Reminder]:
        """Those of `agent`, in the order they were set."""
        mine = self._by_agent.of(agent)
        return [mine[seq] for seq in sorted(mine)]

    def find(self, agent: str, name: str) -> Reminder | None:
        """The one with the id `name`; None if `agent` has no such reminder."""
        return self._by_agent.of(agent).get(number_of(name))

    def every(self) -> list[Reminder]:
        """All of them, in no order."""
        return list(self._reminders.values())

    def pending(self, agent: str) -> int:
        """How many of `agent` are still to fire."""
        return len(self._by_agent.of(agent))

    @property
    def by_agent(self) -> Mapping[str, Mapping[int, Reminder]]:
        """All that are still to fire, by agent and number."""
        return self._by_agent

    def changed(self, agent: str) -> int:
        """When its reminders or their figures changed last in this run, in ns; 0 if never."""
        return self._changed.get(agent, 0)

    # -- what is due -------------------------------------------------------------------------------

    def first(self) -> Reminder | None:
        """The one that is due before all others."""
        return self._queue.first()

    def watch(self) -> trio.Event:
        """An event that is set as soon as another reminder is due before all others."""
        self._sooner = trio.Event()
        return self._sooner

    # -- changes -----------------------------------------------------------------------------------

    def add(self, agent: str, schedule: Schedule, text: str, now: float, first: float) -> Reminder:
        """A new one, set `now` for the time `first`."""
        keep_fields(self._store, self, "_last_seq")
        self._last_seq += 1
        reminder = Reminder(self._last_seq, agent, schedule, text, now, first, first)
        self._reminders.put(reminder.seq, reminder)
        self.touch(agent, reminder)
        return reminder

    def remove(self, reminder: Reminder) -> None:
        """It will not fire any more."""
        self._reminders.drop(reminder.seq)
        self.touch(reminder.agent)

    def move(self, reminder: Reminder, due: float) -> None:
        """Have it delivered at `due`."""
        self._reminders.set(reminder.seq, due=due)

    def reschedule(self, reminder: Reminder, next_time: float, due: float, now: float) -> None:
        """It is for another time, as the clock was wrong; so it was not set after `now` either."""
        set_at = min(reminder.set_at, now)
        self._reminders.change(reminder.seq, next=next_time, set_at=set_at, due=due)
        self.touch(reminder.agent, reminder)

    def repeat(self, reminder: Reminder, next_time: float, message: int) -> None:
        """It has fired, and will again."""
        self._reminders.change(
            reminder.seq,
            next=next_time,
            message=message,
            fired=reminder.fired + 1,
            due=next_time,
        )
        self.touch(reminder.agent, reminder)

    def touch(self, agent: str, reminder: Reminder | None = None) -> None:
        """Something about an agent's reminders has changed, and about this one."""
        moment = change_time(self._clock.now(), self.changed(agent))
        self._changed[agent] = moment
        if reminder is not None:
            reminder.changed = moment

    def forget(self, agent: str) -> None:
        """The agent is being removed: its reminders go with it."""
        for reminder in self.of(agent):
            self.remove(reminder)
        self._changed.pop(agent, None)

    def _entered(self, seq: int, reminder: Reminder) -> None:
        reminder.place = next(self._places)
        self._queue.add(reminder.due, reminder.place, reminder)
        if self._queue.first() is reminder:
            self._sooner.set()

    def _left(self, seq: int, reminder: Reminder) -> None:
        self._queue.discard(reminder.place)


def _name(seq: int) -> str:
    return f"{seq:012d}"
