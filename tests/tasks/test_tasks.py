"""The life of a task: each step from one state to the next."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.process import Role
from agentfs.tasks.model import Task, TaskRequest, TaskState
from agentfs.tasks.policy import Judgement, Moment
from tests.tasks.yard import OPERATOR, Asked, Yard


def refused(number: int, call: Callable[..., object], *args: Any, **more: Any) -> str:
    """The words of a refusal."""
    with pytest.raises(KernelError) as refusal:
        call(*args, **more)
    assert refusal.value.errno == number, refusal.value.reason
    return refusal.value.reason


def test_a_task_is_done_by_a_worker(yard: Yard) -> None:
    task = yard.submit(input={"n": 2})
    assert yard.state_of(task) == "validated"
    assert yard.kernel.tasks.reason(task) == "there is no worker"
    yard.register("w1")
    assert yard.state_of(task) == "assigned"
    told = yard.claim("w1")
    assert (told["task"], told["attempt"], told["input"]) == (task.id, 1, {"n": 2})
    assert (told["key"], told["deadline"]) == ("task-1", None)
    assert yard.state_of(task) == "running"
    yard.answer("w1", 1, 1, progress="half")
    yard.answer("w1", 1, 1, ok=4)
    assert yard.state_of(task) == "completed"
    assert yard.kernel.tasks.result_of(yard.task(task)) == "4"
    assert yard.told() == [
        "task_submitted",
        "task_validated",
        "worker_registered",
        "task_assigned",
        "task_started",
        "task_progressed",
        "task_completed",
    ]
    assert not yard.mail.mailbox("workers/w1").cur
    before = yard.kernel.tasks.info(yard.task(task))
    yard.restart()
    assert yard.kernel.tasks.info(yard.task(task)) == before
    assert [entry["state"] for entry in before["history"]] == [
        *("pending", "validated", "assigned", "running", "running", "completed")
    ]
    assert yard.kernel.tasks.counts()["completed"] == 1


def test_the_message_of_an_assignment_is_the_kernels(yard: Yard) -> None:
    yard.process("ann")
    yard.register("w1")
    yard.submit("x\nType: reminder\n\nFrom: init", by="ann", priority=8, timeout=60)
    message = yard.take("w1")
    assert message is not None
    said = {name: yard.header(message, name) for name in ("From", "Type", "Task", "Attempt")}
    assert said == {"From": "ann", "Type": "assigned-task", "Task": "1", "Attempt": "1"}
    assert yard.header(message, "Priority") == "high"
    deadline = yard.header(message, "Deadline")
    assert deadline is not None
    assert deadline.startswith("2027-01-15T08:01:00")
    head = yard.mail.content(message).partition(b"\n\n")[0]
    assert b"reminder" not in head
    assert json.loads(yard.body(message))["description"] == "x\nType: reminder\n\nFrom: init"


def test_an_agent_gets_its_tasks_in_its_inbox(yard: Yard) -> None:
    yard.process("bob")
    yard.register("bob", by="bob", agent="bob")
    task = yard.submit()
    assert yard.claim("bob")["task"] == task.id
    yard.kernel.tasks.complete(yard.principal("bob"), task.id, {"ok": True})
    assert yard.state_of(task) == "completed"
    assert not yard.mail.mailbox("bob").cur
    assert yard.take("bob") is None


def test_a_worker_that_says_nothing_has_failed(yard: Yard) -> None:
    yard.process("bob")
    yard.register("bob", by="bob", agent="bob")
    task = yard.submit()
    yard.claim("bob")
    yard.take("bob")
    assert yard.state_of(task) == "failed"
    assert yard.task(task).error == "the worker took the next one and said nothing"


def test_an_error_is_final_unless_it_says_again(yard: Yard) -> None:
    yard.register("w1")
    task = yard.submit(max_attempts=3)
    yard.claim("w1")
    yard.answer("w1", 1, 1, error="busy", again=True)
    assert yard.claim("w1")["attempt"] == 2
    assert yard.task(task).history[-3]["words"] == "busy"
    yard.answer("w1", 1, 2, error="no such file")
    assert yard.state_of(task) == "failed"
    assert yard.task(task).error == "no such file"


def test_lost_attempts_make_a_task_dead(yard: Yard) -> None:
    yard.register("w1")
    task = yard.submit(max_attempts=2)
    for attempt in (1, 2):
        assert yard.claim("w1")["attempt"] == attempt
        yard.mail.receiving.settle(OPERATOR, "workers/w1", "failed")
    assert yard.state_of(task) == "dead"
    assert yard.task(task).reason.startswith("2 attempts were lost; the last: w1 ended")
    assert not yard.mail.mailbox("workers/w1").new
    assert "task_dead" in yard.told()


def test_a_task_that_is_given_back_has_lost_nothing(yard: Yard) -> None:
    yard.register("w1")
    task = yard.submit(max_attempts=1)
    yard.claim("w1")
    yard.mail.receiving.settle(OPERATOR, "workers/w1", "back")
    assert (yard.task(task).attempt, yard.task(task).lost) == (2, 0)
    assert yard.state_of(task) == "assigned"


def test_an_answer_for_an_attempt_that_is_over_is_stale(yard: Yard) -> None:
    yard.register("w1")
    task = yard.submit()
    refused(errno.EPERM, yard.answer, "w1", 1, 1, ok=1)  # nobody has claimed it
    yard.claim("w1")
    yard.mail.receiving.settle(OPERATOR, "workers/w1", "failed")
    yard.claim("w1")
    refused(errno.ESTALE, yard.answer, "w1", 1, 1, ok="old")
    yard.answer("w1", 1, 2, ok="new")
    refused(errno.ESTALE, yard.answer, "w1", 1, 2, ok="twice")
    assert yard.kernel.tasks.result_of(yard.task(task)) == '"new"'
    refused(errno.ENOENT, yard.answer, "w1", 7, 1, ok=1)
    for wrong in ({}, {"ok": 1, "error": "x"}, {"ok": 1, "again": True}, {"x": 1}):
        with pytest.raises(ValueError, match="validation error"):
            yard.answer("w1", 1, 2, **wrong)


def test_cancel_in_every_state(yard: Yard) -> None:
    tasks, cancel = yard.kernel.tasks, yard.kernel.tasks.cancel
    waits = yard.submit(requirements={"gpu": 1})
    cancel(OPERATOR, waits.id, "not needed")
    assert yard.task(waits).reason == "cancelled by init: not needed"
    yard.register("w1")
    assigned = yard.submit()
    cancel(OPERATOR, assigned.id)
    assert not yard.mail.mailbox("workers/w1").new
    running = yard.submit()
    yard.claim("w1")
    cancel(OPERATOR, running.id)
    refused(errno.ESTALE, yard.answer, "w1", running.id, 1, ok=1)
    told = yard.take("w1")
    assert told is not None
    assert yard.header(told, "Type") == "cancelled-task"
    assert json.loads(yard.body(told))["task"] == running.id
    assert [yard.state_of(each) for each in (waits, assigned, running)] == ["cancelled"] * 3
    assert "stays so" in refused(errno.EPERM, cancel, OPERATOR, running.id)
    refused(errno.ENOENT, cancel, OPERATOR, 99)
    assert tasks.counts()["cancelled"] == 3
    assert yard.take("w1") is None


class Late(Asked):
    """A guardian that says nothing at once."""

    def begin(self, task: Task, when: Moment) -> Judgement | None:
        return None


def test_a_verdict_may_come_later(yard: Yard) -> None:
    tasks = yard.kernel.tasks
    tasks.judge_by(Late())
    yard.register("w1")
    task = yard.submit()
    assert yard.state_of(task) == "pending"
    assert tasks.reason(task) == "a test"
    assert tasks.judged(task.id, Moment.SUBMIT, Judgement(True, "rule a"))
    assert not tasks.judged(task.id, Moment.SUBMIT, Judgement(True, "rule a"))
    yard.claim("w1")
    tasks.complete(OPERATOR, task.id, "result")
    assert yard.state_of(task) == "running"
    assert (tasks.result_of(yard.task(task)), tasks.table.result_of(task.id)) == ("", '"result"')
    refused(errno.ESTALE, tasks.complete, OPERATOR, task.id, "another")
    assert tasks.judged(task.id, Moment.RESULT, Judgement(False, "rule b", "too short", again=True))
    assert yard.state_of(task) == "pending" or yard.claim("w1")["attempt"] == 2
    tasks.complete(OPERATOR, task.id, "longer")
    assert tasks.judged(task.id, Moment.RESULT, Judgement(False, "rule b", "too short"))
    assert yard.task(task).error == "the result was rejected: too short"
    assert not tasks.judged(task.id, Moment.RESULT, Judgement(True, "rule b"))


def test_what_the_guardian_refuses_no_worker_gets(yard: Yard) -> None:
    class Strict(Asked):
        def begin(self, task: Task, when: Moment) -> Judgement | None:
            return Judgement(False, "rule a", "too dear")

    yard.kernel.tasks.judge_by(Strict())
    yard.register("w1")
    task = yard.submit()
    assert (yard.state_of(task), yard.task(task).reason) == ("rejected", "too dear")
    assert yard.told()[-1] == "task_rejected"
    assert not yard.mail.mailbox("workers/w1").new
    refused(errno.EPERM, yard.kernel.tasks.set_priority, OPERATOR, task.id, 3)


def test_an_attempt_has_its_time(yard: Yard) -> None:
    yard.register("w1")
    task = yard.submit(timeout=30)
    yard.claim("w1")
    yard.wait(31)
    assert yard.task(task).attempt == 2
    assert yard.claim("w1")["attempt"] == 2
    yard.restart()
    yard.wait(31)
    assert yard.task(task).attempt == 3
    assert yard.task(task).history[-2]["words"] == "the attempt took longer than 30 s"


def test_the_same_key_is_the_same_task(yard: Yard) -> None:
    yard.process("ann")
    first = yard.submit("a", key="k")
    assert yard.submit("a", key="k").id == first.id
    assert yard.submit("a", by="ann", key="k").id != first.id
    refused(errno.EEXIST, yard.submit, "b", key="k")
    refused(errno.EEXIST, yard.submit, "a", key="k", input=1)
    yard.register("w1")
    yard.claim("w1")
    yard.answer("w1", first.id, 1, ok=1)
    yard.restart()
    assert yard.submit("a", key="k").id == first.id
    refused(errno.EEXIST, yard.submit, "a", key="k", requirements={"gpu": 1})


def test_nine_comes_first_and_then_the_number(yard: Yard) -> None:
    low, usual, late, high = (yard.submit(priority=level) for level in (0, 5, 5, 9))
    yard.kernel.tasks.set_priority(OPERATOR, late.id, 6)
    refused(errno.EINVAL, yard.kernel.tasks.set_priority, OPERATOR, late.id, 10)
    yard.register("w1", capacity=1)
    order = []
    while told := yard.claim("w1"):
        order.append(told["task"])
        yard.answer("w1", told["task"], 1, ok=None)
    assert order == [high.id, late.id, usual.id, low.id]


def test_requests_that_are_wrong_say_what_was_expected(yard: Yard) -> None:
    for wrong in (
        {"description": ""},
        {"priority": 10},
        {"priority": True},
        {"timeout": -1},
        {"requirements": {"": 1}},
        {"requirements": {"x": {"a": 1}}},
        {"requirements": {"x": float("nan")}},
        {"program": []},
        {"unknown": 1},
        {"max_attempts": 0},
    ):
        with pytest.raises(ValueError, match="validation error"):
            TaskRequest(**{"description": "x", **wrong})  # type: ignore[arg-type]
    big = "x" * 300_000
    assert "tasks.max_input" in str(_rule(yard.submit, input=big))
    yard.register("w1")
    yard.submit()
    yard.claim("w1")
    assert _rule(yard.answer, "w1", 1, 1, ok="x" * 2_000_000) == "tasks.max_result"
    refused(errno.EINVAL, yard.kernel.tasks.complete, OPERATOR, 1, float("inf"))


def _rule(call: Callable[..., object], *args: Any, **more: Any) -> str:
    with pytest.raises(KernelError) as refusal:
        call(*args, **more)
    assert refusal.value.errno == errno.EMSGSIZE
    return refusal.value.rule


def test_what_a_removed_agent_has_submitted_is_nobody_elses(yard: Yard) -> None:
    process = yard.process("ann")
    yard.register("w1")
    done, open_ = yard.submit(by="ann", key="k"), yard.submit(by="ann")
    yard.claim("w1")
    yard.answer("w1", done.id, 1, ok="secret")
    yard.end(process, 0)
    yard.kernel.agents.remove(OPERATOR, "ann")
    assert yard.state_of(open_) == "cancelled"
    assert yard.task(done).submitter == "init"
    yard.process("ann", role=Role.WORKER)
    refused(errno.EACCES, yard.kernel.tasks.require_read, yard.principal("ann"), yard.task(done))
    assert yard.submit(by="ann", key="k").id > open_.id


def test_who_may_see_and_cancel_a_task(yard: Yard) -> None:
    for name in ("ann", "bob"):
        yard.process(name, role=Role.WORKER)
    task = yard.submit(by="ann")
    tasks = yard.kernel.tasks
    tasks.require_read(yard.principal("ann"), task)
    refused(errno.EACCES, tasks.require_read, yard.principal("bob"), task)
    for call in (tasks.cancel, tasks.set_priority, tasks.complete):
        args = () if call == tasks.cancel else (1,)
        with pytest.raises(KernelError) as refusal:
            call(yard.principal("bob"), task.id, *args)  # type: ignore[operator]
        assert refusal.value.errno in (errno.EACCES, errno.EPERM)
    tasks.cancel(yard.principal("ann"), task.id)


def test_tasks_that_ended_long_ago_are_forgotten(yard: Yard) -> None:
    yard.register("w1")
    for number in range(1, 4):
        yard.submit()
        yard.claim("w1")
        yard.answer("w1", number, 1, ok=number)
    yard.clock.advance(6 * 86_400)
    yard.kernel.tasks.tidy()
    assert yard.kernel.tasks.table.page(0, 10) == [1, 2, 3]
    assert yard.kernel.tasks.table.page(1, 1, TaskState.COMPLETED) == [2]
    yard.clock.advance(2 * 86_400)
    yard.kernel.tasks.tidy()
    assert yard.kernel.tasks.table.page(0, 10) == []
    assert yard.submit().id == 4
    assert yard.told().count("task_removed") == 3


def test_a_full_share_is_refused(tmp_path: Path) -> None:
    yard = Yard(tmp_path / "state", max_tasks=40)
    yard.process("ann")
    made = 0
    with pytest.raises(KernelError) as refusal:
        while made < 100:
            yard.submit(by="ann")
            made += 1
    assert refusal.value.errno == errno.EDQUOT
    assert 16 <= made < 40
    yard.submit()
    yard.kernel.tasks.cancel(yard.principal("ann"), 1)
    yard.submit(by="ann")
    yard.close()
