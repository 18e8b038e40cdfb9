"""The plan of a pipeline: what a manifest says once it is checked, expanded and put in order.

A plan is a value. The engine runs it, the store keeps it as JSON (`record`), and nothing in it
refers back to documents: policies, macros and what is inherited have been resolved into it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

__all__ = ["HOOK", "KINDS", "Breaker", "Concurrency", "Graph", "Plan", "PlanNode", "Rate", "Retry"]

KERNEL_KINDS = (
    "data",
    "expression",
    "condition",
    "switch",
    "wait",
    "approval",
    "message",
    "transition",
)
LOOP_KINDS = ("while", "for-each", "times", "if")
KINDS = (
    *KERNEL_KINDS,
    "program",
    "function",
    "service_call",
    "agent",
    "llm",
    "tool",
    "api_call",
    *LOOP_KINDS,
    "pipeline",
)
"""Every kind of node that a manifest can have, by its canonical name."""

HOOK = "hook"
"""The kind of the nodes that `agentfs.manifests.hooks` adds."""


def _defaults(kind: type) -> dict[str, Any]:
    """The fields of a dataclass, each with its default; MISSING where there is none."""
    return {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(kind)
        if each.init
    }


def _json(value: Any) -> Any:
    """A field as JSON."""
    if isinstance(value, _Value):
        return value.record()
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return value


class _Value:
    """JSON of a dataclass: its fields by name, without those that have their defaults."""

    __slots__ = ()

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            name: _json(value)
            for name, default in _defaults(type(self)).items()
            if (value := getattr(self, name)) is not default and value != default
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The value that gave this record. Raises TypeError for an unknown field."""
        return cls(**{name: _read(name, value) for name, value in record.items()})


@dataclass(frozen=True, slots=True)
class Retry(_Value):
    """Attempts in all, and the seconds between them. A delay of 0 is 0."""

    attempts: int = 1
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 60.0

    def before(self, attempt: int) -> float:
        """The seconds to wait before this attempt; the first is 1, and waits for nothing."""
        if attempt < 2 or not self.delay:
            return 0.0
        try:
            return float(min(self.delay * self.backoff ** (attempt - 2), self.max_delay))
        except OverflowError:
            return self.max_delay


@dataclass(frozen=True, slots=True)
class Rate(_Value):
    """At most `calls` attempts in `seconds`, counted for all nodes that name the same policy; more
    of them wait."""

    policy: str
    calls: int = 10
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Breaker(_Value):
    """After `failures` failed attempts in a row, of all nodes that name the same policy, none is
    made for `seconds`; then one alone, whose end decides."""

    policy: str
    failures: int = 5
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Concurrency(_Value):
    """At most `limit` at a time of those whose `key` (a template) has the same value. `on_full` is
    the fate of one more: `queue`, `skip`, or `replace` (the oldest is cancelled for it)."""

    key: str = ""
    limit: int = 1
    on_full: str = "queue"


@dataclass(frozen=True, slots=True)
class PlanNode(_Value):
    """One node. `spec` is what its kind says; templates in it are still text."""

    name: str
    kind: str
    needs: tuple[str, ...] = ()  # every edge into it, sorted
    sources: tuple[str, ...] = ()  # those of them whose outputs are its input: not for order alone
    spec: dict[str, Any] = field(default_factory=dict)
    join: str = "all"  # all, any, first
    when: str = ""
    input: dict[str, Any] | None = None
    strict: bool = False
    required_inputs: tuple[str, ...] = ()
    critical: bool = False
    on_error: str = ""  # the node that gets {_error: {node, type, message}}
    handles: tuple[str, ...] = ()  # the nodes whose `on_error` it is
    routes: tuple[str, ...] = ()  # the switch nodes that name it: it runs if one of them chose it
    retry: Retry = Retry()
    timeout: float | None = None  # seconds, of one attempt
    once: bool = False
    always: bool = False
    concurrency: Concurrency | None = None
    output_schema: dict[str, Any] | None = None
    policies: tuple[str, ...] = ()
    input_schema: dict[str, Any] | None = None
    rate: Rate | None = None
    breaker: Breaker | None = None
    bodies: tuple[tuple[str, Graph], ...] = ()  # "body", "else", "branch-0" …
    hooks_before: tuple[str, ...] = ()  # hooks among `needs` that have to have ended first
    hooks_after: tuple[str, ...] = ()  # hooks that may give another output in its place
    line: int = 0  # in the document that the pipeline was compiled from

    def body(self, name: str = "body") -> Graph | None:
        """One of its bodies; None if it has none of this name."""
        return next((graph for each, graph in self.bodies if each == name), None)


@dataclass(frozen=True, slots=True)
class Graph(_Value):
    """Nodes in a topological order, ties by name; `output` is a map of references, or None."""

    nodes: tuple[PlanNode, ...] = ()
    output: Any = None
    by_name: dict[str, PlanNode] = field(init=False, repr=False, compare=False)
    dependents: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    hyphenated: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})
        after: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for need in node.needs:
                after[need].append(node.name)
        object.__setattr__(self, "dependents", {name: tuple(them) for name, them in after.items()})
        object.__setattr__(self, "hyphenated", tuple(name for name in after if "-" in name))

    def waves(self) -> list[list[str]]:
        """The nodes by how many edges lead to them at most: what could run at the same time."""
        depth: dict[str, int] = {}
        for node in self.nodes:
            depth[node.name] = 1 + max((depth[need] for need in node.needs), default=-1)
        found: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for name, wave in depth.items():
            found[wave].append(name)
        return [sorted(names) for names in found]


@dataclass(frozen=True, slots=True)
class Plan(_Value):
    """A pipeline that can run. Durations are in seconds.

    `limits` has those that are set, by their names; None in it is no limit. `caps` None is all of
    the starter's. `origin` says of each inherited value what it is and which level gave it: what
    `config` of a run shows, as in `"limits.max_llm_calls": (30, "pipeline review")`.
    """

    name: str
    version: int = 0
    graph: Graph = Graph()
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    description: str = ""
    namespace: str = ""
    limits: dict[str, float | None] = field(default_factory=dict)
    on_limit: str = ""  # raise, skip, stop; "": raise
    caps: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    deadline: float | None = None
    concurrency: Concurrency | None = None
    max_runs: int | None = None
    max_queued: int | None = None
    max_concurrent_nodes: int = 10
    code: str = ""  # the folder of its functions
    ports: dict[str, Any] = field(default_factory=dict)
    on_parent_end: str = "cancel"  # cancel, abandon
    retention: float | None = None
    origin: dict[str, tuple[Any, str]] = field(default_factory=dict)
    document: str = ""  # the expanded YAML

    def digest(self) -> str:
        """What is the same for the same plan only: 64 hexadecimal digits."""
        text = json.dumps(self.record(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _read(name: str, value: Any) -> Any:
    if value is not None and name in _FROM_JSON:
        return _FROM_JSON[name](value)
    return tuple(value) if isinstance(value, list) and name in _TUPLES else value


_TUPLES = frozenset(
    {
        *("needs", "sources", "required_inputs", "handles", "routes", "policies", "caps", "deny"),
        *("hooks_before", "hooks_after"),
    }
)
_FROM_JSON: dict[str, Any] = {
    "retry": Retry.from_record,
    "rate": Rate.from_record,
    "breaker": Breaker.from_record,
    "concurrency": Concurrency.from_record,
    "graph": Graph.from_record,
    "nodes": lambda nodes: tuple(PlanNode.from_record(each) for each in nodes),
    "bodies": lambda bodies: tuple((name, Graph.from_record(each)) for name, each in bodies),
    "origin": lambda origin: {name: (value, level) for name, (value, level) in origin.items()},
}
