"""The life of a task, step by step."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.tasks.model import Task, TaskAnswer, TaskRequest, TaskState, WorkerRequest
from agentfs.tasks.policy import Judgement, Moment
from tests.world import OPERATOR, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state")
    yield made
    made.close()


def submit(world: World, text: str = "count", by: Principal = OPERATOR, **more: Any) -> Task:
    return world.kernel.tasks.submit(by, TaskRequest(description=text, **more))


def register(world: World, name: str, by: Principal = OPERATOR, **more: Any) -> None:
    world.kernel.workers.register(by, WorkerRequest(name=name, **more))


def state(world: World, task: Task) -> str:
    return world.kernel.tasks.get(task.id).state.value


def claim(world: World, name: str, by: Principal = OPERATOR) -> dict[str, Any] | None:
    """One read of a worker's `recv`."""
    message = world.mail.receiving.claim_next(by, f"workers/{name}")
    return None if message is None else json.loads(world.body(message))


def task_events(world: World) -> list[str]:
    kinds = [event.type for event in world.seen if event.type.startswith(("task", "worker"))]
    world.seen.clear()
    return kinds


def test_a_task_is_done_by_a_worker(world: World) -> None:
    task = submit(world, input={"n": 2})
    assert state(world, task) == "validated"
    assert world.kernel.tasks.reason(task) == "there is no worker"
    register(world, "w1")
    assert state(world, task) == "assigned"
    told = claim(world, "w1")
    assert told is not None
    assert (told["task"], told["attempt"], told["input"]) == (task.id, 1, {"n": 2})
    assert state(world, task) == "running"
    world.kernel.tasks.answer(OPERATOR, "w1", TaskAnswer(task=1, attempt=1, ok=4))
    assert state(world, task) == "completed"
    assert world.kernel.tasks.result_of(task) == "4"
    assert task_events(world) == [
        "task_submitted",
        "task_validated",
        "worker_registered",
        "task_assigned",
        "task_started",
        "task_completed",
    ]
    assert list(world.mail.mailbox("workers/w1").cur) == []
    world.restart()
    done = world.kernel.tasks.get(task.id)
    assert done.state is TaskState.COMPLETED
    assert [entry["state"] for entry in done.history] == [
        "pending",
        "validated",
        "assigned",
        "running",
        "completed",
    ]


def test_an_answer_for_an_attempt_that_is_over_is_refused(world: World) -> None:
    register(world, "w1")
    task = submit(world)
    claim(world, "w1")
    world.mail.receiving.settle(OPERATOR, "workers/w1", "failed")
    assert world.kernel.tasks.get(task.id).attempt == 2
    assert claim(world, "w1")["attempt"] == 2  # type: ignore[index]
    with pytest.raises(KernelError) as refused:
        world.kernel.tasks.complete(OPERATOR, task.id, 1, attempt=1)
    assert refused.value.errno == errno.ESTALE


class Late:
    """A guardian that says nothing at once."""

    def begin(self, task: Task, when: Moment) -> Judgement | None:
        return None


def test_a_verdict_may_come_later(world: World) -> None:
    tasks = world.kernel.tasks
    tasks.judge_by(Late())
    register(world, "w1")
    task = submit(world)
    assert state(world, task) == "pending"
    assert tasks.judged(task.id, Moment.SUBMIT, Judgement(True, "rule a"))
    claim(world, "w1")
    tasks.complete(OPERATOR, task.id, "result")
    assert state(world, task) == "running"
    assert tasks.result_of(task) == ""
    assert tasks.judged(task.id, Moment.RESULT, Judgement(False, "rule b", "too short"))
    failed = tasks.get(task.id)
    assert (failed.state, failed.error) == (
        TaskState.FAILED,
        "the result was rejected: too short",
    )
    assert not tasks.judged(task.id, Moment.RESULT, Judgement(True, "rule b"))
