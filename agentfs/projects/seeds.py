"""Seeds: goals of a project that are pursued in phases, until an evaluation says that it is enough.

    interview -> seed -> execute -> evaluate -> passed
                   ^                   |
                   '----- evolve <-----'   the child of a seed that did not pass

Each step is one transaction: the end of a phase, what it gave and what comes next; the beginning of
a phase, and of the run or the task that does it. So a phase is begun once, whenever the daemon is
killed, and begun again only where `attempt` says so. `run` does what is due: a refused start must
not undo the end of the phase before.
"""

from __future__ import annotations

import errno
import json
from typing import Any

from agentfs.base.due_work import work_as_due
from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.projects.events import (
    EvaluationComplete,
    EvolutionMaxReached,
    EvolutionStarted,
    PhaseCompleted,
    PhaseStarted,
    SeedChanged,
    SeedCreated,
    SeedRemoved,
)
from agentfs.projects.outcomes import Assessment, Plot, as_value, criteria_of, goal_of, read_plot
from agentfs.projects.phase_work import PhaseWork
from agentfs.projects.projects import Project, Projects
from agentfs.projects.seed import Seed, SeedState, SeedTable
from agentfs.projects.settings import ProjectSettings
from agentfs.projects.spec import Phase, ProjectSpec, read_spec
from agentfs.rights.gate import Gate
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import EndedWork, Part
from agentfs.tasks.events import TaskCancelled, TaskCompleted, TaskDead, TaskFailed, TaskRejected
from agentfs.triggers.maker import TriggerMakers

__all__ = ["Seeds"]

BATCH = 20
"""Steps before everybody else has a turn: the start of a run takes 0.3 ms."""

PAUSE, AGAIN, LONGEST_WAIT = 0.005, 5.0, 10.0
"""Seconds. Between two batches; until a start that was refused for the moment is tried again; the
wall clock can be stepped, so look again after a while."""

LONGEST_RESULT = 1024 * 1024
"""Bytes of a result, as JSON; what is longer belongs into the memory of the project."""

LONGEST_WORDS = 4096
"""Characters of a reason."""

ASKED = {
    Phase.EXECUTE: "a member writes its result",
    Phase.EVALUATE: "a member says how good it is: pass, fail or score in its ctl",
}
"""What is waited for where the specification has nobody do a phase."""

TASK_ENDS = (TaskCompleted, TaskFailed, TaskRejected, TaskCancelled, TaskDead)


class Seeds(Part):
    """The system calls on seeds, and their steps: `run`, and `run_due`, which is one turn of it.
    `table` has the seeds."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        makers: TriggerMakers,
        projects: Projects,
        work: PhaseWork,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._makers = makers
        self._projects = projects
        self._work = work
        self.table = table = SeedTable(ground)
        makers.made.count_in("seeds", lambda: table.of_owner, lambda: table.open)
        ground.events.listen(self._task_ended, *TASK_ENDS)

    def load(self) -> None:
        self.table.load()

    def take_up(self) -> None:
        """A task may have ended just before the daemon did."""
        with self._store.transaction():
            for seed in self.table:
                if seed.due is None and seed.state is SeedState.RUNNING and self._is_done(seed):
                    self._look(seed)

    def _is_done(self, seed: Seed) -> bool:
        return self._work.ended(seed) is not None

    def find(self, project: str, number: int) -> Seed | None:
        """A seed of a project."""
        seed = self.table.find(number)
        return seed if seed is not None and seed.project == project else None

    def last_of(self, seed: Seed) -> Seed:
        """The seed that the line of one has come to."""
        while seed.child and (child := self.table.find(seed.child)) is not None:
            seed = child
        return seed

    # -- system calls ------------------------------------------------------------------------------

    def check_spec(self, spec: ProjectSpec) -> None:
        """Raise EINVAL with every fault of the phases of a specification."""
        self._work.check(spec)

    def remove_project(self, principal: Principal, name: str, *, force: bool = False) -> None:
        """Remove a project with its seeds, and what is under way for them. Raises what
        `Projects.remove` does, and ENOTEMPTY if seeds are open, unless by `force`."""
        with self._gate.enter(principal):
            self._projects.remove(principal, name, force=force)
            seeds = self.table.of_project(name)
            count = sum(seed.open for seed in seeds)
            if count and not force:
                raise KernelError(
                    errno.ENOTEMPTY,
                    f"{count} seeds of project {name} are open; `remove` in its ctl ends them",
                    rule="project in use",
                )
            for seed in seeds:
                self._drop(seed)

    def plant(
        self, principal: Principal, project: str, goal: str, criteria: tuple[str, ...] = ()
    ) -> Seed:
        """Plant one. ENOENT; EINVAL (the goal); EACCES for who is no member, EPERM without the
        capability spawn_children; EDQUOT, ENOSPC (so many there are)."""
        with self._gate.enter(principal, "spawns") as actor:
            here = self._member(principal, project)
            self._gate.policy.require_capability(actor, "spawn_children")
            self._gate.check_making(actor.agent, "seeds", 1)
            seed = Seed(
                self.table.next_number(),
                project,
                self._makers.of(actor),
                goal_of(goal),
                here.spec,
                self._clock.now(),
                criteria,
            )
            return self._add(seed)

    def set_goal(self, principal: Principal, seed: Seed, text: str) -> None:
        """Another goal; one that waits for it is interviewed again. EPERM once the interview is
        over, and unless who has planted it, the project's owner or the operator asks."""
        with self._gate.enter(principal):
            self._asked(principal, seed, Phase.INTERVIEW, "another goal")
            self._answered(seed, goal=goal_of(text))

    def set_criteria(self, principal: Principal, seed: Seed, text: str) -> None:
        """The same of its criteria, one a line."""
        with self._gate.enter(principal):
            self._asked(principal, seed, Phase.INTERVIEW, "other criteria")
            self._answered(seed, criteria=criteria_of(text))

    def check_answer(self, principal: Principal, seed: Seed) -> None:
        """Raise what both would, as far as that is known before."""
        self._asked(principal, seed, Phase.INTERVIEW, "another goal")

    def accept(self, principal: Principal, seed: Seed) -> None:
        """Go on with a goal that is not clear. EPERM as `set_goal`."""
        with self._gate.enter(principal):
            self._asked(principal, seed, Phase.INTERVIEW, "`accept`")
            self._complete(seed)
            self._begin_next(seed, Phase.SEED)

    def set_result(self, principal: Principal, seed: Seed, text: str) -> None:
        """The result of one that nobody else executes. EPERM unless it waits for that; EACCES for
        who is no member; EFBIG."""
        with self._gate.enter(principal):
            self._waits(principal, seed, Phase.EXECUTE, "a result")
            self._executed(seed, as_value(text))

    def check_result(self, principal: Principal, seed: Seed) -> None:
        """Raise what that would, as far as it is known before."""
        self._waits(principal, seed, Phase.EXECUTE, "a result")

    def evaluate(self, principal: Principal, seed: Seed, evaluation: Assessment) -> None:
        """How good its result is, where nobody else evaluates it. EPERM unless it waits for that,
        and for who has planted it; EACCES for who is no member."""
        with self._gate.enter(principal):
            self._waits(principal, seed, Phase.EVALUATE, "an evaluation")
            if principal.agent == seed.maker.owner and not principal.is_operator:
                raise KernelError(
                    errno.EPERM,
                    f"{principal.agent} has planted {seed}: another member evaluates it",
                    rule="own seed",
                )
            self._evaluated(seed, evaluation)

    def cancel(self, principal: Principal, seed: Seed, why: str = "") -> None:
        """End it, and what is under way for it. EPERM once it has ended, and unless who has planted
        it, the project's owner or the operator asks."""
        with self._gate.enter(principal):
            self._control(principal, seed)
            if not seed.open:
                raise KernelError(errno.EPERM, f"{seed} has ended: it is {seed.state.value}")
            words = f"cancelled by {principal.agent}" + (f": {why}" if why else "")
            self._end(seed, SeedState.CANCELLED, words)

    def retry(self, principal: Principal, seed: Seed) -> None:
        """Begin the phase again in which one has failed or was cancelled. EPERM as `cancel`, and
        for every other seed."""
        with self._gate.enter(principal):
            self._control(principal, seed)
            if seed.state not in (SeedState.FAILED, SeedState.CANCELLED):
                raise KernelError(errno.EPERM, f"{seed} is {seed.state.value}: nothing is to retry")
            self._gate.check_making(seed.maker.owner, "seeds", 1)
            now = self._clock.now()
            self._change(
                seed, "again", state=SeedState.RUNNING, reason="", ended=0.0, due=now, run=0, task=0
            )

    # -- who may -----------------------------------------------------------------------------------

    def _member(self, principal: Principal, name: str) -> Project:
        project = self._projects.get(name)
        self._projects.require_member(principal, project)
        return project

    def _control(self, principal: Principal, seed: Seed) -> None:
        project = self._member(principal, seed.project)
        if not self._makers.owns(principal, seed.maker):
            project.ownership.require_owner(principal, f"control {seed} of {seed.maker.owner}")

    def _asked(self, principal: Principal, seed: Seed, phase: Phase, what: str) -> None:
        self._control(principal, seed)
        self._require_waiting(seed, phase, what)

    def _waits(self, principal: Principal, seed: Seed, phase: Phase, what: str) -> None:
        self._member(principal, seed.project)
        self._require_waiting(seed, phase, what)

    @staticmethod
    def _require_waiting(seed: Seed, phase: Phase, what: str) -> None:
        if seed.state is not SeedState.WAITING or seed.phase is not phase:
            raise KernelError(
                errno.EPERM,
                f"{seed} does not wait for {what}: it is {seed.state.value}, in {seed.phase.value}",
                rule="states",
            )

    # -- what is due -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        await work_as_due(self.run_due, self.table.watch, self._clock, "seeds")

    def run_due(self) -> float:
        """Do what is due, a batch at most; the seconds until it is to be called again (inf: nothing
        is due)."""
        for _ in range(BATCH):
            first, now = self.table.first(), self._clock.now()
            if first is None or first.due is None:
                return float("inf")
            if first.due > now + AGAIN:  # the wall clock was set back
                with self._store.transaction():
                    self.table.change(first, due=now)
            elif first.due > now:
                return min(max(first.due - now, PAUSE), LONGEST_WAIT)
            self._step(first)
        return PAUSE

    def _step(self, seed: Seed) -> None:
        """One transaction, or, where that is refused, another one that says so."""
        try:
            with self._store.transaction():
                if seed.run or seed.task:
                    self._take_outcome(seed)
                else:
                    self._begin(seed)
        except KernelError as refused:
            if self._store.is_full:
                raise
            with self._store.transaction():
                if refused.errno == errno.EAGAIN:
                    again = self._clock.now() + AGAIN
                    self._change(seed, "", due=again, reason=refused.reason[:LONGEST_WORDS])
                else:
                    self._end(seed, SeedState.FAILED, f"{seed.phase.value}: {refused.reason}")

    def _begin(self, seed: Seed) -> None:
        """The beginning of a phase."""
        spec, phase = read_spec(seed.spec), seed.phase
        if phase is Phase.EVOLVE:
            self._tell(EvolutionStarted, seed, seed.generation + 1)
        run = task = 0
        if phase in spec.phases:
            run, task = self._work.start(seed, spec, self._given(seed))
        state = SeedState.RUNNING
        if phase in ASKED and phase not in spec.phases:
            state = SeedState.WAITING
        self.table.change(
            seed,
            attempt=seed.attempt + 1,
            run=run,
            task=task,
            due=None,
            state=state,
            reason=ASKED[phase] if state is SeedState.WAITING else "",
        )
        self._tell(PhaseStarted, seed, phase.value, seed.attempt, run, task)
        does = f"run {run}" if run else f"task {task}" if task else seed.reason
        self._change(seed, f"started: {does}" if does else "started")
        if not (run or task) and state is SeedState.RUNNING:
            self._plotted(seed, spec, Plot())

    def _given(self, seed: Seed) -> dict[str, Any]:
        """The input of a phase."""
        given: dict[str, Any] = {
            "project": seed.project,
            "seed": seed.number,
            "goal": seed.goal,
            "criteria": list(seed.criteria),
            "generation": seed.generation,
            "feedback": seed.feedback,
        }
        if seed.phase in (Phase.EVALUATE, Phase.EVOLVE):
            given["result"] = self.table.result(seed.number)
        if seed.phase is Phase.EVOLVE:
            given["evaluation"] = told(seed.evaluation)
        return given

    def _take_outcome(self, seed: Seed) -> None:
        """What does a phase has ended."""
        ended = self._work.ended(seed)
        if ended is None:
            self.table.change(seed, due=None)
            return
        if seed.phase is Phase.EVALUATE:
            evaluation = self._work.evaluation(seed, ended)
            if evaluation is not None:
                self._evaluated(seed, evaluation)
                return
        if ended.error:
            self._end(seed, SeedState.FAILED, f"{seed.phase.value}: {ended.error}")
        elif seed.phase is Phase.EXECUTE:
            self._executed(seed, ended.output)
        else:
            plot = read_plot(seed.phase.value, ended.output)
            self._plotted(seed, read_spec(seed.spec), plot)

    # -- what follows ------------------------------------------------------------------------------

    def _plotted(self, seed: Seed, spec: ProjectSpec, plot: Plot) -> None:
        """Interview, seed or evolve has said what the goal is."""
        goal = seed.goal if plot.goal is None else plot.goal
        criteria = seed.criteria if plot.criteria is None else plot.criteria
        if seed.phase is Phase.EVOLVE:
            self._evolved(seed, goal, criteria)
            return
        if seed.phase is Phase.SEED:
            self.table.change(
                seed, goal=goal, criteria=criteria or criteria_of(goal.splitlines()[0][:2048])
            )
            self._complete(seed)
            self._begin_next(seed, Phase.EXECUTE)
            return
        self.table.change(
            seed,
            goal=goal,
            criteria=criteria,
            ambiguity=plot.ambiguity,
            questions=plot.questions,
            run=0,
            task=0,
        )
        if plot.ambiguity is not None and plot.ambiguity > spec.ambiguity:
            words = f"its ambiguity is {plot.ambiguity:g}, more than {spec.ambiguity:g}: write its"
            reason = f"{words} goal or its criteria, or `accept` to its ctl"
            self._change(seed, reason, state=SeedState.WAITING, reason=reason, due=None)
            return
        self._complete(seed)
        self._begin_next(seed, Phase.SEED)

    def _answered(self, seed: Seed, **fields: Any) -> None:
        """Somebody has made the goal clearer: it is interviewed again."""
        now = self._clock.now()
        self._change(
            seed, "answered", state=SeedState.RUNNING, reason="", due=now, run=0, task=0, **fields
        )

    def _executed(self, seed: Seed, result: Any) -> None:
        size = len(json.dumps(result, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > LONGEST_RESULT:
            raise KernelError(
                errno.EFBIG,
                f"the result has {size} bytes, {LONGEST_RESULT} are allowed: keep it in the memory"
                " of the project, and give its path",
            )
        self.table.keep_result(seed, result)
        self._complete(seed)
        self._begin_next(seed, Phase.EVALUATE)

    def _evaluated(self, seed: Seed, evaluation: Assessment) -> None:
        spec = read_spec(seed.spec)
        passed = evaluation.passed
        if passed is None:
            passed = evaluation.score >= spec.threshold
        self.table.change(seed, evaluation=Assessment(evaluation.score, passed, evaluation.words))
        self._tell(EvaluationComplete, seed, evaluation.score, passed)
        self._complete(seed)
        if passed:
            self._end(seed, SeedState.PASSED, "")
        elif seed.generation >= spec.evolutions:
            self._tell(EvolutionMaxReached, seed, spec.evolutions)
            words = f"it has not passed, after {seed.generation} evolutions"
            self._end(seed, SeedState.FAILED, words)
        else:
            self._begin_next(seed, Phase.EVOLVE)

    def _evolved(self, seed: Seed, goal: str, criteria: tuple[str, ...]) -> None:
        """Its child begins where the interview is over."""
        evaluation = seed.evaluation
        child = Seed(
            self.table.next_number(),
            seed.project,
            seed.maker,
            goal,
            seed.spec,
            self._clock.now(),
            criteria,
            phase=Phase.SEED,
            generation=seed.generation + 1,
            parent=seed.number,
            ambiguity=seed.ambiguity,
            feedback="" if evaluation is None else evaluation.words,
        )
        self._complete(seed)
        self.table.change(seed, child=child.number)
        self._end(seed, SeedState.EVOLVED, "")
        self._add(child)

    def _add(self, seed: Seed) -> Seed:
        most = self._settings.of(ProjectSettings).max_seeds
        if self.table.open >= most:
            raise KernelError(
                errno.ENOSPC, f"{most} seeds are open already", rule="projects.max_seeds"
            )
        seed.due = self._clock.now()
        self.table.add(seed)
        self._tell(SeedCreated, seed, seed.parent)
        return seed

    def _complete(self, seed: Seed) -> None:
        self.table.change(seed, history=seed.told(self._clock.now(), "completed"))
        self._tell(PhaseCompleted, seed, seed.phase.value, seed.attempt)

    def _begin_next(self, seed: Seed, phase: Phase) -> None:
        """It is begun by the next step."""
        self._change(
            seed,
            "",
            phase=phase,
            attempt=0,
            run=0,
            task=0,
            state=SeedState.RUNNING,
            reason="",
            due=self._clock.now(),
        )

    def _end(self, seed: Seed, state: SeedState, reason: str) -> None:
        self._work.cancel(seed, reason)
        now = self._clock.now()
        words = f"{state.value}: {reason}" if reason else state.value
        self._change(
            seed,
            words[:LONGEST_WORDS],
            state=state,
            reason=reason[:LONGEST_WORDS],
            due=None,
            ended=now,
        )

    def _change(self, seed: Seed, words: str, **fields: Any) -> None:
        """Set fields of it, and tell everybody that they are others."""
        self.table.change(seed, **fields)
        if words:
            self.table.change(seed, history=seed.told(self._clock.now(), words))
        self._tell(SeedChanged, seed, seed.state.value, seed.phase.value)

    def _tell(self, event: Any, seed: Seed, *more: object) -> None:
        self._events.emit(event(seed.maker.owner, seed.project, seed.number, *more))

    # -- what others do ----------------------------------------------------------------------------

    def run_ended(self, run: EndedWork) -> None:
        """The run of a phase has ended, inside the transaction of that."""
        seed = self.table.of_run(run.id)
        if seed is not None and seed.open:
            self._look(seed)

    def _task_ended(self, record: Record) -> None:
        """A task has ended; after a death in between, `take_up` sees it."""
        seed = self.table.of_task(record.event.task)  # type: ignore[attr-defined]  # each has it
        if seed is not None and seed.open:
            with self._store.transaction():
                self._look(seed)

    def _look(self, seed: Seed) -> None:
        """It is its turn again."""
        self.table.change(seed, due=self._clock.now())

    def _drop(self, seed: Seed) -> None:
        self._work.cancel(seed, f"project {seed.project} was removed")
        self.table.drop(seed)
        self._tell(SeedRemoved, seed)

    def agent_removed(self, name: str) -> None:
        """Its seeds are init's, and may no more than before."""
        for seed in list(self.table.of_owner.get(name, {}).values()):
            self.table.change(seed, maker=self._makers.heir(seed.maker))
            self._tell(SeedChanged, seed, seed.state.value, seed.phase.value)

    def tidy(self) -> None:
        """Forget those that ended long ago, once their line has."""
        before = self._clock.now() - self._settings.of(ProjectSettings).retention
        with self._store.transaction():
            for seed in list(self.table):
                last = self.last_of(seed)
                if not last.open and last.ended < before:
                    self._drop(seed)


def told(evaluation: Assessment | None) -> dict[str, Any] | None:
    """An evaluation, as JSON."""
    if evaluation is None:
        return None
    return {"score": evaluation.score, "passed": evaluation.passed, "words": evaluation.words}
