"""Seeds as values, and the table of them, in memory and in the store at once, the first that is due
first. It has no rule who may do what."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from agentfs.base.clock import change_time
from agentfs.base.due_heap import DueHeap
from agentfs.projects.outcomes import Assessment
from agentfs.projects.spec import Phase
from agentfs.store.ground import Ground
from agentfs.store.records import Records
from agentfs.triggers.maker import Maker

__all__ = ["KIND", "LAST", "RESULT", "Seed", "SeedState", "SeedTable"]

KIND = "seed"
"""The records in the store, by number."""

RESULT = "seed_result"
"""Those of their results, which may be long: they are in no memory."""

LAST = "seeds.last"
"""The meta value with the number of the last one that was planted."""

LONGEST_HISTORY = 100
"""Entries of a seed's history: the first one, and the newest."""


class SeedState(enum.Enum):
    """The state of a seed. One that is final stays, but for `retry`."""

    RUNNING = "running"  # a phase is under way, or begins
    WAITING = "waiting"  # somebody has to say something
    PASSED = "passed"
    EVOLVED = "evolved"  # its child goes on
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __init__(self, value: str) -> None:
        self.final = value in ("passed", "evolved", "failed", "cancelled")


@dataclass(slots=True, eq=False)
class Seed:
    """One seed. Times are wall clock, in seconds; 0 is not yet. Only `Seeds` changes it.

    `spec` is the project's document as it was when it was planted. `generation` is 0 for one that
    somebody has planted, and one more in each child. `attempt` counts how often the present phase
    was begun; `run` or `task` does it, and stays until somebody has looked at the outcome. `due` is
    when its next step is to be done; None: something else comes first.
    `feedback` is what the evaluation of its parent said; `reason` why it waits or has failed.
    """

    number: int
    project: str
    maker: Maker
    goal: str
    spec: str
    created: float
    criteria: tuple[str, ...] = ()
    state: SeedState = SeedState.RUNNING
    phase: Phase = Phase.INTERVIEW
    attempt: int = 0
    run: int = 0
    task: int = 0
    due: float | None = None
    generation: int = 0
    parent: int = 0
    child: int = 0
    ambiguity: float | None = None
    questions: tuple[str, ...] = ()
    evaluation: Assessment | None = None
    feedback: str = ""
    reason: str = ""
    ended: float = 0.0
    changed: int = 0  # ns, for st_mtime
    history: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"seed {self.number}"

    @property
    def open(self) -> bool:
        return not self.state.final

    def told(self, at: float, words: str) -> list[dict[str, Any]]:
        """The history with one more entry."""
        entry = {"at": at, "phase": self.phase.value, "attempt": self.attempt, "words": words}
        kept = [*self.history, entry]
        return kept if len(kept) <= LONGEST_HISTORY else [kept[0], *kept[2:]]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        found = self.evaluation
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "maker": self.maker.record(),
            "state": self.state.value,
            "phase": self.phase.value,
            "criteria": list(self.criteria),
            "questions": list(self.questions),
            "evaluation": found and [found.score, found.passed, found.words],
        }

    @classmethod
    def read(cls, number: int, record: dict[str, Any]) -> Seed:
        """The seed that gave this record."""
        found = record["evaluation"]
        return cls(
            number,
            maker=Maker.from_record(record["maker"]),
            state=SeedState(record["state"]),
            phase=Phase(record["phase"]),
            criteria=tuple(record["criteria"]),
            questions=tuple(record["questions"]),
            evaluation=None if found is None else Assessment(*found),
            **{name: record[name] for name in PLAIN},
        )


PLAIN = (
    *("project", "goal", "spec", "created", "attempt", "run", "task", "due"),
    *("generation", "parent", "child", "ambiguity", "feedback", "reason", "ended", "changed"),
    "history",
)


class SeedTable:
    """Every seed by number, with those that ended lately."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._all = Records[int, Seed](
            ground.store, KIND, lambda key, record: (int(key), Seed.read(int(key), record)),
            Seed.record,
        )  # fmt: skip
        self._of_owner = self._all.index(
            lambda seed: seed.maker.owner if seed.open else None, "maker", "state"
        )
        self._of_project = self._all.index(lambda seed: seed.project, "project")
        self._of_run = self._all.index(lambda seed: seed.run or None, "run")
        self._of_task = self._all.index(lambda seed: seed.task or None, "task")
        self._all.follow(self._entered, self._left, ("due",))
        self._queue: DueHeap[Seed] = DueHeap()
        self._sooner = trio.Event()

    def load(self) -> None:
        """Read everything from the store."""
        self._all.load()

    def __iter__(self) -> Iterator[Seed]:
        """All of them, by number."""
        return iter([self._all[number] for number in sorted(self._all)])

    @property
    def open(self) -> int:
        """How many have not ended."""
        return sum(map(len, self._of_owner.values()))

    def find(self, number: int) -> Seed | None:
        return self._all.get(number)

    def of_project(self, name: str) -> list[Seed]:
        """All of one project, by number."""
        found = self._of_project.of(name)
        return [found[number] for number in sorted(found)]

    def of_run(self, number: int) -> Seed | None:
        """The one whose phase this run does."""
        return next(iter(self._of_run.of(number).values()), None)

    def of_task(self, number: int) -> Seed | None:
        """The one whose phase this task does."""
        return next(iter(self._of_task.of(number).values()), None)

    @property
    def of_owner(self) -> Mapping[str, Mapping[int, Seed]]:
        """Those that have not ended, by the agent that owns them, and number."""
        return self._of_owner

    def result(self, number: int) -> Any:
        """What its execution gave; None if that is nothing."""
        record = self._store.record(RESULT, str(number))
        return None if record is None else record["value"]

    # -- what is due -------------------------------------------------------------------------------

    def first(self) -> Seed | None:
        """The one that is due before all others."""
        return self._queue.first()

    def watch(self) -> trio.Event:
        """An event that is set as soon as another one is due before all others."""
        self._sooner = trio.Event()
        return self._sooner

    # -- changes, inside a transaction -------------------------------------------------------------

    def next_number(self) -> int:
        """A number that no other has had."""
        return self._store.next_number(LAST)

    def add(self, seed: Seed) -> None:
        seed.changed = int(self._clock.now() * 1e9)
        self._all.put(seed.number, seed)

    def change(self, seed: Seed, **fields: Any) -> None:
        """Set fields of it."""
        fields["changed"] = change_time(self._clock.now(), seed.changed)
        self._all.change(seed.number, **fields)

    def keep_result(self, seed: Seed, value: Any) -> None:
        """What its execution gave."""
        self._store.put_record(RESULT, str(seed.number), {"value": value})

    def drop(self, seed: Seed) -> None:
        self._store.delete_record(RESULT, str(seed.number))
        self._all.drop(seed.number)

    # -- the index of what is due ------------------------------------------------------------------

    def _entered(self, number: int, seed: Seed) -> None:
        if seed.due is not None:
            self._queue.add(seed.due, number, seed)
            if self._queue.first() is seed:
                self._sooner.set()

    def _left(self, number: int, seed: Seed) -> None:
        self._queue.discard(number)
