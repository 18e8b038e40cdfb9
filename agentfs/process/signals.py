"""Signals: what TERM, KILL, STOP, CONT and HUP do to a process and to its program.

The record changes first, in the transaction; the program gets its signal after the commit.
"""

from __future__ import annotations

import errno
import logging
import signal
from collections.abc import Callable

from agentfs.clock import Timer, Timers
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import EventLog, SignalSent
from agentfs.process.model import Process, State
from agentfs.process.programs import Program, Programs
from agentfs.process.restarts import Restarts
from agentfs.process.table import ProcessTable
from agentfs.storage.store import Store

__all__ = ["AGAIN", "SIGNALS", "Signals"]

log = logging.getLogger(__name__)

# Seconds until what could not be stored is tried again: the store was full.
AGAIN = 1.0

SIGNALS = ("TERM", "KILL", "STOP", "CONT", "HUP")


class Signals:
    """Delivers them. `finish` ends a process for good, `start_again` starts its program.

    `starting` holds the processes whose program is being started this moment, each with the fatal
    signal that it gets when it is there; `condemned` those that were killed while the store had no
    room to say so.
    """

    def __init__(
        self,
        table: ProcessTable,
        programs: Programs,
        store: Store,
        events: EventLog,
        timers: Timers,
        settings: Settings,
        restarts: Restarts,
        finish: Callable[[Process, int, State], object],
        start_again: Callable[[Process], object],
    ) -> None:
        self._table = table
        self._programs = programs
        self._store = store
        self._events = events
        self._timers = timers
        self._settings = settings
        self._restarts = restarts
        self._finish = finish
        self._start_again = start_again
        self._graces: dict[int, Timer] = {}
        self._endings: dict[int, Timer] = {}
        self.starting: dict[int, str] = {}
        self.condemned: set[int] = set()

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {
            "graces": len(self._graces),
            "endings": len(self._endings),
            "starting": len(self.starting),
            "condemned": len(self.condemned),
        }

    def notice(self, process: Process, text: str) -> None:
        """Put a line into the `signals` stream of a process."""
        self._events.emit(SignalSent(process.pid, process.name, text))

    def send(self, process: Process, name: str, grace: float | None = None) -> None:
        """Deliver signal `name`. Raises EINVAL for one there is not, EPERM for one that this
        state does not allow, EAGAIN for one that has to wait until the program is started."""
        if name not in SIGNALS:
            raise KernelError(errno.EINVAL, f"there is no signal {name!r}: {', '.join(SIGNALS)}")
        if not process.state.alive:
            raise KernelError(
                errno.EPERM, f"process {process.pid} is {process.state.value}", rule="states"
            )
        if process.pid in self.starting:
            if name not in ("TERM", "KILL"):
                raise KernelError(errno.EAGAIN, f"{process.name} is just being started")
            if self.starting[process.pid] != "KILL":
                self.starting[process.pid] = name
            return
        with self._store.transaction():
            self.notice(process, name)
            match name:
                case "TERM":
                    self._term(process, grace)
                case "KILL":
                    self.kill(process)
                case "STOP":
                    self._stop(process)
                case "CONT":
                    self._cont(process)
                case "HUP":
                    self._deliver(process, signal.SIGHUP)

    def _deliver(self, process: Process, *signums: int) -> None:
        program = self._programs.find(process.ospid)
        if program is not None:
            for signum in signums:
                self._later(program, signum)

    def _later(self, program: Program, signum: int) -> None:
        self._store.on_commit(lambda: self._programs.signal(program, signum))

    def _term(self, process: Process, grace: float | None) -> None:
        """Ask it to end, and end it when the grace period is over. Again: a new period."""
        if _unstarted(process):
            self._finish(process, 128 + signal.SIGTERM, State.ZOMBIE)
            return
        if process.state is State.BLOCKED:
            self._table.update(process, stopping=True)
        else:
            self._table.set_state(process, State.BLOCKED, stopping=True)
        self._deliver(process, signal.SIGTERM, signal.SIGCONT)  # a stopped one cannot end itself
        self.begin_grace(process, grace)

    def begin_grace(self, process: Process, grace: float | None = None) -> None:
        """KILL it `grace` seconds from now, unless CONT comes first."""
        if grace is None:
            grace = self._settings.now.processes.grace_period
        self._cancel(self._graces, process.pid)
        self._graces[process.pid] = self._timers.call_later(
            grace, lambda: self._grace_over(process)
        )

    def _grace_over(self, process: Process) -> None:
        self._graces.pop(process.pid, None)
        if self._table.find(process.pid) is process and process.state.alive and process.stopping:
            try:
                with self._store.transaction():
                    self.notice(process, "KILL")
                    self.kill(process)
            except KernelError as failure:
                log.error("process %d cannot be killed yet: %s", process.pid, failure)
                self.begin_grace(process, AGAIN)

    def kill(self, process: Process) -> None:
        """End it now, and everything its program started. Its exit code is 137, or the true one
        if it was quicker."""
        program = self._programs.find(process.ospid)
        code = None if program is None else self._programs.peek(program)
        if program is not None:
            self._store.on_commit(lambda: self._programs.kill(program))
        self._finish(process, 128 + signal.SIGKILL if code is None else code, State.DEAD)

    def kill_unrecorded(self, process: Process) -> None:
        """The same where the disk is full: the program ends at once, and that is noted as soon as
        there is room, which its end may make."""
        self.condemned.add(process.pid)
        program = self._programs.find(process.ospid)
        if program is not None:
            self._programs.kill(program)
        log.error("process %d is killed; the store has no room to say so yet", process.pid)
        self._timers.call_later(AGAIN, lambda: self._record_kill(process))

    def _record_kill(self, process: Process) -> None:
        if self._table.find(process.pid) is process and process.state.alive:
            try:
                with self._store.transaction():
                    self.notice(process, "KILL")
                    self.kill(process)
            except KernelError:
                self.kill_unrecorded(process)

    def _stop(self, process: Process) -> None:
        """Stop it; in a back-off, that is not to be started until CONT."""
        self._restarts.cancel(process.pid)
        if process.state is not State.SLEEPING:
            self._table.set_state(process, State.SLEEPING)
        self._deliver(process, signal.SIGSTOP)

    def _cont(self, process: Process) -> None:
        """Go on; in a grace period, that is to be left alone."""
        if _unstarted(process):
            if process.state is State.BLOCKED:
                raise KernelError(
                    errno.EPERM, f"{process.name} waits to be started again", rule="states"
                )
            self._table.set_state(process, State.BLOCKED)
            self._store.on_commit(lambda: self._start_again(process))
            return
        self._cancel(self._graces, process.pid)
        if process.state is State.RUNNING:
            self._table.update(process, stopping=False, reason="")
        else:
            self._table.set_state(process, State.RUNNING, stopping=False, reason="")
        self._deliver(process, signal.SIGCONT)

    # -- ends --------------------------------------------------------------------------------------

    def forget(self, process: Process) -> None:
        """It has ended: no grace period runs out any more."""
        self.condemned.discard(process.pid)
        self._cancel(self._graces, process.pid)

    def end_program(self, program: Program) -> None:
        """TERM for a program alone, then KILL after the grace period: its process has said that
        it is done, or is to have it started anew."""
        self._later(program, signal.SIGTERM)
        self._later(program, signal.SIGCONT)
        self._cancel(self._endings, program.ospid)
        self._endings[program.ospid] = self._timers.call_later(
            self._settings.now.processes.grace_period, lambda: self._ending_over(program)
        )

    def _ending_over(self, program: Program) -> None:
        self._endings.pop(program.ospid, None)
        if self._programs.find(program.ospid) is program:
            self._programs.kill(program)

    def program_ended(self, program: Program) -> None:
        """No KILL is needed any more."""
        self._cancel(self._endings, program.ospid)

    @staticmethod
    def _cancel(timers: dict[int, Timer], key: int) -> None:
        timer = timers.pop(key, None)
        if timer is not None:
            timer.cancel()


def _unstarted(process: Process) -> bool:
    """Whether it has no program for now: it failed, and is to be started again."""
    return bool(process.exec) and process.ospid is None
