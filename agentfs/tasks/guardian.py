"""The guardian: judges tasks before anybody does them, and their results, by /etc/guardian.yaml.

Most rules decide at once, inside the transaction that submits a task or takes its result. Others
ask somebody: a person or an agent (by /dev/approvals), a program, a quorum (by mail). Those are
asked one rule after the other, and all have to agree; silence is a no. The progress of a judgement
is kept: after a kill -9 the next daemon takes it up, reads the decisions that came meanwhile, and
asks programs again.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from agentfs.approvals.events import ApprovalDecided
from agentfs.approvals.settings import ApprovalSettings
from agentfs.asks.events import AskAnswered, AskCancelled, AskDropped, AskExpired, AskFailed
from agentfs.base.alarm import Alarm
from agentfs.base.errors import KernelError
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.later import AGAIN, when_there_is_room
from agentfs.store.live_document import LiveDocument
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.tasks.deliberation import KIND, Deliberation
from agentfs.tasks.errands import TaskErrands
from agentfs.tasks.events import (
    TaskCancelled,
    TaskDead,
    TaskFailed,
    TaskJudged,
    TaskReturned,
)
from agentfs.tasks.model import Task
from agentfs.tasks.panel import Panel
from agentfs.tasks.policy import Judgement, Moment
from agentfs.tasks.programs import PolicyPrograms
from agentfs.tasks.rules import DEFAULT_RULE, GuardianRule, Rulebook
from agentfs.tasks.tasks import Tasks
from agentfs.tasks.view import SeenTask

__all__ = ["Guardian"]

BATCH = 10
"""Judgements that somebody is asked about in one step: 5 ms, if the tasks are short."""

log = logging.getLogger(__name__)


class Guardian(Part):
    """All judgements under way. `book` is /etc/guardian.yaml."""

    def __init__(
        self,
        ground: Ground,
        tasks: Tasks,
        book: LiveDocument[Rulebook],
        panel: Panel,
        programs: PolicyPrograms,
    ) -> None:
        self._store, self._events = ground.store, ground.events
        self._clock, self._timers = ground.clock, ground.timers
        self._settings = ground.settings
        self._tasks = tasks
        self._book = book
        self._panel = panel
        self._programs = programs
        self._errands = TaskErrands(ground)
        self._open: Records[int, Deliberation] = Records(
            ground.store, KIND, Deliberation.read, Deliberation.record
        )
        self._of_request = self._open.index(lambda each: each.request or None, "request")
        self._before_quorum = self._open.index(
            lambda each: each.submitter if each.questions else None, "questions"
        )
        self._of_question: dict[int, int] = {}
        self._unasked: deque[int] = deque()  # those that somebody is still to be asked about
        self._open.follow(self._entered, self._left, ("questions",))
        self._alarm = Alarm(ground.clock, ground.timers, self._ask_again)
        listen = ground.events.listen
        listen(self._decided, ApprovalDecided)
        listen(self._voted, AskAnswered, AskExpired, AskFailed, AskCancelled, AskDropped)
        listen(self._task_ended, TaskCancelled, TaskFailed, TaskDead, TaskReturned)
        tasks.judge_by(self)

    def _entered(self, task: int, pending: Deliberation) -> None:
        self._of_question |= dict.fromkeys(filter(None, pending.questions.values()), task)

    def _left(self, task: int, pending: Deliberation) -> None:
        for question in filter(None, pending.questions.values()):
            self._of_question.pop(question, None)

    def load(self) -> None:
        self._open.load()

    async def run(self) -> None:
        """Have programs asked, until cancelled."""
        await self._errands.run()

    def complaint(self) -> str:
        return self._errands.trouble

    def __len__(self) -> int:
        """How many judgements are under way."""
        return len(self._open)

    def waits_for(self, task: int) -> str:
        """Whom the judgement of a task waits for, in words; "" if there is none."""
        pending = self._open.get(task)
        if pending is None:
            return ""
        rule = pending.rule
        if not pending.asked:
            return f"rule {rule.name}: it is asked as soon as that can be"
        if pending.request:
            return f"rule {rule.name}: request {pending.request:06d} of /dev/approvals"
        if pending.questions:
            missing = [each for each in pending.questions if each not in pending.votes]
            return f"rule {rule.name}: the votes of {', '.join(missing)}"
        return f"rule {rule.name}: {(rule.program or [''])[0]}"

    def check_priority(self, task: Task, priority: int) -> None:
        """Raise EPERM if a task that was judged may not come sooner, or later: a rule rejects what
        it would be then, or somebody had to be asked again. Those who were asked about it need
        not be asked whether it may come later."""

        def judged(**changes: Any) -> Judgement | tuple[GuardianRule, ...]:
            scope = self._scope(task, Moment.SUBMIT)
            scope["task"] |= changes
            return self._book.now.judge(Moment.SUBMIT, lambda: scope)

        found = judged(priority=priority)
        if isinstance(found, Judgement):
            if not found.passed:
                raise KernelError(errno.EPERM, found.reason, rule=f"guardian.yaml: {found.by}")
            return
        asked = judged() if priority < task.priority else ()
        if isinstance(asked, Judgement) or any(rule not in asked for rule in found):
            raise KernelError(
                errno.EPERM,
                f"rule {found[0].name} of /etc/guardian.yaml is about such a task: submit it anew",
                rule=f"guardian.yaml: {found[0].name}",
            )

    # -- the begin ---------------------------------------------------------------------------------

    def begin(self, task: Task, when: Moment) -> Judgement | None:
        """Judge a task, inside the transaction that submits it or takes its result. None: the
        verdict is told later. Raises EAGAIN, and EDQUOT, for a submitter who waits for too many
        decisions."""
        found = self._book.now.judge(when, lambda: self._scope(task, when))
        if isinstance(found, Judgement):
            if found.by != DEFAULT_RULE or not found.passed:
                self._announce(task, when, found)
            return found
        rules = [rule.record() for rule in found]
        pending = Deliberation(
            task.id, task.submitter, when.value, task.attempt, self._clock.now(), rules
        )
        self._open.put(task.id, pending)
        if when is Moment.SUBMIT:
            verdict = self._go_on(pending, task)
        else:
            verdict = self._go_on_or_wait(pending, task)
        if verdict is not None:
            self._close(pending)
            self._announce(task, when, verdict)
        return verdict

    def _seen(self, task: Task, when: Moment) -> SeenTask:
        return SeenTask(task, self._tasks.table, result=when is Moment.RESULT)

    def _scope(self, task: Task, when: Moment) -> dict[str, Any]:
        """The names that expressions may use."""
        now = {"now": self._clock.now()}
        return {"task": self._seen(task, when).scope(), "when": when.value, "ctx": now}

    def _announce(self, task: Task, when: Moment, verdict: Judgement) -> None:
        self._events.emit(
            TaskJudged(
                task.submitter,
                task.id,
                task.state.value,
                when.value,
                verdict.passed,
                verdict.by,
                verdict.reason,
            )
        )

    # -- asking ------------------------------------------------------------------------------------

    def _go_on(self, pending: Deliberation, task: Task) -> Judgement | None:
        """Ask the first rule, and the next ones as long as the answer is known at once; None if
        somebody has to answer. Raises what keeps the first one from being asked."""
        while pending.rules:
            match pending.rule.action:
                case "approve":
                    verdict = self._ask_approver(pending, task)
                case "program":
                    verdict = self._ask_program(pending, task)
                case _:
                    verdict = self._ask_quorum(pending, task)
            if verdict is None:
                self._open.change(task.id, asked=True)
                return None
            if not verdict.passed:
                return verdict
            self._agree(pending, verdict.by)
        return Judgement(True, ", ".join(pending.agreed))

    def _go_on_or_wait(self, pending: Deliberation, task: Task) -> Judgement | None:
        """The same. If somebody cannot be asked now, it is tried again in a second, as long as the
        rule has time."""
        try:
            return self._go_on(pending, task)
        except KernelError as refusal:
            rule = pending.rule
            if self._clock.now() >= pending.since + rule.timeout:
                return rule.no(f"rule {rule.name} could not be asked: {refusal.reason}")
            self._store.on_commit(partial(self._wait, pending.task))
            return None

    def _wait(self, task: int) -> None:
        self._unasked.append(task)
        self._alarm.set(self._clock.now() + AGAIN)

    def _agree(self, pending: Deliberation, by: str) -> None:
        self._open.change(
            pending.task,
            rules=pending.rules[1:],
            agreed=[*pending.agreed, by],
            since=self._clock.now(),
            asked=False,
            request=0,
            questions={},
            votes={},
        )

    def _ask_approver(self, pending: Deliberation, task: Task) -> Judgement | None:
        self._open.change(task.id, request=self._panel.ask_approver(pending, task))
        return None

    def _ask_program(self, pending: Deliberation, task: Task) -> Judgement | None:
        self._errands.begin(task.id, partial(self._run_program, pending, pending.rule, task))
        return None

    async def _run_program(self, pending: Deliberation, rule: GuardianRule, task: Task) -> None:
        seen = self._seen(task, Moment(pending.when)).json()
        given = f'{{"when": "{pending.when}", "task": {seen}}}\n'
        command = rule.program or []
        said = await self._programs.run(self._book.now.agent, command, given, rule.timeout)
        silent = not said.well and not said.text
        self._errands.complain(f"guardian, rule {rule.name}: {said.failure}" if silent else "")
        by = command[0]
        verdict = rule.yes(by) if said.well else rule.no(said.reason, by)
        self._answer(pending, rule, lambda: verdict)

    def _ask_quorum(self, pending: Deliberation, task: Task) -> Judgement | None:
        most = self._settings.of(ApprovalSettings).max_pending
        if len(self._before_quorum.of(task.submitter)) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{task.submitter} waits for {most} votes already",
                rule="approvals.max_pending",
            )
        asked = self._panel.ask_quorum(pending, task)
        if isinstance(asked, Judgement):
            return asked
        questions, votes = asked
        self._open.change(task.id, questions=questions, votes=votes)
        return self._panel.outcome(pending)

    # -- answers -----------------------------------------------------------------------------------

    def _decided(self, record: Record) -> None:
        """A request for an approval is decided, or nobody can any more."""
        assert isinstance(record.event, ApprovalDecided)
        for pending in tuple(self._of_request.of(int(record.event.id)).values()):
            self._look_at_request(pending)

    def _look_at_request(self, pending: Deliberation) -> None:
        if self._panel.is_decided(pending):
            self._answer(pending, pending.rule, partial(self._panel.decision, pending))

    def _voted(self, record: Record) -> None:
        """A question was answered, or nobody will answer it."""
        number: int = int(record.event.id)  # type: ignore[attr-defined]  # all of them have one
        pending = self._open.get(self._of_question.get(number, 0))
        if pending is not None:
            self._look_at_votes(pending)

    def _look_at_votes(self, pending: Deliberation) -> None:
        self._answer(pending, pending.rule, partial(self._count, pending))

    def _count(self, pending: Deliberation) -> Judgement | None:
        self._open.change(pending.task, votes=self._panel.votes(pending))
        return self._panel.outcome(pending)

    def _answer(
        self, pending: Deliberation, rule: GuardianRule, answer: Callable[[], Judgement | None]
    ) -> None:
        """Somebody has answered a rule, or nobody will; as soon as the store has room for that."""

        def record() -> None:
            if self._open.get(pending.task) is not pending or pending.rule != rule:
                return
            with self._store.transaction():
                said = answer()
                if said is not None:
                    self._settle(pending, said)

        try:
            when_there_is_room(self._timers, record, f"task {pending.task} is judged")
        except KernelError:
            log.exception("the judgement of task %d", pending.task)

    def _settle(self, pending: Deliberation, answer: Judgement) -> None:
        """A rule has its answer: ask the next one, or tell the verdict."""
        task = self._tasks.find(pending.task)
        if task is None or not pending.is_of(task):
            self._close(pending)
        elif answer.passed:
            self._take_back(pending)
            self._agree(pending, answer.by)
            self._tell(pending, task, self._go_on_or_wait(pending, task))
        else:
            self._tell(pending, task, answer)

    def _tell(self, pending: Deliberation, task: Task, verdict: Judgement | None) -> None:
        if verdict is not None:
            when = Moment(pending.when)
            self._close(pending)
            self._announce(task, when, verdict)
            self._tasks.judged(task.id, when, verdict)

    def _ask_again(self) -> float | None:
        """Ask about the first ones of those that nobody could be asked about. Returns when this is
        to be called again."""
        for _ in range(min(BATCH, len(self._unasked))):
            pending = self._open.get(self._unasked.popleft())
            if pending is None or pending.asked:
                continue
            task = self._tasks.find(pending.task)
            try:
                with self._store.transaction():
                    if task is None or not pending.is_of(task):
                        self._close(pending)
                    else:
                        self._tell(pending, task, self._go_on_or_wait(pending, task))
            except KernelError as failure:  # the store has no room: later it may have some
                log.warning("the judgement of task %d waits: %s", pending.task, failure)
                self._unasked.append(pending.task)
        return self._clock.now() + AGAIN if self._unasked else None

    # -- the end -----------------------------------------------------------------------------------

    def _task_ended(self, record: Record) -> None:
        """A task under judgement has ended otherwise."""
        number: int = record.event.task  # type: ignore[attr-defined]  # all of them have one
        pending = self._open.get(number)
        if pending is not None and not pending.is_of(self._tasks.find(number)):
            with self._store.transaction():
                self._close(pending)

    def _close(self, pending: Deliberation) -> None:
        self._take_back(pending)
        self._open.drop(pending.task)

    def _take_back(self, pending: Deliberation) -> None:
        """Nobody who was asked need answer any more."""
        self._panel.dismiss(pending)
        self._errands.end(pending.task)

    def take_up(self) -> None:
        """Of what was answered before the last daemon could say so; programs are asked again."""
        for pending in tuple(self._open.values()):
            task = self._tasks.find(pending.task)
            if task is None or not pending.is_of(task):
                with self._store.transaction():
                    self._close(pending)
            elif not pending.asked:
                self._wait(pending.task)
            elif pending.request:
                self._look_at_request(pending)
            elif pending.questions:
                self._look_at_votes(pending)
            else:
                self._ask_program(pending, task)
