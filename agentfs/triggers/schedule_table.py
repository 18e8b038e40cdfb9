"""The table of schedules, in memory and in the store at once, the first that is due first. It has
no rule who may do what."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from agentfs.base.clock import change_time
from agentfs.base.due_heap import DueHeap
from agentfs.store.ground import Ground
from agentfs.store.records import Records
from agentfs.triggers.maker import Maker
from agentfs.triggers.schedule_spec import ScheduleSpec
from agentfs.triggers.timetable import Timetable

__all__ = ["KIND", "LAST", "ScheduleState", "ScheduleTable", "Scheduled"]

KIND = "schedule"
"""The records in the store, by number."""

LAST = "schedules.last"
"""The meta value with the number of the last one that was made."""


class ScheduleState(enum.Enum):
    """The state of a schedule. One that is final stays."""

    PENDING = "pending"  # it waits for its next time
    ACTIVE = "active"  # what it has started is under way
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __init__(self, value: str) -> None:
        self.final = value in ("done", "failed", "cancelled")


@dataclass(slots=True, eq=False)
class Scheduled:
    """One schedule. Times are wall clock, in seconds. Only `Schedules` changes it.

    `next` is the time that it is for, None if none is to come; `due` is when somebody looks at it,
    which is later if that time has failed. `open` are the runs that it has started and that have
    not ended, oldest first, `waiting` those that wait for one of these to end. `count` were
    started, `skipped` were not because one was under way, `missed` passed while nobody could start
    them. `last` is the newest run, `last_time` when that was started, `result` how the one that
    ended last has ended, `error` why the last start has failed.
    """

    number: int
    maker: Maker
    spec: ScheduleSpec
    timetable: Timetable
    next: float | None
    until: float | None = None
    state: ScheduleState = ScheduleState.PENDING
    open: tuple[int, ...] = ()
    waiting: int = 0
    count: int = 0
    skipped: int = 0
    missed: int = 0
    last: int = 0
    last_time: float = 0.0
    result: str = ""
    error: str = ""
    ended: float = 0.0
    due: float | None = None
    changed: int = 0  # ns, for st_mtime

    @property
    def made(self) -> float:
        """When it was made."""
        return self.timetable.anchor

    @property
    def exhausted(self) -> bool:
        """Whether nothing is to come and nothing waits."""
        return self.next is None and not self.waiting

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "maker": self.maker.record(),
            "spec": self.spec.record(),
            "timetable": self.timetable.record(),
            "next": self.next,
            "until": self.until,
            "state": self.state.value,
            "open": list(self.open),
            "changed": self.changed,
            **{name: getattr(self, name) for name in PLAIN},
        }

    @classmethod
    def from_record(cls, number: int, record: dict[str, Any]) -> Scheduled:
        """The schedule that gave this record."""
        return cls(
            number,
            Maker.from_record(record["maker"]),
            ScheduleSpec.model_validate(record["spec"]),
            Timetable.from_record(record["timetable"]),
            record["next"],
            record["until"],
            ScheduleState(record["state"]),
            tuple(record["open"]),
            due=record["next"],
            changed=record["changed"],
            **{name: record[name] for name in PLAIN},
        )


PLAIN = (
    "waiting",
    "count",
    "skipped",
    "missed",
    "last",
    "last_time",
    "result",
    "error",
    "ended",
)


class ScheduleTable:
    """Every schedule by number, with those that ended lately."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._all = Records[int, Scheduled](
            ground.store,
            KIND,
            lambda key, record: (int(key), Scheduled.from_record(int(key), record)),
            Scheduled.record,
        )
        self._of_owner = self._all.index(
            lambda each: None if each.state.final else each.maker.owner, "maker", "state"
        )
        self._all.follow(self._entered, self._left, ("due",))
        self._of_run: dict[int, Scheduled] = {}
        self._all.follow(self._opened, self._closed, ("open",))
        self._queue: DueHeap[Scheduled] = DueHeap()
        self._sooner = trio.Event()
        self.changed = int(ground.clock.now() * 1e9)
        """When one came or went last, in ns."""

    def load(self) -> None:
        """Read everything from the store."""
        self._all.load()

    def __iter__(self) -> Iterator[Scheduled]:
        """All of them, by number."""
        return iter([self._all[number] for number in sorted(self._all)])

    def __len__(self) -> int:
        """How many have not ended."""
        return sum(map(len, self._of_owner.values()))

    def find(self, number: int) -> Scheduled | None:
        return self._all.get(number)

    def of_run(self, number: int) -> Scheduled | None:
        """The one that has started this run, which has not ended."""
        return self._of_run.get(number)

    @property
    def of_owner(self) -> Mapping[str, Mapping[int, Scheduled]]:
        """Those that have not ended, by the agent that owns them, and number."""
        return self._of_owner

    # -- what is due -----------------------------------------------------------------------------

    def first(self) -> Scheduled | None:
        """The one that is due before all others."""
        return self._queue.first()

    def watch(self) -> trio.Event:
        """An event that is set as soon as another one is due before all others."""
        self._sooner = trio.Event()
        return self._sooner

    # -- changes, inside a transaction -----------------------------------------------------------

    def next_number(self) -> int:
        """A number that no other has had."""
        return self._store.next_number(LAST)

    def add(self, schedule: Scheduled) -> None:
        schedule.due = schedule.next
        schedule.changed = int(self._clock.now() * 1e9)
        self._all.put(schedule.number, schedule)
        self._touch()

    def change(self, schedule: Scheduled, **fields: Any) -> None:
        """Set fields of it."""
        fields["changed"] = change_time(self._clock.now(), schedule.changed)
        self._all.change(schedule.number, **fields)

    def drop(self, schedule: Scheduled) -> None:
        self._all.drop(schedule.number)
        self._touch()

    def _touch(self) -> None:
        self.changed = change_time(self._clock.now(), self.changed)

    # -- the indexes -----------------------------------------------------------------------------

    def _entered(self, number: int, schedule: Scheduled) -> None:
        if schedule.due is not None:
            self._queue.add(schedule.due, number, schedule)
            if self._queue.first() is schedule:
                self._sooner.set()

    def _left(self, number: int, schedule: Scheduled) -> None:
        self._queue.discard(number)

    def _opened(self, number: int, schedule: Scheduled) -> None:
        self._of_run.update(dict.fromkeys(schedule.open, schedule))

    def _closed(self, number: int, schedule: Scheduled) -> None:
        for run in schedule.open:
            self._of_run.pop(run, None)
