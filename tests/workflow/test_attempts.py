"""Attempts: retries, back-off, times, lost ones, errors and sizes; keys, rates and breakers."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Breaker, Concurrency, Rate, Retry
from agentfs.model.process import OnLimit
from tests.workflow.lab import Lab, data, node
from tests.world import OPERATOR


def test_a_late_answer_of_an_earlier_attempt_changes_nothing(lab: Lab) -> None:
    run = lab.run(node("a", retry=Retry(3, 1.0, 2.0, 60.0), timeout=4.0))
    late = lab.step("a").ref
    lab.advance(4.1)
    assert lab.hands.log[-1] == f"cancel {late}"
    assert lab.state(run, "a") == "backoff"
    with pytest.raises(KernelError) as stale:
        lab.engine.succeed(late, 1)
    assert stale.value.errno == errno.ESTALE
    assert lab.at_work() == []
    lab.advance(1.0)
    assert lab.step("a").ref.attempt == 2
    with pytest.raises(KernelError):
        lab.engine.fail(late, "too late")
    lab.done("a", 2)
    assert (lab.state(run), lab.output(run)) == ("completed", 2)


def test_delays_grow_to_their_bound_and_zero_is_zero(lab: Lab) -> None:
    lab.run(node("a", retry=Retry(5, 1.0, 3.0, 5.0)))
    waited = []
    for _ in range(4):
        before = lab.world.clock.now()
        lab.failed("a")
        while "a" not in lab.at_work():
            lab.advance(0.5)
        waited.append(lab.world.clock.now() - before)
    assert waited == [1.0, 3.0, 5.0, 5.0]
    lab.failed("a")
    assert len(lab.engine.open) == 0
    run = lab.run(node("a", retry=Retry(2, 0.0)))
    lab.failed("a", "first")
    assert lab.step("a").ref.attempt == 2
    lab.failed("a", "second")
    assert (lab.state(run), lab.error(run)) == ("failed", "a: second")


def test_a_deadline_beats_retries(lab: Lab) -> None:
    run = lab.run(node("a", retry=Retry(5, 480.0, 1.0, 480.0), timeout=600.0), deadline=900.0)
    lab.advance(479)
    lab.failed("a")
    assert lab.state(run, "a") == "failed"  # 479 + 480 is beyond it
    run = lab.run(node("a"), deadline=900.0)
    lab.advance(899)
    assert lab.state(run) == "running"
    lab.advance(1.1)
    assert (lab.state(run), lab.state(run, "a")) == ("timed_out", "cancelled")
    assert lab.hands.steps == {}


def test_a_later_time_does_not_hide_an_earlier_one(lab: Lab) -> None:
    run = lab.run(node("a", timeout=10.0), node("b"), node("c", needs="b", timeout=100.0))
    lab.advance(5)
    lab.done("b")
    lab.advance(5.1)
    assert (lab.state(run, "a"), lab.state(run, "c")) == ("failed", "running")


def test_a_backoff_holds_no_slot(lab: Lab) -> None:
    lab.hands.slots = 1
    lab.run(node("a", retry=Retry(2, 60.0)), node("b"), max_concurrent_nodes=1)
    lab.failed("a")
    assert lab.at_work() == ["b"]
    lab.advance(61.0)
    assert lab.at_work() == ["b"]
    lab.done("b")
    assert lab.at_work() == ["a"]


def test_backoff_and_timeout_go_on_over_a_restart(lab: Lab) -> None:
    run = lab.run(node("a", retry=Retry(2, 60.0), timeout=10.0))
    lab.failed("a")
    lab.restart()
    assert lab.state(run, "a") == "backoff"
    lab.advance(60.1)
    assert lab.step("a").ref.attempt == 2
    lab.restart()
    lab.advance(10.1)
    assert (lab.state(run), lab.error(run)) == ("failed", "a: it took longer than 10 s")


def test_what_must_happen_once_is_not_tried_twice(lab: Lab) -> None:
    run = lab.run(node("a", once=True, retry=Retry(3, 0.0)))
    lab.failed("a", "its worker is gone", kind="lost")
    assert (lab.state(run), lab.runs.node(run.id, "a").kind) == ("failed", "lost")
    run = lab.run(node("a"))
    lab.failed("a", "its worker is gone", kind="lost")
    assert lab.step("a").ref.attempt == 2  # it is nobody's failure: another one, at once
    for _ in range(30):
        if lab.hands.steps:
            lab.failed("a", kind="lost")
    assert lab.state(run) == "failed"


def test_a_program_may_ask_to_be_done_again(lab: Lab) -> None:
    run = lab.run(node("a"))
    lab.failed("a", "exit 75", kind="again")
    assert lab.state(run, "a") == "backoff"
    lab.advance(1.1)
    lab.done("a")
    assert lab.state(run) == "completed"
    run = lab.run(node("a", once=True))
    lab.failed("a", "exit 75", kind="again")
    assert lab.state(run) == "failed"


def test_long_values_are_files_and_too_long_ones_a_failure(lab: Lab) -> None:
    lab.world.settings.replace("workflows: {max_output: 400000}\n")
    run = lab.run(node("a"), node("b", needs="a"), data("c", "{{ a | length }}", "a"))
    lab.done("a", ["x" * 100] * 3000)
    stood = lab.step("b").input
    assert stood["$artifact"] == f"/proc/runs/{run.id}/artifacts/a"
    file = lab.runs.folder(run.id) / "artifacts" / "a"
    assert file.stat().st_size == stood["size"] == 309_001
    assert lab.output(run, "c") == 3000
    lab.done("b", stood)
    assert lab.output(run) == {"b": stood, "c": 3000}
    run = lab.run(node("a", retry=Retry(3, 0.0)))
    lab.done("a", "x" * 500_000)
    row = lab.runs.node(run.id, "a")
    assert (lab.state(run), row.kind, row.attempt) == ("failed", "size", 1)
    run = lab.run(node("a"))
    lab.failed("a", "ü" * 1_000_000)
    assert len(lab.error(run, "a").encode()) < 65_600
    assert lab.error(run, "a").endswith("(2000000 bytes)")


def test_the_failure_of_the_store_is_no_failure_of_the_run(lab: Lab) -> None:
    run = lab.run(node("a"))
    begin = lab.step("a").ref

    def full() -> None:
        raise KernelError(errno.ENOSPC, "no room")

    lab.world.store.before_commit.append(full)
    with pytest.raises(KernelError):
        lab.engine.succeed(begin, 1)
    lab.world.store.before_commit.remove(full)
    assert (lab.state(run), lab.state(run, "a")) == ("running", "running")
    lab.done("a", 1)
    assert lab.state(run) == "completed"


def test_an_attempt_that_cannot_be_committed_fails_alone(lab: Lab) -> None:
    run = lab.run(node("a"), node("bad", needs="a"), node("a2", needs="a"))
    begin = lab.hands.begin

    def refuse(step) -> None:
        begin(step)
        if step.ref.path == "bad":
            with lab.world.store.transaction():
                lab.world.store.set_meta("last_pid", lab.world.store.meta("last_pid"))
                raise KernelError(errno.EDQUOT, "in the middle of it")

    lab.hands.begin = refuse
    lab.done("a", 1)
    assert lab.state(run, "a") == "completed"
    assert lab.error(run, "bad") == "in the middle of it"
    lab.done("a2")
    assert lab.state(run) == "failed"


def test_a_limit_ends_the_node_as_the_run_says(lab: Lab) -> None:
    run = lab.run(node("a", retry=Retry(3)), node("b", needs="a"), on_limit="skip")
    lab.failed("a", "max_llm_calls", kind="limit", again=False)
    assert lab.states(run) == {"a": "skipped", "b": "skipped"}
    assert lab.state(run) == "completed"
    run = lab.run(node("a", retry=Retry(3)), node("b"), on_limit="raise")
    assert lab.world.table.get(run.id).on_limit is OnLimit.RAISE
    lab.failed("a", "max_llm_calls", kind="limit", again=False)
    assert lab.at_work() == ["b"]
    lab.done("b")
    assert lab.state(run) == "failed"
    run = lab.run(node("a", retry=Retry(3)), node("b"), on_limit="stop")
    lab.failed("a", "max_llm_calls", kind="limit", again=False)
    assert (lab.state(run), lab.at_work()) == ("failed", [])


@pytest.mark.parametrize("on_full", ["queue", "skip", "replace"])
def test_a_concurrency_key_of_nodes_holds_over_all_runs(lab: Lab, on_full: str) -> None:
    rule = Concurrency("tenant-{{ input.t }}", 1, on_full)
    lab.pipeline(node("a", concurrency=rule))
    first, other = lab.start({"t": 1}), lab.start({"t": 2})
    second = lab.start({"t": 1})
    third = lab.start({"t": 1})
    now = {ref.run for ref in lab.hands.steps}
    if on_full == "queue":
        assert now == {first.id, other.id}
        lab.restart()
        lab.done("a", run=first)
        assert {ref.run for ref in lab.hands.steps} == {other.id, second.id}
        lab.done("a", run=second)
        lab.done("a", run=third)
    elif on_full == "skip":
        assert now == {first.id, other.id}
        assert lab.state(third, "a") == "skipped"
    else:
        assert now == {other.id, third.id}
        assert lab.state(first, "a") == "cancelled"


def test_a_key_is_held_by_a_sub_run_and_not_by_a_wait(lab: Lab) -> None:
    rule = Concurrency("k", 1, "queue")
    lab.pipeline(node("c"), name="child")
    lab.pipeline(node("sub", "pipeline", spec={"pipeline": "child"}, concurrency=rule))
    lab.start()
    lab.start()
    assert lab.at_work() == ["c"]
    lab.restart()
    lab.done("c")
    assert lab.at_work() == ["c"]
    lab.done("c")
    assert len(lab.engine.open) == 0
    lab.pipeline(node("w", "wait", spec_event_key="go", concurrency=rule))
    assert [lab.state(lab.start(), "w") for _ in range(2)] == ["waiting", "waiting"]


def test_a_rate_is_kept_over_runs_and_restarts(lab: Lab) -> None:
    lab.pipeline(*[node(f"n{i}", rate=Rate("slow", 2, 60.0)) for i in range(4)])
    lab.start()
    assert lab.at_work() == ["n0", "n1"]
    lab.restart()
    assert lab.at_work() == ["n0", "n1"]
    lab.advance(30.1)
    assert lab.at_work() == ["n0", "n1", "n2"]
    lab.advance(30.1)
    assert len(lab.at_work()) == 4


def test_a_breaker_opens_probes_and_heals(lab: Lab) -> None:
    lab.pipeline(node("a", breaker=Breaker("frail", 2, 60.0)))
    for _ in range(2):
        lab.start()
        lab.failed("a")
    first, second = lab.start(), lab.start()
    assert lab.at_work() == []
    lab.advance(60.1)
    assert lab.at_work() == ["a"]  # one alone decides
    lab.failed("a")
    assert lab.at_work() == []
    lab.restart()
    lab.advance(60.1)
    assert lab.at_work() == ["a"]
    lab.done("a")
    assert lab.state(first) != lab.state(second)
    third = lab.start()
    lab.done("a", run=third)
    assert lab.state(third) == "completed"


def test_an_attempt_that_fails_in_its_begin_leaves_no_probe_and_is_tried_again(lab: Lab) -> None:
    frail = Breaker("frail", 1, 60.0)
    lab.pipeline(node("a", breaker=frail, retry=Retry(2, 5.0)))
    run, begin = lab.start(), lab.hands.begin

    def fails(step) -> None:
        lab.engine.fail(step.ref, "at once")

    lab.failed("a")
    lab.hands.begin = fails
    lab.advance(60.1)
    assert lab.state(run) == "failed"
    lab.hands.begin = begin
    run = lab.start()
    assert lab.at_work() == []
    lab.advance(60.1)
    lab.done("a", run=run)
    assert lab.state(run) == "completed"


def test_a_race_that_a_kept_signal_decides_ends_the_other_at_once(lab: Lab) -> None:
    lab.pipeline(
        node("s"), node("a", needs="s"), node("w", "wait", "a s", spec_event_key="k", join="first")
    )
    run = lab.start()
    lab.runs.signal(OPERATOR, run.id, "k", 5)
    lab.done("s")
    assert (lab.state(run), lab.output(run), lab.state(run, "a")) == ("completed", 5, "cancelled")


def test_skip_of_one_node_and_signals_for_others(lab: Lab) -> None:
    run = lab.run(node("a"), node("b", needs="a"), node("c", needs="b"))
    lab.runs.skip_node(OPERATOR, run.id, "a")
    lab.settle()
    assert lab.states(run) == {"a": "skipped", "b": "skipped", "c": "skipped"}
    run = lab.run(node("a"), node("b", needs="a"))
    lab.runs.skip_node(OPERATOR, run.id, "b")
    lab.done("a", 1)
    assert lab.state(run) == "completed"
    for path, number in (("a", errno.EPERM), ("x", errno.EPERM)):
        with pytest.raises(KernelError) as refused:
            lab.runs.skip_node(OPERATOR, run.id, path)
        assert refused.value.errno == number
