"""What a retry takes from the run before it: all that was completed, at every depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agentfs.manifests.plan import Graph, Plan, PlanNode
from agentfs.workflow.advance import has_output
from agentfs.workflow.journal import RowChange, RunJournal
from agentfs.workflow.live import is_loop
from agentfs.workflow.model import NodeRow, NodeState
from agentfs.workflow.outputs import Outputs

__all__ = ["Copied", "copy_rows"]


class Copied(NamedTuple):
    """A run that is to be gone on with. `origin` is the first of its generations, `from_node` one
    that is to be run again, with all behind it; empty: none."""

    source: int
    origin: int
    from_node: str


def copy_rows(
    journal: RunJournal, outputs: Outputs, copied: Copied, target: int, plan: Plan
) -> None:
    """Have run `target` begin with the completed rows of another one. Loops that did not end go on
    with the iterations that are left."""
    outputs.link_all(copied.source, target)
    journal.copy_completed(copied.source, target)
    dropped = {*_from(plan.graph, copied.from_node)}
    for name in dropped:
        journal.delete_row(target, name)
        journal.delete_below(target, name)
    for row in journal.rows(copied.source, NodeState.COMPLETED.value):
        if row.path.partition("/")[0] in dropped:
            continue
        change = _continued(journal, row, plan)
        if change is not None:
            change.row.run = target
            journal.put_rows([change])


def _from(graph: Graph, name: str) -> Iterator[str]:
    """A node and all that depend on it."""
    waiting, seen = [name] if name else [], set()
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            waiting += graph.dependents[each]
            yield each


def _continued(journal: RunJournal, row: NodeRow, plan: Plan) -> RowChange | None:
    """What becomes of a row that is not completed: None, and the node begins anew, unless it has
    an error that another node handles, or is a loop, or an iteration, that can go on."""
    node = _node_of(plan, row.path)
    if node is None:
        return None
    text = journal.value(row.run, row.path, "input")
    iterates = row.path.count("/") % 2 == 1
    if iterates:
        lenient = node.spec.get("error_handling", "fail_fast") != "fail_fast"
        if row.state is NodeState.FAILED and lenient:
            return RowChange(row, text or None, None)
    elif has_output(node, row):
        return RowChange(row, text or None, journal.value(row.run, row.path, "output"))
    if not iterates and not (is_loop(node) and text):
        return None
    opened = NodeRow(row.run, row.path, NodeState.RUNNING, row.attempt, row.began)
    if not iterates and node.timeout:
        opened.deadline = 0.0
    return RowChange(opened, text or None, None)


def _node_of(plan: Plan, path: str) -> PlanNode | None:
    """The node that a path names; of an iteration, its loop."""
    graph: Graph | None = plan.graph
    node: PlanNode | None = None
    for name in path.split("/")[::2]:
        bodies = () if node is None else node.bodies
        graph = (
            plan.graph if node is None else next((g for _, g in bodies if name in g.by_name), None)
        )
        node = None if graph is None else graph.by_name.get(name)
        if node is None:
            return None
    return node
