"""Tasks: work that is submitted, judged, matched to a worker, watched and finished.

    pending -> validated -> assigned -> running -> completed | failed
       |           ^___________|___________|
       v        a lost attempt comes back; after `max_attempts` of them the task is dead
    rejected                                 and whatever is open can be cancelled

A row and the message of its assignment change in one transaction. So whenever the daemon, or a
worker, is killed: a task is in exactly one place, and has one end.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from agentfs.base.alarm import Alarm
from agentfs.base.due_heap import DueHeap
from agentfs.base.errors import KernelError
from agentfs.mail.message import Message
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.rights.gate import Gate
from agentfs.rights.ownership import Access
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.store.later import AGAIN, when_there_is_room
from agentfs.store.part import EndedWork, Part
from agentfs.tasks.dispatch import Dispatcher
from agentfs.tasks.events import TaskRemoved
from agentfs.tasks.life import TaskLife
from agentfs.tasks.model import (
    KERNEL_WORKER,
    Task,
    TaskAnswer,
    TaskRequest,
    TaskState,
    TaskWorker,
    WorkerKind,
)
from agentfs.tasks.policy import PASS_ALL, Judge, Judgement, Moment, Router
from agentfs.tasks.settings import TaskSettings
from agentfs.tasks.task_mail import TaskMail
from agentfs.tasks.task_runs import TaskRuns
from agentfs.tasks.task_table import TaskTable
from agentfs.tasks.workers import Workers
from agentfs.workflow.journal import encode

__all__ = ["Tasks"]

log = logging.getLogger(__name__)

SAID_NOTHING = "the worker took the next one and said nothing"

LONGEST_ERROR = 16_384
"""Characters of an error that are kept."""

FORGOTTEN = 100
"""Tasks that one round of the maid forgets in one transaction."""

SOON = 0.05


class Tasks(Part):
    """All tasks, and the system calls on them."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: TaskTable,
        workers: Workers,
        letters: TaskMail,
        runs: TaskRuns,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._gate = gate
        self.table = table
        self._workers = workers
        self._letters = letters
        self._runs = runs
        self._life = TaskLife(ground, table)
        self._judge: Judge = PASS_ALL
        self._silent: set[str] = set()  # workers that have not claimed what they were given
        self._moved: dict[int, tuple[str, str]] = {}  # what became of messages, in a transaction
        self._dispatcher = Dispatcher(
            ground, table, workers, self._hand, self._refuse, self._why_not
        )
        self._due: DueHeap[Task] = DueHeap()
        self._alarm = Alarm(ground.clock, ground.timers, self._time_out)
        table.open.follow(self._expect, self._expect_no_more, ("deadline", "state", "judged"))
        workers.follow(self._dispatcher.worker_changed, self._worker_gone, letters.waits)

    def judge_by(self, judge: Judge) -> None:
        """Ask this guardian from now on."""
        self._judge = judge

    def route_by(self, router: Router) -> None:
        """Ask this mind from now on."""
        self._dispatcher.route_by(router)

    # -- one run of the daemon ---------------------------------------------------------------------

    def load(self) -> None:
        self.table.load()

    def take_up(self) -> None:
        """Follow what is under way, and see what became of it meanwhile."""
        for task in tuple(self.table.open.values()):
            if task.message:
                what = f"what became of task {task.id}"
                when_there_is_room(self._timers, partial(self._take_up, task), what)
        self._dispatcher.begin()

    def _take_up(self, task: Task) -> None:
        message = self._letters.find(task)
        if message is None:
            with self._store.transaction():
                self._come_back(task, "its message is gone")
            return
        self._letters.follow(task.id, message.seq, self._note_moved)
        if (message.folder == "cur") is not (task.state is TaskState.RUNNING):
            with self._store.transaction():
                self._note_moved(task.id, message, message.folder, message.reason)

    # -- looking -----------------------------------------------------------------------------------

    def find(self, number: int) -> Task | None:
        """A task, open or ended."""
        return self.table.find(number)

    def get(self, number: int) -> Task:
        """The same. Raises ENOENT."""
        task = self.table.find(number)
        if task is None:
            raise KernelError(errno.ENOENT, f"there is no task {number}")
        return task

    def open_of_group(self, name: str) -> int:
        """How many tasks of a group have not ended."""
        return len(self.table.by_group.of(name))

    def input_of(self, task: Task) -> str:
        """What it was given, as JSON."""
        return self.table.input_of(task.id)

    def result_of(self, task: Task) -> str:
        """What it has given, as JSON; empty if it has given nothing, or that is judged still."""
        return "" if task.judged else self.table.result_of(task.id)

    def reason(self, task: Task) -> str:
        """Why it is where it is, in words; of one that waits, why no worker has it, or who has not
        judged it."""
        if task.state is not TaskState.VALIDATED:
            return task.reason or self._judge.waits_for(task.id)
        waits = self._dispatcher.why(task)
        return f"{waits} (came back: {task.reason})" if task.reason and waits else waits

    def info(self, task: Task) -> dict[str, Any]:
        """Everything about it, as JSON."""
        result, history = self.result_of(task), list(task.history)
        return {
            "id": task.id,
            "state": task.state.value,
            "description": task.description,
            "input": json.loads(self.input_of(task) or "null"),
            "requirements": task.requirements,
            "priority": task.priority,
            "submitter": task.submitter,
            "key": task.key,
            "group": task.group,
            "program": task.program,
            "worker": task.worker,
            "attempt": task.attempt,
            "lost": task.lost,
            "max_attempts": task.max_attempts,
            "timeout": task.timeout,
            "deadline": task.deadline or None,
            "created": task.created,
            "changed": task.changed,
            "verdict": task.verdict,
            "result": json.loads(result) if result else None,
            "error": task.error,
            "reason": self.reason(task),
            "run": task.run or None,
            "history": history,
        }

    def counts(self) -> dict[str, int]:
        """How many tasks are in each state."""
        return {state.value: count for state, count in self.table.counts().items()}

    def require_read(self, principal: Principal, task: Task) -> None:
        """Raise EACCES or EPERM unless the caller may see what a task says: it is its submitter,
        its worker, the operator, or may end the process of its submitter."""
        actor = self._gate.actor(principal)
        if principal.is_operator or actor.agent == task.submitter:
            return
        worker = self._workers.find(task.worker)
        if worker is None or not _serves(principal, worker):
            self._require_power(actor, task)

    def _require_power(self, actor: Process, task: Task) -> None:
        """EACCES or EPERM unless `actor` may end the process of its submitter."""
        submitter = self._workers.process_of(task.submitter)
        self._gate.policy.permit(actor, Action.KILL, f"/dev/tasks/{task.id}", submitter)

    # -- for submitters ----------------------------------------------------------------------------

    def submit(self, principal: Principal, request: TaskRequest) -> Task:
        """Have something done. The same key of the same submitter is the same task. EACCES, EEXIST
        (the key, with another request), EMSGSIZE (input), EDQUOT and ENOSPC (open tasks)."""
        with self._gate.enter(principal) as actor:
            given = self._input(request)
            submitter = actor.agent
            if request.key:
                known = self._known(submitter, request, given)
                if known is not None:
                    return known
            self._gate.policy.require(actor, Action.SEND, "/dev/tasks/new", what=given.encode())
            self._gate.check_making(submitter, "tasks", 1)
            settings, now = self._settings.of(TaskSettings), self._clock.now()
            task = Task(
                self.table.next_number(),
                request.description,
                submitter,
                actor.uid,
                now,
                now,
                requirements=request.requirements,
                priority=request.priority,
                max_attempts=request.max_attempts or settings.max_attempts,
                timeout=request.timeout,
                key=request.key,
                group=request.group,
                program=request.program,
            )
            self._life.submit(task, given)
            verdict = self._judge.begin(task, Moment.SUBMIT)
            if verdict is None:
                self.table.save(task)
            else:
                self._judged_before(task, verdict)
            return task

    def _input(self, request: TaskRequest) -> str:
        try:
            given = encode(request.input)
        except (TypeError, ValueError, RecursionError) as bad:
            raise KernelError(errno.EINVAL, f"the input is no JSON value: {bad}") from None
        most, size = self._settings.of(TaskSettings).max_input, len(given.encode())
        if size > most:
            raise KernelError(
                errno.EMSGSIZE,
                f"the input has {size} bytes, {most} are allowed: put it into a file, and pass its"
                " path",
                rule="tasks.max_input",
            )
        return given

    def _known(self, submitter: str, request: TaskRequest, given: str) -> Task | None:
        known = self.table.by_key(submitter, request.key)
        if known is None:
            return None
        same = (known.description, known.requirements, known.program)
        if same != (request.description, request.requirements, request.program) or (
            self.table.input_of(known.id) != given
        ):
            raise KernelError(
                errno.EEXIST,
                f"task {known.id} has the key {request.key!r} and asks for something else",
                rule="key",
            )
        return known

    def cancel(self, principal: Principal, number: int, why: str = "") -> None:
        """Nobody wants it any more: what does it is told, or ended. ENOENT, EPERM (it has ended),
        EACCES."""
        with self._gate.enter(principal, "signals") as actor:
            task = self._controlled(principal, actor, number)
            words = f"cancelled by {actor.agent}" + (f": {why[:500]}" if why else "")
            self._cancel(task, actor.agent, words)

    def _cancel(self, task: Task, by: str, words: str) -> None:
        was, worker = task.state, self._workers.find(task.worker)
        self._letters.take_out(task, words)
        judged = task.judged
        if judged:  # it never passed
            self.table.put_result(task, None)
        self._life.cancel(task, by, words)
        if task.run:
            self._runs.cancel(task.run, words)
        elif was is TaskState.RUNNING and worker is not None and not judged:
            self._letters.tell_cancelled(task, worker, words)

    def set_priority(self, principal: Principal, number: int, priority: int) -> None:
        """Let it come sooner, or later: 0 to 9, 9 first. ENOENT, EPERM (it has ended), EACCES,
        EINVAL, and EPERM where the guardian's rules are about such a task."""
        with self._gate.enter(principal) as actor:
            task = self._controlled(principal, actor, number)
            if not 0 <= priority <= 9:
                raise KernelError(errno.EINVAL, f"a priority is 0 to 9, not {priority}")
            if not principal.is_operator:
                self._judge.check_priority(task, priority)
            self._life.change(task, actor.agent, f"priority {priority}", priority=priority)

    def _controlled(self, principal: Principal, actor: Process, number: int) -> Task:
        task = self.get(number)
        if task.state.final:
            raise KernelError(errno.EPERM, f"task {number} is {task.state.value}: it stays so")
        if not principal.is_operator and actor.agent != task.submitter:
            self._require_power(actor, task)
        return task

    # -- the guardian and the mind -----------------------------------------------------------------

    def judged(self, number: int, when: Moment, verdict: Judgement) -> bool:
        """The guardian's verdict, which did not come at once. False if nobody waits for it: the
        task was cancelled meanwhile."""
        task = self.table.open.get(number)
        if task is None:
            return False
        if when is Moment.SUBMIT and task.state is TaskState.PENDING:
            with self._store.transaction():
                self._judged_before(task, verdict)
            return True
        if when is Moment.RESULT and task.judged:
            with self._store.transaction():
                self._judged_after(task, verdict)
            return True
        return False

    def proposed(self, number: int, names: Sequence[str]) -> bool:
        """The mind's order for a task, which did not come at once. False if it comes too late."""
        return self._dispatcher.proposed(number, names)

    def _judged_before(self, task: Task, verdict: Judgement) -> None:
        if verdict.passed:
            self._life.validate(task, verdict)
        else:
            self._life.reject(task, verdict)

    def _judged_after(self, task: Task, verdict: Judgement) -> None:
        if verdict.passed:
            self._life.complete(task, verdict)
            return
        self.table.put_result(task, None)
        reason = verdict.reason or f"{verdict.by} did not pass the result"
        if verdict.again:
            self._life.come_back(task, f"the result was rejected: {reason}", lost=True)
        else:
            self._life.fail(task, verdict.by, f"the result was rejected: {reason}", verdict)

    # -- for workers -------------------------------------------------------------------------------

    def progress(self, principal: Principal, number: int, words: str, attempt: int = 0) -> None:
        """Say how far it is. ENOENT, EACCES (it is another's), ESTALE (the attempt is over)."""
        with self._gate.enter(principal):
            self._life.progress(self._worked(principal, number, attempt), words[:1000])

    def complete(self, principal: Principal, number: int, result: Any, attempt: int = 0) -> None:
        """Its result, a JSON value. `attempt` 0 is the one under way. ENOENT, EACCES (it is
        another's), EPERM (it is not claimed), ESTALE (the attempt is over), EMSGSIZE, EINVAL."""
        with self._gate.enter(principal):
            task = self._worked(principal, number, attempt)
            self._take_result(task, result)

    def fail(
        self,
        principal: Principal,
        number: int,
        error: str,
        again: bool = False,
        attempt: int = 0,
    ) -> None:
        """There is no result; `again`: another attempt may have one. As `complete`."""
        with self._gate.enter(principal):
            task = self._worked(principal, number, attempt)
            self._letters.take_out(task)
            self._take_error(task, error, again=again)

    def check_answer(self, principal: Principal, number: int) -> None:
        """Raise what `complete` would, whatever the result."""
        self._gate.actor(principal)
        self._worked(principal, number, 0)

    def answer(self, principal: Principal, name: str, said: TaskAnswer) -> None:
        """What a worker has written to its `recv`. ENOENT, and as `complete`."""
        worker = self._workers.get(name)
        worker.ownership.require(principal, Access.TAKE, str(worker))
        task = self.get(said.task)
        if task.worker != name:
            raise KernelError(errno.EACCES, f"task {task.id} is not {name}'s", rule="claim")
        self._workers.seen(name)
        if said.progress is not None:
            self.progress(principal, said.task, said.progress, said.attempt)
        elif said.error is not None:
            self.fail(principal, said.task, said.error, said.again, said.attempt)
        else:
            self.complete(principal, said.task, said.ok, said.attempt)

    def _worked(self, principal: Principal, number: int, attempt: int) -> Task:
        """A task that the caller works at, in this attempt."""
        task = self.get(number)
        worker = self._workers.find(task.worker)
        if not principal.is_operator and (worker is None or not _serves(principal, worker)):
            raise KernelError(
                errno.EACCES,
                f"task {number} is {task.worker or 'nobody'}'s, and not for {principal.name} to"
                " answer",
                rule="claim",
            )
        if task.state.final or task.judged:
            done = "has its result" if task.judged else f"is {task.state.value}"
            raise KernelError(errno.ESTALE, f"task {number} {done}: nobody waits for an answer")
        if attempt and attempt != task.attempt:
            raise KernelError(errno.ESTALE, f"attempt {attempt} of task {number} is over")
        if task.state is not TaskState.RUNNING:
            if task.state is TaskState.ASSIGNED:
                raise KernelError(errno.EPERM, f"task {number} is not claimed: read its message")
            if not task.attempt:
                raise KernelError(errno.EPERM, f"no worker has task {number} yet")
            raise KernelError(errno.ESTALE, f"the attempt is over: task {number} waits again")
        if task.run:
            raise KernelError(errno.EPERM, f"run {task.run} does task {number}, and will answer")
        if principal.is_agent and task.claimant not in (0, principal.pid):
            raise KernelError(
                errno.EACCES, f"process {task.claimant} has claimed task {number}", rule="claim"
            )
        return task

    def _take_result(self, task: Task, result: Any) -> None:
        try:
            text = encode(result)
        except (TypeError, ValueError, RecursionError) as bad:
            raise KernelError(errno.EINVAL, f"the result is no JSON value: {bad}") from None
        most, size = self._settings.of(TaskSettings).max_result, len(text.encode())
        if size > most:
            raise KernelError(
                errno.EMSGSIZE,
                f"the result has {size} bytes, {most} are allowed: put it into a file, and give its"
                " path",
                rule="tasks.max_result",
            )
        self._letters.take_out(task)
        self.table.put_result(task, text)
        verdict = self._judge.begin(task, Moment.RESULT)
        if verdict is None:
            self._life.change(task, task.worker, "its result is judged", judged=True, deadline=0.0)
        else:
            self._judged_after(task, verdict)

    def _take_error(self, task: Task, error: str, *, again: bool) -> None:
        words = error[:LONGEST_ERROR]
        if again:
            self._life.come_back(task, words, lost=True)
        else:
            self._life.fail(task, task.worker, words)

    # -- handing over ------------------------------------------------------------------------------

    def _hand(self, task: Task, worker: TaskWorker | None) -> None:
        """Assign a task, inside a transaction."""
        deadline = 0.0 if task.timeout is None else self._clock.now() + task.timeout
        self.table.open.set(task.id, attempt=task.attempt + 1, deadline=deadline)  # stored below
        given = self.table.input_of(task.id)
        if worker is not None and worker.kind is not WorkerKind.POOL:
            message = self._letters.send(task, worker, given, self._note_moved)
            self._life.assign(task, worker.name, message=message)
            return
        run = self._runs.start(task, worker, given)
        self._life.assign(task, worker.name if worker else KERNEL_WORKER, run=run.id)
        self._life.start(task)
        if run.state.final:  # it could not even begin
            self._ended(task, run)

    def _refuse(self, task: Task, failure: KernelError) -> None:
        """It cannot be handed over, and will not be."""
        with self._store.transaction():
            self._life.fail(task, "kernel", failure.reason)

    # -- what becomes of an assignment -------------------------------------------------------------

    def _note_moved(self, number: int, message: Message, place: str, reason: str) -> None:
        """The message of a task went somewhere, inside a transaction that may go on with it."""
        if not self._moved:
            self._store.conclude(self._settle_moved)
            self._store.on_end(self._moved.clear)
        self._moved[number] = place, reason

    def _settle_moved(self) -> None:
        moved, self._moved = self._moved, {}
        for number, (place, reason) in moved.items():
            task = self.table.open.get(number)
            if task is not None and task.under_way:
                self._settle(task, place, reason)

    def _settle(self, task: Task, place: str, reason: str) -> None:
        message = self._letters.find(task)
        if place == "cur" and message is not None:
            if task.state is TaskState.ASSIGNED:
                self._life.start(task, message.claimed_by or 0)
                self._workers.seen(task.worker)
                self._silent.discard(task.worker)
            elif message.claimed_by and message.claimed_by != task.claimant:
                self.table.change(task, claimant=message.claimed_by)
        elif place == "done" and not reason:
            self._letters.take_out(task)
            self._life.fail(task, task.worker, SAID_NOTHING)
        elif place == "new" and message is not None and message.attempt - message.revived <= 1:
            if task.state is TaskState.RUNNING:
                self._come_back(task, f"{task.worker} gave it back", lost=False)
        else:
            self._come_back(task, reason or f"{task.worker} ended, or failed, before it was done")

    def _come_back(self, task: Task, reason: str, *, lost: bool = True) -> None:
        """This attempt is over: another worker may have the task. `lost`: it counts; one that
        nobody has begun does not."""
        self._letters.take_out(task, reason)
        run = task.run
        lost = lost and task.state is TaskState.RUNNING
        self._life.come_back(task, reason, lost=lost)
        if run:
            self._runs.cancel(run, reason)

    def _worker_gone(self, worker: TaskWorker, reason: str) -> None:
        """It gets nothing any more, and what it has comes back."""
        self._silent.discard(worker.name)
        for task in tuple(self.table.by_worker.of(worker.name).values()):
            self._come_back(task, reason)
        if self._workers.find(worker.name) is not worker:
            self._letters.forget(worker)
        self._dispatcher.worker_changed(worker)

    def run_ended(self, run: EndedWork) -> None:
        """The run that did a task has ended."""
        for task in tuple(self.table.by_run.of(run.id).values()):
            if task.under_way:
                self._ended(task, run)

    def _ended(self, task: Task, run: EndedWork) -> None:
        words = self._runs.words(run)
        match run.state.value:
            case "completed":
                try:
                    self._take_result(task, self._runs.output(run.id))
                except KernelError as failure:
                    self._life.fail(task, task.worker, failure.reason)
            case "failed":
                self._life.fail(task, task.worker, words or "its run has failed")
            case state:
                self._come_back(task, words or f"its run was {state}")

    # -- time --------------------------------------------------------------------------------------

    def _expect(self, number: int, task: Task) -> None:
        due = self._due_of(task)
        if due is not None:
            self._due.add(due, number, task)
            self._alarm.set(due)

    def _due_of(self, task: Task) -> float | None:
        """When the attempt is over; or before that, when its worker should have claimed it."""
        if not task.under_way:
            return None
        ends = [task.deadline] if task.deadline else []
        if task.state is TaskState.ASSIGNED:
            ends.append(task.changed + self._settings.of(TaskSettings).claim_timeout)
        return min(ends, default=None)

    def _expect_no_more(self, number: int, task: Task) -> None:
        self._due.discard(number)

    def _time_out(self) -> float | None:
        """End the attempts that took too long, and take back what nobody has claimed; when to look
        again."""
        now = self._clock.now()
        while (task := self._due.first()) is not None and self._due.key_of(task.id) <= now:
            try:
                with self._store.transaction():
                    if task.deadline and task.deadline <= now:
                        self._come_back(task, f"the attempt took longer than {task.timeout:g} s")
                    else:
                        self._take_back(task, now)
            except KernelError as failure:
                log.warning("task %d goes on for now: %s", task.id, failure)
                return now + AGAIN
        return None if task is None else self._due.key_of(task.id)

    def _take_back(self, task: Task, now: float) -> None:
        """Nobody has claimed it in all the time that there is for that. A worker that has claimed
        another one is busy; any other gives back all that it has."""
        patience = self._settings.of(TaskSettings).claim_timeout
        given = tuple(self.table.by_worker.of(task.worker).values())
        if any(each.state is TaskState.RUNNING for each in given):
            self._due.add(now + patience, task.id, task)
            return
        self._silent.add(task.worker)
        for each in given:
            self._come_back(each, f"{each.worker} has claimed nothing for {patience:g} s")

    def _why_not(self, worker: TaskWorker) -> str:
        """Why a worker gets nothing for now, in words; "" if it may get something."""
        if not self._letters.has_room(worker):
            return f"the inbox of {worker.name} is full"
        if worker.name in self._silent:
            if not self._letters.waits(worker):
                return f"{worker.name} claims nothing of what it gets"
            self._silent.discard(worker.name)
        return ""

    def tidy(self) -> None:
        """Forget what ended long ago, in small steps until there is no more."""
        before = self._clock.now() - self._settings.of(TaskSettings).retention
        old = list(self.table.ended_before(before, FORGOTTEN))
        if not old:
            return
        with self._store.transaction():
            for task in old:
                self.table.forget(task)
                self._events.emit(TaskRemoved(task.submitter, task.id, task.state.value))
        self._timers.call_later(SOON, self.tidy)

    def agent_removed(self, name: str) -> None:
        """What it submitted is cancelled; what ended is init's, and not the next agent's of that
        name."""
        for task in tuple(self.table.by_submitter.of(name).values()):
            self._cancel(task, "kernel", f"its submitter {name} was removed")
        with self._store.transaction():
            self.table.pass_on(name, INIT_NAME)


def _serves(principal: Principal, worker: TaskWorker) -> bool:
    """Whether `principal` may answer for a worker."""
    if worker.kind is WorkerKind.AGENT:
        return principal.acts_for(worker.agent)
    return worker.kind is WorkerKind.PROGRAM and worker.ownership.permits(principal, Access.TAKE)
