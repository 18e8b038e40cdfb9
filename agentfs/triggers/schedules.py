"""Schedules: runs and systems that start by themselves, at a time.

A schedule is in the store before the call that makes it returns. Starting a run, and the schedule's
next time, are one transaction: so each time has its run once, whenever the daemon is killed.
"""

from __future__ import annotations

import errno

from agentfs.base.clock import rfc3339
from agentfs.base.due_work import work_as_due
from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.store.part import EndedWork, Part
from agentfs.triggers.events import ScheduleChanged, ScheduleMade, ScheduleRemoved
from agentfs.triggers.launch import Launcher
from agentfs.triggers.maker import TriggerMakers
from agentfs.triggers.schedule_spec import ScheduleSpec, read_spec
from agentfs.triggers.schedule_table import Scheduled, ScheduleState, ScheduleTable
from agentfs.triggers.settings import TriggerSettings
from agentfs.workflow.model import Start

__all__ = ["Schedules"]

BATCH = 20
"""Schedules that are looked at before everybody else has a turn: a start takes 0.3 ms."""

PAUSE, LONGEST_WAIT = 0.005, 10.0
"""Seconds. Between two batches; the wall clock can be stepped, so look again after a while."""

STEP = 1.0
"""Seconds back between two looks at the wall clock that are a step of it."""

LATE = 60.0
"""Seconds after which a time was missed. Until then it is the daemon that was busy, or that a
package was replaced."""

MOST_WAITING = 100
"""Times of one schedule that wait for its run to end; more are skipped."""

FINAL = tuple(state for state in ScheduleState if state.final)

COMMANDS = "pause, resume, cancel or run-now"


class Schedules(Part):
    """The system calls on schedules, and their runs: `run`, and `run_due`, which is one turn of it.
    `table` has the schedules."""

    def __init__(
        self, ground: Ground, gate: Gate, makers: TriggerMakers, launcher: Launcher
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._makers = makers
        self._launcher = launcher
        self._seen = ground.clock.now()  # what the wall clock said last
        self._doubtful: list[Scheduled] = []  # it was set back, and they are not looked at yet
        self.table = table = ScheduleTable(ground)
        makers.made.count_in("schedules", lambda: table.of_owner, lambda: len(table))

    def load(self) -> None:
        """Read everything from the store. The clock may have been set back meanwhile."""
        self.table.load()
        self._doubtful = list(self.table)

    def take_up(self) -> None:
        """Runs that ended while nobody listened are told of here."""
        for schedule in self.table:
            for run in schedule.open:
                if not self._launcher.is_open(run):
                    self._close(schedule, run, "lost")
        for schedule in self.table:
            self._look_again(schedule)

    def get(self, number: int) -> Scheduled:
        """ENOENT if there is none."""
        found = self.table.find(number)
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no schedule {number}")
        return found

    # -- system calls ----------------------------------------------------------------------------

    def create(self, principal: Principal, text: str) -> Scheduled:
        """Make a schedule of a JSON document. EINVAL with every fault, ENOENT (no such pipeline or
        system), EACCES or EPERM (the caller may not start it), EDQUOT or ENOSPC (so many there
        are)."""
        return self.make(principal, read_spec(text))

    def make(self, principal: Principal, spec: ScheduleSpec) -> Scheduled:
        """The same of a document that was read."""
        with self._gate.enter(principal) as actor:
            now = self._clock.now()
            timetable = spec.timetable(now)
            until = spec.last_moment(now)
            maker = self._makers.of(actor)
            path = f"/etc/{spec.kind}/{spec.target}"
            self._gate.policy.require(
                actor, Action.SPAWN, path, what=f"schedule {spec.target}".encode()
            )
            self._gate.policy.require_capability(actor, "spawn_children")
            self._launcher.check(maker, spec.kind, spec.target)
            self._gate.check_making(actor.agent, "schedules", 1)
            first = timetable.first()
            if until is not None and first > until:
                raise KernelError(
                    errno.EINVAL, f"until: the first time is {rfc3339(first)}, after that"
                )
            made = Scheduled(self.table.next_number(), maker, spec, timetable, first, until)
            self.table.add(made)
            what = f"{spec.kind.removesuffix('s')} {spec.target}"
            self._events.emit(ScheduleMade(maker.owner, made.number, what, first))
            return made

    def control(self, principal: Principal, number: int, command: str) -> None:
        """`pause`, `resume`, `cancel` or `run-now`. ENOENT; EPERM unless the owner or the operator
        asks, or if it has ended; EINVAL; for `run-now` EBUSY (one is under way, and `overlap` is
        skip), and what a start is refused with."""
        with self._gate.enter(principal):
            schedule = self.get(number)
            owner = schedule.maker.owner
            if not self._makers.owns(principal, schedule.maker):
                raise KernelError(
                    errno.EPERM,
                    f"only {owner} and the operator may control schedule {number}, not"
                    f" {principal.name}",
                    rule="owner",
                )
            if schedule.state.final:
                raise KernelError(
                    errno.EPERM, f"schedule {number} has ended: it is {schedule.state.value}"
                )
            match command.strip():
                case "pause":
                    self._pause(schedule)
                case "resume":
                    self._resume(schedule)
                case "cancel":
                    self._end(schedule, ScheduleState.CANCELLED)
                case "run-now":
                    self._run_now(schedule)
                case other:
                    raise KernelError(errno.EINVAL, f"{COMMANDS} was expected, not {other[:60]!r}")

    def may_read(self, principal: Principal, schedule: Scheduled) -> None:
        """Raise EACCES or EPERM unless `principal` may see what it starts: as with the process of
        its maker."""
        self._makers.require_read(principal, schedule.maker)

    def _pause(self, schedule: Scheduled) -> None:
        if schedule.state is not ScheduleState.PAUSED:
            self.table.change(schedule, state=ScheduleState.PAUSED, due=None)
            self._tell(schedule)

    def _resume(self, schedule: Scheduled) -> None:
        """Times of a grid that passed meanwhile are left out: somebody wanted that. One that is to
        come once still comes."""
        if schedule.state is not ScheduleState.PAUSED:
            return
        now, following = self._clock.now(), schedule.next
        if following is not None and following <= now and not schedule.timetable.is_once:
            following = self._following(schedule, now)
        state = ScheduleState.ACTIVE if schedule.open else ScheduleState.PENDING
        self.table.change(schedule, state=state, next=following)
        self._look_again(schedule)
        self._finish(schedule)
        self._tell(schedule)

    def _run_now(self, schedule: Scheduled) -> None:
        if schedule.open and schedule.spec.overlap == "skip":
            raise KernelError(
                errno.EBUSY,
                f"run {schedule.open[-1]} of schedule {schedule.number} is under way, and its"
                " overlap is skip",
            )
        before = schedule.waiting
        if not self._begin(schedule, self._clock.now(), f"now-{schedule.count + 1}"):
            raise KernelError(errno.EAGAIN, f"{MOST_WAITING} runs of it wait already")
        if schedule.timetable.is_once:
            self.table.change(schedule, next=None)
        self._limit(schedule)
        self._look_again(schedule)
        self._tell(schedule, schedule.last if schedule.waiting == before else 0)

    # -- what is due -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Start what falls due, until cancelled."""
        await work_as_due(self.run_due, self.table.watch, self._clock, "schedules")

    def run_due(self) -> float:
        """Start what is due, a batch at most; the seconds until it is to be called again (inf:
        nothing is to come)."""
        now = self._clock.now()
        if now < self._seen - STEP:
            self._doubtful = list(self.table)
        self._seen = now
        if self._doubtful:
            self._correct(now)
            return PAUSE
        for _ in range(BATCH):
            first = self.table.first()
            if first is None:
                return float("inf")
            if first.due is None or first.due > now:
                return min(max(first.due or 0.0, now + PAUSE) - now, LONGEST_WAIT)
            self._fire(first, now)
        return PAUSE

    def _correct(self, now: float) -> None:
        """Look at a batch of those that may be for a time which the clock was never to reach."""
        batch = self._doubtful[-BATCH:]
        with self._store.transaction():
            for schedule in batch:
                if self.table.find(schedule.number) is not schedule or schedule.next is None:
                    continue
                following = schedule.timetable.corrected(schedule.next, now)
                if following != schedule.next:
                    paused = schedule.state is ScheduleState.PAUSED
                    due = None if paused else following
                    self.table.change(schedule, next=following, due=due)
                    self._tell(schedule)
        del self._doubtful[-BATCH:]

    def _fire(self, schedule: Scheduled, now: float) -> None:
        """It is due: one transaction, or, where its run cannot be started, another one that says
        so."""
        if schedule.state is ScheduleState.PAUSED or schedule.state.final:
            with self._store.transaction():
                self.table.change(schedule, due=None)
            return
        try:
            with self._store.transaction():
                if schedule.next is not None and schedule.next <= now:
                    self._take_time(schedule, schedule.next, now)
                else:
                    self._begin_waiting(schedule)
                self._limit(schedule)
        except KernelError as refused:
            if self._store.is_full:
                raise
            self._refused(schedule, now, refused)

    def _take_time(self, schedule: Scheduled, planned: float, now: float) -> None:
        """Its time has come, and perhaps others before it that nobody was there for."""
        spec = schedule.spec
        times = schedule.timetable.passed(planned, now)
        recent = schedule.timetable.last_within(LATE, times[-1], now)
        tried = bool(schedule.error) and schedule.timetable.is_once  # it was there in time
        missed = len(times) - (recent is not None) - tried
        if spec.missed != "all":
            times = [recent or times[-1]] if spec.missed == "one" or recent or tried else []
        if spec.max_runs is not None:
            times = times[: max(spec.max_runs - schedule.count - schedule.waiting, 0)]
        self.table.change(
            schedule,
            next=self._following(schedule, now),
            missed=schedule.missed + missed,
            error="" if times else "its time was missed",
        )
        before = schedule.count
        for number, time in enumerate(times):
            if number or (len(times) > 1 and schedule.open):
                self._wait(schedule, len(times) - number)  # each begins in a commit of its own
                break
            if not self._begin(schedule, now, rfc3339(time)):
                self.table.change(schedule, skipped=schedule.skipped + 1)
        self._look_again(schedule)
        self._tell(schedule, schedule.last if schedule.count > before else 0)

    def _begin(self, schedule: Scheduled, now: float, key: str) -> bool:
        """One more run, now or once the one that is under way has ended; False: `overlap` says
        that there is none."""
        spec = schedule.spec
        if schedule.open and spec.overlap != "allow":
            if spec.overlap == "skip":
                return False
            if spec.overlap == "replace":
                self.table.change(schedule, waiting=1)
                for run in schedule.open:
                    self._launcher.cancel(run, f"schedule {schedule.number} replaces it")
                return True
            return self._wait(schedule, 1)
        self._start(schedule, now, key)
        return True

    def _wait(self, schedule: Scheduled, runs: int) -> bool:
        """So many more wait for what is under way. False if some are too many."""
        waiting = min(schedule.waiting + runs, MOST_WAITING)
        over = schedule.waiting + runs - waiting
        self.table.change(schedule, waiting=waiting)
        if over > 1:
            self.table.change(schedule, skipped=schedule.skipped + over - 1)
        return not over

    def _begin_waiting(self, schedule: Scheduled) -> None:
        """What was under way has ended, and another one waits."""
        if self._may_begin_waiting(schedule):
            now = self._clock.now()
            self.table.change(schedule, waiting=schedule.waiting - 1)
            self._start(schedule, now, f"waited-{schedule.count + 1}")
            self._tell(schedule, schedule.last)
        self._look_again(schedule)

    @staticmethod
    def _may_begin_waiting(schedule: Scheduled) -> bool:
        return bool(schedule.waiting) and (not schedule.open or schedule.spec.overlap == "allow")

    def _start(self, schedule: Scheduled, now: float, key: str) -> None:
        spec = schedule.spec
        path = f"/etc/{spec.kind}/{spec.target}"
        self._makers.permit(schedule.maker, Action.SPAWN, path)
        self._makers.require_capability(schedule.maker, "spawn_children")
        start = self._wanted(spec, schedule.number, key)
        run = self._launcher.start(schedule.maker, spec.kind, start)
        self.table.change(
            schedule,
            open=(*schedule.open, run),
            last=run,
            last_time=now,
            count=schedule.count + 1,
            error="",
            state=ScheduleState.ACTIVE,
        )

    @staticmethod
    def _wanted(spec: ScheduleSpec, number: int, key: str) -> Start:
        type_, _, name = (spec.ref or "").partition("/")
        return Start(
            spec.target,
            spec.input,
            key=f"schedule/{number}/{key}" if key else "",
            ref=(type_, name) if type_ else ("schedule", str(number)),
            environment=spec.environment,
            deadline=spec.deadline,
            limits=dict(spec.limits) if spec.limits is not None else None,
            caps=tuple(spec.caps) if spec.caps is not None else None,
        )

    def _refused(self, schedule: Scheduled, now: float, refused: KernelError) -> None:
        """A start was refused: what is to come once fails, unless there may be room for it later;
        what comes again, comes again."""
        later = refused.errno == errno.EAGAIN
        with self._store.transaction():
            if later and (schedule.timetable.is_once or schedule.waiting):
                again = now + self._settings.of(TriggerSettings).retry
                self.table.change(schedule, error=str(refused), due=again)
            else:
                following = self._following(schedule, now)
                self.table.change(
                    schedule,
                    error=str(refused),
                    result="refused",
                    waiting=0,
                    next=following,
                    due=following,
                )
                self._finish(schedule)
            self._tell(schedule)

    def _following(self, schedule: Scheduled, now: float) -> float | None:
        """Its next time after `now`, None if that is none of its any more."""
        following = schedule.timetable.after(now)
        if following is None or (schedule.until is not None and following > schedule.until):
            return None
        return following

    def _limit(self, schedule: Scheduled) -> None:
        """Nothing more is to come once `max_runs` is reached; and it may have ended by that."""
        most = schedule.spec.max_runs
        if most is not None and schedule.count + schedule.waiting >= most:
            self.table.change(schedule, next=None)
            self._look_again(schedule)
        self._finish(schedule)

    # -- the ends of runs, and of schedules --------------------------------------------------------

    def run_ended(self, run: EndedWork) -> None:
        """One of its runs has ended, inside the transaction of that."""
        schedule = self.table.of_run(run.id)
        if schedule is not None:
            self._close(schedule, run.id, run.state.value)
            self._look_again(schedule)
            self._finish(schedule)
            self._tell(schedule)

    def _close(self, schedule: Scheduled, run: int, outcome: str) -> None:
        still = tuple(each for each in schedule.open if each != run)
        self.table.change(schedule, open=still, result=outcome)
        if schedule.state is ScheduleState.ACTIVE and not still:
            self.table.change(schedule, state=ScheduleState.PENDING)

    def _look_again(self, schedule: Scheduled) -> None:
        """Have it looked at when its next time comes, or at once if what waits can begin. It is the
        next turn that starts it: a start that is refused must not undo the end of the run
        before."""
        due = schedule.next
        if schedule.state in (ScheduleState.PAUSED, *FINAL):
            due = None
        elif self._may_begin_waiting(schedule):
            due = self._clock.now()
        if due != schedule.due:
            self.table.change(schedule, due=due)

    def _finish(self, schedule: Scheduled) -> None:
        """It ends once nothing is to come and nothing is under way."""
        if not schedule.state.final and schedule.exhausted and not schedule.open:
            done = schedule.result == "completed" or not (schedule.error or schedule.result)
            self._end(schedule, ScheduleState.DONE if done else ScheduleState.FAILED)

    def _end(self, schedule: Scheduled, state: ScheduleState) -> None:
        """Nothing of it starts any more; runs under way go on."""
        now = self._clock.now()
        self.table.change(schedule, state=state, next=None, due=None, waiting=0, ended=now)
        self._tell(schedule)

    def _tell(self, schedule: Scheduled, run: int = 0) -> None:
        self._events.emit(
            ScheduleChanged(
                schedule.maker.owner, schedule.number, schedule.state.value, run, schedule.next
            )
        )

    def agent_removed(self, name: str) -> None:
        """Its schedules are init's, and may no more than before."""
        for schedule in list(self.table.of_owner.get(name, {}).values()):
            self.table.change(schedule, maker=self._makers.heir(schedule.maker))
            self._tell(schedule)

    def tidy(self) -> None:
        """Drop those that ended long ago."""
        before = self._clock.now() - self._settings.of(TriggerSettings).retention
        with self._store.transaction():
            for schedule in list(self.table):
                if schedule.state.final and schedule.ended < before and not schedule.open:
                    self.table.drop(schedule)
                    self._events.emit(ScheduleRemoved(schedule.maker.owner, schedule.number))
