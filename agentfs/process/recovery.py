"""The start of the daemon, as processes see it: what an earlier one left is taken up again."""

from __future__ import annotations

import logging
import os
import platform
import pwd
from typing import TYPE_CHECKING

from agentfs.machine.proc import boot_id, own_stat
from agentfs.machine.programs import Program, Programs
from agentfs.model.names import INIT_NAME, reserved
from agentfs.model.principal import INIT
from agentfs.model.process import Agent, Limits, Process, ProcessKind, Restart, Role, State, Tier
from agentfs.process.agents import Agents
from agentfs.process.events import AgentRefused
from agentfs.process.settings import ProcessSettings
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.store.store import Store

if TYPE_CHECKING:
    from agentfs.process.supervisor import Supervisor

__all__ = ["STARTED_AGAIN", "Recovery", "begin_spawn", "end_spawn", "not_started"]

log = logging.getLogger(__name__)

SPAWNING = "spawning"
"""The kind of the records of spawns that are under way, by pid."""

STARTED_AGAIN = "the daemon was started again"
"""Why programs are started again after its start."""


class Recovery:
    """Takes up what an earlier daemon left, for `supervisor`."""

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        agents: Agents,
        programs: Programs,
        supervisor: Supervisor,
    ) -> None:
        self._supervisor = supervisor
        self._programs = programs
        self._table = table
        self._agents = agents
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings

    def take_up(self) -> None:
        """Make process 1; adopt programs that still run, judge those that ended meanwhile, start
        those that were to be started again; keep everything else."""
        with self._store.transaction():
            same_boot = self._store.meta("boot_id") == boot_id()
            self._store.set_meta("boot_id", boot_id())
            self._make_init()
            self._refuse_names()
            for process in self._table:
                if process.pid != INIT:
                    self._take_up(process, same_boot=same_boot)
        self._programs.reapers.forget_ended()

    def _make_init(self) -> None:
        """Process 1 is the daemon itself."""
        most = self._settings.of(ProcessSettings).max_children_of_init
        uid, gid = os.geteuid(), os.getegid()
        init = self._table.find(INIT)
        if init is None:
            pid = self._table.next_pid()
            assert pid == INIT, f"the store has given out pids up to {pid} but has no process 1"
            init = Process(
                pid=INIT,
                ppid=0,
                name=INIT_NAME,
                role=Role.KERNEL,
                tier=Tier.STRATEGIC,
                model=Tier.STRATEGIC.model,
                uid=uid,
                gid=gid,
                user=_user_name(uid),
                node=platform.node() or "localhost",
                restart=Restart.ALWAYS,
                started=self._clock.now(),
                state=State.RUNNING,
            )
            self._agents.ensure(INIT_NAME, uid, gid, INIT_NAME, "")
            self._table.add(init)
            self._agents.set_pid(INIT_NAME, INIT)
        self._table.update(
            init,
            limits=Limits.none_but(max_children=most),
            started=self._clock.now(),
            ospid=os.getpid(),
            os_start=own_stat().start,
        )

    def _refuse_names(self) -> None:
        """Say which agents an earlier release let have a name that stands for somebody else."""
        for name in self._agents:
            if name != INIT_NAME and reserved(name):
                reason = not_started(name)
                log.error("%s: %s", name, reason)
                self._events.emit(AgentRefused(name, reason))

    def _refuse(self, process: Process, program: Program | None) -> None:
        """End a process that an earlier release let have such a name."""
        reason = not_started(process.name)
        end_spawn(self._store, process)
        if program is None:
            self._supervisor.finish(process, 127, State.ZOMBIE, reason)
            return
        self._table.update(process, stopping=True, reason=reason)
        self._programs.kill(program)
        self._supervisor.watch(program)

    def _take_up(self, process: Process, *, same_boot: bool) -> None:
        if not process.state.alive:
            self._supervisor.note_ended(process)
        elif process.light:
            self._take_up_light(process, same_boot=same_boot)
        elif reserved(process.name):
            adopted = process.ospid is not None and same_boot
            self._refuse(process, self._programs.adopt(process) if adopted else None)
        elif process.ospid is not None:
            program = self._programs.adopt(process) if same_boot else None
            if program is None:
                code = self._programs.code_of(process) if same_boot else None
                self._supervisor.ended(process, code)
                return
            log.info("process %d, %s, still runs", process.pid, process.name)
            self._resume(process)
            if {"write", "read"}.intersection(process.confined) and not process.stopping:
                self._renew(process, program)
            self._supervisor.watch(program)
        elif process.exec:
            self._take_up_without_program(process)
        else:
            self._resume(process)

    def _take_up_light(self, process: Process, *, same_boot: bool) -> None:
        """A run is an entry and nothing else. The program of a step goes on, or has ended; none is
        started again here."""
        if process.kind is ProcessKind.RUN:
            return
        program = self._programs.adopt(process) if same_boot else None
        if program is None:
            code = self._programs.code_of(process) if same_boot else None
            self._supervisor.ended(process, code)
            return
        log.info("process %d, %s, still runs", process.pid, process.name)
        if process.stopping:
            self._supervisor.signals.begin_grace(process)
        self._supervisor.watch(program)

    def _renew(self, process: Process, program: Program) -> None:
        """A program that may write to the tree, or read it, and nothing else may not do so in the
        new tree: the machine knows only the one of the daemon that started it. It ends as with a
        clean end of the daemon, and is started again by its policy."""
        if self._supervisor.restarts.wanted(process, 1):
            self._supervisor.renew(
                process, f"{STARTED_AGAIN}, its program could write to the old tree"
            )
        else:
            self._supervisor.signals.end_program(program)

    def _take_up_without_program(self, process: Process) -> None:
        if process.state is State.BLOCKED:  # in a back-off, or put down with the daemon
            self._supervisor.start_again(process, STARTED_AGAIN)
        elif process.state is not State.SLEEPING:  # a spawn that never returned
            log.warning("process %d, %s, was not started in time", process.pid, process.name)
            self._supervisor.withdraw(process)
            self._take_back_agent(process)

    def _take_back_agent(self, process: Process) -> None:
        """Make the agent what it was before a spawn that the last daemon had begun."""
        record = self._store.record(SPAWNING, str(process.pid))
        if record is not None:
            before = record["before"]
            self._agents.restore(process.name, None if before is None else Agent(**before))
            end_spawn(self._store, process)

    def _resume(self, process: Process) -> None:
        """Its grace period runs again, from the start, and so does its heartbeat."""
        if process.stopping:
            self._supervisor.signals.begin_grace(process)
        self._supervisor.heartbeats.begin(process)

    def end_unknown_programs(self) -> None:
        """End programs that run in a control group of ours, or below an earlier reaper, but for no
        process: they were started and not recorded."""
        programs = self._programs

        def has_program(pid: int) -> bool:
            process = self._table.find(pid)
            return process is not None and programs.find(process.ospid) is not None

        programs.end_unclaimed(has_program)
        for pid in programs.groups.pids() if programs.groups.available else ():
            if not has_program(pid):
                programs.groups.kill(pid)
                programs.groups.remove(pid)


def not_started(name: str) -> str:
    """Why an agent of this reserved name is not."""
    return f"its name stands for {reserved(name)!r}; define it anew under another name"


def begin_spawn(store: Store, process: Process, before: Agent | None) -> None:
    """Note what the agent was `before` a spawn: the daemon may end before its program runs."""
    record = {"before": None if before is None else before.record()}
    store.put_record(SPAWNING, str(process.pid), record)


def end_spawn(store: Store, process: Process) -> None:
    """Its program runs, or it was taken back."""
    store.delete_record(SPAWNING, str(process.pid))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
