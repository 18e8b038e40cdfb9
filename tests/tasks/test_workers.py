"""Workers: who may be one, which of them gets a task, and what happens when one is gone."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from agentfs.tasks.model import Task, WorkerState
from agentfs.tasks.policy import Candidate
from tests.tasks.test_tasks import refused
from tests.tasks.yard import OPERATOR, Yard


def test_unmatched_says_why_and_a_fitting_worker_gets_it_at_once(yard: Yard) -> None:
    why = yard.kernel.tasks.reason
    yard.register("plain", capabilities={"cpu": "medium", "memory": 8, "tags": ["a", "b"]})
    task = yard.submit(requirements={"gpu": True, "cpu": "high"})
    assert why(task) == "needs gpu: no worker has it; needs cpu high: the best has medium"
    more = yard.submit(requirements={"memory": 16})
    assert why(more) == "needs memory 16: the best has 8"
    yard.register("dear", capabilities={"cpu": "high", "memory": 4, "gpu": True})
    assert yard.task(task).worker == "dear"
    both = yard.submit(requirements={"memory": 8, "gpu": True})
    assert why(both) == "no worker has all of it: memory 8, gpu"
    assert yard.submit(requirements={"tags": ["b"]}).worker == "plain"
    yard.kernel.workers.change(OPERATOR, "dear", capabilities={"memory": 64})
    assert yard.task(more).worker == "dear"
    assert yard.submit(requirements={"worker": "plain"}).worker == "plain"


def test_a_worker_that_is_full_says_so(yard: Yard) -> None:
    yard.configure("tasks: {max_concurrent: 3}\n")
    yard.register("w1", capacity=1)
    yard.submit()
    waits = yard.submit()
    assert yard.kernel.tasks.reason(waits) == "no worker that fits is free: w1 has 1 of 1"
    yard.kernel.workers.change(OPERATOR, "w1", capacity=9)
    assert yard.state_of(waits) == "assigned"
    yard.submit()
    last = yard.submit()
    assert "(tasks.max_concurrent)" in yard.kernel.tasks.reason(last)
    yard.configure("tasks: {max_concurrent: 4}\n")
    assert yard.state_of(last) == "assigned"


def test_the_least_loaded_gets_it_and_the_last_one_not_again(yard: Yard) -> None:
    yard.register("w1", capacity=2)
    yard.register("w2", capacity=4)
    workers = [yard.submit().worker for _ in range(3)]
    assert workers == ["w1", "w2", "w2"]
    first = yard.claim("w1")["task"]
    yard.mail.receiving.settle(OPERATOR, "workers/w1", "failed")
    assert yard.kernel.tasks.get(first).worker == "w2"


def test_a_worker_from_outside_that_is_silent_is_lost(yard: Yard) -> None:
    yard.register("w1")
    yard.wait(100)
    yard.kernel.workers.heartbeat(OPERATOR, "w1")
    task = yard.submit()
    yard.claim("w1")
    yard.wait(119)
    assert yard.state_of(task) == "running"
    yard.told()
    yard.wait(2)
    worker = yard.kernel.workers.get("w1")
    assert worker.state is WorkerState.LOST
    assert yard.told() == ["worker_lost", "task_returned"]
    assert yard.kernel.tasks.reason(yard.task(task)).startswith("worker w1 would fit, and is lost")
    yard.restart()
    assert yard.kernel.workers.counts() == {"active": 0, "lost": 1}
    yard.kernel.workers.heartbeat(OPERATOR, "w1")
    assert yard.told() == ["worker_heartbeat", "worker_recovered", "task_assigned"]
    assert yard.claim("w1")["attempt"] == 2
    refused(errno.ESTALE, yard.answer, "w1", task.id, 1, ok=1)
    yard.answer("w1", task.id, 2, ok=1)


def test_who_waits_in_a_read_is_not_lost(yard: Yard) -> None:
    yard.register("w1")
    stop = yard.mail.receiving.on_waiting("workers/w1", lambda: None)
    yard.wait(500)
    assert yard.kernel.workers.get("w1").state is WorkerState.ACTIVE
    stop()
    yard.wait(121)
    assert yard.kernel.workers.get("w1").state is WorkerState.LOST
    yard.kernel.workers.seen("w1")
    assert yard.kernel.workers.get("w1").state is WorkerState.ACTIVE


def test_a_restart_takes_no_time_from_anybody(yard: Yard) -> None:
    yard.register("w1")
    yard.wait(100)
    yard.restart()
    yard.wait(100)
    assert yard.kernel.workers.get("w1").state is WorkerState.ACTIVE
    yard.clock.step(1e6)
    yard.wait(10)
    assert yard.kernel.workers.get("w1").state is WorkerState.ACTIVE


def test_an_agent_is_a_worker_as_long_as_it_has_a_process(yard: Yard) -> None:
    bob = yard.process("bob")
    yard.register("bob", by="bob", agent="bob")
    yard.register("desk", by="bob")
    ones = [yard.submit(), yard.submit()]
    yard.claim("bob")
    assert {yard.task(each).worker for each in ones} == {"bob", "desk"}
    yard.wait(500)
    yard.told()
    yard.end(bob, 1)
    assert sorted(yard.told()) == ["task_returned", "task_returned", "worker_lost", "worker_lost"]
    assert [yard.task(each).lost for each in ones] == [1, 0]
    assert not yard.mail.mailbox("bob").new
    yard.restart()
    yard.process("bob")
    yard.kernel.workers.take_up()
    assert yard.kernel.workers.counts() == {"active": 2, "lost": 0}
    assert {yard.state_of(each) for each in ones} == {"assigned"}


def test_who_claims_nothing_gives_it_back_and_holds_up_nobody(yard: Yard) -> None:
    yard.configure("tasks: {max_concurrent: 2}\n")
    for name in ("idler", "worker"):
        yard.process(name)
        yard.register(name, by=name, agent=name, capabilities={"idle": name == "idler"})
    idle = [yard.submit(requirements={"idle": True}) for _ in range(2)]
    other = yard.submit(requirements={"idle": False})
    assert yard.state_of(other) == "validated"
    yard.wait(599)
    assert [yard.state_of(each) for each in idle] == ["assigned"] * 2
    yard.wait(2)
    assert [yard.state_of(each) for each in idle] == ["validated"] * 2
    assert [yard.task(each).lost for each in idle] == [0, 0]
    assert "idler claims nothing" in yard.kernel.tasks.reason(yard.task(idle[0]))
    assert not yard.mail.mailbox("idler").new
    assert yard.claim("worker")["task"] == other.id
    stop = yard.mail.receiving.on_waiting("idler", lambda: None)
    yard.wait(2)
    assert yard.state_of(idle[0]) == "assigned"
    stop()
    assert yard.claim("idler")["task"] == idle[0].id
    yard.wait(5_000)  # it is busy, and has claimed what it does
    assert yard.state_of(idle[0]) == "running"
    yard.answer("worker", other.id, 1, by="worker", ok=1)
    yard.wait(5_000)
    assert yard.state_of(idle[1]) == "assigned"


def test_a_program_that_is_started_again_gets_the_task_as_the_next_attempt(yard: Yard) -> None:
    bob = yard.process("bob")
    yard.register("bob", by="bob", agent="bob")
    task = yard.submit()
    yard.claim("bob")
    yard.end(bob, 9, restart=True)
    assert (yard.task(task).attempt, yard.state_of(task)) == (2, "assigned")
    assert yard.claim("bob")["attempt"] == 2


def test_removing_a_worker_gives_its_tasks_back(yard: Yard) -> None:
    yard.register("w1")
    task, waits = yard.submit(), yard.submit()
    yard.claim("w1")
    yard.kernel.workers.remove(OPERATOR, "w1")
    assert [yard.state_of(each) for each in (task, waits)] == ["validated"] * 2
    assert yard.kernel.tasks.reason(yard.task(waits)).startswith("there is no worker")
    yard.register("w1")
    assert yard.claim("w1")["attempt"] == 2


def test_a_worker_that_registers_again_is_the_same(yard: Yard) -> None:
    yard.process("ann")
    yard.process("bob")
    first = yard.register("desk", by="ann")
    task = yard.submit(by="ann")
    yard.claim("desk", by="ann")
    yard.told()
    assert yard.register("desk", by="ann") is first
    assert yard.told() == []
    yard.register("desk", by="ann", capabilities={"gpu": 1}, capacity=9)
    assert (first.capabilities, first.capacity) == ({"gpu": 1}, 9)
    assert yard.told() == ["worker_changed"]
    assert yard.state_of(task) == "running"
    refused(errno.EEXIST, yard.register, "desk", by="bob")
    refused(errno.EEXIST, yard.register, "desk", by="ann", agent="ann")


def test_a_removed_agent_is_no_worker(yard: Yard) -> None:
    bob = yard.process("bob")
    yard.register("bob", by="bob", agent="bob")
    yard.register("desk", by="bob")
    task = yard.submit()
    yard.end(bob, 0)
    yard.kernel.agents.remove(OPERATOR, "bob")
    assert list(yard.kernel.workers) == ["desk"]
    assert yard.kernel.workers.get("desk").ownership.owner == "init"
    assert yard.state_of(task) == "validated"


def test_who_may_register_what(yard: Yard) -> None:
    for name in ("ann", "bob"):
        yard.process(name)
    refused(errno.EPERM, yard.register, "x", by="ann", agent="bob")
    refused(errno.ENOENT, yard.register, "x", agent="carol")
    refused(errno.ENOENT, yard.register, "x", pool="sums")
    for name in ("kernel", "operator", "0perator", "init", "a/b", ""):
        refused(errno.EINVAL, yard.register, name)
    yard.register("x", by="ann")
    for call in (yard.kernel.workers.remove, yard.kernel.workers.change):
        refused(errno.EPERM, call, yard.principal("bob"), "x")
    refused(errno.EACCES, yard.kernel.workers.heartbeat, yard.principal("bob"), "x")
    refused(errno.ENOENT, yard.kernel.workers.heartbeat, OPERATOR, "y")
    refused(errno.EINVAL, yard.kernel.workers.change, OPERATOR, "x", capacity=0)


def test_an_order_of_its_own_is_the_workers(yard: Yard) -> None:
    yard.register("w", capabilities={"size": {"level": "large", "of": ["small", "large", "huge"]}})
    assert yard.submit(requirements={"size": "small"}).worker == "w"
    huge = yard.submit(requirements={"size": "huge"})
    assert yard.kernel.tasks.reason(huge) == "needs size huge: the best has large"


class Slow:
    """A mind that answers later, or as it was told."""

    def __init__(self, answer: Sequence[str] | None) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def order(self, task: Task, candidates: Sequence[Candidate]) -> Sequence[str] | None:
        self.asked.append(task.id)
        return self.answer


@pytest.mark.parametrize("answer", [["w2", "w1"], ["nobody", "w2"], []])
def test_the_mind_proposes_and_the_kernel_checks(yard: Yard, answer: list[str]) -> None:
    yard.kernel.tasks.route_by(Slow(answer))
    yard.register("w1")
    yard.register("w2")
    assert yard.submit().worker == ("w2" if answer else "w1")


def test_a_mind_has_ten_seconds(yard: Yard) -> None:
    mind = Slow(None)
    yard.kernel.tasks.route_by(mind)
    yard.register("w1")
    yard.register("w2")
    first, second, gone = yard.submit(), yard.submit(), yard.submit()
    assert yard.kernel.tasks.reason(first) == "the mind chooses a worker"
    assert yard.kernel.tasks.proposed(first.id, ["lost", "w2"])
    assert yard.task(first).worker == "w2"
    yard.kernel.tasks.cancel(OPERATOR, gone.id)
    yard.wait(11)
    assert yard.task(second).worker == "w1"
    assert not yard.kernel.tasks.proposed(second.id, ["w2"])
    assert mind.asked == [first.id, second.id, gone.id]


def test_a_worker_works_for_its_own_user_alone(yard: Yard) -> None:
    """The other user is another uid of the same agents."""
    yard.process("ann")
    yard.process("bob")
    yard.register("desk", by="bob")
    stranger = yard.kernel.table.by_name("ann")
    assert stranger is not None
    stranger.uid = 12_345
    task = yard.submit(by="ann")
    assert yard.kernel.tasks.reason(task) == "all workers that fit are another user's"
    assert yard.submit().worker == "desk"
    yard.register("open")
    assert yard.task(task).worker == "open"
