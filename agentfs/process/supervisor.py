"""The supervisor: what the end of a program means, and everything that follows from it.

program ends -> claims back, leftovers killed -> started again by its policy, after a back-off
                                              -> or ended for good: children adopted, parent told
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace

import trio

from agentfs.clock import Clock, Timers
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import (
    ConfigChanged,
    EventLog,
    ProcessChanged,
    ProcessRestarted,
    Record,
)
from agentfs.process.agents import Agents
from agentfs.process.ends import UNKNOWN, Ends
from agentfs.process.maid import Maid
from agentfs.process.model import Process, State
from agentfs.process.programs import Program, Programs
from agentfs.process.recovery import Recovery, shut_down
from agentfs.process.table import ProcessTable
from agentfs.security.principal import INIT
from agentfs.storage.store import Store

__all__ = ["UNKNOWN", "Supervisor"]

log = logging.getLogger(__name__)


class Supervisor(Ends):
    """Owns the tasks that watch programs. What an end for good takes down is in `Ends`.

    `on_maid` calls are made with every round of the maid. Programs are started again
    only while `tree_is_up` is set.
    """

    def __init__(
        self,
        table: ProcessTable,
        agents: Agents,
        programs: Programs,
        store: Store,
        events: EventLog,
        timers: Timers,
        clock: Clock,
        settings: Settings,
    ) -> None:
        super().__init__(table, agents, programs, store, events, timers, clock, settings)
        self.maid = Maid(self)
        self.recovery = Recovery(self)
        self.on_maid: list[Callable[[], object]] = []
        self.closing = False
        self.told_to_end: set[Program] = set()
        self._unwatched: list[Program] = []
        self._nursery: trio.Nursery | None = None
        self.tree_is_up = trio.Event()
        self.tree_is_up.set()
        self._program_ended = trio.Event()
        events.listen(self._follow_settings)

    def sizes(self) -> dict[str, int]:
        """How many entries each of our tables has, for tests and /sys/stats."""
        return {
            **self.table.sizes(),
            **self.signals.sizes(),
            **self.restarts.sizes(),
            "heartbeats": len(self.heartbeats),
            "watched": len(self.programs),
            "ended": len(self.ended_at),
            "renewed": len(self._renewed),
        }

    # -- life ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Take up what an earlier daemon left; again is nothing. `run` does it if nobody has."""
        self.recovery.boot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch programs until cancelled; they go on running."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self.boot()
                while self._unwatched:
                    nursery.start_soon(self._watch, self._unwatched.pop())
                nursery.start_soon(self.maid.run)
                if threading.current_thread() is threading.main_thread():
                    nursery.start_soon(self._follow_children)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def shutdown(self, grace: float | None = None) -> None:
        """End every program we started, children before their parents: TERM, then KILL `grace`
        seconds later. The next boot starts again what its policy wants running."""
        await shut_down(self, grace)

    async def _follow_children(self) -> None:
        """Reap orphans; see programs stop and go on, whoever made them."""
        with trio.open_signal_receiver(signal.SIGCHLD) as received:
            async for _ in received:
                try:
                    self.programs.reap_orphans()
                    for program, stopped in self.programs.stops():
                        self._saw(program, stopped=stopped)
                except Exception:
                    log.exception("what children of ours did was not taken note of")

    def _saw(self, program: Program, *, stopped: bool) -> None:
        process = self._process_of(program)
        if process is None or self.programs.stopped(program) is not stopped:
            return
        if stopped and process.state in (State.IDLE, State.RUNNING):
            self.table.set_state(process, State.SLEEPING)
        elif not stopped and process.state is State.SLEEPING:
            self.table.set_state(process, State.RUNNING)

    def _follow_settings(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            init = self.table.find(INIT)
            most = self.settings.now.processes.max_children_of_init
            if init is not None and init.limits.max_children != most:
                self.table.update(init, limits=replace(init.limits, max_children=most))
                self.events.emit(ProcessChanged(init.pid, init.name))

    # -- starting --------------------------------------------------------------------------------

    async def launch(self, process: Process, started: Callable[[], object]) -> None:
        """Start the program of `process`; `started` is called in the transaction that records it.

        Raises KernelError with the errno of what failed; then nothing runs.
        """
        self.agents.prepare(process.name)
        self.signals.starting[process.pid] = ""
        try:
            program = await self.programs.start(
                process, self.agents.log_path(process.name), self.agents.memory_dir(process.name)
            )
        except BaseException:
            if self.signals.starting.pop(process.pid):
                self.table.update(process, stopping=True)
            raise
        fatal = self.signals.starting.pop(process.pid)
        self.watch(program)
        try:
            with self.store.transaction():
                if process.state.alive:
                    self.table.update(process, ospid=program.ospid, os_start=program.os_start)
                started()
        except BaseException:
            self.programs.kill(program)
            raise
        if not process.state.alive:
            self.programs.kill(program)
            return
        self.heartbeats.begin(process)
        if fatal:
            self.signals.send(process, fatal)

    def watch(self, program: Program) -> None:
        """See to the end of a program."""
        if self._nursery is None:
            self._unwatched.append(program)
        else:
            self._nursery.start_soon(self._watch, program)

    async def _watch(self, program: Program) -> None:
        try:
            code = await self.programs.wait(program)
            self.signals.program_ended(program)
            process = self._process_of(program)
            if process is not None:
                self.ended(process, code, program)
        except Exception:
            log.exception("the end of a program of process %d: the maid has to", program.pid)
        finally:
            self.told_to_end.discard(program)
            self._program_ended.set()
            self._program_ended = trio.Event()

    async def wait_program_ended(self) -> None:
        """Wait until some program has ended and all that follows from it is done."""
        await self._program_ended.wait()

    def _process_of(self, program: Program) -> Process | None:
        """The living process whose program this is, now."""
        process = self.table.find(program.pid)
        if process is None or not process.state.alive or process.ospid != program.ospid:
            return None
        return process

    # -- ends ------------------------------------------------------------------------------------

    def ended(
        self, process: Process, code: int | None, program: Program | None = None, why: str = ""
    ) -> None:
        """Its program has ended by itself, with `code` if that is known. What then happens is
        decided here and nowhere else."""
        known = UNKNOWN if code is None else code
        told = self.closing and program in self.told_to_end
        again = self.restarts.wanted(process, 1 if told else code)  # it did not end on its own
        with self.store.transaction():
            if process.stopping:
                self.finish(process, known, State.ZOMBIE, why, program)
            elif process.pid in self._renewed:
                self._hold(process, code)
                self._schedule(process, 0.0, "asked to")
            elif not again:
                self.finish(process, known, State.ZOMBIE, why, program)
            elif self.closing:
                self._hold(process, code)
            else:
                self._again(process, code, why, program)

    def _again(self, process: Process, code: int | None, why: str, program: Program | None) -> None:
        """It failed, or is to run always: try again a little later, or give up."""
        known = UNKNOWN if code is None else code
        delay = self.restarts.next_delay(process)
        if delay is not None:
            self._hold(process, code)
            ending = "with an unknown code" if code is None else f"with code {code}"
            self._schedule(process, delay, why or f"it ended {ending}")
            return
        numbers = self.settings.now.processes
        text = (
            f"gave up after {numbers.restart_attempts} restarts within"
            f" {numbers.restart_window:g} s, the last exit code was {known}"
        )
        log.error("process %d, %s: %s", process.pid, process.name, text)
        parent = self.table.find(process.ppid)
        self.finish(process, known, State.DEAD, why, program)
        if parent is not None:
            self.signals.notice(parent, f"ESCALATE {process.pid} {process.name} {text}")

    def _hold(self, process: Process, code: int | None) -> None:
        """It has no program until it is started again."""
        for call in self.on_end:
            call(process, UNKNOWN if code is None else code)
        self._renewed.discard(process.pid)
        self.heartbeats.stop(process.pid)
        if process.state is State.BLOCKED:
            self.table.update(process, ospid=None, os_start=0)
            self.events.emit(ProcessChanged(process.pid, process.name))
        else:
            self.table.set_state(process, State.BLOCKED, ospid=None, os_start=0)

    def _schedule(self, process: Process, delay: float, reason: str) -> None:
        self.restarts.schedule(process, delay, lambda: self.start_again(process, reason))

    def start_again(self, process: Process, reason: str = "continued") -> None:
        """Start the program of a process that has none for now."""
        if self._nursery is None:
            self._schedule(process, 0.0, reason)
        else:
            self._nursery.start_soon(self._start_again, process, reason)

    async def _start_again(self, process: Process, reason: str) -> None:
        await self.tree_is_up.wait()
        held = self.table.find(process.pid) is process and process.state is State.BLOCKED
        starting = process.pid in self.signals.starting
        if self.closing or not held or starting or process.ospid is not None:
            return

        def started() -> None:
            if process.state.alive:
                restarts = process.restarts + 1
                self.table.set_state(process, State.RUNNING, restarts=restarts)
                event = ProcessRestarted(process.pid, process.name, restarts, reason)
                self.events.emit(event)

        try:
            await self.launch(process, started)
        except KernelError as failure:
            log.warning("process %d, %s: %s", process.pid, process.name, failure)
            if self.table.find(process.pid) is process and process.state.alive:
                self._ended_before_it_began(process, failure)
        except Exception:
            log.exception("process %d, %s, was not started again", process.pid, process.name)

    def _ended_before_it_began(self, process: Process, failure: KernelError) -> None:
        try:
            self.ended(process, 127, why=failure.reason)  # as a shell says "cannot execute"
        except Exception:
            log.exception("process %d, %s: the maid has to", process.pid, process.name)

    def renew(self, process: Process) -> None:
        """Have its program end and started again at once, with the same pid."""
        program = self.programs.find(process.ospid)
        if program is None:
            self.restarts.cancel(process.pid)
            if process.state is not State.BLOCKED:
                self.table.set_state(process, State.BLOCKED)
            self.store.on_commit(lambda: self.start_again(process, "asked to"))
            return
        self._renewed.add(process.pid)
        if process.state is not State.BLOCKED:
            self.table.set_state(process, State.BLOCKED)
        self.signals.end_program(program)

    def lost(self) -> list[Process]:
        """The living processes whose program is gone without our having seen it end."""
        return [
            process
            for process in self.table
            if process.ospid is not None
            and process.pid != INIT
            and self.programs.find(process.ospid) is None
            and process.pid not in self.signals.starting
        ]

    def stranded(self) -> list[Process]:
        """Those that have no program and nothing under way that starts one."""
        if self.closing or not self.tree_is_up.is_set():
            return []
        return [
            process
            for process in self.table
            if process.exec
            and process.ospid is None
            and process.state is State.BLOCKED
            and process.pid not in self.signals.starting
            and not self.restarts.pending(process.pid)
        ]
