"""Nodes that somebody decides, and nodes that wait for a signal."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio
import trio.lowlevel

from agentfs.approvals.request import ApprovalRequest, ApprovalState
from agentfs.base.errors import KernelError
from agentfs.executors.starters import of_run
from agentfs.model.principal import Principal
from agentfs.workflow.model import Run
from tests.executors.office import Office
from tests.workflow.lab import data, node
from tests.world import OPERATOR


def gate(office: Office, **spec: Any) -> Run:
    return office.begin("approval", {"question": "Ship it?"} | spec)


def wait(office: Office, **spec: Any) -> Run:
    return office.begin("wait", {"event_key": "paid-7"} | spec)


def request(office: Office) -> ApprovalRequest:
    """The newest one."""
    return max(office.world.kernel.approvals, key=lambda each: each.id)


def decide(office: Office, who: str | Principal, **decision: Any) -> None:
    if isinstance(who, str):
        who = OPERATOR if who == "init" else office.world.principal(who)
    office.world.kernel.approvals.decide(who, request(office).id, **decision)
    office.settle()


# -- approvals -------------------------------------------------------------------------------------


def test_the_operator_agrees_and_the_run_goes_on(office: Office) -> None:
    run = gate(office)
    asked = request(office)
    assert (asked.agent, asked.by) == ("ann", "operator")
    assert asked.path == f"/proc/runs/{run.id}/nodes/n"
    [letter] = office.letters("init")
    assert "ann (process" in letter
    assert letter.endswith("Ship it?\n\n")
    assert office.state(run) == "suspended"
    decide(office, "init", approve=True)
    assert office.output(run, "n") == {"approved": True, "by": "init"}
    assert asked.state is ApprovalState.USED, "it lets nothing else through"
    assert office.state(run) == "completed"


def test_those_who_are_named_decide_and_nobody_for_a_run_of_their_own(office: Office) -> None:
    run = gate(office, approvers=["bob", "ann", "carol"])
    assert request(office).by == "bob, carol"
    assert [len(office.letters(name)) for name in ("ann", "bob", "carol", "init")] == [0, 1, 1, 0]
    itself = of_run(office.world.table.get(run.id))
    for who, code in ((office.world.principal("ann"), errno.EPERM), (itself, errno.ENOENT)):
        with pytest.raises(KernelError) as refusal:
            decide(office, who, approve=True)
        assert refusal.value.errno == code
    assert office.state(run) == "suspended"
    decide(office, "carol", approve=True)
    assert office.output(run, "n") == {"approved": True, "by": "carol"}
    with pytest.raises(KernelError) as refusal:
        decide(office, "bob", approve=False)
    assert refusal.value.errno == errno.EPERM, "it is decided already"


def test_who_asks_alone_leaves_it_to_the_operator(office: Office) -> None:
    gate(office, approvers="ann")
    assert request(office).by == "operator"


def test_a_decider_who_is_removed_leaves_it_to_the_others(office: Office) -> None:
    office.world.agent("dora")
    run = gate(office, approvers=["dora", "bob"])
    office.world.kernel.agents.remove(OPERATOR, "dora")
    assert request(office).by == "bob"
    decide(office, "bob", approve=True)
    assert office.state(run) == "completed"


def test_a_rejection_fails_the_node_for_good_with_its_reason(office: Office) -> None:
    run = gate(office)
    decide(office, "init", approve=False, reason="not on a Friday")
    row = office.row(run)
    assert row.error == "EACCES: request 000001 was rejected by init: not on a Friday"
    assert (row.kind, office.state(run)) == ("rejected", "failed")


def test_a_rejection_goes_to_the_node_that_handles_it(office: Office) -> None:
    office.pipeline(
        node("n", "approval", spec={"question": "Go?"}, on_error="sorry"),
        data("sorry", {"sent": True}, "n", handles=("n",)),
    )
    run = office.begin_plan()
    decide(office, "init", approve=False, reason="no")
    assert office.state(run) == "completed"
    assert office.output(run, "n")["_error"]["type"] == "rejected"


@pytest.mark.parametrize("how", [{"timeout": "1h"}, {"timeout": 3600.0}])
def test_nobody_decides_in_time(office: Office, how: Any) -> None:
    run = gate(office, **how)
    office.advance(3600)
    row = office.row(run)
    assert row.error == "ETIMEDOUT: nobody decided request 000001 in time"
    assert (row.kind, office.state(run)) == ("timeout", "failed")
    with pytest.raises(KernelError):
        decide(office, "init", approve=True)


def test_a_cancelled_run_withdraws_its_request(office: Office) -> None:
    run = gate(office)
    office.runs.cancel(OPERATOR, run.id)
    office.settle()
    assert request(office).state is ApprovalState.WITHDRAWN
    with pytest.raises(KernelError):
        decide(office, "init", approve=True)
    assert office.state(run) == "cancelled"


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize("away", [0.0, 10 * 86_400.0])
def test_a_decision_between_two_daemons_is_found(
    office: Office, approve: bool, away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gate(office)
    with monkeypatch.context() as dying:
        dying.setattr("agentfs.executors.approvals.ApprovalNodes._over", lambda self, number: None)
        decide(office, "init", approve=approve)
    assert office.state(run, "n") == "waiting"
    office.world.clock.advance(away)
    office.restart()
    if approve:
        assert office.output(run, "n") == {"approved": True, "by": "init"}
    else:
        assert office.error(run, "n").startswith("EACCES")


def test_a_request_survives_the_daemon_and_is_asked_once(office: Office) -> None:
    run = gate(office)
    office.restart()
    office.restart()
    assert len(list(office.world.kernel.approvals)) == 1
    assert len(office.letters("init")) == 1
    decide(office, "init", approve=True)
    assert office.state(run) == "completed"


def test_each_of_two_gates_is_decided_by_its_own_request(office: Office) -> None:
    office.pipeline(
        node("left", "approval", spec={"question": "Go?"}),
        node("right", "approval", spec={"question": "Go?"}),
    )
    run = office.begin_plan()
    first, second = sorted(each.id for each in office.world.kernel.approvals)
    approvals = office.world.kernel.approvals
    approvals.decide(OPERATOR, second, approve=True)
    office.settle()
    assert (office.state(run, "left"), office.state(run, "right")) == ("waiting", "completed")
    with pytest.raises(KernelError):
        approvals.decide(OPERATOR, second, approve=True)
    approvals.decide(OPERATOR, first, approve=True)
    office.settle()
    assert office.state(run) == "completed"


# -- waits -----------------------------------------------------------------------------------------


def test_a_signal_at_the_wait_ends_it(office: Office) -> None:
    run = wait(office)
    assert office.state(run) == "suspended"
    office.runs.signal(office.world.principal("ann"), run.id, "paid-7", {"paid": True})
    office.settle()
    assert office.output(run, "n") == {"paid": True}
    assert office.state(run) == "completed"


def test_a_signal_before_the_wait_is_kept_for_it(office: Office) -> None:
    office.pipeline(node("a"), node("n", "wait", "a", spec={"event_key": "paid-7"}))
    run = office.begin_plan()
    office.runs.signal(OPERATOR, run.id, "paid-7", 1)
    office.restart()
    office.done("a")
    assert office.output(run, "n") == 1
    assert office.engine.signals.keys(run.id) == []


def test_a_signal_after_the_end_is_refused(office: Office) -> None:
    run = wait(office)
    office.runs.signal(OPERATOR, run.id, "paid-7", 1)
    office.settle()
    with pytest.raises(KernelError) as refusal:
        office.runs.signal(OPERATOR, run.id, "paid-7", 2)
    assert refusal.value.errno == errno.EPERM


def test_two_signals_at_once_in_the_wrong_order_reach_both_waits(office: Office) -> None:
    office.pipeline(
        node("a", "wait", spec={"event_key": "A"}), node("b", "wait", "a", spec={"event_key": "B"})
    )
    run = office.begin_plan()
    for key in ("B", "A"):
        office.runs.signal(OPERATOR, run.id, key, key.lower())
    office.settle()
    assert (office.output(run, "a"), office.output(run, "b")) == ("a", "b")


def test_parallel_waits_end_apart_and_nothing_runs_again(office: Office) -> None:
    office.pipeline(
        node("a"),
        node("left", "wait", "a", spec={"event_key": "L"}),
        node("right", "wait", "a", spec={"event_key": "R"}),
        node("after", "program", "left right"),
    )
    run = office.begin_plan()
    office.done("a")
    office.runs.signal(OPERATOR, run.id, "R", "r")
    office.restart()
    assert (office.state(run, "left"), office.state(run, "right")) == ("waiting", "completed")
    office.runs.signal(OPERATOR, run.id, "L", "l")
    office.settle()
    assert office.step("after").input == {"left": "l", "right": "r"}
    assert office.row(run, "a").attempt == 1


def test_of_two_waits_for_one_key_each_takes_a_signal(office: Office) -> None:
    office.pipeline(*(node(name, "wait", spec={"event_key": "K"}) for name in ("a", "b")))
    run = office.begin_plan()
    office.runs.signal(OPERATOR, run.id, "K", 1)
    office.settle()
    assert sorted(office.states(run).values()) == ["completed", "waiting"]
    office.runs.signal(OPERATOR, run.id, "K", 2)
    office.settle()
    assert {office.output(run, name) for name in ("a", "b")} == {1, 2}


@pytest.mark.parametrize("output", [{"paid": False}, "nothing", 0])
def test_nobody_sends_it_in_time_and_the_run_goes_on(office: Office, output: Any) -> None:
    run = wait(office, timeout=5, on_timeout=output)
    office.advance(5)
    assert office.output(run, "n") == output
    assert office.state(run) == "completed"


@pytest.mark.parametrize("spec", [{}, {"on_timeout": "fail"}])
def test_nobody_sends_it_in_time(office: Office, spec: Any) -> None:
    run = wait(office, timeout="5s", **spec)
    office.advance(5)
    row = office.row(run)
    assert row.error == "ETIMEDOUT: no signal paid-7 came within 5 s"
    assert (row.kind, row.attempt, office.state(run)) == ("timeout", 1, "failed")


def test_a_time_that_passes_while_there_is_no_daemon_is_over_once(office: Office) -> None:
    run = wait(office, timeout="1d", on_timeout="late")
    office.world.clock.advance(10 * 86_400)
    office.restart()
    office.advance(1)
    assert office.output(run, "n") == "late"
    office.restart()
    assert [line["type"] for line in office.lines(run)].count("NodeCompleted") == 1


def test_the_starter_is_told_what_a_wait_asks_for(office: Office) -> None:
    run = wait(office, prompt="Was it paid?")
    office.restart()
    [letter] = office.letters("ann")
    assert f"Type: notice\nRun: {run.id}\nNode: n\n" in letter
    assert f"Was it paid?\n\nWrite the answer to /proc/runs/{run.id}/signals/paid-7." in letter


@pytest.mark.parametrize(
    "spec", [{"event_key": "a/b"}, {"event_key": ".."}, {"event_key": ""}, {"timeout": "soon"}]
)
def test_what_is_no_wait(office: Office, spec: Any) -> None:
    assert office.error(wait(office, **spec), "n").startswith("EINVAL: ")


# -- /dev/waits ------------------------------------------------------------------------------------


def woken(office: Office, who: Principal, key: str = "paid-7", data: Any = 1) -> int:
    """Write to /dev/waits/KEY, and let it be done; how many are woken."""
    wakes = office.world.kernel.wakes

    async def wake() -> int:
        count = await wakes.wake(who, key, data)
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wakes.run)
                while wakes.under_way:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        return count

    count = trio.run(wake)
    office.settle()
    return count


def test_a_wake_reaches_all_that_wait_for_the_key(office: Office) -> None:
    runs = [wait(office) for _ in range(3)]
    other = wait(office, event_key="other")
    keys = office.world.kernel.wakes.keys
    assert list(keys()) == ["other", "paid-7"]
    assert woken(office, OPERATOR, data={"paid": True}) == 3
    assert [office.output(run, "n") for run in runs] == [{"paid": True}] * 3
    assert office.state(other, "n") == "waiting"
    assert list(keys()) == ["other"]
    with pytest.raises(KernelError) as refusal:
        woken(office, OPERATOR)
    assert refusal.value.errno == errno.ENOENT


def test_a_wake_reaches_only_what_its_writer_may_signal(office: Office) -> None:
    mine, other = wait(office), office.begin("wait", {"event_key": "paid-7"}, by="bob")
    assert woken(office, office.world.principal("ann")) == 1
    assert (office.state(mine), office.state(other)) == ("completed", "suspended")
    with pytest.raises(KernelError) as refusal:
        woken(office, office.world.principal("ann"))
    assert refusal.value.errno in (errno.EACCES, errno.EPERM)


def test_a_wake_that_a_daemon_did_not_finish_is_finished_by_the_next(office: Office) -> None:
    runs = [wait(office) for _ in range(2)]
    trio.run(office.world.kernel.wakes.wake, OPERATOR, "paid-7", "now")
    [first, *_] = office.engine.waiting("paid-7")
    office.engine.succeed(first, "now")  # it comes as far as this
    office.restart()
    assert [office.state(run) for run in runs] == ["completed", "suspended"]

    async def go_on() -> None:
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(office.world.kernel.wakes.run)
                while office.world.kernel.wakes.under_way:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    trio.run(go_on)
    office.settle()
    assert [office.output(run, "n") for run in runs] == ["now", "now"]


def test_a_signal_that_is_too_long(office: Office) -> None:
    wait(office)
    with pytest.raises(KernelError) as refusal:
        woken(office, OPERATOR, data="x" * 2_000_000)
    assert refusal.value.errno == errno.EMSGSIZE
