"""Graphs: what begins when, joins, skips, failures, and what a run gives."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Retry
from tests.workflow.lab import Lab, data, expression, node


def test_a_chain_of_the_kernels_own_nodes_is_done_at_once(lab: Lab) -> None:
    run = lab.run(data("a", {"v": 1}), expression("b", "a", w="a.v + 1"), given={"x": 1})
    assert lab.state(run) == "completed"
    assert lab.output(run) == {"w": 2}
    assert [line["type"] for line in lab.lines(run)] == [
        "PipelineStarted",
        "NodeCompleted",
        "NodeCompleted",
        "PipelineCompleted",
    ]
    assert [line["seq"] for line in lab.lines(run)] == [1, 2, 3, 4]
    assert lab.world.table.find(run.id) is None
    assert len(lab.engine.open) == 0


def test_a_run_goes_on_after_the_daemon_was_killed(lab: Lab) -> None:
    run = lab.run(node("a"), node("b", needs="a"), node("c", needs="a"), node("d", needs="b c"))
    assert lab.at_work() == ["a"]
    lab.done("a", {"v": 1})
    assert lab.at_work() == ["b", "c"]
    lab.done("c", 2)
    assert lab.step("b").input == {"v": 1}
    lab.restart()
    assert lab.hands.log == [f"again {run.id}/b#1"]
    lab.done("b", 3)
    assert lab.step("d").input == {"b": 3, "c": 2}
    lab.done("d", 4)
    assert (lab.state(run), lab.output(run)) == ("completed", 4)


def test_a_slow_branch_holds_up_nobody_and_unequal_branches_join_once(lab: Lab) -> None:
    run = lab.run(
        node("a"),
        node("b", needs="a"),
        node("slow", needs="a"),
        node("d", needs="b"),
        node("e", needs="slow d"),
    )
    lab.done("a")
    lab.done("b")
    assert lab.at_work() == ["d", "slow"]
    lab.done("d", 1)
    assert lab.at_work() == ["slow"]
    lab.done("slow", 2)
    assert lab.at_work() == ["e"]
    assert lab.step("e").input == {"d": 1, "slow": 2}
    lab.done("e")
    assert [entry for entry in lab.hands.log if "/e#" in entry] == [f"start {run.id}/e#1"]


def _branches(lab: Lab, way: str):
    switch = node(
        "route",
        "switch",
        spec={
            "branches": [
                {"condition": "input.way == 'a'", "action": "a"},
                {"condition": "input.way == 'b'", "action": "b"},
            ],
            "else_action": None,
        },
    )
    routed = {"routes": ("route",), "sources": ()}
    return lab.run(
        switch,
        node("a", needs="route", **routed),
        node("b", needs="route", **routed),
        node("c", needs="a b"),
        node("d", needs="c"),
        given={"way": way},
    )


def test_behind_a_branch_a_join_runs_once_whichever_was_skipped(lab: Lab) -> None:
    run = _branches(lab, "a")
    assert lab.at_work() == ["a"]
    assert lab.runs.node(run.id, "b").reason == "route chose another way"
    lab.done("a", 1)
    assert lab.step("c").input == {"a": 1, "way": "a"}
    lab.done("c", 2)
    lab.done("d", 3)
    assert (lab.state(run), lab.output(run)) == ("completed", 3)


def test_if_all_before_it_were_skipped_a_node_is_skipped(lab: Lab) -> None:
    run = _branches(lab, "nowhere")
    assert lab.state(run) == "completed"
    assert lab.states(run) == {
        "route": "completed",
        "a": "skipped",
        "b": "skipped",
        "c": "skipped",
        "d": "skipped",
    }


def test_a_false_condition_skips_and_one_that_cannot_be_decided_fails(lab: Lab) -> None:
    run = lab.run(data("a", 1), node("b", needs="a", when="a > 1"), data("c", 2))
    assert lab.states(run) == {"a": "completed", "b": "skipped", "c": "completed"}
    assert lab.output(run) == {"c": 2}
    run = lab.run(data("a", 1), node("b", needs="a", when="a.x.y > 1"))
    assert lab.state(run) == "failed"
    assert lab.error(run).startswith("b: ")


def test_a_critical_node_that_is_skipped_fails_the_run(lab: Lab) -> None:
    run = lab.run(data("a", 1), node("b", needs="a", when="false", critical=True))
    assert lab.state(run) == "failed"
    assert "critical" in lab.error(run)


def test_the_first_of_two_ends_the_other(lab: Lab) -> None:
    run = lab.run(
        node("a"),
        node("b1"),
        node("b2", needs="b1"),
        node("end", needs="a b2", join="first"),
    )
    assert lab.at_work() == ["a", "b1"]
    lab.done("a", 7)
    assert lab.at_work() == ["end"]
    assert lab.step("end").input == {"a": 7}
    assert (lab.state(run, "b1"), lab.state(run, "b2")) == ("cancelled", "cancelled")
    lab.done("end", 8)
    assert (lab.state(run), lab.output(run)) == ("completed", 8)


def test_a_race_of_two_waits_ends_with_the_first(lab: Lab) -> None:
    run = lab.run(
        node("left", "wait", spec_event_key="l"),
        node("right", "wait", spec_event_key="r"),
        expression("end", "left right", v="nodes.left | default(nodes.right)"),
    )
    plan = lab.plans["p"]
    assert plan.graph.by_name["end"].join == "all"
    assert lab.state(run) == "suspended"
    lab.runs.cancel(_operator(), run.id)
    lab.settle()
    ending = node("end", "data", "left right", spec={"output": "over"}, join="first")
    run = lab.run(
        node("left", "wait", spec_event_key="l"), node("right", "wait", spec_event_key="r"), ending
    )
    lab.runs.signal(_operator(), run.id, "r", 5)
    lab.settle()
    assert (lab.state(run), lab.state(run, "left")) == ("completed", "cancelled")
    assert lab.engine.waiting("l") == []


def _operator():
    from tests.world import OPERATOR

    return OPERATOR


def test_any_goes_on_with_one_and_leaves_the_others_at_work(lab: Lab) -> None:
    run = lab.run(node("a"), node("b"), node("c", needs="a b", join="any"))
    lab.done("b", 1)
    assert lab.at_work() == ["a", "c"]
    lab.done("c", 2)
    lab.done("a", 3)
    assert (lab.state(run), lab.output(run)) == ("completed", 2)


def test_a_failure_lets_siblings_end_and_begins_nothing_new(lab: Lab) -> None:
    run = lab.run(node("a"), node("b"), node("c", needs="b"), node("w", "wait", spec_event_key="k"))
    lab.failed("a", "no luck")
    assert lab.state(run) == "running"
    assert lab.state(run, "w") == "cancelled"
    lab.done("b", 1)
    assert lab.state(run) == "failed"
    assert lab.error(run) == "a: no luck"
    assert lab.states(run) == {"a": "failed", "b": "completed", "c": "cancelled", "w": "cancelled"}
    assert lab.output(run, "b") == 1
    ends = [line for line in lab.lines(run) if line["type"] == "PipelineCompleted"]
    assert [line["status"] for line in ends] == ["failed"]


def test_an_error_that_is_handled_fails_nobody(lab: Lab) -> None:
    run = lab.run(node("a", on_error="h"), node("h", needs="a", handles=("a",)), data("z", 1, "h"))
    lab.failed("a", "no luck", kind="error")
    assert lab.step("h").input == {"_error": {"node": "a", "type": "error", "message": "no luck"}}
    lab.done("h", 1)
    assert lab.state(run) == "completed"
    assert (lab.error(run), lab.state(run, "a")) == ("", "failed")


def test_what_always_runs_does_so_after_a_failure_and_after_a_cancel(lab: Lab) -> None:
    nodes = (
        node("a"),
        node("b", needs="a"),
        node("tidy", needs="b", always=True),
        node("tell", needs="tidy", always=True),
    )
    run = lab.run(*nodes)
    lab.failed("a")
    assert lab.at_work() == ["tidy"]
    lab.done("tidy")
    lab.done("tell")
    assert (lab.state(run), lab.state(run, "b")) == ("failed", "cancelled")
    run = lab.run(*nodes)
    lab.runs.cancel(_operator(), run.id, "enough")
    lab.settle()
    assert lab.at_work() == ["tidy"]
    assert lab.hands.log[-2] == f"cancel {run.id}/a#1"
    lab.done("tidy")
    lab.restart()
    lab.done("tell")
    assert lab.state(run) == "cancelled"
    assert lab.runs.get(run.id).reason == "cancelled by init: enough"
    run = lab.run(*nodes)
    for path in ("a", "b", "tidy", "tell"):
        lab.done(path)
    assert lab.state(run) == "completed"


def test_required_inputs_mappings_and_ambient_fields(lab: Lab) -> None:
    lab.pipeline(
        data("a", {"v": [1, None], "big": 2**70}),
        node("b", needs="a", input={"x": "a.v", "y": "input.q", "z": "{{ a.big }}"}, strict=True),
        node("c", needs="a", input={"x": "a.v[1]"}, required_inputs=("x",)),
    )
    run = lab.start({"q": "“", "r": 1})
    assert lab.step("b").input == {"x": [1, None], "y": "“", "z": 2**70}
    assert lab.state(run, "c") == "failed"
    assert "required inputs are missing: x" in lab.error(run, "c")
    lab.done("b")
    assert lab.state(run) == "failed"


def test_the_settings_of_a_step_are_evaluated_once(lab: Lab) -> None:
    hostile = "x{{ nodes.b }}\"'\n$(id)"
    run = lab.run(
        data("b", 1),
        node("a", needs="b", spec={"program": ["{{ b }}"], "args": ["{{ input.t }}", "{{ b }}"]}),
        given={"t": hostile},
    )
    assert lab.step("a").spec == {"program": ["{{ b }}"], "args": [hostile, 1]}
    assert lab.step("a").key == f"{run.id}/a"


def test_the_output_is_what_the_pipeline_says(lab: Lab) -> None:
    run = lab.run(
        data("a", {"v": 2**70}), data("b", 2), output={"x": "{{ a.v }}", "t": "<{{ b }}>"}
    )
    assert lab.output(run) == {"x": 2**70, "t": "<2>"}
    run = lab.run(data("a", {"v": 1}), output={"x": "{{ a.w }}"})
    assert lab.state(run) == "failed"
    assert lab.error(run).startswith("output: ")


def test_schemas_hold_at_the_edges(lab: Lab) -> None:
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    lab.pipeline(
        node("a", output_schema=number, retry=Retry(3, 0)), input_schema=number, name="typed"
    )
    with pytest.raises(KernelError) as refused:
        lab.start({"n": "x"}, "typed")
    assert refused.value.errno == errno.EINVAL
    assert "$.n" in refused.value.reason
    run = lab.start({"n": 1}, "typed")
    lab.done("a", {"n": "one"})
    assert (lab.state(run), lab.runs.node(run.id, "a").attempt) == ("failed", 1)
    assert "$.n" in lab.error(run)


def test_nodes_of_one_run_at_a_time(lab: Lab) -> None:
    lab.run(*[node(f"n{i}") for i in range(5)], max_concurrent_nodes=2)
    assert lab.at_work() == ["n0", "n1"]
    lab.done("n1")
    assert lab.at_work() == ["n0", "n2"]
    for name in ("n0", "n2", "n3", "n4"):
        lab.done(name)
    assert len(lab.engine.open) == 0


def test_an_executor_without_room_gets_its_steps_later(lab: Lab) -> None:
    lab.hands.slots = 2
    lab.pipeline(*[node(f"n{i}") for i in range(6)])
    first, second = lab.start(), lab.start()
    assert len(lab.hands.steps) == 2
    seen = []
    while lab.hands.steps:
        assert len(lab.hands.steps) <= 2
        ref = next(iter(lab.hands.steps))
        seen.append(ref.run)
        lab.done(ref.path, run=lab.runs.get(ref.run))
    assert sorted(seen) == [first.id] * 6 + [second.id] * 6
    assert seen[2:10] == [first.id, second.id] * 4  # in turns


def test_an_executor_that_cannot_now_is_asked_again(lab: Lab) -> None:
    lab.hands.refuse = KernelError(errno.EAGAIN, "not now")
    run = lab.run(node("a"))
    assert (lab.state(run, "a"), lab.at_work()) == ("pending", [])
    lab.hands.refuse = None
    lab.advance(1.1)
    assert lab.at_work() == ["a"]
    assert lab.step("a").ref.attempt == 1
    lab.hands.refuse = KernelError(errno.EACCES, "never")
    lab.done("a")
    run = lab.run(node("a"))
    assert (lab.state(run), lab.error(run)) == ("failed", "a: never")


def test_a_kind_that_nobody_does_fails_with_words(lab: Lab) -> None:
    run = lab.run(node("a", "riddle"))
    assert lab.error(run) == "a: nothing here does nodes of kind riddle"
