"""Readiness: a program is started again only when its process's parent can have work for it.

A process is ready when its program opened `recv` or claimed a message, wrote `ready` to its `ctl`,
has been up for `processes.ready_timeout`, or still ran when the daemon came back; so is one that
has no program, was stopped, or has ended. Nobody waits in a spawn: there the parent starts its own
child. Siblings do not wait for each other, and a slow parent holds up only what is below it.
"""

from __future__ import annotations

import logging

import trio

from agentfs.base.clock import Timer
from agentfs.model.process import Process, State
from agentfs.process.events import ProcessExited, ProcessReady, ProcessReparented, StateChanged
from agentfs.process.settings import ProcessSettings
from agentfs.process.table import ProcessTable
from agentfs.store.event import Event
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.later import when_there_is_room

__all__ = ["Readiness"]

log = logging.getLogger(__name__)


class Readiness:
    """The processes that are not ready, and those that wait for them. Nothing of it is stored."""

    def __init__(self, ground: Ground, table: ProcessTable, works: tuple[type[Event], ...]) -> None:
        """Events of the kinds `works` say of their process that it is at work."""
        self._events = ground.events
        self._timers = ground.timers
        self._settings = ground.settings
        self._table = table
        self._unready: dict[int, Timer | None] = {}  # the timer runs from its program's start
        self._changed: dict[int, trio.Event] = {}
        self._held: set[int] = set()
        ground.events.listen(self._works_now, *works)
        ground.events.listen(self._heard, ProcessExited, StateChanged, ProcessReparented)

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {
            "unready": len(self._unready),
            "waited for": len(self._changed),
            "held": len(self._held),
        }

    def is_ready(self, process: Process) -> bool:
        """Whether its children may be started."""
        return (
            process.pid not in self._unready
            or not process.state.alive
            or process.state is State.SLEEPING
        )

    def holds(self, pid: int) -> bool:
        """Whether its start waits for its parent."""
        return pid in self._held

    # -- what happens to a process ---------------------------------------------------------------

    def lost_program(self, process: Process) -> None:
        """Its program has ended and is to be started again."""
        self._unready.setdefault(process.pid, None)

    def starting(self, process: Process) -> None:
        """Its program is being started. A failed attempt does not begin the time anew."""
        if self._unready.get(process.pid) is None:
            patience = self._settings.of(ProcessSettings).ready_timeout
            self._unready[process.pid] = self._timers.call_later(
                patience, lambda: self.ready(process, "timeout")
            )

    def ready(self, process: Process, how: str) -> None:
        """Its children may work now. A second call does nothing."""
        if process.pid in self._unready:
            self._forget(process.pid)
            event = ProcessReady(process.pid, process.name, how)
            words = f"process {process.pid} is ready"
            when_there_is_room(self._timers, lambda: self._events.emit(event), words)

    def withdrawn(self, pid: int) -> None:
        """It never came to be."""
        self._forget(pid)

    def _forget(self, pid: int) -> None:
        timer = self._unready.pop(pid, None)
        if timer is not None:
            timer.cancel()
        self._wake(pid)

    def _heard(self, record: Record) -> None:
        match record.event:
            case ProcessExited(pid=pid):
                self._forget(pid)
            case StateChanged(pid=pid, new=State.SLEEPING.value):
                self._wake(pid)
            case ProcessReparented(old=pid):
                self._wake(pid)

    def _works_now(self, record: Record) -> None:
        pid = record.pid
        process = None if pid is None or pid not in self._unready else self._table.find(pid)
        if process is not None:
            self.ready(process, "claim")

    # -- waiting ---------------------------------------------------------------------------------

    async def parent_is_ready(self, process: Process) -> bool:
        """Wait until its parent is ready, or the one that it has by then. False at once if another
        call waits for the same already."""
        if process.pid in self._held:
            return False
        parent = self._unready_parent(process)
        if parent is None:
            return True
        log.info("process %d, %s, waits for %s to be ready", process.pid, process.name, parent.name)
        self._held.add(process.pid)
        try:
            while parent is not None:
                await self._changed.setdefault(parent.pid, trio.Event()).wait()
                parent = self._unready_parent(process)
        finally:
            self._held.discard(process.pid)
        return True

    def _unready_parent(self, process: Process) -> Process | None:
        parent = self._table.find(process.ppid)
        return None if parent is None or self.is_ready(parent) else parent

    def _wake(self, pid: int) -> None:
        event = self._changed.pop(pid, None)
        if event is not None:
            event.set()
