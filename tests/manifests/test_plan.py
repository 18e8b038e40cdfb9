"""Plans as values: JSON both ways, order, delays."""

from __future__ import annotations

import json

import pytest

from agentfs.manifests.plan import Breaker, Concurrency, Graph, Plan, PlanNode, Rate, Retry


def _plan() -> Plan:
    inner = Graph((PlanNode("fetch", "program", spec={"program": ["curl"]}),))
    first = PlanNode("first", "data", spec={"output": {"v": 1}}, line=7)
    loop = PlanNode(
        "loop",
        "for-each",
        needs=("first",),
        spec={"items": "first.v"},
        retry=Retry(3, delay=0),
        policies=("gentle",),
        rate=Rate("gentle", 5, 1),
        breaker=Breaker("gentle"),
        concurrency=Concurrency("{{ input.user }}", 2, "skip"),
        required_inputs=("v",),
        bodies=(("body", inner),),
    )
    last = PlanNode("last", "data", needs=("first", "loop"), handles=("loop",), routes=("first",))
    return Plan(
        "review",
        version=3,
        graph=Graph((first, loop, last), {"sum": "{{ last.v }}"}),
        caps=(),
        deny=("llm",),
        limits={"max_llm_calls": 30, "max_tool_calls": None},
        origin={"limits.max_llm_calls": (30, "pipeline review")},
    )


def test_a_plan_is_json_both_ways() -> None:
    plan = _plan()
    read = Plan.from_record(json.loads(json.dumps(plan.record())))
    assert read == plan
    assert read.digest() == plan.digest()
    assert read.graph.by_name["loop"].body() == plan.graph.nodes[1].bodies[0][1]
    assert read.caps == ()
    assert Plan.from_record(json.loads(json.dumps(Plan("empty").record()))) == Plan("empty")


def test_the_digest_tells_plans_apart() -> None:
    assert _plan().digest() != Plan("review").digest()


def test_an_unknown_field_is_no_plan() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        Plan.from_record({"name": "a", "nonsense": 1})


def test_waves_and_dependents_follow_the_edges() -> None:
    graph = _plan().graph
    assert graph.waves() == [["first"], ["loop"], ["last"]]
    assert graph.dependents == {"first": ("loop", "last"), "loop": ("last",), "last": ()}
    assert graph.by_name["loop"].body("else") is None
    assert Graph().waves() == []


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(5), [0, 1, 2, 4, 8]),
        (Retry(5, delay=0), [0, 0, 0, 0, 0]),
        (Retry(4, delay=10, backoff=3, max_delay=25), [0, 10, 25, 25]),
    ],
)
def test_the_delay_before_an_attempt(retry: Retry, delays: list[float]) -> None:
    assert [retry.before(attempt) for attempt in range(1, len(delays) + 1)] == delays


def test_a_delay_never_overflows() -> None:
    assert Retry(10**6, backoff=10.0).before(10**6) == 60.0
