"""Loops, `if`, and `switch` with bodies: each iteration is a row."""

from __future__ import annotations

import pytest

from agentfs.manifests.plan import Retry
from tests.workflow.lab import Lab, data, expression, graph, node
from tests.world import OPERATOR


def loop(name: str, kind: str, *body, needs: str = "", bodies=None, **spec):
    bodies = bodies or (("body", graph(*body)),)
    return node(name, kind, needs, spec=spec, bodies=bodies)


def each(*body, needs: str = "", items="input.items", **spec):
    return loop("each", "for-each", *body, needs=needs, items=items, **spec)


DOUBLE = expression("double", v="item * 2", i="index")


def test_an_empty_list_is_completed_twice_in_a_row(lab: Lab) -> None:
    first = each(DOUBLE)
    second = loop("again", "for-each", DOUBLE, needs="each", items="nodes.each.result")
    run = lab.run(first, second, given={"items": []})
    assert lab.state(run) == "completed"
    assert lab.output(run)["result"] == []
    assert lab.output(run)["metadata"]["iterations"] == 0
    skipped = node("each", "for-each", spec={"items": []}, when="1 == 2",
                   bodies=(("body", graph(DOUBLE)),))  # fmt: skip
    run = lab.run(skipped)
    assert lab.states(run) == {"each": "skipped"}


def test_a_thousand_items_ten_at_a_time_stay_in_order(lab: Lab) -> None:
    run = lab.run(
        each(node("work"), concurrency=10), given={"items": [*range(1000)]},
        max_concurrent_nodes=100,
    )  # fmt: skip
    most, done = 0, 0
    while lab.hands.steps:
        most = max(most, len(lab.hands.steps))
        ref = [*lab.hands.steps][-1]  # the newest first: out of order
        lab.done(ref.path, {"v": lab.hands.steps[ref].input})
        done += 1
        if done == 500:
            lab.restart()
    assert (most, done) == (10, 1000)
    assert lab.output(run)["result"] == [{"v": v} for v in range(1000)]
    assert lab.output(run)["metadata"]["successful"] == 1000
    assert lab.runs.iterations(run.id, "each") == [*range(1000)]


@pytest.mark.parametrize(
    ("collect", "expected"),
    [
        ("list", [{"k": "a"}, {"k": "b"}]),
        ("first", {"k": "a"}),
        ("last", {"k": "b"}),
        ("dict", {"a": {"k": "a"}, "b": {"k": "b"}}),
    ],
)
def test_what_is_collected(lab: Lab, collect: str, expected: object) -> None:
    body = expression("n", k="item")
    run = lab.run(each(body, collect=collect, key_field="k"), given={"items": ["a", "b"]})
    assert lab.output(run)["result"] == expected


def test_a_map_gives_its_keys_and_values_and_names_can_be_chosen(lab: Lab) -> None:
    body = expression("n", v="[row.key, row.value, at, is_first, is_last, total]")
    run = lab.run(each(body, item_var="row", index_var="at"), given={"items": {"x": 1, "y": 2}})
    assert [one["v"] for one in lab.output(run)["result"]] == [
        ["x", 1, 0, True, False, 2],
        ["y", 2, 1, False, True, 2],
    ]
    run = lab.run(each(body), given={"items": 7})
    assert (lab.state(run), "a list or a map" in lab.error(run)) == ("failed", True)


@pytest.mark.parametrize("handling", ["fail_fast", "continue", "collect"])
def test_errors_of_iterations(lab: Lab, handling: str) -> None:
    run = lab.run(
        each(node("work"), error_handling=handling, concurrency=2), given={"items": [1, 2, 3]}
    )
    lab.failed("each/0/work", "bad one")
    lab.done("each/1/work", "two")
    if handling == "fail_fast":
        assert lab.at_work() == []
        assert lab.state(run) == "failed"
        assert "bad one" in lab.error(run)
        return
    lab.done("each/2/work", "three")
    found = lab.output(run)
    assert found["result"] == (
        [None, "two", "three"] if handling == "continue" else ["two", "three"]
    )
    assert found["metadata"]["errors"] == [{"iteration": 0, "error": "work: bad one"}]
    assert found["metadata"]["failed"] == 1
    assert lab.state(run, "each/0") == "failed"


def test_a_counter_stays_a_number_and_ends_by_its_condition(lab: Lab) -> None:
    count = loop(
        "count", "while", expression("n", v="state.n * 10"),
        condition="state.n < 5", initial_state={"n": 0}, state_update={"n": "state.n + 1"},
    )  # fmt: skip
    run = lab.run(count)
    found = lab.output(run)
    assert [one["v"] for one in found["result"]] == [0, 10, 20, 30, 40]
    assert found["metadata"]["stopped_by"] == "condition"
    assert found["metadata"]["final_state"] == {"n": 5, "iteration": 5}
    endless = loop(
        "count", "while", expression("n", v="1"), condition="true", max_iterations=3,
        initial_state={}, state_update={},
    )  # fmt: skip
    run = lab.run(endless)
    assert lab.output(run)["metadata"]["stopped_by"] == "limit"


def test_a_while_goes_on_with_its_state_after_a_restart(lab: Lab) -> None:
    run = lab.run(
        loop(
            "w", "while", node("step"),
            condition="state.sum < 10", initial_state={"sum": 0},
            state_update={"sum": "state.sum + body"},
        )
    )  # fmt: skip
    total = 0
    while lab.hands.steps:
        ref = next(iter(lab.hands.steps))
        lab.done(ref.path, 3)
        total += 1
        lab.restart()
    assert total == 4
    assert lab.output(run)["metadata"]["final_state"]["sum"] == 12


def test_times_counts(lab: Lab) -> None:
    run = lab.run(loop("t", "times", expression("n", v="index"), count="input.n"), given={"n": 3})
    assert [one["v"] for one in lab.output(run)["result"]] == [0, 1, 2]
    run = lab.run(loop("t", "times", expression("n", v="index"), count="input.n"), given={"n": -3})
    assert "whole number" in lab.error(run)
    run = lab.run(loop("t", "times", expression("n", v="index"), count=50_000))
    assert "workflows.max_iterations" in lab.error(run)


def test_if_and_switch_with_bodies(lab: Lab) -> None:
    choose = node(
        "choose", "if", spec={"condition": "input.n > 1"},
        bodies=(("body", graph(data("x", "yes"))), ("else", graph(data("x", "no")))),
    )  # fmt: skip
    for n, expected in ((2, "yes"), (1, "no")):
        run = lab.run(choose, given={"n": n})
        assert lab.output(run)["result"] == expected
        assert lab.output(run)["metadata"]["condition_met"] is (n == 2)
    only = node(
        "choose", "if", spec={"condition": "false"}, bodies=(("body", graph(data("x", 1))),)
    )
    run = lab.run(only)
    assert lab.output(run)["result"] == {"condition_met": False}
    switch = node(
        "s", "switch",
        spec={"branches": [{"condition": "input.n == 1"}, {"condition": "input.n == 2"}]},
        bodies=(
            ("branch-0", graph(data("x", "one"))),
            ("branch-1", graph(data("x", "two"))),
            ("else", graph(data("x", "many"))),
        ),
    )  # fmt: skip
    for n, expected in ((1, "one"), (2, "two"), (3, "many")):
        run = lab.run(switch, given={"n": n})
        assert lab.output(run)["result"] == expected


def test_loops_in_loops_see_what_is_around_them(lab: Lab) -> None:
    inner = node(
        "inner", "for-each", spec={"items": "row", "item_var": "cell"},
        bodies=(("body", graph(expression("v", v="cell + base.n + row[0]"))),),
    )  # fmt: skip
    outer = loop("outer", "for-each", inner, needs="base", items="input.rows", item_var="row")
    run = lab.run(data("base", {"n": 100}), outer, given={"rows": [[1, 2], [3]]})
    inside = [[one["v"] for one in each["result"]] for each in lab.output(run)["result"]]
    assert inside == [[102, 103], [106]]
    assert lab.state(run, "outer/1/inner/0/v") == "completed"


def test_a_graph_in_a_body_joins_and_retries_as_any_other(lab: Lab) -> None:
    body = (node("a"), node("b", retry=Retry(2, 0.0)), node("c", needs="a b"))
    run = lab.run(each(*body), given={"items": [1]})
    lab.failed("each/0/b")
    lab.done("each/0/a", 1)
    lab.done("each/0/b", 2)
    assert lab.step("each/0/c").input == {"a": 1, "b": 2, "items": [1]}
    lab.done("each/0/c", 3)
    assert lab.output(run)["result"] == [3]


def test_a_loop_that_takes_too_long_ends_with_all_that_is_in_it(lab: Lab) -> None:
    slow = node(
        "slow", "for-each", spec={"items": [1, 2], "concurrency": 2}, timeout=10.0,
        bodies=(("body", graph(node("w", retry=Retry(5, 1.0)))),),
    )  # fmt: skip
    run = lab.run(slow)
    lab.failed("slow/0/w")
    lab.advance(10.1)
    assert (lab.state(run), lab.at_work()) == ("failed", [])
    assert lab.runs.node(run.id, "slow").kind == "timeout"
    lab.advance(10)
    assert lab.at_work() == []


def test_cancel_ends_what_is_in_loops(lab: Lab) -> None:
    run = lab.run(
        each(node("w", retry=Retry(5, 1.0)), concurrency=3), given={"items": [1, 2, 3, 4]}
    )
    lab.failed("each/1/w")
    lab.runs.cancel(OPERATOR, run.id)
    lab.settle()
    lab.advance(100)
    assert (lab.state(run), lab.at_work()) == ("cancelled", [])
    assert lab.states(run) == {
        "each": "cancelled",
        "each/0": "cancelled",
        "each/0/w": "cancelled",
        "each/1": "cancelled",
        "each/1/w": "cancelled",
        "each/2": "cancelled",
        "each/2/w": "cancelled",
    }


def test_many_iterations_of_the_kernels_own_do_not_hold_up_others(lab: Lab) -> None:
    lab.pipeline(each(DOUBLE, concurrency=500), name="much")
    lab.pipeline(data("a", 1), name="little")
    much = lab.runs.start(OPERATOR, _start("much", {"items": [*range(3000)]}))
    little = lab.runs.start(OPERATOR, _start("little"))
    for _ in range(4):
        lab.engine.turn()
    assert lab.state(little) == "completed"
    lab.settle()
    assert lab.output(much)["metadata"]["iterations"] == 3000


def _start(name: str, given: object = None):
    from agentfs.workflow.model import Start

    return Start(name, given)
