"""The walk through a run: looks at every node that may have something to do, and at every graph
that may have ended."""

from __future__ import annotations

from agentfs.base.clock import Clock
from agentfs.manifests.plan import HOOK, PlanNode
from agentfs.workflow.advance import Say, is_barred, next_nodes, verdict
from agentfs.workflow.journal import RunJournal, decode
from agentfs.workflow.kernel_nodes import SIMPLE, KernelNodes
from agentfs.workflow.live import LiveGraph, LiveRun, Loop, is_loop
from agentfs.workflow.loops import LoopNodes, names_of
from agentfs.workflow.model import NodeRow, NodeState, RunState
from agentfs.workflow.steps import Steps
from agentfs.workflow.values import EVALUATION, Values

__all__ = ["Walk"]

MOST, SLICE = 200, 0.005
"""Nodes in one commit, and seconds of it: others wait meanwhile."""


CANCELS = 40
"""Attempts that are cancelled in one commit: each may be a sub-run, or a program."""


class Walk:
    """Works on a live run, inside the transaction of its caller."""

    def __init__(
        self, clock: Clock, journal: RunJournal, values: Values, steps: Steps, loops: LoopNodes
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._values = values
        self._steps = steps
        self._loops = loops
        self._kernel = KernelNodes(values)

    # -- onward ----------------------------------------------------------------------------------

    def go(self, live: LiveRun, once: bool = False) -> bool:
        """Do what there is to do, in bounds. Returns whether the plan's own graph has ended.
        `once`: begin one attempt at most."""
        began, looked = self._clock.monotonic(), 0
        while looked < MOST and self._clock.monotonic() - began < SLICE:
            looked += 1
            if live.settling:
                if self._settle(live, live.settling.popleft()):
                    return True
            elif live.todo:
                scope, node = live.todo.popleft()
                attempts = sum(live.begun.values()) if once else 0
                self._look(live, scope, node)
                if once and sum(live.begun.values()) > attempts:
                    return False
            else:
                return False
        return False

    def _look(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> None:
        if scope.gone:
            return
        row = scope.rows.get(node.name)
        if row is not None and row.state is not NodeState.PENDING:
            if is_loop(node):
                loop = live.loops.get(row.path)
                if loop is not None:
                    self._loops.fill(live, loop)
                return
            due = row.state is NodeState.BACKOFF and row.due <= self._clock.now()
            if not due or live.is_closing(scope):
                return
        elif not self._may_begin(live, scope, node):
            return
        if live.run.paused:
            live.block(scope, node, "paused")
            return
        try:
            if row is None and node.when and not self._holds(live, scope, node):
                self._steps.skip(live, scope, node, f"when: {node.when}")
            elif node.hooks_before and (words := self._values.veto(live, scope, node)):
                if node.kind == HOOK:
                    self._steps.skip(live, scope, node, words)
                else:
                    self._steps.fail(live, scope, node, words, again=False)
            elif is_loop(node):
                self._loops.begin(live, scope, node)
            elif node.kind in SIMPLE:
                self._steps.complete(live, scope, node, self._kernel.output(live, scope, node))
                if node.join == "first":
                    self._steps.cancel_losers(live, scope, node)
            else:
                self._steps.begin(live, scope, node)
        except EVALUATION as bad:
            words = str(getattr(bad, "reason", bad))
            self._steps.fail(live, scope, node, words, again=False, kind="input")

    def _may_begin(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> bool:
        """Whether a pending node is to begin; it is skipped here if that is its fate."""
        if live.is_closing(scope):
            if not (node.always and scope.settled) or is_barred(scope.graph, node, scope.rows):
                return False
            return self._is_free(scope, node)
        said = verdict(scope.graph, node, scope.rows, scope.chosen)
        if said.say is Say.SKIP and not node.always:
            self._steps.skip(live, scope, node, said.reason)
            return False
        return said.say is not Say.WAIT

    @staticmethod
    def _is_free(scope: LiveGraph, node: PlanNode) -> bool:
        """Whether all that always runs before it has ended."""
        for name in node.needs:
            before = scope.graph.by_name[name]
            if before.always and not Walk._is_over(scope, before):
                return False
        return True

    @staticmethod
    def _is_over(scope: LiveGraph, node: PlanNode) -> bool:
        """Whether a node that always runs has ended, or must not begin."""
        row = scope.rows.get(node.name)
        return is_barred(scope.graph, node, scope.rows) if row is None else row.state.final

    def _holds(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> bool:
        return self._values.holds(node.when, self._values.names(live, scope, node, True))

    # -- ends ------------------------------------------------------------------------------------

    def _settle(self, live: LiveRun, scope: LiveGraph) -> bool:
        """Look whether a graph has ended; True if it is the plan's own, and has."""
        if scope.gone:
            return False
        top = scope is live.top
        if scope.error and top and live.run.ending is None:
            self.close(live, RunState.FAILED, scope.error)
        if scope.error:
            self._end_waits(live, scope)
        if live.stopped and not self._end_all(live):
            return False
        if scope.open or (scope.left and not live.is_closing(scope)):
            return False
        if scope.left and not self._always(live, scope):
            return False
        if top:
            return True
        self._loops.settled(live, scope)
        return False

    def _always(self, live: LiveRun, scope: LiveGraph) -> bool:
        """Have those that always run do so, before the graph ends without the others; whether they
        have."""
        waiting = []
        for node in scope.graph.nodes:
            if node.always and not self._is_over(scope, node):
                waiting.append(node)
        if not waiting:
            return True
        if not scope.settled:
            scope.settled = True
            if scope is live.top:
                live.run.settled = True
                self._journal.save_run(live.run)
            live.push(scope, waiting)
        return False

    def close(self, live: LiveRun, state: RunState, words: str) -> None:
        """Nothing new begins in the run; it will end in `state`."""
        run = live.run
        run.ending = state
        if state is RunState.FAILED:
            run.error = words
        else:
            run.reason = words
        if run.paused:
            run.paused = False
            live.unblock("paused")
        self._journal.save_run(run)
        live.settling.append(live.top)

    def _end_waits(self, live: LiveRun, scope: LiveGraph) -> None:
        """A graph has failed: those in it that wait for a person or for their next attempt do so
        for nothing. Those at work go on to their ends."""
        for inner, node, row in [*live.open_rows(scope)]:
            waits = row.state is NodeState.WAITING and node.kind in ("wait", "approval")
            if waits or row.state is NodeState.BACKOFF:
                self._steps.cancel(live, inner, node, f"{scope.path or 'the run'} failed")

    def _end_all(self, live: LiveRun) -> bool:
        """End everything in the run, a part of it at a time; whether that was all."""
        words = live.run.reason or live.run.error
        count = 0
        for scope, node, row in [*live.open_rows(live.top)]:
            if node.always and scope.settled:
                continue
            if count >= CANCELS:
                live.settling.append(live.top)
                return False
            if not row.state.final:
                self._steps.cancel(live, scope, node, words)
                count += 1
        return True

    # -- the way back from the journal -----------------------------------------------------------

    def restore(self, live: LiveRun) -> None:
        """Make the graphs of a run from its rows, and look at everything that may have something
        to do."""
        self._restore_graph(live, live.top)
        now = self._clock.now()
        for scope in [*live.scopes()]:
            live.push(
                scope, [node for node, _ in next_nodes(scope.graph, scope.rows, scope.chosen)]
            )
            for name, row in scope.rows.items():
                if row.state is NodeState.BACKOFF and row.due <= now:
                    live.push(scope, (scope.graph.by_name[name],))
                for due in (row.deadline, row.due):
                    if due and not row.state.final:
                        live.expect(due)
            if not scope.open:
                live.settling.append(scope)
        for loop in live.loops.values():
            live.push(loop.scope, (loop.node,))
        live.top.settled = live.run.settled
        live.stopped = live.run.ending in (RunState.CANCELLED, RunState.TIMED_OUT)
        if live.run.ending is not None:
            live.settling.append(live.top)

    def _restore_graph(self, live: LiveRun, scope: LiveGraph) -> None:
        """Read the rows of a graph, and of all that is under way in it."""
        for row in self._journal.rows_in(live.run.id, scope.prefix):
            node = scope.graph.by_name.get(row.path.removeprefix(scope.prefix))
            if node is not None:
                self._restore_node(live, scope, node, row)

    def _restore_node(self, live: LiveRun, scope: LiveGraph, node: PlanNode, row: NodeRow) -> None:
        state, row.state = row.state, NodeState.PENDING
        scope.rows[node.name] = row
        live.move(scope, node, row, state)
        if state is NodeState.FAILED and not node.on_error and not scope.error:
            scope.error = f"{node.name}: {row.error}"
        if state is NodeState.SKIPPED and node.critical and not scope.error:
            scope.error = f"{node.name}: it is critical, and was skipped: {row.reason}"
        if state is NodeState.COMPLETED and node.kind == "switch" and not node.bodies:
            scope.chosen[node.name] = self._values.output(live, row.path)["result"]
        if is_loop(node) and not state.final:
            self._restore_loop(live, Loop(scope, node, row))

    def _restore_loop(self, live: LiveRun, loop: Loop) -> None:
        run, path = live.run.id, loop.row.path
        live.loops[path] = loop
        progress = decode(self._journal.value(run, path, "input"))
        loop.body, loop.total = progress["body"], progress["total"]
        loop.items, loop.state = progress.get("items"), progress.get("state")
        loop.next = self._journal.last_iteration(run, path) + 1
        iterations = self._journal.rows_in(run, f"{path}/", NodeState.COMPLETED.value)
        numbered = {int(row.path.rpartition("/")[2]): row for row in iterations}
        for number, row in sorted(numbered.items()):
            if row.state.final:
                if row.error:
                    self._loops.failed(loop, number, row.error)
                continue
            if loop.node.kind == "while":
                text = self._journal.value(run, row.path, "input")
                loop.state = decode(text)["state"] if text else loop.state
            graph = loop.node.body(loop.body)
            if graph is not None:
                inner = LiveGraph(graph, loop, number, names_of(loop, number))
                loop.open[number] = inner
                self._restore_graph(live, inner)
