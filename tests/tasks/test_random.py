"""Calls at random, with restarts of the daemon between them, against a model: a task has one state,
its row, its message and its counts agree, and a state that is final stays."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.tasks.model import Task, TaskState
from agentfs.tasks.policy import Judgement, Moment
from tests.tasks.yard import OPERATOR, Asked, Yard

STEPS = 250

NEXT = {
    "pending": {"validated", "assigned", "rejected", "cancelled"},
    "validated": {"assigned", "running", "cancelled", "failed"},
    "assigned": {"running", "validated", "cancelled", "failed"},
    "running": {"completed", "failed", "cancelled", "dead", "validated", "assigned"},
}
"""What may follow a state that was seen. One call may make two steps: to be returned and assigned
anew."""


class Whim(Asked):
    """Judges at random, at once or later."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.open: list[tuple[int, Moment]] = []

    def begin(self, task: Task, when: Moment) -> Judgement | None:
        if self.chance.random() < 0.3:
            self.open.append((task.id, when))
            return None
        return self.verdict()

    def verdict(self) -> Judgement:
        chance = self.chance
        return Judgement(chance.random() < 0.8, "whim", again=chance.random() < 0.5)


class Story:
    """One sequence of calls."""

    def __init__(self, yard: Yard, seed: int) -> None:
        self.yard = yard
        self.chance = random.Random(seed)
        self.judge = Whim(self.chance)
        self.seen: dict[int, str] = {}
        self.results: dict[int, str] = {}
        yard.kernel.tasks.judge_by(self.judge)
        for name in ("ann", "bob"):
            yard.process(name)

    def step(self) -> None:
        calls = (
            *[self.submit] * 3,
            *[self.claim] * 6,
            *[self.answer] * 8,
            *(self.cancel, self.judged, self.worker, self.settle, self.die, self.restart),
            self.time,
        )
        with contextlib.suppress(KernelError, IndexError):
            self.chance.choice(calls)()
        self.check()

    def submit(self) -> None:
        level = self.chance.choice(["low", "high"])
        task = self.yard.submit(
            by=self.chance.choice(["", "ann"]),
            requirements={"cpu": level},
            priority=self.chance.randrange(10),
            max_attempts=self.chance.choice([1, 3]),
            timeout=self.chance.choice([None, 50]),
        )
        self.seen[task.id] = "pending"

    def worker(self) -> None:
        name = self.chance.choice(["w1", "w2", "bob"])
        if self.yard.kernel.workers.find(name) is not None and self.chance.random() < 0.15:
            self.yard.kernel.workers.remove(OPERATOR, name)
            return
        level = self.chance.choice(["low", "high"])
        self.yard.register(
            name,
            agent="bob" if name == "bob" else "",
            capabilities={"cpu": level},
            capacity=self.chance.choice([1, 2]),
        )

    def _name(self) -> str:
        return self.chance.choice([*self.yard.kernel.workers] or ["w1"])

    def claim(self) -> None:
        self.yard.take(self._name())

    def settle(self) -> None:
        worker = self.yard.kernel.workers.get(self._name())
        by = self.yard.who(worker.agent)
        how = self.chance.choice(["done", "back", "failed"])
        self.yard.mail.receiving.settle(by, worker.mailbox, how)

    def answer(self) -> None:
        running = self.yard.kernel.tasks.table.by_state.of(TaskState.RUNNING)
        task = self.chance.choice([*running.values()])
        worker = self.yard.kernel.workers.get(task.worker)
        by, attempt = self.yard.who(worker.agent), task.attempt - self.chance.choice([0, 0, 0, 1])
        if self.chance.random() < 0.3:
            again = self.chance.random() < 0.5
            self.yard.kernel.tasks.fail(by, task.id, "no", again, attempt)
        else:
            self.yard.kernel.tasks.complete(by, task.id, task.id, attempt)

    def cancel(self) -> None:
        self.yard.kernel.tasks.cancel(OPERATOR, self.chance.choice([*self.seen]))

    def judged(self) -> None:
        number, when = self.judge.open.pop()
        self.yard.kernel.tasks.judged(number, when, self.judge.verdict())

    def die(self) -> None:
        process = self.yard.table.by_name("bob")
        assert process is not None
        self.yard.end(process, self.chance.choice([0, 9]), restart=True)

    def time(self) -> None:
        self.yard.wait(self.chance.choice([1, 60, 130]))

    def restart(self) -> None:
        """A judgement that is under way is a record of the guardian's, which this one has not."""
        if self.chance.random() < 0.3:
            while self.judge.open:
                self.judged()
            self.yard.restart()  # which checks the store
            self.yard.kernel.tasks.judge_by(self.judge)

    def check(self) -> None:
        tasks, table = self.yard.kernel.tasks, self.yard.kernel.tasks.table
        counts = dict.fromkeys(TaskState, 0)
        for number, before in self.seen.items():
            task = tasks.get(number)
            counts[task.state] += 1
            now = task.state.value
            if now != before:
                assert now in reachable(before), f"{before} became {now}"
                self.seen[number] = now
            result = tasks.result_of(task)
            assert bool(result) is (task.state is TaskState.COMPLETED)
            if task.state.final:
                assert self.results.setdefault(number, f"{now} {result}") == f"{now} {result}"
        assert table.counts() == counts
        messages = sorted(
            message.seq
            for box in self.yard.mail.boxes
            for folder in (box.new, box.cur, box.dead)
            for message in folder.values()
            if self.yard.header(message, "Type") == "assigned-task"
        )
        under_way = [task for task in table.open.values() if task.under_way]
        assert messages == sorted(task.message for task in under_way)
        assert len(under_way) <= 4
        for worker in self.yard.kernel.workers.every():
            assert len(table.by_worker.of(worker.name)) <= worker.capacity


def reachable(state: str) -> set[str]:
    """Whatever can be seen after it, one call later."""
    found = set(NEXT.get(state, ()))
    for each in tuple(found):
        found |= NEXT.get(each, set())
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_task_is_in_one_place_and_has_one_end(tmp_path: Path, seed: int) -> None:
    yard = Yard(tmp_path / "state")
    story = Story(yard, seed)
    for _ in range(STEPS):
        story.step()
    while story.judge.open:
        story.judged()
    ends = {state for state in story.seen.values() if state not in NEXT}
    assert {"completed", "failed"} <= ends
    yard.close()
