"""The changes of one node: it begins, ends, fails, waits, is skipped or cancelled.

Each is a part of the transaction under way. The rows of a run are written together, by `flush`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.manifests.plan import PlanNode
from agentfs.manifests.schema import Schema
from agentfs.model.process import OnLimit, Process
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.workflow.advance import losers
from agentfs.workflow.events import NodeChanged
from agentfs.workflow.executors import Executors
from agentfs.workflow.journal import RunJournal, encode
from agentfs.workflow.live import LiveGraph, LiveRun, Loop, is_loop
from agentfs.workflow.model import Executor, NodeRow, NodeState, Step, StepRef
from agentfs.workflow.outputs import shortened
from agentfs.workflow.slots import StepSlots
from agentfs.workflow.values import Values

__all__ = ["Steps"]

FINAL_ERRORS = frozenset({"schema", "size", "limit", "cancelled", "input"})
"""Kinds of error that another attempt would meet again."""

MOST_LOST = 20
"""Attempts of a node that may be lost, beside those that it has: a daemon that dies with each one
must not go on for ever."""

MOST_AGAIN = 10
"""Attempts of a program that asks for another one (exit code 75), where its node does not say how
many there may be."""

AT_WORK = (NodeState.RUNNING, NodeState.WAITING)
"""The states in which a node holds its concurrency key."""

PATIENT = frozenset({"wait", "approval"})
"""Kinds that hold none while they wait: that may take days."""

FEED = 1.0
"""Seconds after which a step is tried again whose executor said EAGAIN."""


class Steps:
    """Changes nodes of live runs; only `agentfs.workflow` calls it."""

    def __init__(
        self,
        ground: Ground,
        journal: RunJournal,
        values: Values,
        slots: StepSlots,
        table: ProcessTable,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._journal = journal
        self._values = values
        self._slots = slots
        self._table = table
        self._schemas: dict[str, Schema] = {}
        self.unsynced: list[Callable[[], object]] = []
        """Attempts of runs that are synced: they begin once their commits are on the disk."""
        self.ended: dict[int, Process] = {}
        """The processes of runs that somebody has ended, until the runs have."""
        self.executors = Executors()

    def now(self) -> float:
        """Wall clock, in seconds."""
        return self._clock.now()

    def take_unsynced(self) -> list[Callable[[], object]]:
        """Those of `unsynced`, which are the caller's now."""
        calls, self.unsynced = self.unsynced, []
        return calls

    # -- the journal -----------------------------------------------------------------------------

    def note(self, live: LiveRun, event: str, /, **what: Any) -> None:
        """Write an event of the run."""
        live.seq += 1
        time = rfc3339(self._clock.now())
        line = {"seq": live.seq, "time": time, "type": event, "run": live.run.id} | what
        live.lines.append(f"{encode(line)}\n")

    def flush(self, live: LiveRun) -> None:
        """Write what has changed in memory."""
        if live.changed:
            self._journal.put_rows([*live.changed.values()])
            live.changed.clear()
        if live.lines:
            self._journal.add_events(live.run.id, live.seq - len(live.lines) + 1, live.lines)
            live.lines.clear()

    def _move(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, row: NodeRow, state: NodeState
    ) -> None:
        old = row.state
        live.move(scope, node, row, state)
        if state.final:
            row.ended = self._clock.now()
            row.deadline = row.due = 0.0
            row.wait, row.holder = "", ""
        if row.group and (state not in AT_WORK or node.kind in PATIENT):
            self._slots.free(row.group, (row.run, row.path))
            live.freed.add(row.group)
            row.group = ""
        self._events.emit(NodeChanged(row.run, row.path, old.value, state.value, row.attempt))

    def row(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> NodeRow:
        """The row of a node, a new one if it has none."""
        row = scope.rows.get(node.name)
        if row is None:
            row = scope.rows[node.name] = NodeRow(live.run.id, scope.prefix + node.name)
        return row

    # -- the end of a node -----------------------------------------------------------------------

    def complete(
        self,
        live: LiveRun,
        scope: LiveGraph,
        node: PlanNode,
        value: Any,
        *,
        text: str | None = None,
    ) -> None:
        """The node has ended and gives `value`; `text` is that as JSON already. A value that is no
        JSON, too large, or not as the schema says is a failure."""
        row = self.row(live, scope, node)
        try:
            self.check(node.output_schema, value, "the output")
            if text is None or len(text) > 16_384:
                text, value = self._values.kept(row.run, row.path, value)
        except KernelError as bad:
            kind = "size" if bad.errno == errno.EFBIG else "schema"
            self.fail(live, scope, node, bad.reason, again=False, kind=kind)
            return
        if row.attempt == 0:
            row.began = self._clock.now()
            row.attempt = 1
        if self._slots.ended(node, (row.run, row.path), True):
            live.freed.add(f"breaker:{node.breaker.policy if node.breaker else ''}")
        self._move(live, scope, node, row, NodeState.COMPLETED)
        row.error = row.kind = ""
        live.touch(row, output=text)
        live.keep_output(row.path, value, len(text))
        self.note(live, "NodeCompleted", node=row.path, attempt=row.attempt)
        self._onward(live, scope, node)

    def fail(
        self,
        live: LiveRun,
        scope: LiveGraph,
        node: PlanNode,
        error: str,
        *,
        again: bool = True,
        kind: str = "error",
    ) -> None:
        """The attempt has failed. `again`: another one may be made, if the node has any left."""
        row = self.row(live, scope, node)
        error = shortened(error)
        if kind == "limit" and self._skips(live):
            self.skip(live, scope, node, f"limit: {error}")
            return
        row.error, row.kind = error, kind
        if row.attempt == 0:
            row.began = self._clock.now()
            row.attempt = 1
        if self._slots.ended(node, (row.run, row.path), None if kind == "cancelled" else False):
            live.freed.add(f"breaker:{node.breaker.policy if node.breaker else ''}")
        if again and kind not in FINAL_ERRORS and self._has_another(live, scope, node, row):
            self._back_off(live, scope, node, row)
            return
        self._move(live, scope, node, row, NodeState.FAILED)
        self.note(
            live, "NodeFailed", node=row.path, attempt=row.attempt, kind=kind, error=error[:1000]
        )
        if node.on_error:
            told = {"_error": {"node": node.name, "type": kind, "message": error}}
            live.touch(row, output=encode(told))
            live.keep_output(row.path, told, len(error))
            self._onward(live, scope, node)
            return
        live.touch(row)
        if not scope.error:
            scope.error = f"{node.name}: {error}"
        if kind == "limit" and self._stops(live):
            live.stopped = True
        live.settling.append(scope)

    def _skips(self, live: LiveRun) -> bool:
        process = self._table.find(live.run.id)
        return process is not None and process.on_limit is OnLimit.SKIP

    def _stops(self, live: LiveRun) -> bool:
        process = self._table.find(live.run.id)
        return process is not None and process.on_limit is OnLimit.STOP

    def _has_another(self, live: LiveRun, scope: LiveGraph, node: PlanNode, row: NodeRow) -> bool:
        if node.once or live.is_closing(scope) or is_loop(node):
            return False
        if row.attempt >= self._attempts(node, row):
            return False
        return not live.run.deadline or self._next(node, row) < live.run.deadline

    @staticmethod
    def _attempts(node: PlanNode, row: NodeRow) -> int:
        """How many attempts there may be in all, after an error of this kind."""
        own = node.retry.attempts
        if row.kind == "lost":
            return own + MOST_LOST
        return MOST_AGAIN if row.kind == "again" and own == 1 else own

    def _next(self, node: PlanNode, row: NodeRow) -> float:
        """When the next attempt is made."""
        lost = row.kind == "lost"
        return self._clock.now() + (0.0 if lost else node.retry.before(row.attempt + 1))

    def _back_off(self, live: LiveRun, scope: LiveGraph, node: PlanNode, row: NodeRow) -> None:
        due = self._next(node, row)
        self._move(live, scope, node, row, NodeState.BACKOFF)
        row.deadline, row.due, row.wait, row.holder = 0.0, due, "", ""
        live.touch(row)
        self.note(
            live, "NodeRetried", node=row.path, attempt=row.attempt, error=row.error[:1000],
            next=rfc3339(due),
        )  # fmt: skip
        if due <= self._clock.now():
            live.push(scope, (node,))
        else:
            live.expect(due)
        live.unblock("nodes")

    def skip(self, live: LiveRun, scope: LiveGraph, node: PlanNode, reason: str) -> None:
        """The node is not run. One that is critical fails its graph by that."""
        row = self.row(live, scope, node)
        row.reason = reason
        self._move(live, scope, node, row, NodeState.SKIPPED)
        live.touch(row)
        self.note(live, "NodeSkipped", node=row.path, reason=reason)
        if node.critical and not scope.error:
            scope.error = f"{node.name}: it is critical, and was skipped: {reason}"
        self._onward(live, scope, node)

    def cancel(self, live: LiveRun, scope: LiveGraph, node: PlanNode, reason: str) -> None:
        """End the attempt under way, if there is one; the node is over."""
        row = self.row(live, scope, node)
        self.withdraw(live, node, row, reason)
        row.reason = reason
        self._move(live, scope, node, row, NodeState.CANCELLED)
        live.touch(row)
        self.note(live, "NodeCancelled", node=row.path, reason=reason)
        self._onward(live, scope, node)

    def withdraw(self, live: LiveRun, node: PlanNode, row: NodeRow, reason: str) -> None:
        """End the attempt under way, if there is one: its executor's, or all that a loop does."""
        if row.state not in (NodeState.RUNNING, NodeState.WAITING):
            return
        if is_loop(node):
            self._abort(live, live.loops.pop(row.path, None), reason)
            return
        executor = self.executors.of(node.kind)
        if executor is not None and self._has_process(live.run.id):
            live.withdrawn = row.path
            executor.cancel(self.step(live, node, row, None, node.spec))
            live.withdrawn = ""
        if self._slots.ended(node, (row.run, row.path), None):
            live.freed.add(f"breaker:{node.breaker.policy if node.breaker else ''}")

    def _has_process(self, number: int) -> bool:
        """Whether executors can be told of a run: an earlier daemon may have lost its process."""
        return number in self.ended or self._table.find(number) is not None

    def _abort(self, live: LiveRun, loop: Loop | None, reason: str) -> None:
        """End everything that is under way in a loop."""
        for inner in loop.open.values() if loop else ():
            for name, row in inner.rows.items():
                if not row.state.final:
                    node = inner.graph.by_name[name]
                    self.withdraw(live, node, row, reason)
                    row.reason = reason
                    self._move(live, inner, node, row, NodeState.CANCELLED)
                    live.touch(row)
            row = self._journal.row(live.run.id, inner.path) or NodeRow(
                live.run.id, inner.path, attempt=1
            )
            row.state, row.ended, row.reason = NodeState.CANCELLED, self._clock.now(), reason
            live.touch(row)
            self._events.emit(
                NodeChanged(row.run, row.path, "running", row.state.value, row.attempt)
            )
            inner.gone = True

    def _onward(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> None:
        """The node has ended: look at those behind it, and at the graph."""
        graph = scope.graph
        live.push(scope, [graph.by_name[name] for name in graph.dependents[node.name]])
        if not scope.left or (not scope.open and live.is_closing(scope)):
            live.settling.append(scope)
        live.unblock("nodes")

    # -- while an attempt is under way -----------------------------------------------------------

    def wait(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, until: float | None, key: str
    ) -> None:
        """The attempt waits for somebody: until a time, and for a signal of a key."""
        row = scope.rows[node.name]
        if row.state is not NodeState.WAITING:
            self._move(live, scope, node, row, NodeState.WAITING)
            self.note(live, "NodeWaiting", node=row.path, attempt=row.attempt, key=key or None)
        row.due, row.wait = until or 0.0, key
        if row.due:
            live.expect(row.due)
        live.touch(row)
        live.unblock("nodes")

    @staticmethod
    def hold(
        live: LiveRun, scope: LiveGraph, node: PlanNode, holder: str, deadline: float | None
    ) -> None:
        """`holder` has claimed the attempt; empty: nobody has, and its time does not run."""
        row = scope.rows[node.name]
        row.holder, row.deadline = holder, deadline or 0.0
        if deadline is not None:
            live.expect(deadline)
        live.touch(row)

    def tell_progress(self, live: LiveRun, scope: LiveGraph, node: PlanNode, words: str) -> None:
        """An event of the run says how far the attempt is."""
        row = scope.rows[node.name]
        self.note(live, "NodeProgress", node=row.path, attempt=row.attempt, text=words)
        state = row.state.value
        self._events.emit(NodeChanged(row.run, row.path, state, state, row.attempt))

    # -- the begin of an attempt -----------------------------------------------------------------

    def begin(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> None:
        """Begin the next attempt of a node that an executor does, or say what it lacks."""
        executor = self.executors.of(node.kind)
        if executor is None:
            words = f"nothing here does nodes of kind {node.kind}"
            self.fail(live, scope, node, words, again=False)
            return
        row = self.row(live, scope, node)
        if words := live.doomed.pop(row.path, ""):
            self.fail(live, scope, node, words, again=False)
            return
        lacking = self._lacking(live, node, executor)
        if lacking:
            live.block(scope, node, lacking)
            return
        prepared = self._values.prepared(live, scope, node)
        self._require(node, prepared)
        self.check(node.input_schema, prepared, "the input")
        names = self._values.names_of_step(live, scope, node, prepared)
        group = self._group(live, scope, node, names)
        if group is None:
            return
        spec = self._values.spec(node, names)
        self._begin(live, scope, node, row, executor, prepared, spec, group)

    def _lacking(self, live: LiveRun, node: PlanNode, executor: Executor) -> str:
        """What is not free; empty if all is."""
        if live.active[NodeState.RUNNING] >= live.plan.max_concurrent_nodes:
            return "nodes"
        what, seconds = self._slots.wait(node)
        if what:
            live.wanted[what] = seconds
            return what
        room = executor.room(node)
        if room is None:
            return ""
        name = Executors.lack(executor, live, node)
        begun = live.begun.get(name, 0)
        if room - begun < 1:
            if begun:  # perhaps `room` knows of these already
                live.wanted[name] = 0.0
            return name
        return ""

    @staticmethod
    def _require(node: PlanNode, prepared: Any) -> None:
        given = prepared if isinstance(prepared, dict) else {}
        missing = [name for name in node.required_inputs if given.get(name) is None]
        if missing:
            raise KernelError(errno.EINVAL, f"required inputs are missing: {', '.join(missing)}")

    def _group(
        self, live: LiveRun, scope: LiveGraph, node: PlanNode, names: dict[str, Any]
    ) -> str | None:
        """The concurrency key that the attempt holds, empty if it has none; None if it is not to
        begin now."""
        rule = node.concurrency
        if rule is None:
            return ""
        given = self._values.rendered(rule.key, names) if rule.key else ""
        group = f"node:{given}" if rule.key else f"node:{live.run.pipeline}/{node.name}"
        if self._slots.count_holders(group) < rule.limit:
            return group
        if rule.on_full == "skip":
            self.skip(
                live, scope, node, f"{rule.limit} are at work on {given or node.name} already"
            )
            return None
        if rule.on_full == "replace":
            live.replaced += self._slots.holders(group)[
                : 1 + self._slots.count_holders(group) - rule.limit
            ]
        live.block(scope, node, group)
        return None

    def _begin(
        self,
        live: LiveRun,
        scope: LiveGraph,
        node: PlanNode,
        row: NodeRow,
        executor: Executor,
        prepared: Any,
        spec: dict[str, Any],
        group: str,
    ) -> None:
        now, before = self._clock.now(), (row.state, row.due)
        text, prepared = self._values.kept(row.run, f"{row.path}.input", prepared)
        row.attempt += 1
        row.began, row.due, row.group = now, 0.0, group
        row.deadline = now + node.timeout if node.timeout else 0.0
        self._move(live, scope, node, row, NodeState.RUNNING)
        self.note(live, "NodeStarted", node=row.path, attempt=row.attempt)
        live.last = row.path
        step, holder = self.step(live, node, row, prepared, spec), (row.run, row.path)
        self._slots.probe(node, holder)
        try:
            executor.begin(step)
        except KernelError as refusal:
            if refusal.errno == errno.EAGAIN:
                self._slots.ended(node, holder, None)
                live.lines.pop()
                live.seq -= 1
                row.attempt -= 1
                self._move(live, scope, node, row, before[0])
                row.due, row.deadline = before[1], 0.0
                if before[0] is NodeState.PENDING:
                    del scope.rows[node.name]
                name = Executors.lack(executor, live, node)
                live.wanted[name] = FEED
                live.block(scope, node, name)
                return
            live.touch(row, input_text=text)
            self.fail(live, scope, node, refusal.reason, again=False)
            return
        live.touch(row, input_text=text)
        self._slots.count(node)
        if node.join == "first":
            self.cancel_losers(live, scope, node)
        if row.state not in AT_WORK:  # it has ended by that already, or waits for another attempt
            return
        if group:
            live.served.add(group)
        if row.group:
            self._slots.take(group, holder)
        if row.deadline:
            live.expect(row.deadline)
        if row.state is NodeState.RUNNING:
            name = Executors.lack(executor, live, node)
            live.begun[name] = live.begun.get(name, 0) + 1
            live.served.add(name)
            start = partial(self._start, live, name, executor, step, row)
            if live.run.sync:
                self._store.on_commit(partial(self.unsynced.append, start))
            else:
                self._store.on_commit(start)

    def cancel_losers(self, live: LiveRun, scope: LiveGraph, node: PlanNode) -> None:
        """`node`, which joins the first, has begun: end those that have lost."""
        for loser in losers(scope.graph, node, scope.rows):
            if loser.name != node.name:
                self.cancel(live, scope, loser, f"{node.name} did not need it any more")

    @staticmethod
    def _start(live: LiveRun, name: str, executor: Executor, step: Step, row: NodeRow) -> None:
        live.begun[name] -= 1
        if row.state is NodeState.RUNNING and row.attempt == step.ref.attempt:
            executor.start(step, False)

    def step(
        self, live: LiveRun, node: PlanNode, row: NodeRow, prepared: Any, spec: dict[str, Any]
    ) -> Step:
        """An attempt, as an executor gets it. Raises ESRCH if the run has no process, and never
        had one in this run of the daemon."""
        run = live.run
        times = [time for time in (row.deadline, run.deadline) if time]
        return Step(
            StepRef(run.id, row.path, row.attempt),
            live.plan,
            node,
            prepared,
            spec,
            f"{run.origin}/{row.path}",
            min(times) if times else None,
            self.ended.get(run.id) or self._table.get(run.id),
        )

    def step_again(self, live: LiveRun, scope: LiveGraph, node: PlanNode, row: NodeRow) -> Step:
        """The attempt under way, made anew from the journal. Raises one of `EVALUATION`."""
        prepared = self._values.prepared(live, scope, node)
        names = self._values.names_of_step(live, scope, node, prepared)
        return self.step(live, node, row, prepared, self._values.spec(node, names))

    # -- schemas ---------------------------------------------------------------------------------

    def check(self, document: dict[str, Any] | None, value: Any, what: str) -> None:
        """Raise EINVAL if `value` is not as a schema says."""
        if document is None:
            return
        key = encode(document)
        schema = self._schemas.get(key)
        if schema is None:
            if len(self._schemas) > 256:
                self._schemas.clear()
            try:
                schema = self._schemas[key] = Schema(document)
            except ValueError as bad:
                raise KernelError(errno.EINVAL, f"the schema of {what}: {bad}") from None
        if words := schema.check(value):
            raise KernelError(errno.EINVAL, f"{what}: {words}")
