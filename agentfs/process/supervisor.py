"""The supervisor: starts programs, watches them, and sees to everything that follows.

program ends -> claims back, leftovers killed -> started again by its policy, after a back-off
                                              -> or ended for good: children adopted, parent told
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import trio

from agentfs.machine.programs import Program
from agentfs.model.principal import INIT
from agentfs.model.process import Process, State
from agentfs.process.ending import UNKNOWN
from agentfs.process.events import ProcessChanged
from agentfs.process.maid import Maid
from agentfs.process.recovery import Recovery, shut_down
from agentfs.process.restarting import Again
from agentfs.process.settings import ProcessSettings
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.later import when_there_is_room

__all__ = ["UNKNOWN", "Supervisor"]

log = logging.getLogger(__name__)


def _ignored(signum: int, frame: FrameType | None) -> None:
    """What SIGCHLD does while nobody follows children: nothing, as by default."""


class Supervisor(Again):
    """Owns the tasks that watch programs. What follows from their ends is in `Again`, what an end
    for good takes down in `Ends`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.maid = Maid(self)
        self.recovery = Recovery(self)
        self._unwatched: list[Program] = []
        self._program_ended = trio.Event()
        self.events.listen(self._follow_settings, ConfigChanged)

    def sizes(self) -> dict[str, int]:
        """How many entries each of our tables has, for tests and /sys/stats."""
        return {
            **self.table.sizes(),
            **self.signals.sizes(),
            **self.restarts.sizes(),
            **self.readiness.sizes(),
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
                if not self.programs.groups.available:
                    await nursery.start(self.programs.kin.follow, self.programs.remember)
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
        # What trio puts back when it lets go. A signal that is taken in another thread just as
        # the default is put back makes CPython complain of one "ignored due to race condition".
        signal.signal(signal.SIGCHLD, _ignored)
        with trio.open_signal_receiver(signal.SIGCHLD) as received:
            async for _ in received:
                try:
                    self.programs.reap_orphans()
                    self._follow_stops()
                except Exception:
                    log.exception("what children of ours did was not taken note of")

    def _follow_stops(self) -> None:
        for program, stopped in self.programs.stops():
            self._saw(program, stopped=stopped)

    def _saw(self, program: Program, *, stopped: bool) -> None:
        process = self._process_of(program)
        if process is None or program.held or self.programs.stopped(program) is not stopped:
            return
        if stopped and process.state in (State.IDLE, State.RUNNING):
            self.table.set_state(process, State.SLEEPING)
        elif not stopped and process.state is State.SLEEPING:
            self.table.set_state(process, State.RUNNING)

    def _follow_settings(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            init = self.table.find(INIT)
            most = self.settings.of(ProcessSettings).max_children_of_init
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
        self.readiness.starting(process)
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
                    self.table.update(
                        process,
                        ospid=program.ospid,
                        os_start=program.os_start,
                        confined=program.confined,
                    )
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
        self._follow_stops()  # it may have stopped itself already

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

            def note() -> None:
                process = self._process_of(program)
                if process is not None:
                    self.ended(process, code, program)

            when_there_is_room(self.timers, note, f"the program of process {program.pid} ended")
        except Exception:
            log.exception("the end of a program of process %d: the maid has to", program.pid)
        finally:
            self.told_to_end.discard(program)
            self.hanging.pop(program, None)
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
