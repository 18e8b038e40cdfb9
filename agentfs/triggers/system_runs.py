"""Systems at work: their processes begin when what they wait for has ended, and a failed one stops
the rest.

A system is a light process, the lead: what runs for it is below it, within its limits and
capabilities. One pass over its processes is all there is, unless its `init` says otherwise: then
there is another one once a time has come, or for each record of a topic. A pass begins in one
commit, with the number of its record; so each record has its pass once.

The end of a run is told inside its last commit, and is noted there; what begins because of it
begins in commits of its own, one for each process. A daemon that dies between two of them leaves a
process that is pending, and the next one begins it.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import trio

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.manifests.expression import Expression
from agentfs.manifests.inherit import common_caps
from agentfs.manifests.schema import Schema
from agentfs.manifests.system_plan import SystemPlan, SystemProcess
from agentfs.model.process import Limits, OnLimit, Process, ProcessKind
from agentfs.process.light import Light
from agentfs.process.table import ProcessTable
from agentfs.rights.ownership import Access
from agentfs.shared.topics import Publication, Topic, Topics
from agentfs.store.ground import Ground
from agentfs.store.part import EndedWork, Part
from agentfs.triggers.events import SystemChanged, SystemPipeChanged, SystemRemoved, SystemStarted
from agentfs.triggers.maker import Maker, TriggerMakers
from agentfs.triggers.settings import TriggerSettings
from agentfs.triggers.system_parts import EVALUATION, PartStarter
from agentfs.triggers.system_table import (
    PartState,
    SystemPart,
    SystemRun,
    SystemRunTable,
    SystemState,
)
from agentfs.workflow.model import Start

__all__ = ["SystemRuns"]

log = logging.getLogger(__name__)

MOST_VALUE = 1024 * 1024
"""Bytes of what a pipe gives: it is a part of the system's record. Larger things are files, and
passed by their names."""

MOST_SKIPPED = 100
"""Records of a topic that a filter leaves out in one commit."""

PAUSE, LONGEST_WAIT, RETRY = 0.001, 10.0, 1.0
"""Seconds. Between two batches; the wall clock can be stepped, so look again after a while; the
store may be full."""

AT_ONCE = 10
"""Processes of a system that begin in one go, in 5 ms; the others follow at once."""

BATCH = 3
"""Systems that go on before everybody else has a turn."""


class SystemRuns(Part):
    """Every system that was started: its passes, and their processes. The system calls that start
    one are in `Systems`."""

    def __init__(
        self,
        ground: Ground,
        makers: TriggerMakers,
        processes: ProcessTable,
        light: Light,
        starter: PartStarter,
        topics: Topics,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._parts = ground.parts
        self._settings = ground.settings
        self._makers = makers
        self._processes = processes
        self._light = light
        self._starter = starter
        self._topics = topics
        self._ready: dict[int, None] = {}
        self._wake = trio.Event()
        self._retry: dict[int, float] = {}  # what could not go on, and when it is tried again
        self._starting: set[tuple[int, str]] = set()  # programs that are being started
        self.table = table = SystemRunTable(ground)
        makers.made.count_in("systems", lambda: table.of_owner, lambda: len(table.open()))
        topics.listen(self._published)

    def load(self) -> None:
        """Read everything from the store."""
        self.table.load()

    def take_up(self) -> None:
        """Go on with everything; those that are being ended are ended once more, because a signal
        may have been lost."""
        for system in self.table.open():
            self._take_up_programs(system)
            if system.running() and (system.ending is not None or self._failure(system)):
                with self._store.transaction():
                    self._starter.cancel(system, system.error)
            self._look_at(system)

    def _take_up_programs(self, system: SystemRun) -> None:
        """Programs that have ended, and of which nobody has said so."""
        for name, number in system.running().items():
            part = system.plan.process(name)
            process = self._processes.find(number)
            if part is None or part.program is None or (process and process.state.alive):
                continue
            if process is not None:
                self._program_ended(system, name, process)
            else:
                lost = SystemPart(PartState.FAILED, number, "its process is gone")
                with self._store.transaction():
                    self._part_ended(system, name, lost)

    def get(self, number: int) -> SystemRun:
        """ENOENT if there is none."""
        found = self.table.find(number)
        if found is None:
            raise KernelError(errno.ENOENT, f"there is no system {number}")
        return found

    # -- beginning and ending --------------------------------------------------------------------

    def begin(self, maker: Maker, plan: SystemPlan, start: Start) -> SystemRun:
        """Start a system, inside a transaction; the same one if one with this key was started
        before. EINVAL (its input), EEXIST (the key, with another input), ENOSPC, EAGAIN, ENOENT
        and EACCES (its topic)."""
        if start.key and (known := self.table.of_key(plan.name, start.key)) is not None:
            if known.base != start.input:
                words = f"system {known.id} has the key {start.key!r} and another input"
                raise KernelError(errno.EEXIST, words, rule="key")
            return known
        self._check(plan, start)
        self._parts.tell(Part.check_making, maker.owner, "systems", 1)
        cursor = self._first_cursor(maker, plan)
        lead = self._lead(maker, plan, start)
        now = self._clock.now()
        deadlines = [now + each for each in (plan.deadline, start.deadline) if each]
        system = SystemRun(
            lead.pid,
            plan,
            maker,
            start.input,
            now,
            key=start.key,
            ref="/".join(start.ref) if start.ref[0] else "",
            environment=start.environment,
            state=SystemState.WAITING,
            cursor=cursor,
            due=0.0 if plan.init.type == "event" else now,
            deadline=min(deadlines, default=0.0),
        )
        self.table.add(system)
        self._events.emit(SystemStarted(maker.owner, system.id, plan.name))
        self._store.on_commit(lambda: self._look_at(system))
        return system

    def _check(self, plan: SystemPlan, start: Start) -> None:
        if plan.input_schema is not None and plan.init.type != "event":
            wrong = Schema(plan.input_schema).check(start.input)
            if wrong:
                raise KernelError(errno.EINVAL, f"the input: {wrong}")
        if len(json.dumps(start.input)) > MOST_VALUE:
            raise KernelError(errno.EMSGSIZE, f"an input has at most {MOST_VALUE} bytes")

    def _first_cursor(self, maker: Maker, plan: SystemPlan) -> int:
        if plan.init.type != "event":
            return 0
        topic = self._topics.get(plan.init.topic)
        self._topics.check_subscribe(self._makers.principal(maker), topic)
        return topic.last if plan.init.since is None else plan.init.since

    def _lead(self, maker: Maker, plan: SystemPlan, start: Start) -> Process:
        """Its entry in the process table: what runs for it is below that."""
        limits: dict[str, Any] = dict(maker.limits)
        for name, most in (*plan.limits.items(), *(start.limits or {}).items()):
            if most is not None:
                limits[name] = min(most, limits.get(name, most))
        caps = plan.caps
        if start.caps is not None:
            caps = start.caps if caps is None else common_caps(caps, start.caps)
        return self._light.begin_run(
            self._makers.process(maker),
            plan.name,
            caps=caps,
            deny=plan.deny,
            limits=Limits.none_but(**limits),
            ceiling=maker.ceiling,
            on_limit=OnLimit(plan.on_limit or "raise"),
        )

    def cancel(self, number: int, why: str) -> None:
        """End a system; what runs for it ends first. Nothing if it has ended."""
        system = self.table.find(number)
        if system is not None and not system.state.final:
            self._stop(system, SystemState.CANCELLED, why)

    def pause(self, system: SystemRun, paused: bool) -> None:
        """Begin nothing new in it, or go on."""
        if system.paused is not paused:
            self.table.change(system, paused=paused)
            self._settle(system)
            self._store.on_commit(lambda: self._look_at(system))

    def set_value(self, system: SystemRun, pipe: str, value: dict[str, Any]) -> None:
        """Have a pipe give something else. EPERM once the process that it leads to has begun."""
        target = next(each.target for each in system.plan.pipes if each.name == pipe)
        part = system.parts.get(target)
        if system.state.final or (part is not None and part.state is not PartState.PENDING):
            raise KernelError(errno.EPERM, f"{target} has begun: what it was given stays")
        if len(json.dumps(value)) > MOST_VALUE:
            raise KernelError(errno.EFBIG, f"a pipe gives at most {MOST_VALUE} bytes")
        self.table.change(system, values={**system.values, pipe: value})
        self._events.emit(SystemPipeChanged(system.maker.owner, system.id, pipe))

    def _stop(self, system: SystemRun, ending: SystemState, why: str) -> None:
        """No process of it begins any more; those that run are ended."""
        with self._store.transaction():
            if system.ending is None:
                self.table.change(system, ending=ending, error=why[:4096])
            self._starter.cancel(system, why)
            self._store.on_commit(lambda: self._look_at(system))

    def _finish(self, system: SystemRun, state: SystemState, error: str = "") -> None:
        """It has ended: one commit, with its lead's end, and with what a schedule makes of it."""
        with self._store.transaction():
            parts = {
                name: part if part.state.final else SystemPart(PartState.SKIPPED)
                for name, part in system.parts.items()
            }
            self.table.change(
                system,
                state=state,
                ending=state,
                parts=parts,
                error=error or system.error,
                ended=self._clock.now(),
                due=0.0,
            )
            self._tell(system)
            lead = self._processes.find(system.id)
            if lead is not None:
                self._light.end_run(lead, 0 if state is SystemState.COMPLETED else 1)
            self._parts.tell(Part.run_ended, system)

    # -- going on --------------------------------------------------------------------------------

    def _look_at(self, system: SystemRun) -> None:
        self._ready[system.id] = None
        self._wake.set()

    def _published(self, topic: str) -> None:
        for system in self.table.of_topic(topic):
            self._look_at(system)

    async def run(self) -> None:
        """Let systems go on, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                wait = self.run_due(nursery)
                with trio.move_on_after(wait):
                    await self._wake.wait()

    def run_due(self, nursery: trio.Nursery | None = None) -> float:
        """Let those go on that have something to do, a batch at most; the seconds until it is to be
        called again."""
        for _ in range(BATCH):
            if not self._ready:
                break
            number = next(iter(self._ready))
            del self._ready[number]
            self.turn(number, nursery)
        return self._wait()

    def turn(self, number: int, nursery: trio.Nursery | None = None) -> None:
        """Let one system go on; its programs are started in the nursery."""
        system = self.table.find(number)
        self._retry.pop(number, None)
        if system is None or system.state.final:
            return
        try:
            for process in self._advance(system):
                if nursery is not None:
                    nursery.start_soon(self._start_program, system, process)
        except KernelError as refused:
            log.warning("system %s has to wait: %s", number, refused)
            self._retry[number] = self._clock.now() + RETRY
        except Exception:
            log.exception("system %s cannot go on", number)

    def _wait(self) -> float:
        """Seconds until something falls due."""
        now, first = self._clock.now(), LONGEST_WAIT
        for system in self.table.open():
            for due in self._dues(system):
                if due and due <= now:
                    self._look_at(system)
                elif due:
                    first = min(first, due - now)
        return PAUSE if self._ready else first

    def _dues(self, system: SystemRun) -> Iterator[float]:
        """When there is something to do for it that nobody tells of; 0 is never."""
        yield self._retry.get(system.id, 0.0)
        if system.ending is None:
            yield system.deadline
            if not system.paused:
                yield system.due

    def _advance(self, system: SystemRun) -> Iterator[SystemProcess]:
        """Do everything that can be done now; gives the programs that are to be started."""
        now = self._clock.now()
        if system.deadline and now >= system.deadline and system.ending is None:
            self._stop(system, SystemState.FAILED, "its deadline has come")
        between = system.settled == system.passes
        if between and system.ending is None and not system.paused:
            self._begin_pass(system, now)
        if system.ending is None and not system.paused:
            self._value_pipes(system)
            ready = [each for each in system.plan.processes if self._may_begin(system, each)]
            for process in ready[:AT_ONCE]:
                if process.program is not None:
                    yield process
                elif system.ending is None:
                    self._begin_run(system, process)
            if len(ready) > AT_ONCE:
                self._look_at(system)
        self._end_pass(system, now)

    def _may_begin(self, system: SystemRun, process: SystemProcess) -> bool:
        part = system.parts.get(process.name)
        return (
            part is not None
            and part.state is PartState.PENDING
            and all(system.parts[name].state is PartState.COMPLETED for name in process.after)
            and not self._failure(system)
            and (system.id, process.name) not in self._starting
        )

    def _value_pipes(self, system: SystemRun) -> None:
        """What a pipe gives can be read, and changed, from the end of its source on."""
        for pipe in system.plan.pipes:
            target = system.parts.get(pipe.target)
            if pipe.name in system.values or target is None:
                continue
            if target.state is PartState.PENDING and self._starter.is_known(system, pipe):
                try:
                    value = self._starter.value(system, pipe.mapping)
                except EVALUATION:
                    continue  # the process that it leads to fails with it
                if len(json.dumps(value)) <= MOST_VALUE:
                    with self._store.transaction():
                        values = {**system.values, pipe.name: value}
                        self.table.change(system, values=values)
                        self._events.emit(
                            SystemPipeChanged(system.maker.owner, system.id, pipe.name)
                        )

    def _begin_run(self, system: SystemRun, process: SystemProcess) -> None:
        lead = self._processes.find(system.id)
        if lead is None:
            self._stop(system, SystemState.CANCELLED, "its process is gone")
            return
        try:
            with self._store.transaction():
                self._store.act_for(self._makers.principal(system.maker))
                number = self._starter.start_run(system, lead, process)
                self._set_part(system, process.name, SystemPart(PartState.RUNNING, number))
        except EVALUATION as bad:
            self._fail_part(system, process.name, str(bad))
        except KernelError as refused:
            if self._store.is_full or refused.errno == errno.EAGAIN:
                raise
            self._fail_part(system, process.name, str(refused))

    async def _start_program(self, system: SystemRun, process: SystemProcess) -> None:
        """Start a program; it is one of the system's before anybody hears of its end."""
        mark, lead = (system.id, process.name), self._processes.find(system.id)
        if mark in self._starting or lead is None:
            return
        self._starting.add(mark)
        try:
            number = await self._starter.start_program(system, lead, process)
            if system.parts[process.name].state is PartState.PENDING:
                with self._store.transaction():
                    part = SystemPart(PartState.RUNNING, number)
                    self._set_part(system, process.name, part)
        except EVALUATION as bad:
            self._fail_part(system, process.name, str(bad))
        except KernelError as refused:
            self._fail_part(system, process.name, str(refused))
        finally:
            self._starting.discard(mark)
            self._look_at(system)

    def _set_part(self, system: SystemRun, name: str, part: SystemPart) -> None:
        self.table.change_part(system, name, part)
        self._settle(system)
        self._tell(system, name)

    def _fail_part(self, system: SystemRun, name: str, error: str) -> None:
        """A process could not begin."""
        with self._store.transaction():
            self._set_part(system, name, SystemPart(PartState.FAILED, 0, error[:4096]))

    def _settle(self, system: SystemRun) -> None:
        """Its state is what its parts say."""
        if system.paused:
            state = SystemState.SUSPENDED
        else:
            state = SystemState.RUNNING if system.at_work else SystemState.WAITING
        if not system.state.final and state is not system.state:
            self.table.change(system, state=state)
            self._tell(system)

    def _tell(self, system: SystemRun, process: str = "") -> None:
        part = system.parts.get(process)
        self._events.emit(
            SystemChanged(
                system.maker.owner,
                system.id,
                system.name,
                system.state.value,
                process,
                part.number if part is not None else 0,
            )
        )

    # -- passes ----------------------------------------------------------------------------------

    def _begin_pass(self, system: SystemRun, now: float) -> None:
        """Another one begins, if its time, or a record, has come."""
        if system.plan.init.type == "event":
            self._take_record(system)
        elif system.due and system.due <= now:
            with self._store.transaction():
                self._start_pass(system, system.base)

    def _start_pass(self, system: SystemRun, given: Any, **more: Any) -> None:
        pending = {process.name: SystemPart() for process in system.plan.processes}
        self.table.change(
            system,
            passes=system.passes + 1,
            parts=pending,
            values={} if system.passes else system.values,
            results={},
            input=given,
            error="",
            due=0.0,
            **more,
        )
        self._settle(system)
        self._tell(system)

    def _take_record(self, system: SystemRun) -> None:
        """The next record of its topic begins a pass, in the commit that goes beyond it."""
        init, maker = system.plan.init, system.maker
        topic = self._topics.find(init.topic)
        if topic is None:
            return
        if not topic.ownership.permits(self._makers.principal(maker), Access.READ):
            if not system.error:
                with self._store.transaction():
                    self.table.change(system, error=f"{maker.owner} may not read {topic} any more")
                    self._tell(system)
            return
        cursor, lost = system.cursor, system.lost
        if cursor > topic.last:
            cursor = 0  # it is another topic of that name
        if cursor + 1 < topic.first:
            cursor, lost = topic.first - 1, lost + topic.first - 1 - cursor
        with self._store.transaction():
            for _ in range(MOST_SKIPPED):
                if cursor >= topic.last:
                    break
                cursor += 1
                given = self._given(system, topic, self._topics.read(topic, cursor))
                if given is not None:
                    self._start_pass(system, given, cursor=cursor, lost=lost)
                    return
            if (cursor, lost) != (system.cursor, system.lost):
                self.table.change(system, cursor=cursor, lost=lost)
        if cursor < topic.last:
            self._look_at(system)

    @staticmethod
    def _given(system: SystemRun, topic: Topic, record: Publication) -> Any:
        """The input of the pass for a record; None if the filter leaves it out."""
        text = record.data.decode(errors="replace")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = text
        event = {
            "topic": topic.name,
            "seq": record.seq,
            "time": rfc3339(record.time),
            "from": record.sender,
        }
        base = system.base if isinstance(system.base, dict) else {}
        given = {**base, **(data if isinstance(data, dict) else {}), "data": data, "event": event}
        if system.plan.init.filter:
            try:
                if not Expression(system.plan.init.filter).holds({**given, "input": given}):
                    return None
            except EVALUATION:
                return None  # it names what the record does not have
        return given

    def _end_pass(self, system: SystemRun, now: float) -> None:
        """What becomes of the system, now that a process has failed, or all have ended."""
        if (system.id in {number for number, _ in self._starting}) or self._stop_rest(system):
            return
        if system.running():
            return
        if system.ending is not None:
            self._finish(system, system.ending)
        elif system.settled < system.passes and (self._failure(system) or not system.at_work):
            with self._store.transaction():
                self._settle_pass(system, now, system.error or self._failure(system))
            self._look_at(system)

    @staticmethod
    def _failure(system: SystemRun) -> str:
        """Which process has failed, and why; "" if none has."""
        for name, part in system.parts.items():
            if part.state in (PartState.FAILED, PartState.CANCELLED):
                return f"{name}: {part.error or part.state.value}"
        return ""

    def _stop_rest(self, system: SystemRun) -> bool:
        """A process that fails ends the others; whether that was begun now."""
        failure = self._failure(system)
        if not failure or system.error or system.ending is not None or not system.running():
            return False
        with self._store.transaction():
            self.table.change(system, error=failure)
            self._starter.cancel(system, f"system {system.id}: {failure}")
        self._look_at(system)
        return True

    def _settle_pass(self, system: SystemRun, now: float, error: str) -> None:
        """A pass has ended: that was all, or another one follows."""
        parts = {
            name: part if part.state.final else SystemPart(PartState.SKIPPED)
            for name, part in system.parts.items()
        }
        failed = system.failed + bool(error)
        self.table.change(system, parts=parts, settled=system.passes, failed=failed, error=error)
        init = system.plan.init
        ending = SystemState.FAILED if error else SystemState.COMPLETED
        match init.type:
            case "event":
                self._settle(system)
            case "continuous":
                since = now - init.window
                failures = (
                    *(at for at in system.failures if at > since),
                    *([now] if error else []),
                )
                if init.restart == "never" or (init.restart == "on-failure" and not error):
                    self._finish(system, ending)
                elif len(failures) > init.max_restarts:
                    words = f"given up after {len(failures)} failures in {init.window:g} s: {error}"
                    self._finish(system, SystemState.FAILED, words)
                else:
                    wait = init.backoff * 2 ** min(len(failures) - 1, 60) if error else init.backoff
                    due = now + min(wait, init.max_backoff)
                    self.table.change(system, failures=failures, due=due)
                    self._settle(system)
            case _:
                self._finish(system, ending)

    # -- what is told ----------------------------------------------------------------------------

    def run_ended(self, run: EndedWork) -> None:
        """The run of a process has ended, inside the transaction of that."""
        found = self.table.of_part(run.id)
        if found is None:
            return
        system, name = found
        outcome = run.state.value
        state = PartState.FAILED
        if outcome in ("completed", "cancelled"):
            state = PartState(outcome)
        error = (
            "" if outcome == "completed" else run.error or run.reason or outcome.replace("_", " ")
        )
        self._part_ended(system, name, SystemPart(state, run.id, error[:4096]))

    def process_ended(self, process: Process) -> None:
        """The program of a process has ended; or somebody has killed a lead."""
        lead = self.table.find(process.pid)
        if process.kind is ProcessKind.RUN:
            if lead is not None and not lead.state.final:
                limit = process.reason.startswith("limit")
                ending = SystemState.FAILED if limit else SystemState.CANCELLED
                why = process.reason or "its process was killed"
                if lead.ending is None:
                    self.table.change(lead, ending=ending, error=why[:4096])
                self._store.on_commit(partial(self._stop, lead, ending, why))
            return
        found = self.table.of_part(process.pid)
        starting = self.table.find(process.ppid)
        if found is None and starting is not None:
            if (starting.id, process.name) not in self._starting:
                return
            found = starting, process.name  # it was quicker than its start
        if found is not None:
            # Its code is there once this is committed; a daemon that dies before it is noted leaves
            # an entry of the table that says the same.
            self._store.on_commit(partial(self._program_ended, *found, process))

    def _program_ended(self, system: SystemRun, name: str, process: Process) -> None:
        code, said, number = process.exit_code, process.output, process.pid
        if code is None or system.state.final or system.parts[name].state.final:
            return  # it could not be started, and who has tried that is told
        with self._store.transaction():
            result = {"output": said, "code": code}
            self.table.change(system, results={**system.results, name: result})
            if code == 0:
                part = SystemPart(PartState.COMPLETED, number)
            else:
                part = SystemPart(PartState.FAILED, number, f"code {code}: {said}"[:4096])
            self._part_ended(system, name, part)

    def _part_ended(self, system: SystemRun, name: str, part: SystemPart) -> None:
        self._set_part(system, name, part)
        self._store.on_commit(lambda: self._look_at(system))

    def run_signalled(self, process: Process, name: str, grace: float | None) -> None:
        """Somebody has sent a signal to a lead: TERM, STOP or CONT."""
        system = self.table.find(process.pid)
        if system is None or system.state.final:
            return
        if name == "TERM":
            limit = process.reason.startswith("limit")
            ending = SystemState.FAILED if limit else SystemState.CANCELLED
            self._stop(system, ending, process.reason or "TERM")
        elif name in ("STOP", "CONT"):
            self.pause(system, name == "STOP")

    def agent_removed(self, name: str) -> None:
        """Its systems are init's, and may no more than before."""
        for system in self.table.open():
            if system.maker.owner == name:
                self.table.change(system, maker=self._makers.heir(system.maker))
                self._tell(system)

    def tidy(self) -> None:
        """Drop those that ended long ago."""
        before = self._clock.now() - self._settings.of(TriggerSettings).retention
        with self._store.transaction():
            for system in list(self.table):
                if system.state.final and system.ended < before:
                    self.table.drop(system)
                    self._events.emit(SystemRemoved(system.maker.owner, system.id))
