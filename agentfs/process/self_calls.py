"""The system calls of a process on itself, and of its parent on its end."""

from __future__ import annotations

import errno
import os

from agentfs.base.clock import Clock, Timers
from agentfs.base.errors import KernelError
from agentfs.machine.proc import read_stat
from agentfs.machine.programs import Programs
from agentfs.model.principal import Principal
from agentfs.model.process import Process, Role, State
from agentfs.process import rules
from agentfs.process.agents import Agents
from agentfs.process.events import ProcessChanged
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.store.event_log import EventLog
from agentfs.store.settings import Settings
from agentfs.store.store import Store

__all__ = ["OwnCalls", "refuse_init"]


def refuse_init(process: Process) -> None:
    """Raise EPERM for process 1."""
    if process.role is Role.KERNEL:
        raise KernelError(errno.EPERM, "process 1 is the kernel itself", rule="init")


class OwnCalls:
    """For the process itself and the operator."""

    def __init__(
        self,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        programs: Programs,
        supervisor: Supervisor,
        settings: Settings,
        store: Store,
        events: EventLog,
        clock: Clock,
        timers: Timers,
    ) -> None:
        self._gate = gate
        self._table = table
        self._agents = agents
        self._programs = programs
        self._supervisor = supervisor
        self._settings = settings
        self._store = store
        self._events = events
        self._clock = clock
        self._timers = timers

    # -- what a process says of itself -----------------------------------------------------------

    def declare(self, principal: Principal, pid: int, state: State) -> None:
        """Say that it is idle, or running. Raises EPERM for any other state, and where the
        transition is illegal; a grace period and a stopped program end by CONT only."""
        with self._gate.enter(principal):
            process = rules.own_alive(self._table, principal, pid)
            has_program = process.exec or process.ospid is not None
            held = process.stopping or (
                has_program and process.state in (State.BLOCKED, State.SLEEPING)
            )
            if held or state not in (State.IDLE, State.RUNNING):
                raise KernelError(
                    errno.EPERM,
                    f"{process.name} is {process.state.value} and cannot declare {state.value}",
                    rule="states",
                )
            self._table.set_state(process, state)

    def done(self, principal: Principal, pid: int, code: int, text: str = "") -> None:
        """End for good with this exit code and these last words, whatever the restart policy. A
        program that still runs has the grace period to end. Raises EINVAL for a code not in
        0..255."""
        if not 0 <= code <= 255:
            raise KernelError(errno.EINVAL, f"an exit code is 0 to 255, not {code}")
        with self._gate.enter(principal):
            process = rules.own_alive(self._table, principal, pid)
            refuse_init(process)
            program = self._programs.find(process.ospid)
            self._supervisor.finish(process, code, State.ZOMBIE, text)
            if program is not None and program.attached:
                self._store.on_commit(lambda: self._programs.detach(program))
            elif program is not None:
                self._supervisor.signals.end_program(program)

    def heartbeat(self, principal: Principal, pid: int) -> None:
        """It is well. Changes nothing that is stored."""
        self._gate.actor(principal)
        self._supervisor.heartbeats.beat(rules.own_alive(self._table, principal, pid))

    def ready(self, principal: Principal, pid: int) -> None:
        """Its children may have work: they need not wait any longer to be started again."""
        self._gate.actor(principal)
        self._supervisor.readiness.ready(rules.own_alive(self._table, principal, pid), "ready")

    def receives(self, principal: Principal, name: str) -> None:
        """`principal` opened the mailbox of agent `name` to take from it: if it is the agent's own
        process, that is ready."""
        process = self._table.by_name(name)
        if process is not None and process.pid == principal.pid:
            self._supervisor.readiness.ready(process, "recv")

    def attach(self, principal: Principal, pid: int, ospid: int) -> None:
        """Make a program that was started elsewhere that of process `pid`.

        Raises ESRCH (no such program), EBUSY (the process has a program, or the program a
        process), EPERM (another user's program, the daemon itself), EAGAIN (it is in execve).
        """
        with self._gate.enter(principal):
            process = rules.own_alive(self._table, principal, pid)
            refuse_init(process)
            if process.exec or process.ospid is not None:
                raise KernelError(errno.EBUSY, f"{process.name} has a program of its own")
            self._check_attachable(principal, process, ospid)
            program = self._programs.attach(pid, ospid)
            self._store.on_rollback(lambda: self._programs.detach(program))
            self._table.update(
                process,
                ospid=program.ospid,
                os_start=program.os_start,
                attached=True,
                confined=(),
            )
            self._events.emit(ProcessChanged(process.pid, process.name))
        self._supervisor.watch(program)

    def _check_attachable(self, principal: Principal, process: Process, ospid: int) -> None:
        stat = read_stat(ospid) if ospid > 0 else None
        try:
            owner = os.stat(f"/proc/{ospid}").st_uid if stat is not None else None
        except FileNotFoundError:
            owner = None
        if stat is None or owner is None or stat.ended:
            raise KernelError(errno.ESRCH, f"there is no program {ospid}")
        if self._is_an_agents(ospid):
            raise KernelError(errno.EBUSY, f"program {ospid} is an agent's already")
        if ospid in (1, os.getpid()):
            raise KernelError(errno.EPERM, f"program {ospid} is nobody's to attach")
        if owner != process.uid or principal.uid not in (0, owner):
            raise KernelError(
                errno.EPERM,
                f"program {ospid} runs as user {owner}: {process.name} is user {process.uid}'s, and"
                f" you are user {principal.uid}",
                rule="same user",
            )

    def _is_an_agents(self, ospid: int) -> bool:
        """Whether a program of an agent is this one or started it."""
        if self._programs.pid_of_thread(ospid) is not None:
            return True
        while ospid > 1:
            if self._programs.find(ospid) is not None:
                return True
            stat = read_stat(ospid)
            ospid = 0 if stat is None else stat.ppid
        return False

    # -- the end ---------------------------------------------------------------------------------

    def collect(self, principal: Principal, pid: int) -> int | None:
        """The exit code of a process that has ended, None while it lives. Who acts for its parent
        reaps it so. Raises ESRCH."""
        process = self._table.get(pid)
        if process.state.alive:
            return None
        code = process.exit_code
        if principal.pid == process.ppid and principal.pid is not None:
            with self._gate.enter(principal):
                self._supervisor.reap(process)
        return code
