"""The kernel: builds the subsystems, opens the store, runs the tasks. It has no rule of its own."""

from __future__ import annotations

import logging
import os
import platform
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import agentfs
from agentfs.clock import Clock, SystemClock, Timers
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import CallRefused, EventLog, ProcessReaped, Record
from agentfs.ipc.artifacts import Artifacts
from agentfs.ipc.escalations import Escalations
from agentfs.ipc.inheritance import Inheritance
from agentfs.ipc.mail import Mail
from agentfs.ipc.notices import Notices
from agentfs.ipc.queues import Queues
from agentfs.ipc.reminders import Reminders
from agentfs.ipc.stalls import Stalls
from agentfs.ipc.topics import Topics
from agentfs.journal import Journal
from agentfs.process.agents import Agents
from agentfs.process.calls import Processes
from agentfs.process.lineage import Lineage
from agentfs.process.programs import Programs
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.security.identity import Identity
from agentfs.security.policy import Policy
from agentfs.security.principal import Principal
from agentfs.storage.store import Store
from agentfs.syscall import Gate

__all__ = ["Kernel"]

log = logging.getLogger(__name__)


class Kernel:
    """One system: its state under `state_dir`, its tree at `mountpoint`.

    Must be made inside a trio loop. Everything is a plain attribute; what may be changed is
    changed through the system calls of `processes`, `agents`, `mail` and `settings`.
    """

    def __init__(self, state_dir: Path, mountpoint: str, clock: Clock | None = None) -> None:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in ("shared", "shared/docs", "agents", "logs"):
            (state_dir / folder).mkdir(exist_ok=True)
        self.state_dir = state_dir
        self.mountpoint = mountpoint
        self.version = agentfs.__version__
        self.node = platform.node() or "localhost"
        self.owner = (os.geteuid(), os.getegid())
        self.clock = clock or SystemClock()
        self.started = self.clock.now()
        self.timers = Timers(self.clock)
        self.store = Store(state_dir / "store.db")
        self.instance = self._instance()
        self.events = EventLog(self.store, self.clock)
        self.settings = Settings(self.store, self.events)
        self.policy = Policy()
        self.table = ProcessTable(self.store, self.events, self.clock)
        self.gate = Gate(self.store, self.policy, self.table.find)
        self.agents = Agents(self.store, self.events, self.clock, self.gate, self.table, state_dir)
        self.programs = Programs(mountpoint, self.instance)
        self.supervisor = Supervisor(
            self.table,
            self.agents,
            self.programs,
            self.store,
            self.events,
            self.timers,
            self.clock,
            self.settings,
        )
        self.processes = Processes(
            self.gate,
            self.table,
            self.agents,
            self.programs,
            self.supervisor,
            self.settings,
            self.store,
            self.events,
            self.clock,
            self.timers,
        )
        self.mail = Mail(
            self.gate,
            self.table,
            self.agents,
            self.store,
            self.events,
            self.clock,
            self.timers,
            self.settings,
            self.node,
        )
        self.supervisor.on_end.append(self.mail.process_ended)
        self.supervisor.on_maid.append(self.mail.release_stale)
        self.supervisor.on_maid.append(self.mail.sweep)
        notices = Notices(self.mail)
        self.supervisor.on_restart.append(notices.restarted)
        self.supervisor.on_given_up.append(notices.given_up)
        self.stalls = Stalls(self.mail, self.table, self.events, self.clock, self.settings)
        self.supervisor.on_end.append(self.stalls.process_ended)
        self.supervisor.on_maid.append(self.stalls.scan)
        self.agents.on_remove.append(self.mail.agent_removed)
        self.asks = self.mail.asks
        self.supervisor.on_maid.append(self.asks.sweep)
        self.escalations = Escalations(
            self.mail, self.gate, self.table, self.events, self.clock, self.settings
        )
        self.queues = Queues(
            self.gate,
            self.table,
            self.agents,
            self.mail,
            self.store,
            self.events,
            self.clock,
            self.settings,
        )
        self.topics = Topics(
            self.gate,
            self.table,
            self.agents,
            self.store,
            self.events,
            self.clock,
            self.settings,
        )
        self.artifacts = Artifacts(
            self.gate,
            self.table,
            self.store,
            self.events,
            self.clock,
            self.settings,
            state_dir,
        )
        inheritance = Inheritance(self.artifacts, self.table, self.agents, self.events)
        self.supervisor.on_finish.append(inheritance.process_ended)
        self.agents.on_remove.append(inheritance.agent_removed)
        self.reminders = Reminders(
            self.gate,
            self.agents,
            self.mail,
            self.store,
            self.events,
            self.clock,
            self.settings,
        )
        self.supervisor.on_maid.append(self.reminders.tidy)
        self.agents.on_remove.append(self.reminders.agent_removed)
        self.identity = Identity(self.table, self.programs, self.owner[0])
        self.refusals = Refusals(self.events, self.clock)
        self.journal = Journal()

    def _instance(self) -> str:
        """This system's own name, made once: control groups of two systems never mix."""
        name = self.store.meta("instance")
        if not name:
            name = secrets.token_hex(4)
            with self.store.transaction():
                self.store.set_meta("instance", name)
        return name

    def lineage(self, tid: int) -> Lineage:
        """The programs behind a thread, up to the one that an agent's process runs."""
        return Lineage(tid, lambda ospid: self.table.by_ospid(ospid) is not None)

    def hold_programs(self) -> None:
        """Start nothing again until `tree_is_up`: programs need the tree."""
        self.supervisor.tree_is_up = trio.Event()

    def tree_is_up(self) -> None:
        """The tree can be used: programs that were put down with the last daemon start now."""
        self.supervisor.tree_is_up.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take up where the last run ended, run until the block ends, then end every program."""
        self.journal.install()
        try:
            self.mail.load()
            self.stalls.load()
            self.reminders.load()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.timers.run)
                nursery.start_soon(self.store.checkpoint_regularly)
                nursery.start_soon(self.reminders.run)
                await nursery.start(self.supervisor.run)
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self.supervisor.shutdown()
                    nursery.cancel_scope.cancel()
        finally:
            self.store.close()
            self.journal.uninstall()


class Refusals:
    """The last refusal of each process, for `/proc/PID/error`."""

    def __init__(self, events: EventLog, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._texts: dict[int, str] = {}
        self.count = 0
        events.listen(self._forget)

    def record(self, principal: Principal, path: str, refusal: KernelError) -> None:
        """Keep why a call of `principal` on `path` was refused, and tell the event log."""
        self.count += 1
        if refusal.discreet:
            log.info("refused to %s: %s", principal.name, refusal.code)
        else:
            log.info("refused to %s: %s: %s", principal.name, path, refusal)
        if principal.pid is None:
            return
        rule = f" (rule: {refusal.rule})" if refusal.rule else ""
        self._texts[principal.pid] = f"{path}: {refusal.code}: {refusal.reason}{rule}\n"
        told = ("", "") if refusal.discreet else (path, refusal.reason)
        self._events.emit(CallRefused(principal.pid, told[0], refusal.code, told[1], refusal.rule))

    def text(self, pid: int) -> str:
        """The last refusal of `pid` as a line; empty if there was none."""
        return self._texts.get(pid, "")

    def _forget(self, record: Record) -> None:
        if isinstance(record.event, ProcessReaped):
            self._texts.pop(record.event.pid, None)
