"""Tasks that a run does: programs that the kernel starts, and functions of a pool."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.check import check
from agentfs.tasks.model import Task, TaskRequest, TaskState, WorkerRequest
from tests.executors.lab import laboratory
from tests.executors.test_pools import Hand
from tests.process.world import gone
from tests.tasks.test_tasks import refused
from tests.workflow.lab import Lab
from tests.world import OPERATOR


def request(text: str = "work", **more: Any) -> TaskRequest:
    return TaskRequest(description=text, **more)


async def test_a_program_is_run_by_the_kernel(tmp_path: Path) -> None:
    async with laboratory(tmp_path / "state") as lab:
        tasks, system = lab.system.kernel.tasks, lab.system

        async def done(task: Task) -> Task:
            await system.until(lambda: tasks.get(task.id).state.final)
            return tasks.get(task.id)

        task = tasks.submit(OPERATOR, request(program=["cat"], input={"a": [1]}))
        assert tasks.get(task.id).worker == "kernel"
        task = await done(task)
        assert task.state is TaskState.COMPLETED
        assert tasks.result_of(task) == '{"a":[1]}'
        failed = await done(tasks.submit(OPERATOR, request(program="echo no >&2; false")))
        assert (failed.state, failed.error) == (TaskState.FAILED, "exit code 1: no")

        sleeps = tasks.submit(OPERATOR, request(program=["sh", "-c", "sleep 1000 & sleep 1000"]))
        run = lab.runs.get(tasks.get(sleeps.id).run)
        process = await lab.at_work(run, "work")
        ospid = process.ospid
        assert ospid is not None
        refused(errno.EPERM, tasks.complete, OPERATOR, sleeps.id, 1)
        tasks.cancel(OPERATOR, sleeps.id, "enough")
        assert tasks.get(sleeps.id).state is TaskState.CANCELLED
        await gone(ospid)
        await lab.ended(run)
        assert check(tmp_path / "state" / "store.db") == []


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "state", kinds="program wait")
    made.world.kernel.pools.create(OPERATOR, "sums", 0o777)
    yield made
    made.close()


def test_a_pool_of_workflow_workers_does_tasks(lab: Lab) -> None:
    kernel = lab.world.kernel
    tasks = kernel.tasks
    kernel.workers.register(OPERATOR, WorkerRequest(name="sums", pool="sums", capacity=2))
    task = tasks.submit(OPERATOR, request(requirements={"fn": "m:add"}, input={"a": 1}))
    lab.settle()
    assert tasks.get(task.id).state is TaskState.RUNNING
    hand = Hand(lab)
    [step] = hand.read()
    assert (step["fn"], step["input"]) == ("m:add", {"a": 1})
    hand.answer(step, ok={"sum": 1})
    assert tasks.get(task.id).state is TaskState.COMPLETED
    assert tasks.result_of(tasks.get(task.id)) == '{"sum":1}'

    fails = tasks.submit(OPERATOR, request(requirements={"fn": "m:add"}))
    lab.settle()
    [step] = hand.read()
    hand.answer(step, error="no numbers")
    assert tasks.get(fails.id).error.endswith("no numbers")

    nameless = tasks.submit(OPERATOR, request())
    assert "the task has to say" in tasks.get(nameless.id).error

    late = tasks.submit(OPERATOR, request(requirements={"fn": "m:add"}, timeout=30, max_attempts=2))
    lab.settle()
    assert hand.read()
    for attempt in (2, 2):
        lab.world.clock.advance(31)
        lab.world.timers.run_due()
        lab.settle()
        assert tasks.get(late.id).attempt == attempt
    assert tasks.get(late.id).state is TaskState.DEAD
    hand.close()
