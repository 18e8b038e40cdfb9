"""What a node is to do next, as the journal says of the nodes before it. Pure: it reads a graph and
states, and changes nothing."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from agentfs.manifests.plan import HOOK, Graph, PlanNode
from agentfs.workflow.model import NodeRow, NodeState

__all__ = [
    "Fate",
    "Say",
    "exits",
    "has_output",
    "is_barred",
    "losers",
    "next_nodes",
    "roots",
    "verdict",
]

Rows = Mapping[str, NodeRow]
"""The rows of one graph, by the names of its nodes. A node without a row is pending."""


class Say(enum.Enum):
    """What a node is to do."""

    WAIT = "wait"
    RUN = "run"
    SKIP = "skip"


class Fate(NamedTuple):
    """`reason` is that of a skip."""

    say: Say
    reason: str = ""


WAIT, RUN = Fate(Say.WAIT), Fate(Say.RUN)
UPSTREAM = Fate(Say.SKIP, "all that it depends on were skipped")
OVER = (NodeState.SKIPPED, NodeState.CANCELLED)


def has_output(node: PlanNode, row: NodeRow | None) -> bool:
    """Whether there is something that nodes after it can use: what it gave, or its error if some
    node handles that."""
    if row is None:
        return False
    return row.state is NodeState.COMPLETED or (
        row.state is NodeState.FAILED and bool(node.on_error)
    )


def verdict(graph: Graph, node: PlanNode, rows: Rows, chosen: Mapping[str, str | None]) -> Fate:
    """What `node`, which is pending, is to do. `chosen` has the choice of each switch that has
    ended, by its name."""
    needs = node.needs
    if not needs:
        return RUN
    if node.hooks_before and not all(_called(graph, name, rows) for name in node.hooks_before):
        return WAIT
    ended = found = 0
    for name in needs:
        row = rows.get(name)
        if row is None or not row.state.final:
            continue
        if has_output(graph.by_name[name], row):
            found += 1
        elif row.state not in OVER:
            return WAIT  # it failed, and so does the graph
        ended += 1
    if node.join == "all" and ended < len(needs):
        return WAIT
    if not found:
        return WAIT if ended < len(needs) else UPSTREAM
    return _routed(node, rows, chosen) if node.routes else RUN


def _called(graph: Graph, name: str, rows: Rows) -> bool:
    """Whether nobody has to wait for a hook: it has ended, or is about a node that has not."""
    row, spec = rows.get(name), graph.by_name[name].spec
    if row is not None and row.state.final:
        return True
    about = rows.get(spec["node"]) if spec["on"] == "post-node" else None
    return spec["on"] == "post-node" and not (about and about.state.final)


def is_barred(graph: Graph, node: PlanNode, rows: Rows) -> bool:
    """Whether a node must not begin although it always runs: the hooks before the run have not let
    anything begin, or one before the node itself has come to nothing."""
    for name in node.hooks_before:
        row, on = rows.get(name), graph.by_name[name].spec["on"]
        state = NodeState.PENDING if row is None else row.state
        if on == "pre-run" and state is not NodeState.COMPLETED:
            return True
        if on == "pre-node" and state in (NodeState.FAILED, NodeState.CANCELLED):
            return True
    return False


def _routed(node: PlanNode, rows: Rows, chosen: Mapping[str, str | None]) -> Fate:
    """Whether one of the switches that name the node has chosen it."""
    name = node.spec["node"] if node.kind == HOOK else node.name
    if any(chosen.get(switch) == name for switch in node.routes):
        return RUN
    for switch in node.routes:
        row = rows.get(switch)
        if row is None or not row.state.final:
            return WAIT
    return Fate(Say.SKIP, f"{', '.join(node.routes)} chose another way")


def roots(graph: Graph) -> Iterator[PlanNode]:
    """The nodes that can begin at once."""
    return (node for node in graph.nodes if not node.needs)


def next_nodes(
    graph: Graph, rows: Rows, chosen: Mapping[str, str | None]
) -> Iterator[tuple[PlanNode, Fate]]:
    """Every pending node that has something to do, in the graph's order."""
    for node in graph.nodes:
        if node.name not in rows:
            said = verdict(graph, node, rows, chosen)
            if said.say is not Say.WAIT:
                yield node, said


def exits(graph: Graph) -> list[PlanNode]:
    """The nodes that no other depends on; hooks do not count."""
    hooks = {node.name for node in graph.nodes if node.kind == HOOK}
    return [
        node
        for node in graph.nodes
        if node.name not in hooks and hooks.issuperset(graph.dependents[node.name])
    ]


def losers(graph: Graph, node: PlanNode, rows: Rows) -> list[PlanNode]:
    """The nodes whose work is for nothing now that `node`, which joins the first, has begun: those
    that it depends on and that have not ended, and all before them that lead nowhere else."""
    lost: dict[str, None] = {}
    waiting = list(node.needs)
    while waiting:
        name = waiting.pop()
        row = rows.get(name)
        if name in lost or (row is not None and row.state.final):
            continue
        onward = (graph.by_name[each] for each in graph.dependents[name] if each != node.name)
        left = (each.name for each in onward if each.kind != HOOK)
        if all(each in lost or _is_over(rows.get(each)) for each in left):
            lost[name] = None
            waiting += graph.by_name[name].needs
    return [each for each in graph.nodes if each.name in lost]


def _is_over(row: NodeRow | None) -> bool:
    return row is not None and row.state.final
