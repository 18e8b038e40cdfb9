"""The engine: makes the commits of runs, and says when something falls due.

A run is made by one commit (T0). An attempt of a node is committed before anybody hears of it (T1).
Its end is another commit, and what becomes ready by it is a part of that (T2), in bounds. The end
of the run is the last (T3). Between two commits nothing of a run is in memory alone, so a daemon
that dies leaves nothing half done: the next one goes on from the rows.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import trio

from agentfs.base.alarm import Alarm
from agentfs.base.errors import KernelError
from agentfs.manifests.plan import Plan, PlanNode
from agentfs.model.process import Process, State
from agentfs.process.light import Light
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import reread
from agentfs.workflow.advance import roots
from agentfs.workflow.events import RunEnded, RunStateChanged
from agentfs.workflow.executors import Executors
from agentfs.workflow.journal import RunJournal, decode
from agentfs.workflow.lacking import Lacking
from agentfs.workflow.live import LiveGraph, LiveRun, is_loop
from agentfs.workflow.loops import LoopNodes
from agentfs.workflow.model import Executor, NodeRow, NodeState, Run, RunState, StepRef
from agentfs.workflow.open_runs import OpenRuns
from agentfs.workflow.outputs import Outputs, shortened
from agentfs.workflow.retry import Copied, copy_rows
from agentfs.workflow.signals import KeptSignals
from agentfs.workflow.slots import StepSlots
from agentfs.workflow.steps import Steps
from agentfs.workflow.values import EVALUATION, Values
from agentfs.workflow.walk import Walk

__all__ = ["Engine"]

log = logging.getLogger(__name__)

EXIT_CODES = {
    RunState.COMPLETED: 0,
    RunState.FAILED: 1,
    RunState.TIMED_OUT: 124,  # as timeout(1)
    RunState.CANCELLED: 143,  # as of a program that TERM has ended
}
"""The exit code of a run's process, by the state that the run ends in."""

AGAIN = 1.0
"""Seconds after which a run goes on that the store had no room for."""

DUE_AT_ONCE, PAUSE = 20, 0.005
"""Runs of which something falls due that are looked at in one go, and seconds between two goes."""

UNREACHABLE = (errno.ENOSPC, errno.EIO)


class Engine(Part):
    """`succeed`, `fail`, `wait` and `progress` are for executors; the system calls on runs are in
    `Runs`. `turn` is one turn of `run`: one run goes on, in bounds."""

    def __init__(self, ground: Ground, table: ProcessTable, light: Light) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._parts = ground.parts
        self._table = table
        self._light = light
        self.journal = RunJournal(ground.store)
        self.outputs = Outputs(ground.state_dir)
        self.values = Values(ground, self.journal, self.outputs)
        self.slots = StepSlots(ground)
        self.signals = KeptSignals(ground.store)
        self.steps = Steps(ground, self.journal, self.values, self.slots, table)
        loops = LoopNodes(ground, self.journal, self.values, self.steps)
        self._walk = Walk(ground.clock, self.journal, self.values, self.steps, loops)
        self.open = OpenRuns()
        self._live: dict[int, LiveRun] = {}
        self._ready: dict[int, None] = {}
        self._lacking = Lacking(ground.clock, ground.timers, self._look_again)
        self._careful: dict[int, str] = {}  # runs that begin one attempt a commit, and the last one
        self._touched: set[int] = set()
        self._wake = trio.Event()
        self._alarm = Alarm(ground.clock, ground.timers, self._fall_due)

    @property
    def executors(self) -> Executors:
        """Those that do the steps; `add` is for the kernel."""
        return self.steps.executors

    # -- the start -------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the open runs, which go on in `take_up`."""
        self.signals.load()
        dues: dict[int, float] = {}
        for number, due in self.journal.dues():
            dues[number] = min(due, dues.get(number, due))
        for run in self.journal.open_runs():
            self.open.enter(run)
            due = min(dues.get(run.id, float("inf")), run.deadline or float("inf"))
            self.open.expect(run, due)
        groups = ((group, (run, path)) for run, path, group in self.journal.groups())
        self.slots.load(groups)

    def take_up(self) -> None:
        """Go on with every run that is not waiting; attempts under way begin again once the tree
        is there."""
        for run in self.open:
            lost = self._table.find(run.id) is None and run.state is not RunState.QUEUED
            if run.state is RunState.RUNNING or run.ending is not None or lost:
                self._ready[run.id] = None
        for pipeline in self.open.queues():
            self._ready |= dict.fromkeys(self.open.queued(pipeline)[:1])
        self._set_alarm()

    def start_again(self) -> Iterator[int]:
        """Tell the executors of the attempts that were under way when the last daemon ended, one
        run after another."""
        for number in sorted(self.journal.unfinished()):
            yield number
            run = self.open.find(number)
            if run is None:
                continue
            try:
                live = self.live(run)
                for scope, node, row in [*live.open_rows(live.top)]:
                    if row.state is NodeState.RUNNING:
                        self._start_again(live, scope, node, row)
            except Exception:  # the row of one run must not strand the others
                log.exception("run %s cannot go on", number)

    def _start_again(self, live: LiveRun, scope: LiveGraph, node: PlanNode, row: NodeRow) -> None:
        executor = self.executors.of(node.kind)
        ref = StepRef(row.run, row.path, row.attempt)
        try:
            step = self.steps.step_again(live, scope, node, row)
        except EVALUATION as bad:
            self.fail(ref, f"it cannot be begun again: {bad}", kind="lost")
            return
        if executor is None:
            self.fail(ref, f"nothing here does nodes of kind {node.kind}", again=False)
        else:
            executor.start(step, True)

    async def run(self) -> None:
        """Let runs go on, one after another, until cancelled."""
        for _ in self.start_again():
            await trio.lowlevel.checkpoint()
        while True:
            while self._ready or self.steps.unsynced:
                self.turn()
                await trio.lowlevel.checkpoint()
                if self.steps.unsynced:
                    await self._start_synced()
            self._wake = trio.Event()
            await self._wake.wait()

    async def _start_synced(self) -> None:
        """Begin the attempts that wait for the disk: of runs that are synced, nothing begins before
        all that led to it would survive a power cut."""
        calls = self.steps.take_unsynced()
        await self._store.sync()
        for call in calls:
            call()

    # -- memory ----------------------------------------------------------------------------------

    def live(self, run: Run) -> LiveRun:
        """The run at work; it is made from the journal if it was not in memory. Inside a
        transaction, or for a look."""
        live = self._live.get(run.id)
        if live is None:
            plan = self.journal.plan(run.plan_hash)
            live = LiveRun(run, plan, self.journal.last_event(run.id))
            live.walking = True
            self._walk.restore(live)
            live.walking = False
            self._live[run.id] = live
        return live

    def keep(self, run: Run) -> None:
        """The run is about to change: if the transaction fails, it is what its rows say."""
        if run.id in self._touched:
            return
        if not self._touched:
            self._store.on_end(self._touched.clear)
        self._touched.add(run.id)
        reread(self._store, partial(self._read_again, run.id))

    def _read_again(self, number: int) -> None:
        self._live.pop(number, None)
        before = self.open.find(number)
        if before is not None:
            self.open.leave(before)
        run = self.journal.run(number)
        if run is None or run.state.final:
            if before is not None:
                self.open.dues.discard(number)
            return
        self.open.enter(run)
        self.open.expect(run, min(self.journal.due_in(number), run.deadline or float("inf")))

    def change(self, run: Run, **fields: Any) -> None:
        """Set fields of a run, which `keep` was called for, and store them."""
        self.open.leave(run)
        for name, value in fields.items():
            setattr(run, name, value)
        self.open.enter(run)
        self.journal.save_run(run)

    # -- what executors call ---------------------------------------------------------------------

    def succeed(self, ref: StepRef, output: Any) -> None:
        """The attempt has ended with `output`, a JSON value. Raises ESTALE if it is not the one
        under way."""
        self._act(ref, lambda live, scope, node: self.steps.complete(live, scope, node, output))

    def fail(self, ref: StepRef, error: str, *, again: bool = True, kind: str = "error") -> None:
        """The attempt has failed. `again`: another may be made, if the node has any left. `kind`
        is one of error, timeout, lost, limit, schema, size, cancelled, input. Raises ESTALE."""
        self._act(
            ref,
            lambda live, scope, node: self.steps.fail(
                live, scope, node, error, again=again, kind=kind
            ),
        )

    def wait(self, ref: StepRef, until: float | None = None, key: str = "") -> None:
        """The attempt waits for somebody from now on, and holds no slot. `until`: wall clock, when
        `due` of its executor is called; `key`: of the signal that ends it. Raises ESTALE."""

        def wait(live: LiveRun, scope: LiveGraph, node: PlanNode) -> None:
            self.steps.wait(live, scope, node, until, key)

        self._act(ref, wait)

    def hold(self, ref: StepRef, holder: str, deadline: float | None = None) -> None:
        """`holder` has claimed the attempt, which has to end by `deadline` (wall clock, seconds).
        Empty: it waits for somebody to claim it, and its time does not run. Raises ESTALE."""
        self._act(
            ref, lambda live, scope, node: self.steps.hold(live, scope, node, holder, deadline)
        )

    def holder(self, ref: StepRef) -> str:
        """The holder of an attempt; empty if nobody is, or it is over."""
        row = self._look(ref)
        return "" if row is None or row.attempt != ref.attempt else row.holder

    def works_for(self, pid: int, number: int) -> bool:
        """Whether a program of process `pid` has claimed an attempt of a run."""
        live = self._live.get(number)
        if live is None:  # it waits, and nobody has claimed anything
            return False
        return any(row.holder.startswith(f"{pid}:") for _, _, row in live.open_rows(live.top))

    def tell_progress(self, ref: StepRef, words: str) -> None:
        """Whoever does the attempt says how far it is. Raises ESTALE."""
        self._act(ref, lambda live, scope, node: self.steps.tell_progress(live, scope, node, words))

    def progress(self, ref: StepRef) -> bool:
        """Whether the attempt is still the one under way."""
        live, row = self._live.get(ref.run), self._look(ref)
        if row is None or (live is not None and live.withdrawn == ref.path):
            return False
        return not row.state.final and row.attempt == ref.attempt

    def _look(self, ref: StepRef) -> NodeRow | None:
        """The row of an open run's node. One that waits stays out of memory."""
        if self.open.find(ref.run) is None:
            return None
        live = self._live.get(ref.run)
        return self.journal.row(ref.run, ref.path) if live is None else self._row(live, ref.path)

    def freed(self, executor: Executor) -> None:
        """An executor has room again, or may have."""
        self._lacking.wake_all_of(Executors.name(executor))

    def waiting(self, key: str) -> list[StepRef]:
        """All attempts that wait for a signal of that key, of all runs."""
        return [StepRef(*found) for found in self.journal.waiting(key)]

    def waiting_in(self, run: int, key: str) -> StepRef | None:
        """The first attempt of a run that waits for a signal of that key."""
        found = self.journal.waiting_in(run, key)
        return None if found is None else StepRef(run, *found)

    def take_signal(self, run: int, key: str) -> tuple[bool, Any]:
        """Inside a transaction: use up a signal that came before its wait; (False, None) if none
        is kept."""
        return self.signals.take(run, key)

    @staticmethod
    def _row(live: LiveRun, path: str) -> NodeRow | None:
        found = live.find(path)
        return None if found is None else found[0].rows.get(found[1].name)

    def _act(self, ref: StepRef, act: Callable[[LiveRun, LiveGraph, PlanNode], object]) -> None:
        """Change the attempt `ref`, and go on with its run in the same commit. If what follows
        cannot be committed, the change is committed alone."""
        alone = not self._store.in_transaction
        try:
            with self._store.transaction():
                self._act_on(ref, act, onward=True)
        except KernelError as failure:
            if not alone or failure.errno in (errno.ESTALE, *UNREACHABLE):
                raise
            with self._store.transaction():
                run = self._act_on(ref, act, onward=False)
            self._failed(run, failure)

    def _act_on(
        self, ref: StepRef, act: Callable[[LiveRun, LiveGraph, PlanNode], object], *, onward: bool
    ) -> Run:
        live, scope, node = self._current(ref)
        self.keep(live.run)
        act(live, scope, node)
        if onward:
            self._go_on(live)
        elif not live.walking:
            self.steps.flush(live)
            if not live.run.paused:  # a daemon that dies before its turn has the next one see to it
                self.set_state(live, RunState.RUNNING)
        return live.run

    def _current(self, ref: StepRef) -> tuple[LiveRun, LiveGraph, PlanNode]:
        run = self.open.find(ref.run)
        live = None if run is None else self.live(run)
        found = None if live is None else live.find(ref.path)
        row = None if live is None else self._row(live, ref.path)
        under_way = row is not None and row.state in (NodeState.RUNNING, NodeState.WAITING)
        if live is None or found is None or row is None or not under_way:
            raise _stale(ref)
        if row.attempt != ref.attempt or live.withdrawn == ref.path:
            raise _stale(ref)
        return live, *found

    # -- going on --------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Let the first of the runs go on that have something to do; whether there are more."""
        number = next(iter(self._ready), None)
        if number is None:
            return False
        del self._ready[number]
        run = self.open.find(number)
        if run is None:
            return bool(self._ready)
        try:
            with self._store.transaction():
                self.keep(run)
                if run.state is RunState.QUEUED:
                    self._dequeue(run.pipeline)
                elif run.ending is None and self._table.find(run.id) is None:
                    self.close(run, RunState.CANCELLED, "its process was ended")
                else:
                    self._go_on(self.live(run))
        except KernelError as failure:
            self._failed(run, failure)
        except Exception:  # the rows of one run must not strand the others
            log.exception("run %s cannot go on", number)
        return bool(self._ready)

    def _failed(self, run: Run, failure: KernelError) -> None:
        """A commit of a run failed. Where the store had no room, it is tried again; else it is
        found out which attempt cannot be committed."""
        number = run.id
        if failure.errno in UNREACHABLE and not failure.rule:
            self._timers.call_later(AGAIN, partial(self.ready, number))
            return
        log.warning("a commit of run %s failed: %s", number, failure)
        suspect, fresh = self._careful.get(number), self.open.find(number)
        if suspect == "":  # no attempt is to blame
            self._timers.call_later(AGAIN, partial(self.ready, number))
            return
        if suspect and fresh is not None:
            del self._careful[number]
            self.live(fresh).doomed[suspect] = failure.reason
        else:
            self._careful[number] = ""
        self.ready(number)

    def ready(self, number: int) -> None:
        """A run has something to do."""
        self._ready[number] = None
        self._wake.set()

    def _go_on(self, live: LiveRun) -> None:
        """Inside a transaction: go on with a run, in bounds, and write what has changed."""
        run = live.run
        if run.state.final or live.walking:
            return
        live.walking = True
        try:
            ended = self._walk.go(live, once=run.id in self._careful)
        finally:
            live.walking = False
            if run.id in self._careful:
                self._careful[run.id] = live.last
        if ended and not self._has_children(run):  # else it ends with the last of its sub-runs
            self._end(live)
            return
        self.steps.flush(live)
        self._follow(live)
        self._store.on_commit(partial(self._after, live))

    def _follow(self, live: LiveRun) -> None:
        """Let state and timers of a run follow what its nodes are at."""
        run = live.run
        due = min(live.due, run.deadline or float("inf"))
        if due < self.open.due_of(run):
            self.open.expect(run, due)
        rests = live.rests and live.active[NodeState.WAITING] > 0
        resting = run.ending is None and (run.paused or rests)
        self.set_state(live, RunState.SUSPENDED if resting else RunState.RUNNING)

    def set_state(self, live: LiveRun, new: RunState) -> None:
        """The run has another state that is not final."""
        run, old = live.run, live.run.state
        self._show(run, new)
        if old is new:
            return
        self.change(run, state=new)
        self._events.emit(RunStateChanged(run.id, run.pipeline, old.value, new.value))
        kind = "PipelineSuspended" if new is RunState.SUSPENDED else "PipelineResumed"
        self.steps.note(live, kind, name=run.pipeline, paused=run.paused)
        self.steps.flush(live)

    def _show(self, run: Run, state: RunState) -> None:
        """Have its process show what it does: one that waits is idle, one that is paused sleeps."""
        process = self._table.find(run.id)
        if process is not None and process.state.alive:
            resting = State.SLEEPING if run.paused else State.IDLE
            self._light.set_state(
                process, resting if state is RunState.SUSPENDED else State.RUNNING
            )

    def _after(self, live: LiveRun) -> None:
        """The commit is made: see to what the run lacks, and drop it from memory if it rests."""
        run = live.run
        if self._live.get(run.id) is not live:
            return
        if live.todo or live.settling:
            self.ready(run.id)
        if self.steps.unsynced:
            self._wake.set()
        self._lacking.queue(live)
        self._give_back(live)
        if live.due != float("inf"):
            live.due = float("inf")
            self._set_alarm()
        at_work = live.active[NodeState.RUNNING] or live.active[NodeState.BACKOFF]
        if run.state is RunState.SUSPENDED and not at_work and not live.todo:
            del self._live[run.id]

    def _give_back(self, live: LiveRun) -> None:
        """What the run has freed, or wants others to free, is theirs now."""
        for number, path in live.replaced:
            self._timers.call_later(0, partial(self._replace, number, path))
        live.replaced.clear()
        for what in live.freed:
            self._lacking.wake(what)
        live.freed.clear()

    def _replace(self, number: int, path: str) -> None:
        """A later one takes the place of this node."""
        run = self.open.find(number)
        if run is None:
            return
        words = "another one took its place"
        row = self._look(StepRef(number, path, 0))
        if row is not None and not row.state.final:  # it may have ended meanwhile
            with self._store.transaction():
                self.end_node(run, path, words)

    def _look_again(self, number: int, what: str) -> bool:
        """Something is free again that a run lacks, if it still does."""
        live = self._live.get(number)
        if live is None or not live.unblock(what):
            return False
        self.ready(number)
        return True

    # -- the end of a run ------------------------------------------------------------------------

    def close(self, run: Run, state: RunState, words: str) -> None:
        """Inside a transaction: end everything that the run does, and then the run, in `state`."""
        self.keep(run)
        if run.state is RunState.QUEUED:
            self.change(run, ending=state, reason=words, state=RunState.RUNNING)
        live = self.live(run)
        live.stopped = True
        if run.ending is None or (run.ending is RunState.FAILED and state is not RunState.FAILED):
            self._walk.close(live, state, words)
        live.settling.append(live.top)
        self._go_on(live)

    def end_node(self, run: Run, path: str, words: str, *, skip: bool = False) -> None:
        """Inside a transaction: end one node, and go on. Raises ENOENT and EPERM."""
        self.keep(run)
        live = self.live(run)
        found = live.find(path)
        if found is None:
            raise KernelError(errno.ENOENT, f"run {run.id} has no node {path} under way")
        scope, node = found
        row = self.steps.row(live, scope, node)
        if row.state.final:
            raise KernelError(errno.EPERM, f"node {path} is {row.state.value}")
        if skip:
            self.steps.withdraw(live, node, row, words)
            self.steps.skip(live, scope, node, words)
        else:
            self.steps.cancel(live, scope, node, words)
        self._go_on(live)

    def _has_children(self, run: Run) -> bool:
        children = map(self.open.find, self.open.children(run.id))
        return any(child is not None and child.on_parent_end != "abandon" for child in children)

    def _end(self, live: LiveRun) -> None:
        """T3."""
        run, output = live.run, None
        state, error = run.ending or RunState.COMPLETED, run.error
        if state is RunState.COMPLETED:
            try:
                value = self.values.result(live, live.top)
                self.steps.check(live.plan.output_schema, value, "the output")
                output, _ = self.values.kept(run.id, "output", value)
            except EVALUATION as bad:
                state = RunState.FAILED
                error = shortened(f"output: {getattr(bad, 'reason', bad)}")
        old = run.state
        words = {"error": error[:1000], "reason": run.reason[:1000]}
        told = {name: text for name, text in words.items() if text}
        self.steps.note(live, "PipelineCompleted", name=run.pipeline, status=state.value, **told)
        self.steps.flush(live)
        self.open.leave(run)
        self.open.dues.discard(run.id)
        self._live.pop(run.id, None)
        self._careful.pop(run.id, None)
        killed = self.steps.ended.pop(run.id, None)
        run.state, run.error, run.ended, run.paused = state, error, self._clock.now(), False
        own = live.plan.retention
        forget = None if own is None else run.ended + own
        self.journal.save_run(run, output, forget)
        self.signals.forget(run.id)
        self._events.emit(RunEnded(run.id, run.pipeline, old.value, state.value, run.ref))
        self._parts.tell(Part.run_ended, run)
        process = self._table.find(run.id)
        if process is not None and killed is None:
            cancel = state in (RunState.CANCELLED, RunState.TIMED_OUT)
            self._light.end_run(process, EXIT_CODES[state], cancel=cancel)
        self._tell_parent(run, output)
        self._store.on_commit(partial(self._give_back, live))
        self._store.on_commit(partial(self._start_next, run))

    def _tell_parent(self, run: Run, output: str | None) -> None:
        """End the node that the run was a sub-run for."""
        parent = self.open.find(run.parent) if run.parent else None
        if parent is None:
            return
        ref = StepRef(run.parent, run.parent_node, run.parent_attempt)
        if not self.progress(ref):
            live = self.live(parent)  # the node is over, and the parent waits for its children
            live.settling.append(live.top)
            self.ready(parent.id)
            return
        # The parent goes on in a commit of its own: what fails in that must not undo this end.
        self._store.on_commit(partial(self.ready, parent.id))
        if run.state is RunState.COMPLETED:
            value = self.outputs.adopted(
                parent.id, run.parent_node, decode(output) if output else None
            )
            self._act_on(ref, partial(self.steps.complete, value=value), onward=False)
            return
        words = f"run {run.id} {run.state.value}: {run.error or run.reason}"
        kinds = {RunState.CANCELLED: "cancelled", RunState.TIMED_OUT: "timeout"}
        failed = partial(self.steps.fail, error=words, kind=kinds.get(run.state, "error"))
        self._act_on(ref, failed, onward=False)

    # -- queued runs -----------------------------------------------------------------------------

    def _start_next(self, run: Run) -> None:
        """A run has ended: the next one of its pipeline may begin."""
        waiting = self.open.queued(run.pipeline)
        if waiting:
            self.ready(waiting[0])

    def _dequeue(self, pipeline: str) -> None:
        """Begin the queued runs of a pipeline that there is room for now, the oldest first."""
        begun = 0
        for number in self.open.queued(pipeline):
            run = self.open.find(number)
            assert run is not None
            plan = self.journal.plan(run.plan_hash)
            if plan.max_runs is not None and self.open.count_at_work(pipeline) >= plan.max_runs:
                return
            if run.group and self._is_full(run, plan.concurrency.limit if plan.concurrency else 1):
                continue
            if begun == DUE_AT_ONCE:  # the rest has its turn later
                self._store.on_commit(partial(self.ready, number))
                return
            begun += 1
            self.keep(run)
            self.begin_run(run)

    def _is_full(self, run: Run, limit: int) -> bool:
        return self.open.count_at_work(run.pipeline, run.group) >= limit

    def enter(self, run: Run, plan: Plan, input_text: str, copied: Copied | None) -> None:
        """Inside a transaction: there is a new run, queued or running. T0 is the commit of that."""
        self.keep(run)
        self.journal.keep_plan(plan, run.plan_hash)
        self.journal.add_run(run, input_text)
        self.open.enter(run)
        if copied is not None:
            copy_rows(self.journal, self.outputs, copied, run.id, plan)
        if run.deadline:
            self.open.expect(run, run.deadline)
            self._store.on_commit(self._set_alarm)
        if run.state is RunState.QUEUED:
            return
        if copied is None:
            live = self._live[run.id] = LiveRun(run, plan, 0)
            live.push(live.top, roots(plan.graph))
            if not plan.graph.nodes:
                live.settling.append(live.top)
        else:
            live = self.live(run)
        self._note_start(live)
        self.steps.flush(live)
        self._store.on_commit(partial(self.ready, run.id))

    def _note_start(self, live: LiveRun) -> None:
        run, total = live.run, len(live.plan.graph.nodes)
        more: dict[str, Any] = {"retry_of": run.retry_of} if run.retry_of else {}
        self.steps.note(live, "PipelineStarted", name=run.pipeline, total_nodes=total, **more)

    def pause(self, run: Run, paused: bool) -> None:
        """Inside a transaction: begin nothing new in a run; or go on."""
        self.keep(run)
        self.change(run, paused=paused)
        live = self.live(run)
        if not paused:
            live.unblock("paused")
        self._go_on(live)

    def replan(self, run: Run, plan: Plan, digest: str) -> None:
        """Inside a transaction: a run goes on by another plan, in which all that has begun is the
        same."""
        self.keep(run)
        self.journal.keep_plan(plan, digest)
        self.change(run, plan_hash=digest, version=plan.version)
        self._live.pop(run.id, None)
        self._go_on(self.live(run))

    def begin_run(self, run: Run) -> None:
        """Inside a transaction: a run that is queued begins."""
        self.change(run, state=RunState.RUNNING, started=self._clock.now())
        live = self.live(run)
        self._events.emit(
            RunStateChanged(run.id, run.pipeline, RunState.QUEUED.value, run.state.value)
        )
        self._note_start(live)
        self._go_on(live)

    # -- what falls due --------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        first = self.open.dues.first()
        if first is not None:
            self._alarm.set(self.open.due_of(first))

    def _fall_due(self) -> float | None:
        """See to what is due; when to be called again."""
        now = self._clock.now()
        for _ in range(DUE_AT_ONCE):
            run = self.open.dues.first()
            if run is None:
                return None
            due = self.open.due_of(run)
            if due > now:
                return due
            try:
                self._see_to(run, now)
            except Exception:  # that of one run must not strand the others
                log.exception("what is due in run %s has to wait", run.id)
                again = self.open.find(run.id)
                if again is not None:
                    self.open.expect(again, now + AGAIN)
        return now + PAUSE

    def _see_to(self, run: Run, now: float) -> None:
        expired: list[tuple[Executor, StepRef]] = []
        with self._store.transaction():
            self.keep(run)
            self.open.expect(run, float("inf"))
            if run.deadline and run.deadline <= now and run.ending is None:
                self.close(run, RunState.TIMED_OUT, "its deadline has passed")
                return
            live = self.live(run)
            live.expect(run.deadline if run.deadline > now else float("inf"))
            for scope in [*live.scopes()]:
                for name, row in [*scope.rows.items()]:
                    if not row.state.final and not scope.gone:
                        self._see_to_node(live, scope, scope.graph.by_name[name], row, expired)
            self._go_on(live)
        for executor, ref in expired:
            self._expire(executor, ref)

    def _see_to_node(
        self,
        live: LiveRun,
        scope: LiveGraph,
        node: PlanNode,
        row: NodeRow,
        expired: list[tuple[Executor, StepRef]],
    ) -> None:
        now = self._clock.now()
        if row.deadline and row.deadline <= now:
            self.steps.withdraw(live, node, row, "its time is over")
            words = f"it took longer than {node.timeout:g} s"
            self.steps.fail(live, scope, node, words, kind="timeout", again=not is_loop(node))
        elif row.due and row.due <= now and row.state is NodeState.BACKOFF:
            live.push(scope, (node,))
        elif row.due and row.due <= now and row.state is NodeState.WAITING:
            executor = self.executors.of(node.kind)
            if executor is not None:
                expired.append((executor, StepRef(row.run, row.path, row.attempt)))
        else:
            for due in (row.deadline, row.due):
                if due:
                    live.expect(due)

    def _expire(self, executor: Executor, ref: StepRef) -> None:
        """Nobody answered in time: its executor ends the attempt."""
        try:
            live, scope, node = self._current(ref)
            executor.due(self.steps.step_again(live, scope, node, scope.rows[node.name]))
        except EVALUATION as bad:
            log.warning("%s: %s", ref, bad)

    # -- told by others --------------------------------------------------------------------------

    def run_signalled(self, process: Process, name: str, grace: float | None) -> None:
        """Somebody sent a signal to the process of a run, or a limit did: TERM cancels it, STOP
        pauses it, CONT lets it go on."""
        run = self.open.find(process.pid)
        if run is None or run.ending is RunState.CANCELLED:
            return
        if name == "TERM":
            self._stop(run, process)
        elif run.ending is not None or run.state is RunState.QUEUED:
            return
        elif name in ("STOP", "CONT") and run.paused is (name == "CONT"):
            self.pause(run, name == "STOP")

    def process_ended(self, process: Process) -> None:
        """Somebody ended the process of a run, and so the run."""
        run = self.open.find(process.pid)
        if run is not None:
            self.steps.ended[run.id] = process
            self._stop(run, process)

    def _stop(self, run: Run, process: Process) -> None:
        if process.reason.startswith("limit"):
            self.close(run, RunState.FAILED, process.reason)
        else:
            self.close(run, RunState.CANCELLED, process.reason or "its process was ended")


def _stale(ref: StepRef) -> KernelError:
    words = f"attempt {ref.attempt} of {ref.path} in run {ref.run} is over"
    return KernelError(errno.ESTALE, words)
