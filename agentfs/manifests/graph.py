"""From a list of nodes to a graph: macros expanded, references followed, edges put in order."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agentfs.base.yaml_document import near
from agentfs.manifests.documents import ManifestLibrary
from agentfs.manifests.fuel import Fuel
from agentfs.manifests.functions import FUNCTIONS
from agentfs.manifests.inherit import Settled
from agentfs.manifests.kinds import COMMON, KINDS, LOOPS, Filling, Shape
from agentfs.manifests.macro import arguments, expanded
from agentfs.manifests.nodes import NodeDraft, NodeReader, common_fields
from agentfs.manifests.plan import Graph, PlanNode
from agentfs.manifests.references import Fields, NamedNodes, NameScope, as_templates, find
from agentfs.manifests.source import Located, ManifestText

__all__ = ["GraphReader"]

MOST_NODES = 5000
"""Nodes of a pipeline, with those of bodies and of macros."""

MOST_NESTED = 20
"""Macros within macros, and bodies within bodies."""

MOST_CIRCLES = 20
"""Circles that are told of one graph."""

VARIABLES = ("item_var", "index_var")
"""Keys of loops that name something for the templates of their bodies."""

MACRO_STEPS = 400_000
MACRO_SIZE = 1 << 22
"""What the macros of a pipeline may take together: of a second, and characters."""


@dataclass(slots=True)
class _Group:
    """What a macro has made, in the place of its invocation."""

    invocation: NodeDraft
    inside: list[NodeDraft | _Group]
    exits: tuple[str, ...] = ()

    def drafts(self) -> Iterator[NodeDraft]:
        return _drafts(self.inside)


def _drafts(elements: Iterable[NodeDraft | _Group]) -> Iterator[NodeDraft]:
    for each in elements:
        if isinstance(each, _Group):
            yield from each.drafts()
        else:
            yield each


def _groups(elements: Iterable[NodeDraft | _Group]) -> Iterator[_Group]:
    """All groups, the inner ones first."""
    for each in elements:
        if isinstance(each, _Group):
            yield from _groups(each.inside)
            yield each


@dataclass(slots=True)
class _Made:
    """A graph, what its nodes need of the graphs around it, and how it is written."""

    graph: Graph = field(default_factory=Graph)
    outer: set[tuple[int, str]] = field(default_factory=set)
    written: list[dict[str, Any]] = field(default_factory=list)


class GraphReader:
    """Makes the graphs of one pipeline."""

    def __init__(
        self,
        source: ManifestText,
        library: ManifestLibrary,
        settled: Settled,
        pipeline: str,
        services: dict[str, dict[str, Any]],
    ) -> None:
        self._source = source
        self._library = library
        self._settled = settled
        self._pipeline = pipeline
        self._nodes = NodeReader(source, library, services)
        self._fuel = Fuel(MACRO_STEPS, MACRO_SIZE)
        self._left = MOST_NODES

    def graph(self, nodes: list[Located], fields: Fields, output: Located | None) -> _Made:
        """The graph of the pipeline itself."""
        return self._graph(nodes, NameScope((), fields), output, 0)

    # -- from values to drafts -------------------------------------------------------------------

    def _graph(
        self, nodes: list[Located], scope: NameScope, output: Located | None, depth: int
    ) -> _Made:
        if depth > MOST_NESTED:
            self._source.fault(
                nodes[0], f"at most {MOST_NESTED} bodies are within each other", "E008"
            )
            return _Made()
        elements = self._elements(nodes, (), "")
        drafts = self._unique(elements)
        instances = {each.invocation.name: each for each in _groups(elements)}
        names = frozenset(drafts)
        scope = NameScope((*scope.levels, names), scope.fields, scope.variables, scope.state)
        for draft in drafts.values():
            self._read(draft, scope, depth)
        for draft in drafts.values():
            self._handlers(draft, drafts, scope)
            self._routes(draft, drafts)
        self._edges(elements, drafts, instances)
        found = NamedNodes()
        if output is not None:
            output = output.made(as_templates(output.value, scope))
            find(self._source, output, Filling.TEMPLATE, "output", scope, found)
        outer = {each for draft in drafts.values() for each in draft.outer}
        outer |= {each for each in found.nodes if each[0] < len(scope.levels) - 1}
        made = [self._node(draft) for draft in drafts.values()]
        order = self._order(drafts)
        by_name = {node.name: node for node in made}
        graph = Graph(
            tuple(by_name[name] for name in order), None if output is None else output.value
        )
        return _Made(graph, outer, [self._written(draft) for draft in drafts.values()])

    def _elements(
        self, nodes: Iterable[Located], chain: tuple[str, ...], prefix: str
    ) -> list[NodeDraft | _Group]:
        found: list[NodeDraft | _Group] = []
        for value in nodes:
            self._left -= 1
            if self._left < 0:
                if self._left == -1:
                    self._source.fault(value, f"a pipeline has at most {MOST_NODES} nodes", "E008")
                break
            draft = self._nodes.draft(value)
            if draft is None:
                continue
            if draft.kind == "macro_invocation":
                group = self._expand(draft, chain)
                if group is not None:
                    found.append(group)
            else:
                found.append(draft)
        return found

    def _expand(self, draft: NodeDraft, chain: tuple[str, ...]) -> _Group | None:
        source = self._source
        given = draft.keys.get("macro")
        name = source.name(given, f"{draft.name}.macro") if given is not None else None
        if name is None or given is None:
            return None
        if name in chain:
            circle = " -> ".join([*chain[chain.index(name) :], name])
            source.fault(given, f"macros invoke each other: {circle}", "E132")
            return None
        if len(chain) >= MOST_NESTED:
            told = " -> ".join([*chain, name])
            source.fault(given, f"at most {MOST_NESTED} macros within each other: {told}", "E132")
            return None
        macro = self._library.macro(name)
        if macro is None:
            hint = near(name, self._library.names("macros"))
            source.fault(given, f"there is no macro `{name}`{hint}", "E130")
            return None
        values: dict[str, Located] = {}
        for key in ("inputs", "config"):
            if key in draft.keys:
                for each, value in source.map(draft.keys[key], f"{draft.name}.{key}").items():
                    if each in values:
                        what = f"{draft.name}: `{each}` is in `inputs` and in `config`"
                        source.fault(value, what, "E131")
                    values[each] = value
        for port in [port for port in macro.ports if port not in self._settled.ports]:
            hint = near(port, self._settled.ports)
            what = f"{draft.name}: macro {name} needs a port `{port}` in spec.ports{hint}"
            source.fault(given, what, "E133")
        filled = arguments(source, macro, given, values)
        if filled is None:
            return None
        needs = [str(each.value) for each in draft.dependencies or ()]
        scope = {**filled, "name": draft.name, "dependencies": needs}
        nodes = expanded(source, macro, draft.whole, scope, self._fuel)
        if nodes is None:
            return None
        return _Group(draft, self._elements(nodes, (*chain, name), draft.name))

    def _unique(self, elements: list[NodeDraft | _Group]) -> dict[str, NodeDraft]:
        drafts: dict[str, NodeDraft] = {}
        for draft in _drafts(elements):
            if draft.name in drafts:
                line = drafts[draft.name].whole.place[0]
                what = f"a node `{draft.name}` is there already, in line {line}"
                self._source.fault(draft.whole, what, "E102")
            else:
                drafts[draft.name] = draft
        for group in _groups(elements):
            if group.invocation.name in drafts:
                what = f"a node `{group.invocation.name}` is there already"
                if drafts[group.invocation.name] not in list(group.drafts()):
                    self._source.fault(group.invocation.whole, what, "E102")
        return drafts

    # -- one node --------------------------------------------------------------------------------

    def _read(self, draft: NodeDraft, scope: NameScope, depth: int) -> None:
        """Its values, and what they name."""
        source, kind = self._source, KINDS[draft.kind]
        draft.fields = common_fields(source, draft, self._nodes, self._settled, self._library)
        found = NamedNodes()
        if "when" in draft.fields:
            find(source, draft.keys["when"], Filling.EXPRESSION, f"{draft.name}.when", scope, found)
        mapped: set[str] = set()
        if "input" in draft.fields:
            mapping = draft.keys["input_mapping"]
            mapped = self._mapping(draft, mapping, scope)
            what = f"{draft.name}.input_mapping"
            find(source, mapping, Filling.MAPPING, what, scope, found, own=draft.name)
        if draft.fields.get("concurrency") is not None and "key" in (
            draft.keys["concurrency"].value
            if isinstance(draft.keys["concurrency"].value, dict)
            else {}
        ):
            what = f"{draft.name}.concurrency.key"
            find(
                source, draft.keys["concurrency"].child("key"), Filling.TEMPLATE, what, scope, found
            )
        inner = scope.with_variables(mapped)
        for name, key in kind.keys.items():
            if name not in draft.keys or key.shape in (Shape.BODY, Shape.BRANCHES):
                continue
            if name == "body_pipeline":
                continue
            value = self._nodes.value(draft, name, key)
            if value is None and key.shape is not Shape.ANY:
                continue
            draft.spec[name] = value
            if key.form is Filling.LITERAL or name == "state_update":
                continue  # that names the nodes of the body, too, which come later
            what = f"{draft.name}.{name}"
            if draft.kind == "expression" and name == "expressions":
                self._expressions(draft, mapped, inner, found)
            else:
                where = inner
                if draft.kind == "while" and name == "condition":
                    where = inner.within(("iteration",), state=True)
                elif name == "reducer":
                    where = inner.with_variables(("acc", "value", "values"))
                find(source, draft.keys[name], key.form, what, where, found, own=draft.name)
        self._rest(draft, found, inner, depth)
        level = len(scope.levels) - 1
        for at, name in found.nodes | draft.outer:
            if at == level:
                draft.data.add(name)
        draft.outer = {each for each in found.nodes | draft.outer if each[0] < level}

    def _mapping(self, draft: NodeDraft, mapping: Located, scope: NameScope) -> set[str]:
        names = set(mapping.value) if isinstance(mapping.value, dict) else set()
        for name in names:
            if name in scope.levels[-1]:
                what = f"{draft.name}.input_mapping: `{name}` is the name of a node"
                self._source.fault(mapping.key(name), what, "E114")
        return names

    def _expressions(
        self, draft: NodeDraft, mapped: set[str], scope: NameScope, found: NamedNodes
    ) -> None:
        """Each may use those before it."""
        given = draft.keys["expressions"]
        if not isinstance(given.value, dict):
            return
        before: set[str] = set()
        for name, value in given.parts().items():
            what = f"{draft.name}.expressions"
            if name in scope.levels[-1]:
                words = f"{what}: `{name}` is the name of a node"
                self._source.fault(given.key(name), words, "E114")
            elif name in FUNCTIONS:
                words = f"{what}: `{name}` is a function"
                self._source.fault(given.key(name), words, "E114")
            elif name in mapped:
                words = f"{what}: `{name}` is a field of input_mapping"
                self._source.fault(given.key(name), words, "E114")
            where = scope.with_variables(before)
            find(
                self._source,
                value,
                Filling.EXPRESSION,
                f"{what}.{name}",
                where,
                found,
                own=draft.name,
            )
            before.add(name)

    def _rest(self, draft: NodeDraft, found: NamedNodes, scope: NameScope, depth: int) -> None:
        """What is particular to some kinds."""
        source = self._source
        if draft.kind == "expression" and not {"expressions", "merge_strategy"} & draft.keys.keys():
            source.fault(
                draft.whole, f"{draft.name}: `expressions` or `merge_strategy` was expected", "E004"
            )
        elif draft.kind == "agent" and not {"agent", "prompt"} & draft.keys.keys():
            source.fault(draft.whole, f"{draft.name}: `agent` or `prompt` was expected", "E004")
        elif draft.kind == "service_call":
            config = self._nodes.service_config(draft)
            if config:
                draft.spec["config"] = config | draft.spec.get("config", {})
        elif draft.kind == "pipeline" and "pipeline" in draft.spec:
            self._known_pipeline(draft, draft.spec["pipeline"], draft.keys["pipeline"])
        elif draft.kind == "switch":
            self._switch(draft, found, scope, depth)
        elif draft.kind == "if":
            self._if(draft, scope, depth)
        elif draft.kind in LOOPS:
            self._loop(draft, found, scope, depth)

    def _known_pipeline(self, draft: NodeDraft, name: str, where: Located) -> None:
        if name != self._pipeline and not self._library.pipeline(name):
            hint = near(name, self._library.names("pipelines"))
            self._source.warn(
                where, f"{draft.name}: there is no pipeline `{name}` yet{hint}", "W103"
            )

    def _loop(self, draft: NodeDraft, found: NamedNodes, scope: NameScope, depth: int) -> None:
        variables = {"index", "iteration"}
        if draft.kind != "while":
            variables |= {"item", "total", "is_first", "is_last"}
            variables |= {str(draft.spec[key]) for key in VARIABLES if key in draft.spec}
        inner = scope.within(variables, state=draft.kind == "while")
        both = [key for key in ("body", "body_pipeline") if key in draft.keys]
        if len(both) == 2:
            what = f"{draft.name}: either `body` or `body_pipeline` was expected"
            self._source.fault(draft.keys["body_pipeline"], what, "E004")
        elif not both and not (draft.kind == "while" and "state_update" in draft.keys):
            what = f"{draft.name}: the key `body` or `body_pipeline` was expected"
            self._source.fault(draft.whole, what, "E004")
        if (
            "collect" in draft.spec
            and draft.spec["collect"] != "dict"
            and "key_field" in draft.spec
        ):
            what = f"{draft.name}.key_field is for `collect: dict`"
            self._source.fault(draft.keys["key_field"], what, "E006")
        if draft.kind == "times" and isinstance(draft.spec.get("count"), int | float):
            self._source.count(draft.keys["count"], f"{draft.name}.count", 0)
        if draft.kind == "for-each" and isinstance(draft.spec.get("items"), int | float | dict):
            what = f"{draft.name}.items: a list, or an expression for one, was expected"
            self._source.fault(draft.keys["items"], what, "E003")
        if "body" in draft.keys:
            self._body(draft, "body", "body", draft.keys["body"], inner, depth)
        elif "body_pipeline" in draft.keys:
            where = draft.keys["body_pipeline"]
            name = self._source.name(where, f"{draft.name}.body_pipeline")
            if name is not None:
                self._known_pipeline(draft, name, where)
                node = PlanNode("run", "pipeline", spec={"pipeline": name}, line=where.place[0])
                draft.fields["bodies"] = (("body", Graph((node,))),)
                draft.written["body_pipeline"] = name
        elif draft.kind == "while":
            draft.fields["bodies"] = (("body", Graph()),)
        if "state_update" in draft.keys:
            names = {"body", "result", "iteration", *self._of_bodies(draft)}
            all_names = scope.within(names, state=True)
            update = draft.keys["state_update"]
            what = f"{draft.name}.state_update"
            find(self._source, update, Filling.EXPRESSION, what, all_names, found, own=draft.name)

    @staticmethod
    def _of_bodies(draft: NodeDraft) -> set[str]:
        """The names of the nodes in its bodies."""
        return {node.name for _, graph in draft.fields.get("bodies", ()) for node in graph.nodes}

    def _if(self, draft: NodeDraft, scope: NameScope, depth: int) -> None:
        if not {"body", "else_body"} & draft.keys.keys():
            what = f"{draft.name}: the key `body` was expected"
            self._source.fault(draft.whole, what, "E004")
        for key, label in (("body", "body"), ("else_body", "else")):
            if key in draft.keys:
                self._body(draft, key, label, draft.keys[key], scope, depth)
        self._apart(draft)

    def _switch(self, draft: NodeDraft, found: NamedNodes, scope: NameScope, depth: int) -> None:
        source = self._source
        branches: list[dict[str, Any]] = []
        given = draft.keys.get("branches")
        for number, each in enumerate((source.many(given, "branches") or []) if given else []):
            what = f"{draft.name}.branches[{number}]"
            parts = source.map(each, what, ("condition", "action", "body"))
            condition = source.required(each, parts, "condition", what)
            text = source.text(condition, f"{what}.condition") if condition is not None else None
            if condition is not None and text is not None:
                find(source, condition, Filling.EXPRESSION, f"{what}.condition", scope, found)
            ways = [key for key in ("action", "body") if key in parts]
            if len(ways) != 1:
                if isinstance(each.value, dict):
                    source.fault(each, f"{what}: either `action` or `body` was expected", "E004")
                continue
            branch: dict[str, Any] = {"condition": text}
            if ways == ["action"]:
                branch["action"] = source.name(parts["action"], f"{what}.action")
            else:
                branch["body"] = f"branch-{number}"
                self._body(
                    draft, f"branches[{number}].body", branch["body"], parts["body"], scope, depth
                )
            branches.append(branch)
        if given is not None and given.value == []:
            source.fault(given, f"{draft.name}.branches: at least one was expected")
        if "else_action" in draft.keys and "else_body" in draft.keys:
            what = f"{draft.name}: either `else_action` or `else_body` was expected"
            source.fault(draft.keys["else_body"], what, "E004")
        if "else_body" in draft.keys:
            self._body(draft, "else_body", "else", draft.keys["else_body"], scope, depth)
        draft.spec["branches"] = branches
        draft.spec.pop("route_downstream", None)
        self._apart(draft)

    def _apart(self, draft: NodeDraft) -> None:
        """The nodes of all bodies have different names, so that a path says which it is."""
        seen: dict[str, str] = {}
        for label, graph in draft.fields.get("bodies", ()):
            for node in graph.nodes:
                if seen.setdefault(node.name, label) != label:
                    what = f"{draft.name}: a node `{node.name}` is in two of its bodies"
                    self._source.fault(draft.whole, what, "E102")

    def _body(
        self, draft: NodeDraft, key: str, label: str, value: Located, scope: NameScope, depth: int
    ) -> None:
        """A body: nodes, `{nodes, output}`, or a function."""
        source, what = self._source, f"{draft.name}.{key}"
        output: Located | None = None
        given = value
        if isinstance(value.value, str):
            node = {"kind": "function", "metadata": {"name": "call"}, "spec": {"fn": value.value}}
            nodes: list[Located] | None = [value.made(node)]
        elif isinstance(value.value, dict):
            parts = source.map(value, what, ("nodes", "output"))
            listed = source.required(value, parts, "nodes", what)
            nodes = source.many(listed, f"{what}.nodes") if listed is not None else None
            output = parts.get("output")
        else:
            nodes = source.many(value, what)
        if nodes is None:
            return
        if not nodes:
            source.fault(given, f"{what}: at least one node was expected", "E003")
            return
        made = self._graph(nodes, scope, output, depth + 1)
        draft.outer |= made.outer
        draft.fields["bodies"] = (*draft.fields.get("bodies", ()), (label, made.graph))
        body: Any = made.written
        if output is not None:
            body = {"nodes": made.written, "output": output.value}
        draft.written[label] = body

    # -- edges -----------------------------------------------------------------------------------

    def _handlers(self, draft: NodeDraft, drafts: dict[str, NodeDraft], scope: NameScope) -> None:
        name = draft.fields.get("on_error")
        if name is None:
            return
        where = draft.keys["on_error"]
        if name == draft.name:
            self._source.fault(where, f"{draft.name}.on_error: another node was expected", "E105")
        elif name not in drafts:
            hint = near(name, drafts)
            self._source.fault(
                where, f"{draft.name}.on_error: there is no node `{name}`{hint}", "E104"
            )
        else:
            drafts[name].handles.add(draft.name)

    def _routes(self, draft: NodeDraft, drafts: dict[str, NodeDraft]) -> None:
        if draft.kind != "switch":
            return
        targets: list[tuple[str, Located]] = []
        given = draft.keys.get("branches")
        if given is not None and isinstance(given.value, list):
            for each in given.items():
                if isinstance(each.value, dict) and isinstance(each.value.get("action"), str):
                    targets.append((each.value["action"], each.child("action")))
        if isinstance(draft.spec.get("else_action"), str):
            targets.append((draft.spec["else_action"], draft.keys["else_action"]))
        for name, where in targets:
            if name == draft.name:
                self._source.fault(where, f"{draft.name}: it cannot choose itself", "E105")
            elif name not in drafts:
                hint = near(name, drafts)
                self._source.fault(where, f"{draft.name}: there is no node `{name}`{hint}", "E104")
            else:
                drafts[name].routes.add(draft.name)

    def _edges(
        self,
        elements: list[NodeDraft | _Group],
        drafts: dict[str, NodeDraft],
        instances: dict[str, _Group],
    ) -> None:
        """What is named in `dependencies` and `wait_for`; then the chain of the rest."""
        for group in _groups(elements):
            self._close(group, drafts, instances)
        for draft in drafts.values():
            self._named(draft, drafts, instances)
        self._chain(elements, drafts, instances)

    def _named(
        self, draft: NodeDraft, drafts: dict[str, NodeDraft], instances: dict[str, _Group]
    ) -> None:
        references = set(draft.data)
        for values, edges, key in (
            (draft.dependencies or [], draft.data, "dependencies"),
            (draft.wait_for, draft.order, "wait_for"),
        ):
            for value in values:
                found = self._target(draft.name, str(value.value), value, key, drafts, instances)
                edges |= found
                if key == "dependencies" and found and found <= references and not value.via:
                    what = f"{draft.name}: `{value.value}` is needed anyway: it is referred to"
                    self._source.warn(value, what, "W101")

    def _target(
        self,
        own: str,
        name: str,
        value: Located,
        key: str,
        drafts: dict[str, NodeDraft],
        instances: dict[str, _Group],
    ) -> set[str]:
        if name == own:
            self._source.fault(value, f"{own}.{key}: another node was expected", "E105")
        elif name in drafts:
            return {name}
        elif name in instances:
            return set(instances[name].exits) - {own}
        else:
            hint = near(name, [*drafts, *instances])
            self._source.fault(value, f"{own}.{key}: there is no node `{name}`{hint}", "E104")
        return set()

    def _close(
        self, group: _Group, drafts: dict[str, NodeDraft], instances: dict[str, _Group]
    ) -> None:
        """The edges within what a macro has made, and what leaves it."""
        own = {draft.name: draft for draft in group.drafts()}
        inner = {each.invocation.name: each for each in _groups(group.inside)}
        for draft in own.values():
            for value in draft.dependencies or []:
                name = str(value.value)
                draft.data |= (
                    {name} if name in own else set(inner[name].exits if name in inner else ())
                )
            for value in draft.wait_for:
                name = str(value.value)
                draft.order |= (
                    {name} if name in own else set(inner[name].exits if name in inner else ())
                )
        self._chain(group.inside, own, inner)
        needed = {name for draft in own.values() for name in _needs(draft)}
        group.exits = tuple(name for name in own if name not in needed)

    def _chain(
        self,
        elements: list[NodeDraft | _Group],
        drafts: dict[str, NodeDraft],
        instances: dict[str, _Group],
    ) -> None:
        """A node that nothing is said of comes after the one before it."""
        before: tuple[str, ...] = ()
        for each in elements:
            if isinstance(each, NodeDraft):
                if each.free:
                    each.data |= set(before)
                before = (each.name,)
                continue
            self._enter(each, before, drafts, instances)
            before = each.exits or before

    def _enter(
        self,
        group: _Group,
        before: tuple[str, ...],
        drafts: dict[str, NodeDraft],
        instances: dict[str, _Group],
    ) -> None:
        """The first nodes of what a macro has made wait for what its invocation waits for."""
        invocation = group.invocation
        data: set[str] = set()
        order: set[str] = set()
        for value in invocation.dependencies or []:
            data |= self._target(
                invocation.name, str(value.value), value, "dependencies", drafts, instances
            )
        for value in invocation.wait_for:
            order |= self._target(
                invocation.name, str(value.value), value, "wait_for", drafts, instances
            )
        own = {draft.name for draft in group.drafts()}
        said = invocation.dependencies is not None or bool(invocation.wait_for)
        for draft in group.drafts():
            if own & set(_needs(draft)):
                continue
            if not said and draft.free:
                draft.data |= set(before)
            draft.data |= data - own
            draft.order |= order - own

    def _order(self, drafts: dict[str, NodeDraft]) -> list[str]:
        """A topological order, ties by name. Circles are faults."""
        needs = {
            name: {each for each in _needs(draft) if each in drafts}
            for name, draft in drafts.items()
        }
        for _ in range(MOST_CIRCLES):
            try:
                graphlib.TopologicalSorter(needs).prepare()
                break
            except graphlib.CycleError as bad:
                circle = list(reversed(bad.args[1]))[:-1]
                lines = {name: drafts[name].whole.place for name in circle}
                first = min(circle, key=lambda name: lines[name])
                at = circle.index(first)
                told = [*circle[at:], *circle[:at], first]
                shown = told if len(told) < 12 else [*told[:10], "…", first]
                self._source.fault(
                    drafts[first].whole,
                    f"nodes wait for each other: {' -> '.join(shown)}",
                    "E100",
                )
                for one in circle:
                    needs[one] -= set(circle)
        waiting = {name: len(each) for name, each in needs.items()}
        after: dict[str, list[str]] = {name: [] for name in needs}
        for name, each in needs.items():
            for need in each:
                after[need].append(name)
        ready = [name for name, count in waiting.items() if not count]
        heapq.heapify(ready)
        order = []
        while ready:
            name = heapq.heappop(ready)
            order.append(name)
            for each_after in after[name]:
                waiting[each_after] -= 1
                if not waiting[each_after]:
                    heapq.heappush(ready, each_after)
        return order

    # -- what comes out --------------------------------------------------------------------------

    def _node(self, draft: NodeDraft) -> PlanNode:
        data = draft.data | draft.handles
        return PlanNode(
            draft.name,
            draft.kind,
            needs=tuple(sorted({*data, *draft.order, *draft.routes} - {draft.name})),
            sources=tuple(sorted(data - {draft.name})),
            spec=draft.spec,
            handles=tuple(sorted(draft.handles)),
            routes=tuple(sorted(draft.routes)),
            line=draft.whole.place[0],
            **draft.fields,
        )

    def _written(self, draft: NodeDraft) -> dict[str, Any]:
        """The node in the long form, with everything that was left unsaid."""
        spec = {
            **{key: draft.keys[key].value for key in COMMON if key in draft.keys},
            **draft.spec,
        }
        if draft.kind == "switch":
            spec["branches"] = [
                {**each, "body": draft.written.get(each["body"])} if "body" in each else each
                for each in spec["branches"]
            ]
        elif "body" in draft.written:
            spec["body"] = draft.written["body"]
        if "body_pipeline" in draft.written:
            spec["body_pipeline"] = draft.written["body_pipeline"]
        if "else" in draft.written:
            spec["else_body"] = draft.written["else"]
        node: dict[str, Any] = {
            "kind": draft.kind,
            "metadata": {"name": draft.name},
            "spec": spec,
            "dependencies": sorted(draft.data - {draft.name}),
        }
        if draft.order:
            node["wait_for"] = sorted(draft.order)
        return node


def _needs(draft: NodeDraft) -> Iterator[str]:
    yield from draft.data
    yield from draft.order
    yield from draft.handles
    yield from draft.routes
