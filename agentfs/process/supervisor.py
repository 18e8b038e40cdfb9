"""The supervisor: starts programs, watches them, and sees to everything that follows.

program ends -> claims back, leftovers killed -> started again by its policy, after a back-off
                                              -> or ended for good: children adopted, parent told

A program is started again once the tree is up and its process's parent is ready.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.logs import tail
from agentfs.machine.programs import Program, Programs
from agentfs.model.principal import INIT
from agentfs.model.process import Process, ProcessKind, State
from agentfs.process.agents import Agents
from agentfs.process.backoff import Restarts
from agentfs.process.events import (
    AgentChanged,
    AgentFailed,
    HeartbeatMissed,
    ProcessChanged,
    ProcessExited,
    ProcessReaped,
    ProcessRestarted,
)
from agentfs.process.failure import ended_how
from agentfs.process.heartbeats import Heartbeats
from agentfs.process.readiness import Readiness
from agentfs.process.recovery import STARTED_AGAIN, Recovery
from agentfs.process.settings import ProcessSettings
from agentfs.process.signals import Signals
from agentfs.process.step_files import files_of
from agentfs.process.table import ProcessTable
from agentfs.store.event import Event
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.later import when_there_is_room
from agentfs.store.part import Part

__all__ = ["UNKNOWN", "Supervisor"]

log = logging.getLogger(__name__)

UNKNOWN = -1
"""The exit code of a program whose end nobody saw: no program can return it."""

# How long programs may take to die of SIGKILL: one that waits for a dead disk takes for ever.
KILL_SECONDS = 5.0


def _ignored(signum: int, frame: FrameType | None) -> None:
    """SIGCHLD does nothing while nobody follows children, as by default."""


class Supervisor:
    """Owns the tasks that watch programs, and decides what follows from their ends.

    `closing`: the daemon ends. Other things of a living process are in parts of their own:
    `signals`, `restarts` (when, and how often), `heartbeats` and `readiness`.
    """

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        agents: Agents,
        programs: Programs,
        works: tuple[type[Event], ...],
    ) -> None:
        """Events of the kinds `works` say of their process, `pid`, that it is at work."""
        self._state_dir = ground.state_dir
        self._parts = ground.parts
        self._store = ground.store
        self._events = ground.events
        self._timers = ground.timers
        self._clock = ground.clock
        self._settings = ground.settings
        self._table = table
        self._agents = agents
        self._programs = programs
        self.restarts = Restarts(ground)
        self.heartbeats = Heartbeats(ground, self._hung)
        self.signals = Signals(
            ground, table, programs, self.restarts, self.finish, self.start_again
        )
        self.readiness = Readiness(ground, table, works)
        self.closing = False
        self._recovery = Recovery(ground, table, agents, programs, self)
        self._booted = self._booting = False
        self._nursery: trio.Nursery | None = None
        self._tree_is_up = trio.Event()
        self._tree_is_up.set()
        self._unwatched: list[Program] = []
        self._program_ended = trio.Event()
        self._told_to_end: set[Program] = set()  # as the daemon ends
        self._ending: set[int] = set()  # processes
        self._hanging: dict[Program, str] = {}  # those that are being killed, and why
        self._renewed: dict[int, str] = {}  # why each is to be started again
        self._ended_at: dict[int, float] = {}  # monotonic, of those that wait to be reaped
        ground.events.listen(self._follow_settings, ConfigChanged)

    def sizes(self) -> dict[str, int]:
        """How many entries each of our tables has, for tests and /sys/stats/system."""
        return {
            **self._table.sizes(),
            **self.signals.sizes(),
            **self.restarts.sizes(),
            **self.readiness.sizes(),
            "heartbeats": len(self.heartbeats),
            "watched": len(self._programs),
            "ended": len(self._ended_at),
            "renewed": len(self._renewed),
        }

    # -- life ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Take up what an earlier daemon left. `run` does so unless it was done before."""
        if self._booted:
            return
        self._booted = self._booting = True
        try:
            self._recovery.take_up()
        finally:
            self._booting = False
        self._recovery.end_unknown_programs()
        if self._tree_is_up.is_set():
            self._programs.release_adopted()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch programs until cancelled; they go on running."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self.boot()
                if not self._programs.groups.available:
                    await nursery.start(self._programs.kin.follow, self._programs.remember)
                while self._unwatched:
                    nursery.start_soon(self._watch, self._unwatched.pop())
                if threading.current_thread() is threading.main_thread():
                    nursery.start_soon(self._follow_children)
                nursery.start_soon(self._programs.listeners.find_lost)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def hold_programs(self) -> None:
        """Start nothing again until `tree_is_up`: programs need the tree."""
        self._tree_is_up = trio.Event()

    def tree_is_up(self) -> None:
        """Programs that were put down with the last daemon may start now, in the tree."""
        self._programs.enter_tree()
        self._tree_is_up.set()
        self._programs.release_adopted()

    async def wait_for_tree(self) -> None:
        """Wait until programs may be started: their tree is there."""
        await self._tree_is_up.wait()

    async def shutdown(self, grace: float | None = None) -> None:
        """End every program we started, children before their parents: TERM, then KILL `grace`
        seconds later. Attached programs go on. Each level of the tree has its share of the grace
        period. The next boot starts again what its policy wants running."""
        self.closing = True
        if grace is None:
            grace = self._settings.of(ProcessSettings).grace_period
        deadline = trio.current_time() + grace
        with trio.move_on_at(deadline):
            while self._programs.launching:
                await self._programs.wait_launched()
        levels = self._levels()
        for number, level in enumerate(levels):
            for program in level:
                self._told_to_end.add(program)
                self._programs.terminate(program)
            left = max(0.0, deadline - trio.current_time())
            await self._all_ended(level, left / (len(levels) - number))
        rest = [program for level in levels for program in level]
        for program in rest:
            self._programs.kill(program)
        self._programs.end_all_beside()
        await self._all_ended(rest, KILL_SECONDS)
        self._programs.close()

    def _levels(self) -> list[list[Program]]:
        """Our programs by their processes' depth in the tree, the deepest first."""
        levels: dict[int, list[Program]] = {}
        for program in self._programs:
            if not program.attached:
                depth = sum(1 for _ in self._table.ancestors(program.pid))
                levels.setdefault(depth, []).append(program)
        return [levels[depth] for depth in sorted(levels, reverse=True)]

    async def _all_ended(self, some: list[Program], seconds: float) -> None:
        with trio.move_on_after(seconds):
            while any(self._programs.find(program.ospid) is program for program in some):
                await self.wait_program_ended()

    async def _follow_children(self) -> None:
        """Reap orphans; see programs stop and go on, whatever made them."""
        # trio puts this back when it lets go. If it put back the default just as another thread
        # takes a signal, CPython would complain of one "ignored due to race condition".
        signal.signal(signal.SIGCHLD, _ignored)
        with trio.open_signal_receiver(signal.SIGCHLD) as received:
            async for _ in received:
                try:
                    self._programs.reap_orphans()
                    self._follow_stops()
                except Exception:
                    log.exception("what children of ours did was not taken note of")

    def _follow_stops(self) -> None:
        for program, stopped in self._programs.stops():
            self._saw(program, stopped=stopped)

    def _saw(self, program: Program, *, stopped: bool) -> None:
        process = self._process_of(program)
        if process is None or program.held or self._programs.stopped(program) is not stopped:
            return
        if stopped and process.state in (State.IDLE, State.RUNNING):
            self._table.set_state(process, State.SLEEPING)
        elif not stopped and process.state is State.SLEEPING:
            self._table.set_state(process, State.RUNNING)

    def _follow_settings(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            init = self._table.find(INIT)
            most = self._settings.of(ProcessSettings).max_children_of_init
            if init is not None and init.limits.max_children != most:
                self._table.update(init, limits=replace(init.limits, max_children=most))
                self._events.emit(ProcessChanged(init.pid, init.name))

    # -- starting --------------------------------------------------------------------------------

    async def launch(self, process: Process, started: Callable[[], object]) -> None:
        """Start the program of `process`; `started` is called in the transaction that records it.

        Raises KernelError with the errno of what failed; then nothing runs.
        """
        self._agents.prepare(process.name)
        places = self._agents.log_path(process.name), self._agents.memory_dir(process.name)
        self.readiness.starting(process)
        await self.follow(process, lambda: self._programs.start(process, *places), started)

    async def follow(
        self,
        process: Process,
        start: Callable[[], Awaitable[Program]],
        started: Callable[[], object],
    ) -> None:
        """The same; `start` starts the program."""
        self.signals.begin_start(process)
        try:
            program = await start()
        except BaseException:
            if self.signals.end_start(process):
                self._table.update(process, stopping=True)
            raise
        fatal = self.signals.end_start(process)
        self.watch(program)
        try:
            with self._store.transaction():
                if process.state.alive:
                    self._table.update(
                        process,
                        ospid=program.ospid,
                        os_start=program.os_start,
                        confined=program.confined,
                    )
                started()
        except BaseException:
            self._programs.kill(program)
            raise
        if not process.state.alive:
            self._programs.kill(program)
            return
        self.heartbeats.begin(process)
        if fatal:
            self.signals.send(process, fatal)
        self._follow_stops()  # it may have stopped itself already

    def watch(self, program: Program) -> None:
        """See to the end of a program."""
        if self._nursery is None:
            self._unwatched.append(program)
        else:
            self._nursery.start_soon(self._watch, program)

    async def _watch(self, program: Program) -> None:
        try:
            code = await self._programs.wait(program)
            self.signals.program_ended(program)

            def note() -> None:
                process = self._process_of(program)
                if process is not None:
                    self.ended(process, code, program)

            when_there_is_room(self._timers, note, f"the program of process {program.pid} ended")
        except Exception:
            log.exception("the end of a program of process %d: the maid has to", program.pid)
        finally:
            self._told_to_end.discard(program)
            self._hanging.pop(program, None)
            self._program_ended.set()
            self._program_ended = trio.Event()

    async def wait_program_ended(self) -> None:
        """Wait until some program has ended and all that follows from it is done."""
        await self._program_ended.wait()

    def _process_of(self, program: Program) -> Process | None:
        """The living process whose program this is, now."""
        process = self._table.find(program.pid)
        if process is None or not process.state.alive or process.ospid != program.ospid:
            return None
        return process

    # -- starting again ----------------------------------------------------------------------------

    def start_again(self, process: Process, reason: str = "continued") -> None:
        """Start the program of a process that has none for now."""
        self.readiness.lost_program(process)
        if self._nursery is None:
            self._schedule(process, 0.0, reason)
        else:
            self._nursery.start_soon(self._start_again, process, reason)

    async def _start_again(self, process: Process, reason: str) -> None:
        await self._tree_is_up.wait()
        if not await self.readiness.parent_is_ready(process):
            return
        held = self._table.find(process.pid) is process and process.state is State.BLOCKED
        starting = self.signals.is_starting(process.pid)
        if self.closing or not held or starting or process.ospid is not None:
            return

        def started() -> None:
            if process.state.alive:
                restarts = process.restarts + 1
                self._table.set_state(process, State.RUNNING, restarts=restarts)
                event = ProcessRestarted(process.pid, process.name, restarts, reason)
                self._events.emit(event)

        try:
            with self._store.transaction():
                self._parts.tell(Part.program_restarts, process, reason)
            await self.launch(process, started)
        except KernelError as failure:
            log.warning("process %d, %s: %s", process.pid, process.name, failure)
            if self._table.find(process.pid) is process and process.state.alive:
                self._ended_before_it_began(process, failure)
        except Exception:
            log.exception("process %d, %s, was not started again", process.pid, process.name)

    def _ended_before_it_began(self, process: Process, failure: KernelError) -> None:
        try:
            self.ended(process, 127, why=failure.reason)  # as a shell says "cannot execute"
        except Exception:
            log.exception("process %d, %s: the maid has to", process.pid, process.name)

    def renew(self, process: Process, reason: str = "asked to") -> None:
        """Have its program end and started again at once, with the same pid."""
        program = self._programs.find(process.ospid)
        if program is None:
            self.restarts.cancel(process.pid)
            if process.state is not State.BLOCKED:
                self._table.set_state(process, State.BLOCKED)
            self._store.on_commit(lambda: self.start_again(process, reason))
            return
        self._renewed[process.pid] = reason
        if process.state is not State.BLOCKED:
            self._table.set_state(process, State.BLOCKED)
        self.signals.end_program(program)

    # -- the end of a program ----------------------------------------------------------------------

    def ended(
        self, process: Process, code: int | None, program: Program | None = None, why: str = ""
    ) -> None:
        """Decide what follows from the end of its program, which came by itself; `code` is None
        where it is not known."""
        known = UNKNOWN if code is None else code
        told = self.closing and program in self._told_to_end  # it did not end on its own
        if process.light:
            if code is None:
                code = files_of(self._state_dir, process).exit_code()
            known, lost = UNKNOWN if code is None else code, told or code is None
            self.finish(process, known, State.ZOMBIE, why, program, lost=lost)
            return
        again = self.restarts.wanted(process, 1 if told or self._booting else code)
        hung = self._hung_words(program)
        with self._store.transaction():
            if self.signals.is_told_to_end(process):
                if process.reason:
                    self._failed(process, process.reason)
                killed = self.signals.settle(process) == "KILL"
                end = State.DEAD if killed else State.ZOMBIE
                self.finish(process, known, end, why, program)
            elif process.pid in self._renewed:
                reason = self._renewed[process.pid]
                self._hold(process, code)
                self._schedule(process, 0.0, reason)
            elif not again:
                if code != 0:
                    self._failed(process, why or hung or ended_how(code))
                self.finish(process, known, State.ZOMBIE, why, program)
            elif self.closing:
                self._hold(process, code)
            else:
                self._again(process, code, why, program)

    def _hung_words(self, program: Program | None) -> str:
        """Why a program is being killed that has missed its heartbeats; empty for others."""
        return "" if program is None else self._hanging.get(program, "")

    def _failed(self, process: Process, cause: str) -> None:
        """Tell everybody. Programs end with their daemon: that is no failure of theirs."""
        if not (self.closing or self._booting):
            self._events.emit(AgentFailed(process.pid, process.name, cause))

    def _again(self, process: Process, code: int | None, why: str, program: Program | None) -> None:
        """It failed, or is to run always: try again a little later, or give up."""
        known = UNKNOWN if code is None else code
        numbers = self._settings.of(ProcessSettings)
        delay = self.restarts.next_delay(process)
        if delay is not None:
            self._hold(process, code)
            ending = "with an unknown code" if code is None else f"with code {code}"
            hung = self._hung_words(program)
            reason = why or hung or f"it ended {ending}"
            if self._booting:
                reason = f"{STARTED_AGAIN}, and its program had ended meanwhile"
                reason += "" if code is None else f" {ending}"
            if code != 0:
                self._failed(process, why or hung or ended_how(code))
            attempt = self.restarts.attempts(process.pid)
            self._schedule(
                process, delay, f"{reason}; attempt {attempt} of {numbers.restart_attempts}"
            )
            return
        text = (
            f"gave up after {numbers.restart_attempts} restarts within"
            f" {numbers.restart_window:g} s, the last exit code was {known}"
        )
        log.error("process %d, %s: %s", process.pid, process.name, text)
        parent = self._table.find(process.ppid)
        self._failed(process, text)
        self.finish(process, known, State.DEAD, why, program)
        if parent is not None:
            self.signals.notice(parent, f"ESCALATE {process.pid} {process.name} {text}")
            self._parts.tell(Part.process_given_up, process, parent, text)

    def _hold(self, process: Process, code: int | None) -> None:
        """It has no program until it is started again."""
        self.tell_end(process, UNKNOWN if code is None else code)
        self._renewed.pop(process.pid, None)
        self.heartbeats.stop(process.pid)
        self.readiness.lost_program(process)
        if process.state is State.BLOCKED:
            self._table.update(process, ospid=None, os_start=0)
            self._events.emit(ProcessChanged(process.pid, process.name))
        else:
            self._table.set_state(process, State.BLOCKED, ospid=None, os_start=0)

    def _schedule(self, process: Process, delay: float, reason: str) -> None:
        self.restarts.schedule(process, delay, lambda: self.start_again(process, reason))

    # -- the end of a process ----------------------------------------------------------------------

    def finish(
        self,
        process: Process,
        code: int,
        state: State,
        output: str = "",
        program: Program | None = None,
        *,
        lost: bool = False,
    ) -> None:
        """End a process for good: everything that it had goes back, here and nowhere else. Nobody
        waits for a run or a step: it is gone at once. `lost` says of a step that it did not end by
        itself, or that nobody knows."""
        program = program or self._programs.find(process.ospid)
        output = output or self.output(process, program)
        reason = process.reason if process.stopping else ""
        reason = reason or self._hung_words(program)
        if reason:
            output = f"{output}{reason}\n"
        with self._store.transaction(), self._is_ending(process):
            self.tell_end(process, code)
            if process.kind is ProcessKind.STEP:
                known = None if code == UNKNOWN else code
                self._parts.tell(Part.step_ended, process, known, lost=lost)
            for child in self._table.children(process.pid):
                self.adopt(child)
            self._parts.tell(Part.process_ended, process)
            self._table.set_state(
                process,
                state,
                exit_code=code,
                output=output,
                ended=self._clock.now(),
                ospid=None,
                os_start=0,
            )
            self._events.emit(ProcessExited(process.pid, process.name, code))
            self._store.on_commit(lambda: self._forget(process))
            if process.light:
                self.reap(process)
                return
            self._agents.ended(process.name, code, output)
            self._events.emit(AgentChanged(process.name))
            parent = self._table.find(process.ppid)
            if parent is not None:
                self.signals.notice(parent, f"CHLD {process.pid} {code}")

    @contextmanager
    def _is_ending(self, process: Process) -> Iterator[None]:
        self._ending.add(process.pid)
        try:
            yield
        finally:
            self._ending.discard(process.pid)

    def is_ending(self, process: Process) -> bool:
        """Whether its end is being made this moment: a part that is told of it asks."""
        return process.pid in self._ending

    def tell_end(self, process: Process, code: int) -> None:
        """Tell the parts that its program has ended with `code`. If that happened while there was
        no daemon, 0 says nothing: a loop that reads from the tree ends so when there is no tree."""
        known = UNKNOWN if self._booting and code == 0 else code
        self._parts.tell(Part.program_ended, process, known)

    def output(self, process: Process, program: Program | None = None) -> str:
        """The last that the present program of `process` has written; "" if it is to run none.
        `program` is that one, where the record does not say so any more. A step's output is
        kept with the step."""
        if not process.exec or process.light:
            return ""
        program = program or self._programs.find(process.ospid)
        return tail(self._agents.log_path(process.name), 0 if program is None else program.offset)

    def note_ended(self, process: Process) -> None:
        """It has ended, and waits to be reaped from now on."""
        self._ended_at[process.pid] = self._clock.monotonic()

    def _forget(self, process: Process) -> None:
        self.signals.forget(process)
        self.restarts.forget(process.pid)
        self.heartbeats.stop(process.pid)
        self._renewed.pop(process.pid, None)
        self.note_ended(process)

    def adopt(self, child: Process) -> None:
        """Give a child whose parent ends to the nearest living ancestor. A run keeps the limits
        that it had from the one that started it."""
        ended = child.ppid
        starter = self._table.find(ended)
        if child.kind is ProcessKind.RUN and starter is not None:
            self._table.update(child, limits=child.limits.within(starter.limits))
        above = (up.pid for up in self._table.ancestors(ended) if up.state.alive)
        self._table.move(child, next(above, INIT))

    def reap(self, process: Process) -> None:
        """Drop an ended process: somebody waited for it, or nobody did for too long."""
        with self._store.transaction():
            self._table.remove(process.pid)
            if process.kind is not ProcessKind.RUN:
                self._table.children_changed(process.ppid, process.pid, added=False)
            self._events.emit(ProcessReaped(process.pid, process.name, process.ppid))
            agent = self._agents.find(process.name)
            if agent is not None and agent.pid == process.pid:
                self._agents.set_pid(process.name, None)
                self._events.emit(AgentChanged(process.name))
            self._store.on_commit(lambda: self._ended_at.pop(process.pid, None))

    def withdraw(self, process: Process) -> None:
        """Take a process back that could not be started, without a trace."""
        with self._store.transaction():
            self._parts.tell(Part.program_ended, process, 127)
            for child in self._table.children(process.pid):
                self.adopt(child)
            self._parts.tell(Part.process_ended, process)
            self._table.remove(process.pid)
            agent = self._agents.find(process.name)
            if agent is not None and agent.pid == process.pid:
                self._agents.set_pid(process.name, None)
        self._ended_at.pop(process.pid, None)
        self.readiness.withdrawn(process.pid)

    def _hung(self, process: Process, seconds: float) -> None:
        """It missed its heartbeats: kill its program, which counts as a failure, and tell its
        parent."""
        text = f"it missed its heartbeats: none for {seconds:.3g} s"
        with self._store.transaction():
            self._events.emit(HeartbeatMissed(process.pid, process.name, round(seconds, 3)))
            parent = self._table.find(process.ppid)
            if parent is not None:
                self.signals.notice(parent, f"HUNG {process.pid} {process.name} {text}")
        program = self._programs.find(process.ospid)
        if program is not None:
            self._hanging[program] = text
            self._programs.kill(program)
        elif process.state.alive and not process.exec:
            self._failed(process, text)
            self.finish(process, 128 + signal.SIGKILL, State.DEAD, text)

    # -- what was not seen to in time --------------------------------------------------------------

    def reap_overdue(self) -> int:
        """Drop the ended processes that nobody waited for; how many."""
        patience = self._settings.of(ProcessSettings).zombie_timeout
        now = self._clock.monotonic()
        overdue = [pid for pid, at in self._ended_at.items() if now - at >= patience]
        for pid in overdue:
            process = self._table.find(pid)
            if process is None:
                self._ended_at.pop(pid, None)
            else:
                self.reap(process)
        return len(overdue)

    def take_up_lost(self) -> int:
        """See to programs whose end was missed, and to those that nobody starts again; how many."""
        lost = self._lost()
        for process in lost:
            self.ended(process, None)
        stranded = self._stranded()
        for process in stranded:
            self.start_again(process, "found without a program")
        return len(lost) + len(stranded)

    def _lost(self) -> list[Process]:
        """The living processes whose program is gone without our having seen it end."""
        return [
            process
            for process in self._table
            if process.ospid is not None
            and process.pid != INIT
            and self._programs.find(process.ospid) is None
            and not self.signals.is_starting(process.pid)
        ]

    def _stranded(self) -> list[Process]:
        """Those that have no program and nothing under way that starts one."""
        if self.closing or not self._tree_is_up.is_set():
            return []
        return [
            process
            for process in self._table
            if process.exec
            and process.ospid is None
            and process.state is State.BLOCKED
            and not process.light
            and not self.signals.is_starting(process.pid)
            and process.pid not in self.signals.owed
            and not self.restarts.pending(process.pid)
            and not self.readiness.holds(process.pid)
        ]
