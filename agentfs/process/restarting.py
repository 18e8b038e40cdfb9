"""Starting again: what the end of a program means, and how the next one comes to be.

A program is started again by its process's policy, after a back-off, once the tree is up and the
parent is ready; or its process has ended for good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.programs import Program
from agentfs.model.principal import INIT
from agentfs.model.process import Process, State
from agentfs.process.ending import UNKNOWN, Ends
from agentfs.process.events import ProcessChanged, ProcessRestarted
from agentfs.process.readiness import Readiness
from agentfs.process.settings import ProcessSettings
from agentfs.store.part import Part

__all__ = ["STARTED_AGAIN", "Again"]

log = logging.getLogger(__name__)

STARTED_AGAIN = "the daemon was started again"
"""Why programs are started again after its start."""


class Again(Ends):
    """Decides what follows from the end of a program.

    `booting`: what an earlier daemon left is being taken up. `closing`: the daemon ends. Programs
    are started again only while `tree_is_up` is set, and when their process's parent is ready.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.readiness = Readiness(self.table, self.events, self.timers, self.settings)
        self.closing = False
        self.told_to_end: set[Program] = set()
        self.tree_is_up = trio.Event()
        self.tree_is_up.set()
        self._nursery: trio.Nursery | None = None

    async def launch(self, process: Process, started: Callable[[], object]) -> None:
        """Start the program of `process`; `started` is called when that is recorded."""
        raise NotImplementedError

    # -- ends ------------------------------------------------------------------------------------

    def ended(
        self, process: Process, code: int | None, program: Program | None = None, why: str = ""
    ) -> None:
        """Its program has ended by itself, with `code` if that is known. What then happens is
        decided here and nowhere else."""
        known = UNKNOWN if code is None else code
        told = self.closing and program in self.told_to_end  # it did not end on its own
        again = self.restarts.wanted(process, 1 if told or self.booting else code)
        with self.store.transaction():
            if self.signals.is_told_to_end(process):
                killed = self.signals.settle(process) == "KILL"
                end = State.DEAD if killed else State.ZOMBIE
                self.finish(process, known, end, why, program)
            elif process.pid in self._renewed:
                reason = self._renewed[process.pid]
                self._hold(process, code)
                self._schedule(process, 0.0, reason)
            elif not again:
                self.finish(process, known, State.ZOMBIE, why, program)
            elif self.closing:
                self._hold(process, code)
            else:
                self._again(process, code, why, program)

    def _again(self, process: Process, code: int | None, why: str, program: Program | None) -> None:
        """It failed, or is to run always: try again a little later, or give up."""
        known = UNKNOWN if code is None else code
        numbers = self.settings.of(ProcessSettings)
        delay = self.restarts.next_delay(process)
        if delay is not None:
            self._hold(process, code)
            ending = "with an unknown code" if code is None else f"with code {code}"
            hung = "" if program is None else self.hanging.get(program, "")
            reason = why or hung or f"it ended {ending}"
            if self.booting:
                reason = f"{STARTED_AGAIN}, and its program had ended meanwhile"
                reason += "" if code is None else f" {ending}"
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
        parent = self.table.find(process.ppid)
        self.finish(process, known, State.DEAD, why, program)
        if parent is not None:
            self.signals.notice(parent, f"ESCALATE {process.pid} {process.name} {text}")
            self.parts.tell(Part.process_given_up, process, parent, text)

    def _hold(self, process: Process, code: int | None) -> None:
        """It has no program until it is started again."""
        self.tell_end(process, UNKNOWN if code is None else code)
        self._renewed.pop(process.pid, None)
        self.heartbeats.stop(process.pid)
        self.readiness.lost_program(process)
        if process.state is State.BLOCKED:
            self.table.update(process, ospid=None, os_start=0)
            self.events.emit(ProcessChanged(process.pid, process.name))
        else:
            self.table.set_state(process, State.BLOCKED, ospid=None, os_start=0)

    def _schedule(self, process: Process, delay: float, reason: str) -> None:
        self.restarts.schedule(process, delay, lambda: self.start_again(process, reason))

    def start_again(self, process: Process, reason: str = "continued") -> None:
        """Start the program of a process that has none for now."""
        self.readiness.lost_program(process)
        if self._nursery is None:
            self._schedule(process, 0.0, reason)
        else:
            self._nursery.start_soon(self._start_again, process, reason)

    async def _start_again(self, process: Process, reason: str) -> None:
        await self.tree_is_up.wait()
        if not await self.readiness.parent_is_ready(process):
            return
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
            with self.store.transaction():
                self.parts.tell(Part.program_restarts, process, reason)
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

    def renew(self, process: Process, reason: str = "asked to") -> None:
        """Have its program end and started again at once, with the same pid."""
        program = self.programs.find(process.ospid)
        if program is None:
            self.restarts.cancel(process.pid)
            if process.state is not State.BLOCKED:
                self.table.set_state(process, State.BLOCKED)
            self.store.on_commit(lambda: self.start_again(process, reason))
            return
        self._renewed[process.pid] = reason
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
            and process.pid not in self.signals.owed
            and not self.restarts.pending(process.pid)
            and not self.readiness.holds(process.pid)
        ]
