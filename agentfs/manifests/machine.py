"""State machines: which states a thing of some type can be in, and what leads from one to another.

    initial: NEW
    transitions:
      NEW: [PAID, {to: CANCELLED, guard: "payload.reason != ''"}]
      PAID: [SHIPPED]
    states:
      PAID: {on_enter: charge, requires: [amount]}
      SHIPPED: {terminal: true}
    on_transition:
      "NEW -> CANCELLED": refund

`on_enter` and `on_transition` name a process: a pipeline, or in a System one of its processes. The
transition is done when that has completed. A state that nothing leads out of is terminal, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import yaml

from agentfs.base.yaml_document import Pair, YamlDocument, near
from agentfs.manifests.expression import Expression
from agentfs.manifests.template import TemplateError

__all__ = ["SCOPE", "Edge", "Machine", "StateRule", "read_machine"]

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

SCOPE = ("payload", "input", "entity_type", "entity_id", "from_state", "to_state", "reason")
"""What a guard may name, beside the fields of the payload: `input` is the payload, too."""

MAX_STATES = 200
"""States of one machine: `allowed` and the refusals name all of them."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A transition that there is. `process`: what is run for it, "" for nothing of its own."""

    to: str
    guard: str = ""
    process: str = ""


@dataclass(frozen=True, slots=True)
class StateRule:
    """What holds for a state. `requires`: fields of the payload that may not be missing or null in
    a transition to it."""

    on_enter: str = ""
    requires: tuple[str, ...] = ()
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """A checked machine: every state by name, and from each the edges by the state they lead to.
    `guards` are the compiled ones, by their text."""

    initial: str
    states: dict[str, StateRule]
    edges: dict[str, dict[str, Edge]]
    guards: dict[str, Expression] = field(default_factory=dict, repr=False, compare=False)

    def allowed(self, state: str) -> tuple[str, ...]:
        """The states that may follow, in the order of the document."""
        return tuple(self.edges.get(state, ()))

    def is_terminal(self, state: str) -> bool:
        """Whether nothing leads out of it."""
        return not self.edges.get(state)

    def process(self, edge: Edge) -> str:
        """What is run for a transition; "" for nothing."""
        return edge.process or self.states[edge.to].on_enter

    def processes(self) -> set[str]:
        """Every process that it names."""
        named = {rule.on_enter for rule in self.states.values()}
        named |= {edge.process for edges in self.edges.values() for edge in edges.values()}
        return named - {""}

    def permits(self, edge: Edge, scope: Mapping[str, object]) -> bool:
        """Whether the guard of an edge lets it through. Raises EvaluationError:
        a guard that names what is not there is no silent no."""
        return not edge.guard or self.guards[edge.guard].holds(scope)


def read_machine(document: YamlDocument, node: yaml.Node, what: str) -> Machine | None:
    """The machine that `node` describes; None if there are faults, which `document` keeps."""
    return _Reader(document, what).machine(node)


class _Reader:
    KEYS = ("initial", "transitions", "states", "on_transition")

    def __init__(self, document: YamlDocument, what: str) -> None:
        self._document = document
        self._what = what
        self._wrong = False
        self._places: dict[str, yaml.Node] = {}  # where a state was named first
        self._guarded: dict[str, yaml.Node] = {}  # where a guard was

    def machine(self, node: yaml.Node) -> Machine | None:
        keys = self._map(node, self._what, self.KEYS)
        initial = self._required(node, keys, "initial")
        if initial:
            self._state(initial, keys["initial"][1])
        edges = self._transitions(keys)
        states = self._states(keys)
        self._on_transition(keys, edges)
        for name in {*self._places} - states.keys():
            states[name] = StateRule()
        if len(states) > MAX_STATES:
            self._fault(node, f"{self._what}: at most {MAX_STATES} states were expected")
        for name, rule in states.items():
            if rule.terminal and edges.get(name):
                out = ", ".join(edges[name])
                self._fault(self._places[name], f"{name} is terminal, and leads to {out}")
        guards = self._guards(edges)
        if self._wrong or not initial:
            return None
        return Machine(initial, states, edges, guards)

    # -- its keys --------------------------------------------------------------------------------

    def _transitions(self, keys: dict[str, Pair]) -> dict[str, dict[str, Edge]]:
        edges: dict[str, dict[str, Edge]] = {}
        if "transitions" not in keys:
            return edges
        for source, (key, value) in self._map(keys["transitions"][1], "transitions", None).items():
            self._state(source, key)
            edges[source] = {}
            for each in self._items(value):
                edge = self._edge(source, each)
                if edge is None:
                    continue
                if edge.to in edges[source]:
                    self._fault(each, f"{source} leads to {edge.to} already")
                edges[source][edge.to] = edge
        return edges

    def _edge(self, source: str, node: yaml.Node) -> Edge | None:
        guard = ""
        target: yaml.Node | None = node
        if isinstance(node, yaml.MappingNode):
            keys = self._map(node, f"transitions: {source}", ("to", "guard"))
            target = keys["to"][1] if "to" in keys else None
            if target is None:
                self._fault(node, f"transitions: {source}: the key `to` was expected")
            if "guard" in keys:
                guard = self._text(keys["guard"][1], f"{source}: guard")
        to = self._text(target, f"transitions: {source}") if target is not None else ""
        if not to or target is None:
            return None
        self._state(to, target)
        self._guarded.setdefault(guard, node)
        return Edge(to, guard)

    def _states(self, keys: dict[str, Pair]) -> dict[str, StateRule]:
        known = set(self._places)
        states: dict[str, StateRule] = {}
        if "states" not in keys:
            return states
        for name, (key, value) in self._map(keys["states"][1], "states", None).items():
            if name not in known:
                self._fault(key, f"states: nothing leads to {name!r}{near(name, known)}")
            self._state(name, key)
            states[name] = self._rule(name, value)
        return states

    def _rule(self, name: str, node: yaml.Node) -> StateRule:
        if _is_null(node):
            return StateRule()
        what = f"states: {name}"
        keys = self._map(node, what, ("on_enter", "requires", "terminal"))
        on_enter = self._process(keys["on_enter"][1], what) if "on_enter" in keys else ""
        requires: list[str] = []
        if "requires" in keys:
            requires = [self._text(each, what) for each in self._items(keys["requires"][1])]
        terminal = False
        if "terminal" in keys:
            said = self._text(keys["terminal"][1], f"{what}: terminal")
            if said not in ("true", "false"):
                self._fault(keys["terminal"][1], f"{what}: terminal: true or false was expected")
            terminal = said == "true"
        return StateRule(on_enter, tuple(requires), terminal)

    def _on_transition(self, keys: dict[str, Pair], edges: dict[str, dict[str, Edge]]) -> None:
        if "on_transition" not in keys:
            return
        known = [f"{source} -> {to}" for source, targets in edges.items() for to in targets]
        for name, (key, value) in self._map(
            keys["on_transition"][1], "on_transition", None
        ).items():
            source, _, to = (part.strip() for part in name.partition("->"))
            process = self._process(value, f"on_transition: {name}")
            edge = edges.get(source, {}).get(to)
            if edge is None:
                words = "a transition of this machine was expected, like `NEW -> PAID`"
                self._fault(key, f"on_transition: {name!r}: {words}{near(name, known)}")
            else:
                edges[source][to] = Edge(to, edge.guard, process)

    def _guards(self, edges: dict[str, dict[str, Edge]]) -> dict[str, Expression]:
        guards: dict[str, Expression] = {}
        for targets in edges.values():
            for edge in targets.values():
                if not edge.guard or edge.guard in guards:
                    continue
                try:
                    guards[edge.guard] = Expression(edge.guard)
                except TemplateError as bad:
                    self._fault(self._guarded[edge.guard], f"guard {edge.guard!r}: {bad}")
        return guards

    # -- their parts -----------------------------------------------------------------------------

    def _state(self, name: str, node: yaml.Node) -> None:
        """A state is named here."""
        if not NAME.fullmatch(name):
            self._fault(node, f"{name!r} is no name of a state: 1 to 64 of A-Z a-z 0-9 . _ -")
        self._places.setdefault(name, node)

    def _process(self, node: yaml.Node, what: str) -> str:
        """The name of a process, or a map with it."""
        if isinstance(node, yaml.MappingNode):
            keys = self._map(node, what, ("process", "pipeline"))
            if len(keys) != 1:
                self._fault(node, f"{what}: one of `process`, `pipeline` was expected")
                return ""
            node = next(iter(keys.values()))[1]
        name = self._text(node, what)
        if name and not NAME.fullmatch(name):
            self._fault(node, f"{what}: {name!r} is no name of a process")
        return name

    def _items(self, node: yaml.Node) -> Iterable[yaml.Node]:
        """The items of a list; one that is no list is the only one."""
        if isinstance(node, yaml.SequenceNode):
            items: list[yaml.Node] = node.value
            return items
        return () if _is_null(node) else (node,)

    def _required(self, node: yaml.Node, keys: dict[str, Pair], key: str) -> str:
        if key in keys:
            return self._text(keys[key][1], f"{self._what}: {key}")
        if isinstance(node, yaml.MappingNode):
            self._fault(node, f"{self._what}: the key `{key}` was expected")
        return ""

    def _map(self, node: yaml.Node, what: str, known: tuple[str, ...] | None) -> dict[str, Pair]:
        before = len(self._document.diagnostics)
        found = self._document.map(node, what, known)
        self._wrong = self._wrong or len(self._document.diagnostics) > before
        return found

    def _text(self, node: yaml.Node, what: str) -> str:
        text = self._document.text(node, what)
        self._wrong = self._wrong or text is None
        return text or ""

    def _fault(self, node: yaml.Node, what: str) -> None:
        self._wrong = True
        self._document.fault(node, what)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
