"""System calls on runs: start and its refusals, queues, cancel, pause, signals, retry, upgrade,
sub-runs; and what is left of a run."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Concurrency, Plan, Retry
from agentfs.model.capability import CapabilitySet, Ceiling
from agentfs.model.process import Role, State
from agentfs.workflow.model import Start
from tests.workflow.lab import Lab, data, expression, graph, node
from tests.world import OPERATOR


def refused(call, *args, **more) -> int:
    with pytest.raises(KernelError) as failure:
        call(*args, **more)
    assert len(failure.value.reason) > 10
    return failure.value.errno


# -- start ---------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_run_also_after_its_end(lab: Lab) -> None:
    lab.pipeline(node("a"))
    run = lab.start({"x": 1}, key="k")
    assert lab.start({"x": 1}, key="k").id == run.id
    assert refused(lab.start, {"x": 2}, key="k") == errno.EEXIST
    lab.restart()
    assert lab.start({"x": 1}, key="k").id == run.id
    lab.done("a")
    assert lab.start({"x": 1}, key="k").id == run.id
    assert lab.start({"x": 1}, key="").id != run.id


def test_refusals_of_a_start_leave_nothing(lab: Lab) -> None:
    lab.pipeline(node("a"), max_runs=1, max_queued=1)
    assert refused(lab.start, None, "q") == errno.ENOENT
    assert refused(lab.start, float("nan")) == errno.EINVAL
    assert refused(lab.start, "x" * 2_000_000) == errno.EMSGSIZE
    assert refused(lab.start, None, limits={"max_fun": 1}) == errno.EINVAL
    assert refused(lab.start, None, limits={"max_llm_calls": -1}) == errno.EINVAL
    assert refused(lab.start, None, caps=("fun",)) == errno.EINVAL
    worker = lab.world.process("worker", role=Role.TASK)
    principal = lab.world.principal(worker.name)
    assert refused(lab.runs.start, principal, Start("p")) in (errno.EACCES, errno.EPERM)
    assert len(lab.engine.open) == 0
    first, second = lab.start(), lab.start()
    assert (lab.state(first), lab.state(second)) == ("running", "queued")
    assert refused(lab.start) == errno.EAGAIN
    assert [*lab.world.store.read("SELECT count(*) FROM runs")] == [(2,)]
    lab.restart()
    lab.done("a", run=first)
    assert lab.state(second) == "running"


def test_too_many_open_runs_of_one_agent(lab: Lab) -> None:
    lab.world.settings.replace("workflows: {max_open_of_one: 2}\n")
    lab.pipeline(node("a"))
    lab.start()
    lab.start()
    assert refused(lab.start) == errno.EAGAIN


@pytest.mark.parametrize("on_full", ["queue", "skip", "replace"])
def test_runs_with_the_same_key_of_concurrency(lab: Lab, on_full: str) -> None:
    lab.pipeline(node("a"), concurrency=Concurrency("{{ input.t }}", 1, on_full))
    first, other = lab.start({"t": 1}), lab.start({"t": 2})
    if on_full == "skip":
        assert refused(lab.start, {"t": 1}) == errno.ECANCELED
        return
    second, third = lab.start({"t": 1}), lab.start({"t": 1})
    if on_full == "queue":
        assert [lab.state(run) for run in (first, other, second, third)] == [
            "running", "running", "queued", "queued",
        ]  # fmt: skip
        lab.failed("a", run=first)
        assert [lab.state(run) for run in (second, third)] == ["running", "queued"]
        lab.runs.cancel(OPERATOR, third.id)
        lab.settle()
        lab.done("a", run=second)
        assert [lab.state(run) for run in (second, third)] == ["completed", "cancelled"]
    else:
        assert [lab.state(run) for run in (first, second, third)] == [
            "cancelled", "cancelled", "running",
        ]  # fmt: skip


def test_a_failed_runs_place_goes_to_the_next_and_its_retry_waits_its_turn(lab: Lab) -> None:
    lab.pipeline(node("a"), max_runs=1)
    first, second = lab.start(), lab.start()
    lab.failed("a", run=first)
    assert lab.state(second) == "running"
    again = lab.runs.retry(OPERATOR, first.id)
    lab.settle()
    assert lab.state(again) == "queued"
    lab.done("a", run=second)
    lab.done("a", run=again)
    assert lab.state(again) == "completed"


def test_a_run_has_at_most_what_its_starter_and_its_request_have(lab: Lab) -> None:
    alice = lab.world.process("alice")
    lab.pipeline(node("a"), caps=("llm", "spawner", "memory"), deny=("memory",),
                 limits={"max_llm_calls": 50})  # fmt: skip
    ceiling = Ceiling((), CapabilitySet.of(["llm", "spawner", "tool:search"]))
    run = lab.runs.start(
        lab.world.principal("alice"),
        Start("p", limits={"max_llm_calls": 30}, caps=("llm", "secret"), ceiling=ceiling),
    )
    process = lab.world.table.get(run.id)
    has = lab.world.gate.policy.capabilities(process)
    assert [name for name in ("llm", "spawn_children", "memory", "secret") if has.allows(name)] == [
        "llm"
    ]
    assert (process.limits.max_llm_calls, process.ppid, run.starter) == (30, alice.pid, "alice")
    assert lab.world.table.count_live_children(alice.pid) == 0


# -- control -------------------------------------------------------------------------------------


def test_control_of_an_ended_or_foreign_run_is_refused(lab: Lab) -> None:
    run = lab.run(node("a"))
    lab.world.process("mallory")
    mallory = lab.world.principal("mallory")
    for call in (lab.runs.cancel, lab.runs.pause, lab.runs.upgrade):
        assert refused(call, mallory, run.id) in (errno.EACCES, errno.EPERM)
    assert refused(lab.runs.signal, mallory, run.id, "k", 1) in (errno.EACCES, errno.EPERM)
    assert refused(lab.runs.resume, OPERATOR, run.id) == errno.EPERM
    assert refused(lab.runs.cancel, OPERATOR, 99) == errno.ENOENT
    lab.done("a")
    for call in (lab.runs.cancel, lab.runs.pause, lab.runs.resume):
        assert refused(call, OPERATOR, run.id) == errno.EPERM
    assert refused(lab.runs.retry, OPERATOR, run.id) == errno.EPERM


def test_the_process_of_a_run_shows_whether_it_works_waits_or_is_paused(lab: Lab) -> None:
    run = lab.run(node("a"), node("w", "wait", "a", spec_event_key="go"))
    process = lab.world.table.get(run.id)
    assert process.state is State.RUNNING
    lab.runs.pause(OPERATOR, run.id)
    assert process.state is State.SLEEPING
    lab.runs.resume(OPERATOR, run.id)
    lab.settle()
    lab.done("a")
    assert process.state is State.IDLE
    lab.runs.pause(OPERATOR, run.id)  # it is suspended before and after
    assert process.state is State.SLEEPING
    lab.runs.resume(OPERATOR, run.id)
    lab.settle()
    assert process.state is State.IDLE


def test_a_paused_run_begins_nothing_and_goes_on_where_it_was(lab: Lab) -> None:
    run = lab.run(node("a"), node("b", needs="a"), data("c", 1, "b"))
    lab.runs.pause(OPERATOR, run.id)
    assert lab.state(run) == "suspended"
    lab.done("a", 1)
    assert lab.at_work() == []
    lab.restart()
    assert (lab.at_work(), lab.state(run)) == ([], "suspended")
    lab.runs.resume(OPERATOR, run.id)
    lab.settle()
    lab.done("b", 2)
    assert lab.state(run) == "completed"


def test_signals_to_the_process_of_a_run(lab: Lab) -> None:
    processes = lab.world.kernel.processes
    run = lab.run(node("a"))
    processes.signal(OPERATOR, run.id, "STOP")
    assert lab.state(run) == "suspended"
    processes.signal(OPERATOR, run.id, "CONT")
    assert lab.state(run) == "running"
    processes.signal(OPERATOR, run.id, "TERM")
    lab.settle()
    assert (lab.state(run), lab.at_work()) == ("cancelled", [])
    run = lab.run(node("a"))
    processes.signal(OPERATOR, run.id, "KILL")
    lab.settle()
    assert (lab.state(run), lab.at_work()) == ("cancelled", [])


# -- signals -------------------------------------------------------------------------------------


def test_a_signal_counts_once_before_at_and_after_the_wait(lab: Lab) -> None:
    lab.pipeline(
        node("a"), node("w1", "wait", "a", spec_event_key="k"),
        node("w2", "wait", "w1", spec_event_key="k"),
    )  # fmt: skip
    run = lab.start()
    lab.runs.signal(OPERATOR, run.id, "k", {"n": 1})
    assert lab.runs.signals(run.id) == ["k"]
    lab.restart()
    lab.done("a")
    assert lab.output(run, "w1") == {"n": 1}
    assert (lab.state(run), lab.state(run, "w2")) == ("suspended", "waiting")
    assert lab.runs.signals(run.id) == ["k"]
    lab.runs.signal(OPERATOR, run.id, "k", 2)
    lab.settle()
    assert (lab.state(run), lab.output(run)) == ("completed", 2)
    assert lab.engine.signals.keys(run.id) == []


def test_two_parallel_waits_are_answered_apart_over_a_restart(lab: Lab) -> None:
    run = lab.run(
        node("a"), node("l", "wait", "a", spec_event_key="l"),
        node("r", "wait", "a", spec_event_key="r"), node("end", needs="l r"),
    )  # fmt: skip
    lab.done("a")
    lab.restart()
    lab.runs.signal(OPERATOR, run.id, "r", "right")
    lab.settle()
    assert lab.at_work() == []
    lab.restart()
    lab.runs.signal(OPERATOR, run.id, "l", "left")
    lab.settle()
    assert lab.step("end").input == {"l": "left", "r": "right"}
    assert [entry for entry in lab.hands.log if "/a#" in entry] == []  # nothing ran again


def test_an_overdue_wait_ends_once_after_a_restart(lab: Lab) -> None:
    run = lab.run(
        node("w", "wait", spec_event_key="k", spec_timeout=60.0, on_error="h"),
        node("h", needs="w", handles=("w",)),
    )
    lab.world.clock.advance(3600)
    lab.restart()
    lab.advance(1.1)
    assert lab.hands.log.count(f"due {run.id}/w#1") == 1
    assert lab.step("h").input["_error"]["type"] == "timeout"
    assert refused(lab.runs.signal, OPERATOR, run.id, "", 1) == errno.EINVAL


# -- retry ---------------------------------------------------------------------------------------


def test_a_retry_over_three_generations_does_nothing_twice(lab: Lab) -> None:
    chain = (node("a"), node("b", needs="a"), node("c", needs="b"), node("d", needs="c"))
    run = lab.run(*chain, given={"x": 1})
    lab.done("a", "A" * 100_000)
    lab.done("b", "B")
    lab.failed("c")
    second = lab.runs.retry(OPERATOR, run.id)
    lab.settle()
    assert lab.at_work() == ["c"]
    assert lab.step("c").key == f"{run.id}/c"
    lab.done("c", "C")
    lab.failed("d")
    lab.restart()
    third = lab.runs.retry(OPERATOR, second.id)
    lab.settle()
    lab.done("d", "D")
    assert (third.retry_of, third.origin, lab.state(third)) == (second.id, run.id, "completed")
    assert lab.output(third, "b") == "B"
    assert lab.output(third, "a")["$artifact"] == f"/proc/runs/{third.id}/artifacts/a"
    assert (lab.runs.folder(third.id) / "artifacts" / "a").stat().st_size == 100_002
    started = [line["node"] for line in lab.lines(third) if line["type"] == "NodeStarted"]
    assert started == ["d"]


def test_a_retry_from_a_node_runs_it_and_all_behind_it(lab: Lab) -> None:
    run = lab.run(node("a"), node("b", needs="a"), node("x"))
    lab.done("a", 1)
    lab.done("b", 2)
    lab.done("x", 3)
    assert refused(lab.runs.retry, OPERATOR, run.id, "z") == errno.EINVAL
    again = lab.runs.retry(OPERATOR, run.id, "a")
    lab.settle()
    assert lab.at_work() == ["a"]
    lab.done("a", 4)
    lab.done("b", 5)
    assert lab.output(again) == {"b": 5, "x": 3}


def test_a_retry_of_a_loop_goes_on_with_what_is_left_of_it(lab: Lab) -> None:
    loop = node(
        "each", "for-each", spec={"items": [1, 2, 3, 4], "concurrency": 2},
        bodies=(("body", graph(node("u"), node("v", needs="u"))),),
    )  # fmt: skip
    run = lab.run(loop)
    lab.done("each/0/u", "u0")
    lab.done("each/1/u", "u1")
    lab.done("each/0/v", "v0")
    lab.done("each/2/u", "u2")
    lab.failed("each/1/v")
    lab.done("each/2/v", "v2")
    assert lab.state(run) == "failed"
    again = lab.runs.retry(OPERATOR, run.id)
    lab.settle()
    assert lab.at_work() == ["each/1/v", "each/3/u"]
    lab.done("each/1/v", "v1")
    lab.done("each/3/u", "u3")
    lab.done("each/3/v", "v3")
    assert lab.output(again)["result"] == ["v0", "v1", "v2", "v3"]
    unbegun = lab.run(node("a"), replace(loop, needs=("a",), sources=("a",)))
    lab.failed("a")
    again = lab.runs.retry(OPERATOR, unbegun.id)
    lab.settle()
    lab.done("a")
    assert lab.at_work() == ["each/0/u", "each/1/u"]


# -- sub-runs ------------------------------------------------------------------------------------


def _family(lab: Lab, **fields) -> None:
    lab.pipeline(node("c1"), node("c2", needs="c1"), name="child")
    lab.pipeline(
        data("n", 5),
        node(
            "sub", "pipeline", "n", spec={"pipeline": "child", "input": {"n": "{{ n }}"}}, **fields
        ),
        expression("end", "sub", v="sub"),
    )


def _child(lab: Lab, run):
    (number,) = lab.runs.children(run.id)
    return lab.runs.get(number)


def test_a_sub_run_ends_its_node_with_its_output(lab: Lab) -> None:
    _family(lab)
    run = lab.start()
    child = _child(lab, run)
    assert (child.parent, child.parent_node, child.depth) == (run.id, "sub", 1)
    assert lab.world.table.get(child.id).ppid == run.id
    assert (lab.state(run), lab.step("c1").input) == ("suspended", {"n": 5})
    lab.restart()
    lab.done("c1")
    lab.done("c2", "X" * 70_000)
    assert lab.state(run) == "completed"
    stood = lab.output(run, "sub")
    assert stood["$artifact"] == f"/proc/runs/{run.id}/artifacts/sub"
    assert (lab.runs.folder(run.id) / "artifacts" / "sub").stat().st_size == 70_002


@pytest.mark.parametrize("good", [True, False])
def test_a_daemon_that_dies_between_a_sub_run_and_its_parent_strands_nobody(
    lab: Lab, good: bool
) -> None:
    lab.pipeline(node("c"), name="child")
    sub = node("sub", "pipeline", spec={"pipeline": "child"}, on_error="" if good else "mend")
    mend = [] if good else [node("mend", needs="sub", handles=("sub",))]
    run = lab.run(sub, node("after", needs="sub"), *mend)
    assert lab.state(run) == "suspended"
    ref = lab.step("c").ref
    if good:
        lab.engine.succeed(ref, 1)
    else:
        lab.engine.fail(ref, "it broke", again=False)
    lab.restart()  # the parent has not had its turn
    assert lab.at_work() == (["after"] if good else ["after", "mend"])
    assert lab.state(run) == "running"


def test_a_pause_outlives_the_end_of_a_sub_run_and_the_daemon(lab: Lab) -> None:
    lab.pipeline(node("c"), name="child")
    run = lab.run(node("sub", "pipeline", spec={"pipeline": "child"}), node("after", needs="sub"))
    lab.runs.pause(OPERATOR, run.id)
    lab.engine.succeed(lab.step("c").ref, 1)
    lab.restart()
    assert (lab.state(run), lab.at_work()) == ("suspended", [])
    lab.runs.resume(OPERATOR, run.id)
    lab.settle()
    assert lab.at_work() == ["after"]


def test_a_cancel_goes_down_to_sub_runs_and_one_below_goes_up(lab: Lab) -> None:
    _family(lab, retry=Retry(5, 0.0))
    run = lab.start()
    child = _child(lab, run)
    lab.runs.cancel(OPERATOR, run.id)
    lab.settle()
    lab.advance(100)
    assert (lab.state(run), lab.state(child), lab.at_work()) == ("cancelled", "cancelled", [])
    assert lab.runs.get(run.id).ended >= lab.runs.get(child.id).ended
    run = lab.start()
    lab.runs.cancel(OPERATOR, _child(lab, run).id)
    lab.settle()
    assert (lab.state(run), lab.runs.node(run.id, "sub").kind) == ("failed", "cancelled")
    assert lab.runs.node(run.id, "sub").attempt == 1  # it is not tried for ever


def test_a_sub_run_may_go_on_without_its_parent(lab: Lab) -> None:
    lab.pipeline(node("c"), name="child")
    lab.pipeline(node("sub", "pipeline", spec={"pipeline": "child", "on_parent_end": "abandon"}))
    run = lab.start()
    child = _child(lab, run)
    lab.runs.cancel(OPERATOR, run.id)
    lab.settle()
    assert (lab.state(run), lab.state(child)) == ("cancelled", "running")
    lab.done("c")
    assert lab.state(child) == "completed"


def test_a_sub_run_that_failed_is_gone_on_with_by_the_retry_of_its_parent(lab: Lab) -> None:
    _family(lab)
    run = lab.start()
    lab.done("c1", 1)
    lab.failed("c2", "no")
    assert (lab.state(run), "no" in lab.error(run)) == ("failed", True)
    again = lab.runs.retry(OPERATOR, run.id)
    lab.settle()
    assert lab.at_work() == ["c2"]
    lab.done("c2", 2)
    assert (lab.state(again), lab.output(again)) == ("completed", {"v": 2})


def test_sub_runs_within_sub_runs_end_somewhere(lab: Lab) -> None:
    lab.pipeline(node("sub", "pipeline", spec={"pipeline": "p"}))
    run = lab.start()
    assert (lab.state(run), "workflows.max_depth" in str(lab.error(run))) == ("failed", False)
    assert "deep" in lab.error(run)
    assert len(lab.engine.open) == 0
    run = lab.run(node("sub", "pipeline", spec={"pipeline": "nowhere"}))
    assert "no pipeline nowhere" in lab.error(run)


# -- versions ------------------------------------------------------------------------------------


def test_a_run_ends_by_the_version_that_it_began_with_unless_it_is_upgraded(lab: Lab) -> None:
    run = lab.run(node("a"), node("b", needs="a"))
    plan = lab.plans["p"]
    lab.plans["p"] = Plan("p", 2, graph(node("a"), node("b2", needs="a")))
    lab.restart()
    lab.done("a", 1)
    assert lab.at_work() == ["b"]
    assert refused(lab.runs.upgrade, OPERATOR, run.id) == errno.EINVAL
    with pytest.raises(KernelError, match="node b has begun, and is gone from version 2"):
        lab.runs.upgrade(OPERATOR, run.id)
    del lab.plans["p"]
    lab.done("b", 2)
    assert (lab.state(run), lab.runs.get(run.id).version) == ("completed", 1)
    lab.plans["p"] = plan
    run = lab.start()
    lab.plans["p"] = Plan("p", 3, graph(node("a"), node("c", needs="a")))
    lab.runs.upgrade(OPERATOR, run.id)
    lab.restart()
    lab.done("a", 1)
    lab.done("c", 3)
    assert (lab.output(run), lab.runs.get(run.id).version) == (3, 3)


# -- what is left --------------------------------------------------------------------------------


def test_queries_pages_and_groups(lab: Lab) -> None:
    lab.pipeline(node("a"), name="p")
    lab.pipeline(data("a", 1), name="q")
    first = lab.start(ref=("case", "7"))
    second, third = lab.start(name="q"), lab.start(name="q", ref=("case", "7"))
    assert lab.runs.page(0, 10) == [first.id, second.id, third.id]
    assert lab.runs.page(first.id, 1) == [second.id]
    assert lab.runs.page(0, 10, state="running") == [first.id]
    assert lab.runs.page(0, 10, ref="case/7") == [first.id, third.id]
    assert lab.runs.groups("pipeline") == ["p", "q"]
    assert lab.runs.groups("ref") == ["case/7"]
    assert [run.id for run in lab.runs.query(pipeline="q", limit=1)] == [third.id]
    lab.advance(100)
    assert lab.runs.query(since=lab.world.clock.now() - 50) == []


def test_old_runs_are_forgotten_in_small_steps(lab: Lab) -> None:
    lab.world.settings.replace("workflows: {retention: 1h}\n")
    many = node(
        "each", "for-each", spec={"items": [*range(300)], "concurrency": 50},
        bodies=(("body", graph(expression("v", v="index"))),),
    )  # fmt: skip
    run = lab.run(many, data("big", "x" * 100_000))
    kept = lab.run(node("a"))
    assert lab.state(run) == "completed"
    lab.advance(3500)
    lab.retention.tidy()
    lab.settle()
    assert lab.runs.find(run.id) is not None
    lab.advance(200)
    lab.retention.tidy()
    assert lab.runs.find(run.id) is not None  # only a part of it is gone
    for _ in range(20):
        lab.advance(0.1)
    assert lab.runs.find(run.id) is None
    assert lab.retention._folders == [run.id]
    for table in ("run_nodes", "run_events"):
        query = f"SELECT count(*) FROM {table} WHERE run = ?"
        assert [*lab.world.store.read(query, (run.id,))] == [(0,)]
    assert [*lab.world.store.read("SELECT count(*) FROM plans")] == [(1,)]
    assert lab.runs.find(kept.id) is not None


def test_a_run_that_waits_is_not_in_memory_whoever_looks_at_it(lab: Lab) -> None:
    lab.pipeline(node("w", "wait", spec_event_key="go"), data("z", 1, "w"))
    runs = [lab.start() for _ in range(50)]
    refs = lab.engine.waiting("go")
    assert len(refs) == 50
    assert all(map(lab.engine.progress, refs))
    assert not lab.engine.works_for(1, runs[0].id)
    assert lab.engine._live == {}
    lab.restart()
    assert lab.engine._live == {}
    for run in runs:
        lab.runs.signal(OPERATOR, run.id, "go", 1)
    lab.settle()
    assert {lab.state(run) for run in runs} == {"completed"}


def test_a_run_whose_process_is_gone_after_a_crash_is_cancelled(lab: Lab) -> None:
    run = lab.run(node("w", "wait", spec_event_key="go"))
    with lab.world.store.transaction():
        lab.world.table.remove(run.id)
        lab.world.store.write("UPDATE runs SET record = json_set(record, '$.reason', 'x')", ())
    import tests.world

    sound, tests.world.check = tests.world.check, lambda path: []
    try:
        lab.restart()
    finally:
        tests.world.check = sound
    assert lab.state(run) == "cancelled"


def test_a_queued_run_of_a_free_key_does_not_wait_for_those_of_another(lab: Lab) -> None:
    lab.pipeline(node("a"), concurrency=Concurrency("{{ input.t }}", 1), max_queued=100)
    first = lab.start({"t": 1})
    queued = [lab.start({"t": 1}) for _ in range(30)]
    other = lab.start({"t": 2})
    last = lab.start({"t": 2})
    assert lab.state(last) == "queued"
    lab.done("a", run=other)
    assert lab.state(last) == "running"
    lab.done("a", run=first)
    assert [lab.state(run) for run in queued[:2]] == ["running", "queued"]


def test_a_bad_row_strands_no_other_run(lab: Lab) -> None:
    lab.pipeline(node("a"), node("b", needs="a"))
    bad, good = lab.start(), lab.start()
    with lab.world.store.transaction():
        lab.world.store.write("UPDATE runs SET plan_hash = 'gone' WHERE id = ?", (bad.id,))
        lab.world.store.write(
            "UPDATE runs SET record = json_set(record, '$.plan_hash', 'gone') WHERE id = ?",
            (bad.id,),
        )
    lab.world.close = lambda: lab.world._stop()  # the check would say so
    import tests.world

    sound, tests.world.check = tests.world.check, lambda path: []
    try:
        lab.restart()
    finally:
        tests.world.check = sound
    lab.done("a", run=good)
    lab.done("b", run=good)
    assert lab.state(good) == "completed"
