"""The system calls on runs: start, cancel, pause, resume, skip, signal, retry, upgrade; and what
readers ask."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.library.settings import WorkflowSettings
from agentfs.manifests.plan import Plan, PlanNode
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.light import Light
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.workflow.engine import Engine
from agentfs.workflow.events import RunEnded, RunSignalled
from agentfs.workflow.journal import RunJournal, encode
from agentfs.workflow.model import NodeRow, NodeState, Run, RunState, Start, StepRef
from agentfs.workflow.retry import Copied
from agentfs.workflow.starts import Plans, Starts, wanted

__all__ = ["Runs"]

LONGEST_KEY = 255
"""Bytes of the key of a signal, which is the name of a file."""


class Runs(Part):
    """All runs. Those that have ended are read from the store."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        light: Light,
        engine: Engine,
        plans: Plans,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._engine = engine
        self._journal: RunJournal = engine.journal
        self._plans = plans
        self._starts = Starts(ground, gate, table, light, engine, plans)
        self._waiting: dict[int, trio.Event] = {}
        ground.events.listen(self._ended, RunEnded)

    def versions_in_use(self, kind: str, name: str) -> Collection[int]:
        """Of a pipeline those of its open runs."""
        runs = self._engine.open if kind == "pipelines" else ()
        return {run.version for run in runs if run.pipeline == name}

    # -- start -----------------------------------------------------------------------------------

    def start(self, principal: Principal, start: Start) -> Run:
        """Start a run; it never waits, and may be queued. It is a part of the caller's
        transaction, if there is one.

        ENOENT (no such pipeline), EINVAL (its input schema, unknown limits and capabilities),
        EACCES and EPERM (`spawn` on /etc/pipelines/NAME, the capability spawn_children), EEXIST
        (the key was used with another input; with the same one it is the same run), EMSGSIZE,
        EAGAIN (so many are queued, or open), ECANCELED (`on_full: skip`).
        """
        with self._gate.enter(principal, "spawns") as actor:
            return self._starts.begin(start.process or actor, start)

    def start_for(self, process: Process, start: Start) -> Run:
        """The same for the kernel's own work in the name of `process`, inside a transaction."""
        with self._store.transaction():
            return self._starts.begin(process, start)

    def start_plan(self, process: Process, plan: Plan, start: Start) -> Run:
        """The same of a plan that has no document."""
        with self._store.transaction():
            return self._starts.begin_plan(process, plan, start)

    # -- control ---------------------------------------------------------------------------------

    def cancel(self, principal: Principal, number: int, why: str = "") -> None:
        """End everything that a run does; then it is cancelled. Raises ENOENT, EPERM (it has
        ended), EACCES."""
        with self._gate.enter(principal, "signals") as actor:
            run = self._controlled(actor, number, "cancel")
            if run.ending is not RunState.CANCELLED:
                words = f"cancelled by {principal.name}" + (f": {why}" if why else "")
                self._engine.close(run, RunState.CANCELLED, words[:4096])

    def pause(self, principal: Principal, number: int) -> None:
        """Begin nothing new in a run; what is at work goes on to its end."""
        with self._gate.enter(principal, "signals") as actor:
            run = self._controlled(actor, number, "pause")
            if run.ending is not None or run.state is RunState.QUEUED:
                raise KernelError(errno.EPERM, f"run {number} is {_doing(run)}: it cannot pause")
            self._engine.pause(run, True)

    def resume(self, principal: Principal, number: int) -> None:
        """Go on with a run that was paused. Raises EPERM for one that was not."""
        with self._gate.enter(principal, "signals") as actor:
            run = self._controlled(actor, number, "resume")
            if not run.paused:
                raise KernelError(errno.EPERM, f"run {number} is not paused, it is {_doing(run)}")
            self._engine.pause(run, False)

    def skip_node(self, principal: Principal, number: int, path: str) -> None:
        """Have a node skipped; its attempt under way is cancelled. Raises ENOENT, and EPERM for
        one that has ended."""
        with self._gate.enter(principal, "signals") as actor:
            run = self._controlled(actor, number, f"skip {path}")
            self._engine.end_node(run, path, f"skipped by {principal.name}", skip=True)

    def signal(self, principal: Principal, number: int, key: str, data: Any) -> None:
        """Send a value to a run under a key: it is the output of the node that waits for that, and
        is kept for the next one if none does."""
        with self._gate.enter(principal) as actor:
            run = self._controlled(actor, number, f"signal {key}")
            if not key or len(key.encode("utf-8", "surrogateescape")) > LONGEST_KEY:
                raise KernelError(errno.EINVAL, f"a key has 1 to {LONGEST_KEY} bytes")
            most = self._settings.of(WorkflowSettings).max_input
            if len(encode(data)) > most:
                raise KernelError(errno.EMSGSIZE, f"a signal has at most {most} bytes")
            ref = self._engine.waiting_in(run.id, key)
            self._events.emit(RunSignalled(run.id, key, ref is None))
            if ref is None:
                self._engine.signals.keep(run.id, key, data)
            else:
                self._engine.succeed(ref, data)

    def upgrade(self, principal: Principal, number: int) -> Run:
        """Go on by the newest version of the pipeline, if every node that has begun is the same in
        it. Raises EINVAL that names one that is not."""
        with self._gate.enter(principal, "signals") as actor:
            run = self._controlled(actor, number, "upgrade")
            plan = self._plans.plan_now(run.pipeline, None, run.environment)
            before = self._journal.plan(run.plan_hash)
            names = {row.path.partition("/")[0] for row in self._journal.rows(run.id)}
            for name in sorted(names):
                old, new = before.graph.by_name.get(name), plan.graph.by_name.get(name)
                if new is None or old is None or not _same(old, new):
                    words = "is gone from" if new is None else "is another one in"
                    raise KernelError(
                        errno.EINVAL,
                        f"node {name} has begun, and {words} version {plan.version} of"
                        f" {run.pipeline}",
                    )
            self._engine.replan(run, plan, self._starts.digest(plan))
            return run

    def retry(self, principal: Principal, number: int, from_node: str = "") -> Run:
        """Start a run that goes on where one has ended: nodes that were completed are not run
        again, unless they are `from_node` or come after it. Raises EPERM for a run that has not
        ended, or has nothing left to do."""
        with self._gate.enter(principal, "spawns") as actor:
            run = self.get(number)
            self.may_control(actor, run, "retry")
            return self.retry_for(actor, run, from_node, None)

    def retry_for(self, starter: Process, run: Run, from_node: str, parent: StepRef | None) -> Run:
        """The same for the kernel's own work in the name of `starter`."""
        if not run.state.final:
            raise KernelError(errno.EPERM, f"run {run.id} has not ended: it is {run.state.value}")
        if run.state is RunState.COMPLETED and not from_node:
            raise KernelError(
                errno.EPERM,
                f"run {run.id} was completed: say `from: NODE` to run a part of it again",
            )
        self._starts.may_start(starter, run.pipeline)
        plan = self._journal.plan(run.plan_hash)
        if from_node and from_node not in plan.graph.by_name:
            raise KernelError(errno.EINVAL, f"{run.pipeline} has no node {from_node!r}")
        start = Start(
            run.pipeline,
            ref=(run.ref_type, run.ref_id),
            environment=run.environment,
            sync=run.sync,
            parent=parent,
            on_parent_end=run.on_parent_end,
            **wanted(run.request or {}),
        )
        text = self._journal.run_value(run.id, "input")
        copied = Copied(run.id, run.origin, from_node)
        return self._starts.make(starter, plan, start, text, copied)

    def _controlled(self, actor: Process, number: int, what: str) -> Run:
        run = self._engine.open.find(number)
        if run is None:
            ended = self.get(number)
            raise KernelError(errno.EPERM, f"run {number} has ended: it is {ended.state.value}")
        self.may_control(actor, run, what)
        return run

    def may_control(self, actor: Process, run: Run, what: str) -> None:
        """Raise EACCES or EPERM unless `actor` may end a run: it may kill its process or one above,
        or works for it."""
        if actor.pid == run.id or actor.ppid == run.id or actor.agent == run.starter:
            return
        process = self._table.find(run.id) or self._table.by_name(run.starter)
        path, policy = f"/proc/runs/{run.id}", self._gate.policy
        policy.require(actor, Action.KILL, path, process, what=what.encode())
        policy.require_capability(actor, "kill_processes")

    def may_read(self, principal: Principal, run: Run) -> None:
        """Raise EACCES or EPERM unless somebody may read a run: whoever may read the process of it,
        or of its starter, and whoever does one of its steps."""
        actor = self._gate.actor(principal)
        if actor.agent == run.starter or actor.pid == run.id or actor.ppid == run.id:
            return
        process = self._table.find(run.id) or self._table.by_name(run.starter)
        path = f"/proc/runs/{run.id}"
        try:
            self._gate.policy.require(actor, Action.READ_PROCESS, path, process)
        except KernelError:
            if not self._engine.works_for(actor.pid, run.id):
                raise

    # -- looks -----------------------------------------------------------------------------------

    def find(self, number: int) -> Run | None:
        """A run, ended or not."""
        return self._engine.open.find(number) or self._journal.run(number)

    def get(self, number: int) -> Run:
        """The same. Raises ENOENT."""
        run = self.find(number)
        if run is None:
            raise KernelError(errno.ENOENT, f"there is no run {number}")
        return run

    def plan_of(self, run: Run) -> Plan:
        return self._journal.plan(run.plan_hash)

    def input_of(self, number: int) -> str:
        """The input of a run, as JSON."""
        return self._journal.run_value(number, "input")

    def output_of(self, number: int) -> str:
        """Its output, as JSON; empty if it has none."""
        return self._journal.run_value(number, "output")

    def nodes(self, number: int) -> list[NodeRow]:
        """The rows of a run's nodes, by path; the plan's own nodes without one, too."""
        run = self.get(number)
        rows = {row.path: row for row in self._journal.rows(number)}
        for node in self.plan_of(run).graph.nodes:
            rows.setdefault(node.name, _unbegun(run, node.name))
        return [rows[path] for path in sorted(rows)]

    def node(self, number: int, path: str) -> NodeRow | None:
        """The row of a node, or of an iteration; None if the plan has no such node."""
        row, run = self._journal.row(number, path), self.find(number)
        if row is None and run is not None and path in self.plan_of(run).graph.by_name:
            return _unbegun(run, path)
        return row

    def node_input(self, number: int, path: str) -> str:
        """What a node was given, as JSON; empty if it has not begun, or is the kernel's own."""
        return self._journal.value(number, path, "input")

    def node_output(self, number: int, path: str) -> str:
        """What a node has given, as JSON; empty if it has given nothing."""
        return self._journal.value(number, path, "output")

    def iterations(self, number: int, path: str) -> list[int]:
        """The iterations of a loop that have begun."""
        return self._journal.iteration_numbers(number, path)

    def children(self, number: int) -> list[int]:
        """The sub-runs of a run, ended ones included."""
        return self._journal.child_numbers(number)

    def events_of(self, number: int, after: int, most: int = 1000) -> list[tuple[int, str]]:
        """(number, line) of the events of a run after one number."""
        return self._journal.events(number, after, most)

    def events_size(self, number: int) -> int:
        """The bytes of all events of a run."""
        return self._journal.events_size(number)

    def signals(self, number: int) -> list[str]:
        """The keys under which signals of a run are kept, or waited for."""
        awaited = self._journal.awaited(number)
        return sorted({*self._engine.signals.keys(number), *awaited})

    def folder(self, number: int) -> Path:
        """Where the files of a run are; not there before there is one."""
        return self._engine.outputs.folder(number)

    def page(
        self, after: int, most: int, *, state: str = "", pipeline: str = "", ref: str = ""
    ) -> list[int]:
        """Runs with a number above `after`, in order."""
        return self._journal.page(after, most, state, pipeline, ref)

    def groups(self, which: str, after: str = "", most: int = 256) -> list[str]:
        """The next so many of every `pipeline`, or every `ref`, that there are runs of, sorted."""
        return self._journal.distinct(which, after, most)

    def query(
        self,
        *,
        state: str = "",
        pipeline: str = "",
        ref: str = "",
        since: float = 0.0,
        limit: int = 50,
    ) -> list[Run]:
        """Runs that were started since a time, the newest first."""
        return self._journal.query(state, pipeline, ref, since, limit)

    async def wait_ended(self, number: int) -> Run:
        """Wait until a run has ended. Raises ENOENT."""
        run = self.get(number)
        while not run.state.final:
            await self._waiting.setdefault(number, trio.Event()).wait()
            run = self.get(number)
        return run

    def _ended(self, record: Any) -> None:
        event = self._waiting.pop(record.event.run, None)
        if event is not None:
            event.set()


def _unbegun(run: Run, path: str) -> NodeRow:
    """The row of a node that has none."""
    if not run.state.final:
        return NodeRow(run.id, path)
    row = NodeRow(run.id, path, NodeState.CANCELLED)
    row.reason = f"the run was {run.state.value} before"
    return row


def _doing(run: Run) -> str:
    return run.state.value if run.ending is None else f"about to be {run.ending.value}"


def _same(old: PlanNode, new: PlanNode) -> bool:
    """Whether two nodes are the same, wherever in their documents they are."""
    return replace(old, line=0) == replace(new, line=0)
