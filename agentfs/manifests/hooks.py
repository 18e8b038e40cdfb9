"""Hooks: tools that are called around runs and around nodes, as nodes that are added to a plan.

A plan with its hooks is what a run is made of, so a change of hooks is for the runs that begin
later. The engine gives effect to what they answer: see `agentfs.workflow.values`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agentfs.manifests.plan import HOOK, Graph, Plan, PlanNode
from agentfs.model.globs import matches

__all__ = ["Hook", "hooked"]


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook: `on` is pre-run, post-run, pre-node or post-node. `match` is a glob: of pipelines,
    or, for nodes, PIPELINE/NODE, or a kind of nodes. `timeout` in seconds. `on_failure` is abort
    or ignore."""

    on: str
    match: str
    tool: str
    timeout: float
    on_failure: str

    def is_for(self, pipeline: str, node: PlanNode | None = None) -> bool:
        """Whether it is called for a run of that pipeline, or for one of its nodes."""
        of_pipeline, slash, of_node = self.match.partition("/")
        if slash:
            named = node is not None and matches(of_node, node.name)
            return named and matches(of_pipeline, pipeline)
        return matches(self.match, pipeline) or (node is not None and self.match == node.kind)


def hooked(plan: Plan, hooks: Sequence[Hook]) -> Plan:
    """The plan with the nodes that call these hooks, each in the order that they have; the same
    plan if none is for it."""
    graph = plan.graph
    around = [hook for hook in hooks if hook.on.endswith("-node")]
    if around:
        graph = _around_nodes(plan.name, graph, around)
    first = [hook for hook in hooks if hook.on == "pre-run" and hook.is_for(plan.name)]
    last = [hook for hook in hooks if hook.on == "post-run" and hook.is_for(plan.name)]
    if first or last:
        graph = _around_run(graph, first, last)
    added = [node.name for node in graph.nodes if node.kind == HOOK]
    if graph is plan.graph:
        return plan
    note = "".join(f"#   {name}\n" for name in added)
    document = f"{plan.document}# Hooks that are called, as nodes of the run:\n{note}"
    return replace(plan, graph=graph, document=document if added else plan.document)


def _call(hook: Hook, number: int, about: PlanNode | None, needs: Iterable[str]) -> PlanNode:
    """The node that calls a hook. Names with colons are no names of a manifest."""
    node = "" if about is None else about.name
    name = f"{hook.on}:{number}:{hook.tool}" + (about is not None) * f":{node}"
    spec = {
        "on": hook.on,
        "node": node,
        "tool": hook.tool,
        "timeout": hook.timeout,
        "on_failure": hook.on_failure,
    }
    return PlanNode(name, HOOK, tuple(needs), spec=spec, line=0 if about is None else about.line)


def _around_nodes(pipeline: str, graph: Graph, hooks: Sequence[Hook]) -> Graph:
    """The graph, and those in it, with the hooks of their nodes."""
    found: list[PlanNode] = []
    for node in graph.nodes:
        if node.bodies:
            bodies = ((name, _around_nodes(pipeline, body, hooks)) for name, body in node.bodies)
            node = replace(node, bodies=tuple(bodies))
        found += _around_node(pipeline, node, found, hooks)
    return replace(graph, nodes=tuple(found))


def _around_node(
    pipeline: str, node: PlanNode, before: Sequence[PlanNode], hooks: Sequence[Hook]
) -> list[PlanNode]:
    """A node between its hooks, which come after those of the nodes before it."""
    waits = tuple(hook for each in before if each.name in node.needs for hook in each.hooks_after)
    mine = [hook for hook in hooks if hook.is_for(pipeline, node)]
    pre: list[PlanNode] = []
    post: list[PlanNode] = []
    for number, hook in enumerate(mine, start=1):
        if hook.on == "pre-node":
            earlier = (*waits, *(each.name for each in pre))
            call = _call(hook, number, node, (*node.needs, *earlier))
            fate = replace(call, join=node.join, when=node.when, routes=node.routes)
            pre.append(replace(fate, always=node.always, hooks_before=earlier))
        else:
            earlier = tuple(each.name for each in post)
            call = _call(hook, number, node, (node.name, *earlier))
            post.append(replace(call, always=node.always, hooks_before=earlier))
    gates = (*waits, *(each.name for each in pre))
    after = tuple(each.name for each in post)
    node = replace(node, needs=(*node.needs, *gates), hooks_before=gates, hooks_after=after)
    return [*pre, node, *post]


def _around_run(graph: Graph, first: Sequence[Hook], last: Sequence[Hook]) -> Graph:
    """The graph of a plan with the hooks of its runs."""
    pre: list[PlanNode] = []
    for number, hook in enumerate(first, start=1):
        earlier = tuple(each.name for each in pre)
        pre.append(replace(_call(hook, number, None, earlier), hooks_before=earlier))
    gates = tuple(each.name for each in pre)
    nodes = [*pre]
    for node in graph.nodes:
        if gates and (node.always or not node.needs):
            before = (*gates, *node.hooks_before)
            node = replace(node, needs=(*node.needs, *gates), hooks_before=before)
        nodes.append(node)
    for number, hook in enumerate(last, start=1):
        call = _call(hook, number, None, tuple(each.name for each in nodes))
        nodes.append(replace(call, always=True))
    return replace(graph, nodes=tuple(nodes))
