"""Nodes that somebody decides, and nodes that wait for a signal."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.approvals.request import ApprovalRequest, ApprovalState
from agentfs.base.errors import KernelError
from agentfs.executors.approvals import ApprovalNodes
from agentfs.executors.starters import of_run
from agentfs.executors.waits import WaitNodes
from agentfs.workflow.model import StepRef
from tests.executors.desk import Desk, Steps
from tests.world import OPERATOR, World


class DecidedWorld(World):
    """A world with the agents ann, who has started a run, bob and carol."""

    steps: Steps | None = None
    desk: Desk

    def _start(self) -> None:
        super()._start()
        kernel, before = self.kernel, getattr(self, "desk", None)
        self.desk = Desk(self.store)
        if before is not None:  # the journal survives
            self.desk.open, self.desk.waiting = before.open, before.waiting
        agents = kernel.agents
        self.nodes = kernel.ground.parts.add(
            ApprovalNodes(kernel.ground, self.desk, kernel.approvals, agents)
        )
        self.waits = WaitNodes(kernel.ground, self.desk)
        self.nodes.load()
        self.nodes.take_up()

    def question(self, attempt: int = 1, **spec: Any) -> StepRef:
        assert self.steps is not None
        step = self.steps.make("approval", {"question": "Ship it?"} | spec, attempt)
        self.desk.do(self.nodes, step)
        return step.ref

    def wait(self, **spec: Any) -> StepRef:
        assert self.steps is not None
        step = self.steps.make("wait", {"event_key": "paid-7"} | spec)
        self.desk.do(self.waits, step)
        return step.ref

    def request(self) -> ApprovalRequest:
        return max(self.kernel.approvals, key=lambda request: request.id)

    def decide(self, who: str, **decision: Any) -> None:
        principal = OPERATOR if who == "init" else self.principal(who)
        self.kernel.approvals.decide(principal, self.request().id, **decision)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[DecidedWorld]:
    world = DecidedWorld(tmp_path)
    for name in ("ann", "bob", "carol"):
        world.process(name)
    world.steps = Steps(world, "ann")
    yield world
    world.close()


# -- approvals -------------------------------------------------------------------------------------


def test_the_operator_agrees_and_the_run_goes_on(world: DecidedWorld) -> None:
    ref = world.question()
    request = world.request()
    assert (request.agent, request.by) == ("ann", "operator")
    assert request.path == f"/proc/runs/{ref.run}/nodes/n"
    [letter] = world.waiting("init")
    assert "ann (process" in letter
    assert letter.endswith("Ship it?\n\n")
    assert ref in world.desk.waiting
    world.decide("init", approve=True)
    assert world.desk.over == {ref: {"approved": True, "by": "init"}}
    assert request.state is ApprovalState.USED, "it lets nothing else through"


def test_those_who_are_named_decide_and_nobody_for_a_run_of_their_own(world: DecidedWorld) -> None:
    world.question(approvers=["bob", "ann", "carol"])
    assert world.request().by == "bob, carol"
    assert [len(world.waiting(name)) for name in ("ann", "bob", "carol", "init")] == [0, 1, 1, 0]
    assert world.steps is not None
    for who, code in (
        (world.principal("ann"), errno.EPERM),
        (of_run(world.steps.process), errno.ENOENT),
    ):
        with pytest.raises(KernelError) as refusal:
            world.kernel.approvals.decide(who, world.request().id, approve=True)
        assert refusal.value.errno == code
    world.decide("carol", approve=True)
    assert list(world.desk.over.values()) == [{"approved": True, "by": "carol"}]
    with pytest.raises(KernelError) as refusal:
        world.decide("bob", approve=False)
    assert refusal.value.errno == errno.EPERM, "it is decided already"


def test_who_asks_alone_leaves_it_to_the_operator(world: DecidedWorld) -> None:
    world.question(approvers="ann")
    assert world.request().by == "operator"


def test_a_decider_who_is_removed_leaves_it_to_the_others(world: DecidedWorld) -> None:
    world.agent("dora")
    world.question(approvers=["dora", "bob"])
    world.kernel.agents.remove(OPERATOR, "dora")
    assert world.request().by == "bob"
    world.decide("bob", approve=True)


def test_a_rejection_fails_the_node_for_good_with_its_reason(world: DecidedWorld) -> None:
    ref = world.question()
    world.decide("init", approve=False, reason="not on a Friday")
    error, again, kind = world.desk.failed[ref]
    assert error == "EACCES: request 000001 was rejected by init: not on a Friday"
    assert (again, kind) == (False, "rejected")


def test_nobody_decides_in_time(world: DecidedWorld) -> None:
    ref = world.question(timeout="1h")
    world.clock.advance(3601)
    world.timers.run_due()
    with pytest.raises(KernelError):
        world.decide("init", approve=True)
    error, again, kind = world.desk.failed[ref]
    assert error == "ETIMEDOUT: nobody decided request 000001 in time"
    assert (again, kind) == (False, "timeout")


def test_a_cancelled_node_withdraws_its_request(world: DecidedWorld) -> None:
    ref = world.question()
    world.desk.cancel(world.nodes, ref)
    assert world.request().state is ApprovalState.WITHDRAWN
    with pytest.raises(KernelError):
        world.decide("init", approve=True)
    assert not world.desk.over


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize("away", [0.0, 10 * 86_400.0])
def test_a_decision_between_two_daemons_is_found(
    world: DecidedWorld, approve: bool, away: float
) -> None:
    ref = world.question()
    world.nodes._over = lambda number: None  # type: ignore[method-assign]  # it dies here
    world.decide("init", approve=approve)
    world.clock.advance(away)
    world.restart()
    if approve:
        assert world.desk.over == {ref: {"approved": True, "by": "init"}}
    else:
        assert world.desk.failed[ref][0].startswith("EACCES")


def test_a_request_survives_the_daemon_and_is_asked_once(world: DecidedWorld) -> None:
    ref = world.question()
    world.restart()
    world.nodes.start(world.desk.open[ref], again=True)
    assert len(list(world.kernel.approvals)) == 1
    assert len(world.waiting("init")) == 1
    world.decide("init", approve=True)
    assert ref in world.desk.over


def test_each_of_two_gates_is_decided_by_its_own_request(world: DecidedWorld) -> None:
    assert world.steps is not None
    one, two = (
        world.steps.make("approval", {"question": "Go?"}, path=path) for path in ("left", "right")
    )
    for step in (one, two):
        world.desk.do(world.nodes, step)
    first, second = sorted(request.id for request in world.kernel.approvals)
    world.kernel.approvals.decide(OPERATOR, second, approve=True)
    assert list(world.desk.over) == [two.ref]
    world.kernel.approvals.decide(OPERATOR, first, approve=True)
    assert list(world.desk.over) == [two.ref, one.ref]


# -- waits -----------------------------------------------------------------------------------------


def test_a_wait_is_a_row_with_a_key_and_a_time(world: DecidedWorld) -> None:
    ref = world.wait(timeout="90s")
    assert world.desk.waiting == {ref: (world.clock.now() + 90, "paid-7")}


def test_a_signal_that_came_before_the_wait_ends_it_at_once(world: DecidedWorld) -> None:
    assert world.steps is not None
    world.desk.signals[world.steps.run, "paid-7"] = [{"paid": True}]
    ref = world.wait()
    assert world.desk.over == {ref: {"paid": True}}
    assert world.desk.signals[world.steps.run, "paid-7"] == [], "one signal ends one wait"


@pytest.mark.parametrize(
    ("spec", "output"), [({"on_timeout": {"paid": False}}, {"paid": False}), ({}, None)]
)
def test_nobody_sends_it_in_time(world: DecidedWorld, spec: Any, output: Any) -> None:
    ref = world.wait(timeout=5, **spec)
    world.waits.due(world.desk.open[ref])
    if spec:
        assert world.desk.over == {ref: output}
    else:
        words = "ETIMEDOUT: no signal paid-7 came within 5 s"
        assert world.desk.failed == {ref: (words, False, "timeout")}


@pytest.mark.parametrize(
    "spec", [{"event_key": "a/b"}, {"event_key": ".."}, {"event_key": ""}, {"timeout": "soon"}]
)
def test_what_is_no_wait(world: DecidedWorld, spec: Any) -> None:
    with pytest.raises(KernelError) as refusal:
        world.wait(**spec)
    assert refusal.value.errno == errno.EINVAL
