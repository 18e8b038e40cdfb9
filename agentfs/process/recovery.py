"""The daemon's start and end, as processes see them: what is taken up again, what is put down."""

from __future__ import annotations

import logging
import os
import platform
import pwd
from typing import TYPE_CHECKING

import trio

from agentfs.machine.proc import boot_id, read_stat
from agentfs.machine.programs import Program
from agentfs.model.names import INIT_NAME, reserved
from agentfs.model.principal import INIT
from agentfs.model.process import Agent, Limits, Process, Restart, Role, State, Tier
from agentfs.process.events import AgentRefused
from agentfs.process.restarting import STARTED_AGAIN
from agentfs.process.settings import ProcessSettings
from agentfs.store.part import Part
from agentfs.store.store import Store

if TYPE_CHECKING:
    from agentfs.process.supervisor import Supervisor

__all__ = ["Recovery", "not_started", "shut_down"]

log = logging.getLogger(__name__)

SPAWNING = "spawning"
"""The kind of the records of spawns that are under way, by pid."""

# How long programs may take to die of SIGKILL: one that waits for a dead disk takes for ever.
KILL_SECONDS = 5.0


class Recovery:
    """Takes up what an earlier daemon left."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._booted = False

    def boot(self) -> None:
        """Make process 1; adopt programs that still run, judge those that ended meanwhile, start
        those that were to be started again; keep everything else. Once."""
        if self._booted:
            return
        self._booted = True
        supervisor = self._supervisor
        supervisor.booting = True
        try:
            with supervisor.store.transaction():
                same_boot = supervisor.store.meta("boot_id") == boot_id()
                supervisor.store.set_meta("boot_id", boot_id())
                self._make_init()
                self._refuse_names()
                for process in supervisor.table:
                    if process.pid != INIT:
                        self._take_up(process, same_boot=same_boot)
            supervisor.programs.reapers.forget_ended()
        finally:
            supervisor.booting = False
        self._end_unknown_programs()
        if supervisor.tree_is_up.is_set():
            supervisor.programs.release_adopted()

    def _make_init(self) -> None:
        """Process 1 is the daemon itself."""
        supervisor = self._supervisor
        most = supervisor.settings.of(ProcessSettings).max_children_of_init
        uid, gid = os.geteuid(), os.getegid()
        own = read_stat(os.getpid())
        init = supervisor.table.find(INIT)
        if init is None:
            pid = supervisor.table.next_pid()
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
                started=supervisor.clock.now(),
                state=State.RUNNING,
            )
            supervisor.agents.ensure(INIT_NAME, uid, gid, INIT_NAME, "")
            supervisor.table.add(init)
            supervisor.agents.set_pid(INIT_NAME, INIT)
        supervisor.table.update(
            init,
            limits=Limits.none_but(max_children=most),
            started=supervisor.clock.now(),
            ospid=os.getpid(),
            os_start=own.start if own is not None else 0,
        )

    def _refuse_names(self) -> None:
        """Say which agents an earlier release let have a name that stands for somebody else."""
        supervisor = self._supervisor
        for name in supervisor.agents:
            if name != INIT_NAME and reserved(name):
                reason = not_started(name)
                log.error("%s: %s", name, reason)
                supervisor.events.emit(AgentRefused(name, reason))

    def _refuse(self, process: Process, program: Program | None) -> None:
        """End a process that an earlier release let have such a name."""
        supervisor, reason = self._supervisor, not_started(process.name)
        end_spawn(supervisor.store, process)
        if program is None:
            supervisor.finish(process, 127, State.ZOMBIE, reason)
            return
        supervisor.table.update(process, stopping=True, reason=reason)
        supervisor.programs.kill(program)
        supervisor.watch(program)

    def _take_up(self, process: Process, *, same_boot: bool) -> None:
        supervisor = self._supervisor
        if not process.state.alive:
            supervisor.ended_at[process.pid] = supervisor.clock.monotonic()
        elif reserved(process.name):
            adopted = process.ospid is not None and same_boot
            self._refuse(process, supervisor.programs.adopt(process) if adopted else None)
        elif process.ospid is not None:
            program = supervisor.programs.adopt(process) if same_boot else None
            if program is None:
                code = supervisor.programs.code_of(process) if same_boot else None
                supervisor.ended(process, code)
                return
            log.info("process %d, %s, still runs", process.pid, process.name)
            self._resume(process)
            if {"write", "read"}.intersection(process.confined) and not process.stopping:
                self._renew(process, program)
            supervisor.watch(program)
        elif process.exec:
            self._take_up_without_program(process)
        else:
            self._resume(process)

    def _renew(self, process: Process, program: Program) -> None:
        """A program that may write to the tree, or read it, and nothing else may not do so in the
        new tree: the machine knows only the one of the daemon that started it. It ends as with a
        clean end of the daemon, and is started again by its policy."""
        supervisor = self._supervisor
        if supervisor.restarts.wanted(process, 1):
            supervisor.renew(process, f"{STARTED_AGAIN}, its program could write to the old tree")
        else:
            supervisor.signals.end_program(program)

    def _take_up_without_program(self, process: Process) -> None:
        supervisor = self._supervisor
        if process.state is State.BLOCKED:  # in a back-off, or put down with the daemon
            supervisor.start_again(process, STARTED_AGAIN)
        elif process.state is not State.SLEEPING:  # a spawn that never returned
            log.warning("process %d, %s, was not started in time", process.pid, process.name)
            withdraw(supervisor, process)
            take_back_agent(supervisor, process)

    def _resume(self, process: Process) -> None:
        """What ran for it runs again: its grace period from the start, its heartbeat."""
        if process.stopping:
            self._supervisor.signals.begin_grace(process)
        self._supervisor.heartbeats.begin(process)

    def _end_unknown_programs(self) -> None:
        """What runs in a control group of ours, or below an earlier reaper, but for no process:
        started and not recorded."""
        programs, table = self._supervisor.programs, self._supervisor.table

        def has_program(pid: int) -> bool:
            process = table.find(pid)
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


def take_back_agent(supervisor: Supervisor, process: Process) -> None:
    """Make the agent what it was before a spawn that the last daemon had begun."""
    record = supervisor.store.record(SPAWNING, str(process.pid))
    if record is not None:
        before = record["before"]
        supervisor.agents.restore(process.name, None if before is None else Agent(**before))
        end_spawn(supervisor.store, process)


def withdraw(supervisor: Supervisor, process: Process) -> None:
    """Take a process back that could not be started, without a trace."""
    with supervisor.store.transaction():
        supervisor.parts.tell(Part.program_ended, process, 127)
        for child in supervisor.table.children(process.pid):
            supervisor.adopt(child)
        supervisor.parts.tell(Part.process_ended, process)
        supervisor.table.remove(process.pid)
        if (agent := supervisor.agents.find(process.name)) and agent.pid == process.pid:
            supervisor.agents.set_pid(process.name, None)
    supervisor.ended_at.pop(process.pid, None)
    supervisor.readiness.withdrawn(process.pid)


async def shut_down(supervisor: Supervisor, grace: float | None) -> None:
    """End the programs that we started; what was attached goes on. Each level of the tree has its
    share of the grace period."""
    supervisor.closing = True
    if grace is None:
        grace = supervisor.settings.of(ProcessSettings).grace_period
    deadline = trio.current_time() + grace
    with trio.move_on_at(deadline):
        while supervisor.programs.launching:
            await supervisor.programs.wait_launched()
    levels = _levels(supervisor)
    for number, level in enumerate(levels):
        for program in level:
            supervisor.told_to_end.add(program)
            supervisor.programs.terminate(program)
        left = max(0.0, deadline - trio.current_time())
        await _all_ended(supervisor, level, left / (len(levels) - number))
    rest = [program for level in levels for program in level]
    for program in rest:
        supervisor.programs.kill(program)
    await _all_ended(supervisor, rest, KILL_SECONDS)
    supervisor.programs.close()


def _levels(supervisor: Supervisor) -> list[list[Program]]:
    """Our programs by their processes' depth in the tree, the deepest first."""
    levels: dict[int, list[Program]] = {}
    for program in supervisor.programs:
        if not program.attached:
            depth = sum(1 for _ in supervisor.table.ancestors(program.pid))
            levels.setdefault(depth, []).append(program)
    return [levels[depth] for depth in sorted(levels, reverse=True)]


async def _all_ended(supervisor: Supervisor, some: list[Program], seconds: float) -> None:
    with trio.move_on_after(seconds):
        while any(supervisor.programs.find(program.ospid) is program for program in some):
            await supervisor.wait_program_ended()


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
