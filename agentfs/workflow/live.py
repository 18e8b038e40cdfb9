"""A run that is at work, in memory: its graphs with the rows of their nodes, and its loops.

It is made from the rows of the journal, and dropped when only waits are left: a run that waits is
one `Run`, and nothing else. If a transaction fails, it is dropped too, and made anew from what the
journal says then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agentfs.manifests.plan import Graph, Plan, PlanNode
from agentfs.workflow.journal import RowChange
from agentfs.workflow.model import OPEN_NODES, NodeRow, NodeState, Run

__all__ = ["LOOPS", "LiveGraph", "LiveRun", "Loop", "is_loop"]

LOOPS = frozenset({"while", "for-each", "times", "if"})

KEPT_OUTPUTS = 256
"""Outputs of a run that are kept in memory, if they are short."""


def is_loop(node: PlanNode) -> bool:
    """Whether the node has graphs of its own, which are run in it."""
    return node.kind in LOOPS or (node.kind == "switch" and bool(node.bodies))


@dataclass(slots=True, eq=False)
class LiveGraph:
    """A graph that is being run: the plan's own, or the body of a loop in one iteration.

    names: what the loop gives to templates, as `item` and `index`.
    prefix: of the paths of its nodes, as `loop/3/`; empty for the plan's own.
    chosen: the choices of its switches.
    left: how many of its nodes have not ended. open: how many of those have begun.
    error: the error that it fails with; empty as long as it does not fail.
    settled: its nodes that always run have had their turn.
    gone: the loop that it was of has ended, and nothing in it is looked at any more.
    """

    graph: Graph
    loop: Loop | None = None
    number: int = 0
    names: dict[str, Any] = field(default_factory=dict)
    prefix: str = field(init=False)
    rows: dict[str, NodeRow] = field(default_factory=dict)
    chosen: dict[str, str | None] = field(default_factory=dict)
    left: int = field(init=False)
    open: int = 0
    error: str = ""
    settled: bool = False
    gone: bool = False

    def __post_init__(self) -> None:
        self.prefix = "" if self.loop is None else f"{self.loop.row.path}/{self.number}/"
        self.left = len(self.graph.nodes)

    @property
    def path(self) -> str:
        """Of its row: an iteration has one, the plan's own graph has none."""
        return self.prefix[:-1]

    def within(self) -> Iterator[LiveGraph]:
        """The scopes around it, the nearest first."""
        loop = self.loop
        while loop is not None:
            yield loop.scope
            loop = loop.scope.loop


@dataclass(slots=True, eq=False)
class Loop:
    """A node that runs graphs of its own, between its begin and its end.

    scope: where the node is. body: the name of the graph that is run.
    items: of a for-each; None if they are only counted.
    total: how many iterations there will be at most. next: the number of the next one.
    open: those that are under way. state: of a while.
    stopped: why no other iteration begins; empty as long as one may.
    """

    scope: LiveGraph
    node: PlanNode
    row: NodeRow
    body: str = "body"
    items: list[Any] | None = None
    total: int = 0
    next: int = 0
    open: dict[int, LiveGraph] = field(default_factory=dict)
    failed: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    state: Any = None
    stopped: str = ""


@dataclass(slots=True, eq=False)
class LiveRun:
    """One run at work. Only the engine's own modules change it.

    todo: nodes to look at. settling: graphs that may have ended.
    blocked: nodes that may begin and find no room, by what they lack. wanted: after how many
    seconds what they lack may be there, where that is known.
    active: how many nodes are in each of the open states; loops are in none.
    changed: the rows that are to be written, with input and output if those are new.
    lines: the events that are to be written; `seq` is the number of the last of them.
    due: when something in it falls due; it may be earlier than that.
    begun: attempts that are being committed, by executor: `room` does not know of them yet.
    replaced: nodes of other runs whose place is wanted.
    outputs: the newest short outputs. input: the run's, once somebody has looked at it.
    walking: somebody is at work on it already.
    stopped: nothing of it goes on, its programs neither.
    freed: what others may lack, and is free now. served: what it got that others may lack.
    tickets: its places in the queues for what it lacks.
    withdrawn: the node whose attempt is being withdrawn, and is over by that.
    last: the node that has begun last; doomed: attempts that could not be committed.
    """

    run: Run
    plan: Plan
    seq: int
    top: LiveGraph = field(init=False)
    loops: dict[str, Loop] = field(default_factory=dict)
    todo: deque[tuple[LiveGraph, PlanNode]] = field(default_factory=deque)
    settling: deque[LiveGraph] = field(default_factory=deque)
    blocked: dict[str, deque[tuple[LiveGraph, PlanNode]]] = field(default_factory=dict)
    wanted: dict[str, float] = field(default_factory=dict)
    active: dict[NodeState, int] = field(default_factory=lambda: dict.fromkeys(OPEN_NODES, 0))
    changed: dict[str, RowChange] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    due: float = float("inf")
    begun: dict[str, int] = field(default_factory=dict)
    replaced: list[tuple[int, str]] = field(default_factory=list)
    freed: set[str] = field(default_factory=set)
    served: set[str] = field(default_factory=set)
    tickets: dict[str, int] = field(default_factory=dict)
    walking: bool = False
    stopped: bool = False
    input: Any = None
    has_input: bool = False
    last: str = ""
    withdrawn: str = ""
    doomed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.top = LiveGraph(self.plan.graph)

    # -- finding ---------------------------------------------------------------------------------

    def find(self, path: str) -> tuple[LiveGraph, PlanNode] | None:
        """The node of that path, and the scope that it is in; None if that is not under way."""
        parts = path.split("/")
        scope = self.top
        for at in range(0, len(parts) - 2, 2):
            loop = self.loops.get(scope.prefix + parts[at])
            number = parts[at + 1]
            inner = None if loop is None or not number.isdigit() else loop.open.get(int(number))
            if inner is None:
                return None
            scope = inner
        node = scope.graph.by_name.get(parts[-1]) if len(parts) % 2 else None
        return None if node is None else (scope, node)

    def scopes(self) -> Iterator[LiveGraph]:
        """Every graph that is under way, the outer ones first."""
        yield self.top
        for loop in tuple(self.loops.values()):
            yield from tuple(loop.open.values())

    def below(self, scope: LiveGraph) -> Iterator[LiveGraph]:
        """`scope`, and every graph that is under way in it."""
        prefix = scope.prefix
        return (each for each in self.scopes() if each.prefix.startswith(prefix))

    def open_rows(self, scope: LiveGraph) -> Iterator[tuple[LiveGraph, PlanNode, NodeRow]]:
        """The nodes that have begun and not ended, in `scope` and all below it; no loops."""
        for each in self.below(scope):
            for name, row in tuple(each.rows.items()):
                node = each.graph.by_name[name]
                if row.state in OPEN_NODES and not is_loop(node):
                    yield each, node, row

    def is_closing(self, scope: LiveGraph) -> bool:
        """Whether nothing new begins in `scope`, but what always runs."""
        if self.run.ending is not None or scope.error:
            return True
        return any(outer.error for outer in scope.within())

    # -- changes ---------------------------------------------------------------------------------

    def expect(self, due: float) -> None:
        """Something falls due then."""
        self.due = min(self.due, due)

    def touch(self, row: NodeRow, input_text: str | None = None, output: str | None = None) -> None:
        """A row has changed, and is to be written."""
        before = self.changed.get(row.path)
        if before is not None:
            input_text = before.input if input_text is None else input_text
            output = before.output if output is None else output
        self.changed[row.path] = RowChange(row, input_text, output)

    def move(self, scope: LiveGraph, node: PlanNode, row: NodeRow, state: NodeState) -> None:
        """A row gets another state."""
        old = row.state
        if not is_loop(node):
            if old in self.active:
                self.active[old] -= 1
            if state in self.active:
                self.active[state] += 1
        if old is NodeState.PENDING and not state.final:
            scope.open += 1
        elif old is not NodeState.PENDING and state.final:
            scope.open -= 1
        if state.final and not old.final:
            scope.left -= 1
        row.state = state

    def keep_output(self, path: str, value: Any, size: int) -> None:
        """A node has ended with this value, which is `size` long as text."""
        if size <= 4096:
            self.outputs[path] = value
            if len(self.outputs) > KEPT_OUTPUTS:
                del self.outputs[next(iter(self.outputs))]

    def push(self, scope: LiveGraph, nodes: Iterable[PlanNode]) -> None:
        """Look at these nodes."""
        self.todo.extend((scope, node) for node in nodes)

    def block(self, scope: LiveGraph, node: PlanNode, on: str) -> None:
        """The node may begin, and lacks `on`."""
        self.blocked.setdefault(on, deque()).append((scope, node))

    def unblock(self, on: str) -> bool:
        """Look again at the nodes that lack `on`; whether there is any."""
        nodes = self.blocked.pop(on, None)
        if nodes is None:
            return False
        self.todo.extendleft(reversed(nodes))
        return True

    @property
    def rests(self) -> bool:
        """Whether nothing happens in it before somebody else does something."""
        return not (
            self.todo
            or self.settling
            or self.blocked
            or self.active[NodeState.RUNNING]
            or self.active[NodeState.BACKOFF]
        )
