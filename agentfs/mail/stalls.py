"""Stalls: agents at work that do not take their mail, and those that end with mail left to them.

That a program runs and answers does not prove that the loop in it still turns; that it takes and
finishes its messages does. The kernel only says so: `heartbeat` is what has a program that hangs
killed and started again.
"""

from __future__ import annotations

from agentfs.mail.events import MessageArrived, MessageClaimed, MessageDone, MessageReturned
from agentfs.mail.mail import Mail
from agentfs.mail.settings import MessageSettings
from agentfs.model.principal import INIT
from agentfs.model.process import Process, ProcessKind
from agentfs.process.events import (
    AgentResumed,
    AgentStalled,
    ConsumerEnded,
    ProcessExited,
    ProcessRestarted,
    ProcessSpawned,
)
from agentfs.process.table import ProcessTable
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Stalls"]


class Stalls(Part):
    """Notices them from the events about messages, and tells of them with every round of the maid.

    A process that has no program cannot stall: a person reads its mail, or nobody yet.
    """

    def __init__(self, ground: Ground, table: ProcessTable, mail: Mail) -> None:
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._table = table
        self._mail = mail
        self._since: dict[str, float] = {}  # agent -> since when mail waits and nothing is done
        self._stalled: set[int] = set()
        self._events.listen(self._came, MessageArrived, MessageReturned)
        self._events.listen(self._went_on, MessageClaimed, MessageDone)
        self._events.listen(self._started, ProcessSpawned, ProcessRestarted)
        self._events.listen(self._exited, ProcessExited)

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {"neglected": len(self._since), "stalled": len(self._stalled)}

    def load(self) -> None:
        """Mail may have waited since before the start: its time begins now."""
        for process in self._table:
            self._begin(process.name)

    def is_stalled(self, pid: int) -> bool:
        return pid in self._stalled

    def tidy(self) -> None:
        """Tell of every agent that has stalled since the last time."""
        now = self._clock.monotonic()
        longest = self._settings.of(MessageSettings).stall_after
        for name, since in list(self._since.items()):
            process = self._table.by_name(name)
            if process is None or not self._mail.mailbox(name).waiting:
                del self._since[name]
                self._resume(name)
            elif now - since >= longest and process.pid not in self._stalled:
                self._stall(process, now - since)

    def _stall(self, process: Process, seconds: float) -> None:
        waiting = self._mail.mailbox(process.name).waiting
        self._stalled.add(process.pid)
        self._events.emit(AgentStalled(process.pid, process.name, waiting, int(seconds)))

    def program_ended(self, process: Process, code: int) -> None:
        """Its program has ended, and what it had claimed waits again."""
        if process.light:
            return
        waiting = self._mail.mailbox(process.name).waiting
        if waiting:
            self._events.emit(ConsumerEnded(process.pid, process.name, code, waiting))

    # -- what happens ----------------------------------------------------------------------------

    def _came(self, record: Record) -> None:
        if record.agent is not None and record.agent not in self._since:
            self._begin(record.agent)

    def _went_on(self, record: Record) -> None:
        if record.agent is not None:
            self._begin(record.agent)
            if self._stalled:
                self._resume(record.agent)

    def _started(self, record: Record) -> None:
        if record.agent is not None:
            self._begin(record.agent)

    def _exited(self, record: Record) -> None:
        event = record.event
        assert isinstance(event, ProcessExited)
        self._since.pop(event.agent, None)
        self._stalled.discard(event.pid)

    def _begin(self, name: str) -> None:
        """From now on it takes what waits for it, or does not."""
        process = self._table.by_name(name)
        if (
            process is not None
            and (process.exec or process.ospid is not None)  # a program is at work, or to be again
            and process.pid != INIT
            and process.kind is ProcessKind.AGENT
            and self._mail.boxes.box(name).new
        ):
            self._since[name] = self._clock.monotonic()
        else:
            self._since.pop(name, None)

    def _resume(self, name: str) -> None:
        process = self._table.by_name(name)
        if process is not None and process.pid in self._stalled:
            self._stalled.discard(process.pid)
            self._events.emit(AgentResumed(process.pid, name))
