"""What is next in a graph: over random graphs, ends and orders."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agentfs.manifests.plan import Graph, PlanNode
from agentfs.workflow.advance import Say, has_output, losers, next_nodes, verdict
from agentfs.workflow.model import NodeRow, NodeState
from tests.workflow.lab import Lab, graph, node

JOINS = ("all", "any", "first")
ENDS = (NodeState.COMPLETED, NodeState.SKIPPED, NodeState.FAILED)


@st.composite
def graphs(draw: st.DrawFn, joins: tuple[str, ...] = ("all",)) -> Graph:
    """A graph of up to nine nodes; some of them handle the errors of others."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 9)))]
    nodes: dict[str, PlanNode] = {}
    for at, name in enumerate(names):
        needs = draw(st.sets(st.sampled_from(names[:at]), max_size=3)) if at else set()
        nodes[name] = node(name, needs=" ".join(needs), join=draw(st.sampled_from(joins)))
    for at, name in enumerate(names):
        after = [each for each in names[at + 1 :] if name in nodes[each].needs]
        if after and draw(st.booleans()):
            nodes[name] = replace(nodes[name], on_error=after[0])
            nodes[after[0]] = replace(nodes[after[0]], handles=(name,))
    return graph(*nodes.values())


def end(rows: dict[str, NodeRow], name: str, state: NodeState) -> None:
    rows[name] = NodeRow(1, name, state)


def walk(made: Graph, ends: dict[str, NodeState], chance: random.Random) -> dict[str, NodeState]:
    """Run a graph whose nodes end so, in an order that `chance` decides."""
    rows: dict[str, NodeRow] = {}
    for _ in range(len(made.nodes) + 1):
        ready = [*next_nodes(made, rows, {})]
        if not ready:
            break
        each, said = chance.choice(ready)
        state = NodeState.SKIPPED if said.say is Say.SKIP else ends[each.name]
        end(rows, each.name, state)
    return {name: row.state for name, row in rows.items()}


@given(graphs(), st.data(), st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_the_order_in_which_nodes_end_decides_nothing(made: Graph, data, seed: int) -> None:
    ends = {each.name: data.draw(st.sampled_from(ENDS)) for each in made.nodes}
    one = walk(made, ends, random.Random(seed))
    assert walk(made, ends, random.Random(seed + 1)) == one
    for each in made.nodes:
        before = [one.get(name) for name in each.needs]
        if each.name not in one:  # something before it failed, or never ran
            assert any(
                state is None or (state is NodeState.FAILED and not made.by_name[name].on_error)
                for name, state in zip(each.needs, before, strict=True)
            )
        elif before and all(state is NodeState.SKIPPED for state in before):
            assert one[each.name] is NodeState.SKIPPED


@given(graphs(JOINS), st.data())
@settings(max_examples=200, deadline=None)
def test_a_node_runs_by_its_join_and_is_never_due_without_a_reason(made: Graph, data) -> None:
    rows: dict[str, NodeRow] = {}
    for each in made.nodes:  # in a topological order: those before it have ended, or have not
        state = data.draw(st.sampled_from((None, NodeState.RUNNING, *ENDS)))
        if state is not None:
            end(rows, each.name, state)
    for each in made.nodes:
        said = verdict(made, each, rows, {})
        ended = [name for name in each.needs if name in rows and rows[name].state.final]
        outputs = [name for name in ended if has_output(made.by_name[name], rows[name])]
        failed = [
            name for name in ended if rows[name].state is NodeState.FAILED and name not in outputs
        ]
        if not each.needs:
            assert said.say is Say.RUN
        elif failed:
            assert said.say is Say.WAIT
        elif each.join == "all":
            expected = Say.RUN if outputs else Say.SKIP
            assert said.say is (expected if len(ended) == len(each.needs) else Say.WAIT)
        elif outputs:
            assert said.say is Say.RUN
        else:
            assert said.say is (Say.SKIP if len(ended) == len(each.needs) else Say.WAIT)


@given(graphs(JOINS))
@settings(max_examples=200, deadline=None)
def test_losers_are_before_the_node_and_nobody_else_needs_them(made: Graph) -> None:
    for each in made.nodes:
        lost = {loser.name for loser in losers(made, each, {})}
        for name in lost:
            onward = set(made.dependents[name]) - {each.name}
            assert onward <= lost
            assert name != each.name


@given(graphs(), st.data(), st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None)
def test_the_engine_does_as_the_model_over_restarts(
    tmp_path_factory, made: Graph, data, seed: int
) -> None:
    ends = {each.name: data.draw(st.sampled_from(ENDS[::2])) for each in made.nodes}
    chance = random.Random(seed)
    lab = Lab(tmp_path_factory.mktemp("model") / "state")
    run = lab.run(*made.nodes, max_concurrent_nodes=100)
    while lab.hands.steps:
        ref = chance.choice([*lab.hands.steps])
        if ends[ref.path] is NodeState.COMPLETED:
            lab.done(ref.path, 1)
        else:
            lab.failed(ref.path, again=False)
        if chance.random() < 0.2:
            lab.restart()
    wrong = {name for name, state in ends.items() if state is NodeState.FAILED}
    states = lab.states(run)
    unhandled = [n for n in wrong if states[n] == "failed" and not made.by_name[n].on_error]
    assert lab.state(run) == ("failed" if unhandled else "completed")
    model = walk(made, ends, random.Random(0))
    for name, state in states.items():
        if state != "cancelled":  # nothing new began after the first failure
            assert model[name].value == state
    lab.close()
