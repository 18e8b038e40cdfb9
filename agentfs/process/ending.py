"""Ends for good: everything that a process had goes back, here and nowhere else."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from agentfs.machine.logs import tail
from agentfs.machine.programs import Program, Programs
from agentfs.model.principal import INIT
from agentfs.model.process import Process, State
from agentfs.process.agents import Agents
from agentfs.process.backoff import Restarts
from agentfs.process.events import AgentChanged, HeartbeatMissed, ProcessExited, ProcessReaped
from agentfs.process.heartbeats import Heartbeats
from agentfs.process.signals import Signals
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["UNKNOWN", "Ends"]

UNKNOWN = -1
"""The exit code of a program of whose end nobody could learn: no program can return it."""


@dataclass(eq=False, repr=False)
class Ends:
    """`hanging` has the programs that are being killed because they
    missed their heartbeats, each with words for it. `ended_at` has the time on the monotonic clock
    of every process that waits to be reaped."""

    ground: Ground
    table: ProcessTable
    agents: Agents
    programs: Programs

    def __post_init__(self) -> None:
        self.parts = self.ground.parts
        self.store = self.ground.store
        self.events = self.ground.events
        self.timers = self.ground.timers
        self.clock = self.ground.clock
        self.settings = self.ground.settings
        self.restarts = Restarts(self.timers, self.clock, self.settings)
        self.heartbeats = Heartbeats(self.timers, self.clock, self.settings, self.hung)
        self.signals = Signals(
            self.table,
            self.programs,
            self.store,
            self.events,
            self.timers,
            self.settings,
            self.restarts,
            self.finish,
            self.start_again,
        )
        self.booting = False
        self.ended_at: dict[int, float] = {}
        self._renewed: dict[int, str] = {}  # why each is to be started again
        self.hanging: dict[Program, str] = {}  # those that are being killed, and why

    def start_again(self, process: Process, reason: str = "continued") -> None:
        """Start the program of a process that has none for now."""
        raise NotImplementedError

    def finish(
        self,
        process: Process,
        code: int,
        state: State,
        output: str = "",
        program: Program | None = None,
    ) -> None:
        """End a process for good: everything that it had goes back, here and nowhere else."""
        program = program or self.programs.find(process.ospid)
        if not output and process.exec:
            offset = 0 if program is None else program.offset
            output = tail(self.agents.log_path(process.name), offset)
        reason = process.reason if process.stopping else ""
        if program is not None:
            reason = reason or self.hanging.get(program, "")
        if reason:
            output = f"{output}{reason}\n"
        with self.store.transaction():
            self.tell_end(process, code)
            for child in self.table.children(process.pid):
                self.adopt(child)
            self.parts.tell(Part.process_ended, process)
            self.table.set_state(
                process,
                state,
                exit_code=code,
                output=output,
                ended=self.clock.now(),
                ospid=None,
                os_start=0,
            )
            self.events.emit(ProcessExited(process.pid, process.name, code))
            self.agents.ended(process.name, code, output)
            self.events.emit(AgentChanged(process.name))
            parent = self.table.find(process.ppid)
            if parent is not None:
                self.signals.notice(parent, f"CHLD {process.pid} {code}")
            self.store.on_commit(lambda: self._forget(process))

    def tell_end(self, process: Process, code: int) -> None:
        """Its program has ended with `code`. Of one that ended while there was no daemon, 0 says
        nothing: so ends a loop that reads from the tree when there is no tree."""
        known = UNKNOWN if self.booting and code == 0 else code
        self.parts.tell(Part.program_ended, process, known)

    def _forget(self, process: Process) -> None:
        self.signals.forget(process)
        self.restarts.forget(process.pid)
        self.heartbeats.stop(process.pid)
        self._renewed.pop(process.pid, None)
        self.ended_at[process.pid] = self.clock.monotonic()

    def adopt(self, child: Process) -> None:
        """Give a child whose parent ends to the nearest living ancestor."""
        ended = child.ppid
        above = (up.pid for up in self.table.ancestors(ended) if up.state.alive)
        self.table.move(child, next(above, INIT))

    def reap(self, process: Process) -> None:
        """Drop an ended process: somebody waited for it, or nobody did for too long."""
        with self.store.transaction():
            self.table.remove(process.pid)
            self.table.children_changed(process.ppid, process.pid, added=False)
            self.events.emit(ProcessReaped(process.pid, process.name, process.ppid))
            agent = self.agents.find(process.name)
            if agent is not None and agent.pid == process.pid:
                self.agents.set_pid(process.name, None)
                self.events.emit(AgentChanged(process.name))
            self.store.on_commit(lambda: self.ended_at.pop(process.pid, None))

    def hung(self, process: Process, seconds: float) -> None:
        """It missed its heartbeats: its program is killed, and the end handled as a failure. Its
        parent is told."""
        text = f"it missed its heartbeats: none for {seconds:.3g} s"
        with self.store.transaction():
            self.events.emit(HeartbeatMissed(process.pid, process.name, round(seconds, 3)))
            parent = self.table.find(process.ppid)
            if parent is not None:
                self.signals.notice(parent, f"HUNG {process.pid} {process.name} {text}")
        program = self.programs.find(process.ospid)
        if program is not None:
            self.hanging[program] = text
            self.programs.kill(program)
        elif process.state.alive and not process.exec:
            self.finish(process, 128 + signal.SIGKILL, State.DEAD, text)
