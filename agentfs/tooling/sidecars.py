"""Sidecars of agents' processes: started, waited for, and ended with what they are beside."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.programs import Program, Programs
from agentfs.machine.sidecar import Sidecar
from agentfs.model.process import Process, ProcessKind
from agentfs.process.agents import Agents
from agentfs.process.step_files import make_artifacts
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Running", "Sidecars"]

log = logging.getLogger(__name__)

GRACE = 2.0
"""Seconds from TERM to KILL for a sidecar that is not wanted any more, while its agent goes on."""


class Running:
    """A sidecar at work. `code` is how it ended: its exit code, or 128 + signal."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ended = trio.Event()
        self.code: int | None = None

    def note_end(self, code: int | None) -> None:
        """It has ended."""
        self.code = code
        self.ended.set()


class Sidecars(Part):
    """Starts them in tasks of their own, which end with the daemon."""

    def __init__(
        self, ground: Ground, table: ProcessTable, agents: Agents, programs: Programs
    ) -> None:
        self.table = table
        self._state_dir = ground.state_dir
        self._store = ground.store
        self._agents = agents
        self._programs = programs
        self._nursery: trio.Nursery | None = None
        self._ends: dict[int, int] = {}  # how many programs of a process have ended, while we start

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def work(self, task: Callable[..., Awaitable[object]], *given: object) -> None:
        """Run `task` until it is done, or the daemon ends. Raises EAGAIN while it begins or
        ends."""
        if self._nursery is None:
            raise KernelError(errno.EAGAIN, "the system is just starting, or being shut down")
        self._nursery.start_soon(self._guarded, task, *given)

    async def _guarded(self, task: Callable[..., Awaitable[object]], *given: object) -> None:
        """What goes wrong with one tool is not the end of the others."""
        try:
            await task(*given)
        except Exception:
            log.exception("something that works for a tool")

    async def start(self, process: Process, sidecar: Sidecar) -> Running:
        """Start one beside the program of `process`. Raises what a launch raises, and ESRCH if the
        process, or its program, has ended meanwhile."""
        name = process.name
        if not self._is_alive(process):
            raise KernelError(errno.ESRCH, f"the program of {name} has ended")
        before = self._ends.setdefault(process.pid, 0)
        places = self._places(process)
        program = await self._programs.start_beside(process, sidecar, *places)
        running = Running(program)
        try:
            self.work(self._watch, running)
        except KernelError:
            self._programs.kill(program)
            raise
        if not self._is_alive(process) or self._ends.get(process.pid) != before:
            self._programs.kill(program)
            raise KernelError(errno.ESRCH, f"the program of {name} has ended")
        return running

    def _places(self, process: Process) -> tuple[Path, Path]:
        """The log of its programs, and their home on the disk."""
        name = process.name
        if process.light:
            run = process.pid if process.kind is ProcessKind.RUN else process.ppid
            home = make_artifacts(self._state_dir, run, process.uid, process.gid)
            own = process.kind is ProcessKind.STEP
            return self._agents.log_path(name) if own else home.with_name("log"), home
        self._agents.prepare(name)
        return self._agents.log_path(name), self._agents.memory_dir(name)

    def _is_alive(self, process: Process) -> bool:
        return self.table.find(process.pid) is process and process.state.alive

    async def _watch(self, running: Running) -> None:
        code = None
        try:
            code = await self._programs.wait(running.program)
        finally:
            running.note_end(code)

    def kill(self, running: Running) -> None:
        """SIGKILL to it and what it has started."""
        if not running.ended.is_set():
            self._programs.kill(running.program)

    def stop(self, running: Running) -> None:
        """TERM, and KILL two seconds later."""
        if not running.ended.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(running.program.ospid, signal.SIGTERM)
            with suppress(KernelError):
                self.work(self._kill_later, running)

    async def _kill_later(self, running: Running) -> None:
        with trio.move_on_after(GRACE):
            await running.ended.wait()
        self.kill(running)

    def program_ended(self, process: Process, code: int) -> None:
        """None outlives the program that it is beside."""
        if process.pid in self._ends:
            self._ends[process.pid] += 1
        self._store.on_commit(lambda: self._programs.end_beside(process.pid))

    def process_ended(self, process: Process) -> None:
        self._ends.pop(process.pid, None)
