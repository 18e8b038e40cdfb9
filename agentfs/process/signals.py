"""Signals: what TERM, KILL, STOP, CONT and HUP do to a process and to its program.

The record changes in the transaction; the program gets its signal after the commit, or at once
where the store has no room for the record, which is made later.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from functools import partial

from agentfs.base.clock import Timer
from agentfs.base.errors import KernelError
from agentfs.machine.programs import Program, Programs
from agentfs.model.process import Process, ProcessKind, State
from agentfs.process.backoff import Restarts
from agentfs.process.events import SignalSent
from agentfs.process.settings import ProcessSettings
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.store.later import when_there_is_room
from agentfs.store.part import Part

__all__ = ["SIGNALS", "Signals"]

_SENT: dict[str, tuple[int, ...]] = {
    "TERM": (signal.SIGTERM, signal.SIGCONT),  # a stopped one cannot end itself
    "KILL": (),  # and all that it started, see `Programs.kill`
    "STOP": (signal.SIGSTOP,),
    "CONT": (signal.SIGCONT,),
    "HUP": (signal.SIGHUP,),
}

SIGNALS = tuple(_SENT)


class Signals:
    """Delivers them. `finish` ends a process for good, `start_again` starts its program.

    `owed` holds the processes that got a signal while the store had no room to say so, each with
    the last one.
    """

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        programs: Programs,
        restarts: Restarts,
        finish: Callable[[Process, int, State], object],
        start_again: Callable[[Process], object],
    ) -> None:
        self._store = ground.store
        self._parts = ground.parts
        self._events = ground.events
        self._timers = ground.timers
        self._settings = ground.settings
        self._table = table
        self._programs = programs
        self._restarts = restarts
        self._finish = finish
        self._start_again = start_again
        self._graces: dict[int, Timer] = {}
        self._endings: dict[int, Timer] = {}
        self._starting: dict[int, str] = {}  # with the fatal signal that the program gets
        self.owed: dict[int, str] = {}

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {
            "graces": len(self._graces),
            "endings": len(self._endings),
            "starting": len(self._starting),
            "owed": len(self.owed),
        }

    def begin_start(self, process: Process) -> None:
        """The program of `process` is being started: a fatal signal waits until it is there."""
        self._starting[process.pid] = ""

    def end_start(self, process: Process) -> str:
        """It is there, or could not be started. The fatal signal that came meanwhile, if any."""
        return self._starting.pop(process.pid)

    def is_starting(self, pid: int) -> bool:
        """Whether the program of process `pid` is being started this moment."""
        return pid in self._starting

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
        if process.kind is ProcessKind.RUN:
            with self._store.transaction():
                self._send_run(process, name, grace)
            return
        if process.pid in self._starting:
            if name not in ("TERM", "KILL"):
                raise KernelError(errno.EAGAIN, f"{process.name} is just being started")
            if self._starting[process.pid] != "KILL":
                self._starting[process.pid] = name
            return
        program = self._programs.find(process.ospid)  # before the record of its end has none
        with self._store.transaction():
            self._note(process, name)
            self._store.on_commit(lambda: self._act(process, program, name, grace))
            self._store.on_commit(lambda: self.owed.pop(process.pid, None))

    def _send_run(self, run: Process, name: str, grace: float | None) -> None:
        """The same for a run, which has no program: those who run it act on the signal."""
        steps = [
            child for child in self._table.live_children(run.pid) if child.kind is ProcessKind.STEP
        ]
        if name == "KILL":
            for step in steps:  # it is nobody's without its run
                self.send(step, name)
            self._note(run, name)
            return
        self.notice(run, name)
        self._parts.tell(Part.run_signalled, run, name, grace)
        if name == "TERM" and grace is not None:
            for step in steps:
                self._store.on_commit(partial(self._shorten_grace, step, grace))

    def _shorten_grace(self, step: Process, grace: float) -> None:
        if step.state.alive and step.stopping:
            self.begin_grace(step, grace)

    def send_unrecorded(
        self,
        process: Process,
        name: str,
        grace: float | None = None,
        attribute: Callable[[], object] = lambda: None,
    ) -> None:
        """Do what `send` refused with ENOSPC: the program gets its signal at once, and that is
        noted as soon as there is room, which its end may make; `attribute` is called in the
        transaction. Raises ENOSPC for what would start a program."""
        if name == "CONT" and _unstarted(process):
            raise KernelError(errno.ENOSPC, f"{process.name} cannot be started: the disk is full")
        self.owed[process.pid] = name
        self._act(process, self._programs.find(process.ospid), name, grace)

        def note() -> None:
            if self.owed.get(process.pid) != name or self._table.find(process.pid) is not process:
                return  # another one came since, or it has ended
            with self._store.transaction():
                attribute()
                if process.state.alive and not (name == "CONT" and _unstarted(process)):
                    self._note(process, name)
                self._store.on_commit(lambda: self.owed.pop(process.pid, None))

        when_there_is_room(self._timers, note, f"process {process.pid} got a {name}")

    def is_told_to_end(self, process: Process) -> bool:
        """Whether its program is not to be started again when it ends."""
        return process.stopping or self.owed.get(process.pid) in ("TERM", "KILL")

    def settle(self, process: Process) -> str:
        """Its end is being recorded, and with it the signal that is owed to it, if any."""
        owed = self.owed.get(process.pid, "")
        if owed:
            self.notice(process, owed)
        return owed

    def _note(self, process: Process, name: str) -> None:
        """Change the record, inside a transaction."""
        self.notice(process, name)
        match name:
            case "TERM" if _unstarted(process):
                self._finish(process, 128 + signal.SIGTERM, State.ZOMBIE)
            case "TERM" if process.state is State.BLOCKED:
                self._table.update(process, stopping=True)
            case "TERM":
                self._table.set_state(process, State.BLOCKED, stopping=True)
            case "KILL":
                self._note_kill(process)
            case "STOP" if process.state is not State.SLEEPING:
                self._table.set_state(process, State.SLEEPING)
            case "CONT":
                self._note_cont(process)

    def _note_kill(self, process: Process) -> None:
        """Its exit code is 137, or the true one if it was quicker."""
        program = self._programs.find(process.ospid)
        code = None if program is None else self._programs.peek(program)
        self._finish(process, 128 + signal.SIGKILL if code is None else code, State.DEAD)

    def _note_cont(self, process: Process) -> None:
        """It goes on; in a grace period, it is to be left alone."""
        if _unstarted(process):
            if process.state is State.BLOCKED:
                raise KernelError(
                    errno.EPERM, f"{process.name} waits to be started again", rule="states"
                )
            self._table.set_state(process, State.BLOCKED)
            self._store.on_commit(lambda: self._start_again(process))
        elif process.state is State.RUNNING:
            self._table.update(process, stopping=False, reason="")
        else:
            self._table.set_state(process, State.RUNNING, stopping=False, reason="")

    def _act(
        self, process: Process, program: Program | None, name: str, grace: float | None
    ) -> None:
        """Do to its program, and to our timers, what the signal asks for."""
        if program is not None:
            if name == "KILL":
                self._programs.kill(program)
            for signum in _SENT[name]:
                self._programs.signal(program, signum)
        if name in ("TERM", "KILL", "STOP"):
            self._restarts.cancel(process.pid)  # that is not to come now
        if name == "TERM" and process.state.alive and not _unstarted(process):
            self.begin_grace(process, grace)
        elif name == "CONT":
            self._cancel(self._graces, process.pid)

    def begin_grace(self, process: Process, grace: float | None = None) -> None:
        """KILL it `grace` seconds from now, unless CONT comes first."""
        if grace is None:
            grace = self._settings.of(ProcessSettings).grace_period
        self._cancel(self._graces, process.pid)
        self._graces[process.pid] = self._timers.call_later(
            grace, lambda: self._grace_over(process)
        )

    def _grace_over(self, process: Process) -> None:
        self._graces.pop(process.pid, None)
        if self._table.find(process.pid) is not process or not process.state.alive:
            return
        if not self.is_told_to_end(process):
            return
        try:
            self.send(process, "KILL")
        except KernelError as failure:
            if failure.errno != errno.ENOSPC:
                raise
            self.send_unrecorded(process, "KILL")

    # -- ends --------------------------------------------------------------------------------------

    def forget(self, process: Process) -> None:
        """It has ended: no grace period runs out any more."""
        self.owed.pop(process.pid, None)
        self._cancel(self._graces, process.pid)

    def end_program(self, program: Program) -> None:
        """TERM for a program alone, then KILL after the grace period: its process has said that
        it is done, or is to have it started anew."""
        for signum in _SENT["TERM"]:
            self._later(program, signum)
        self._cancel(self._endings, program.ospid)
        self._endings[program.ospid] = self._timers.call_later(
            self._settings.of(ProcessSettings).grace_period, lambda: self._ending_over(program)
        )

    def _later(self, program: Program, signum: int) -> None:
        self._store.on_commit(lambda: self._programs.signal(program, signum))

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
