"""The system calls on processes: who may, then what, then one transaction."""

from __future__ import annotations

import errno
import os

import yaml

from agentfs.clock import Clock, Timers
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import EventLog, ProcessChanged, ProcessSpawned
from agentfs.process import commands, rules
from agentfs.process.agents import Agents
from agentfs.process.model import Agent, Limits, Process, Restart, Role, State
from agentfs.process.proc import read_stat
from agentfs.process.programs import Programs
from agentfs.process.recovery import withdraw
from agentfs.process.spec import ProcessSpec, parse_spec
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.security.policy import Action
from agentfs.security.principal import Principal
from agentfs.storage.store import Store
from agentfs.syscall import Gate

__all__ = ["Processes"]


class Processes:
    """Every call names its principal first. They are no checkpoints, but those that start a
    program: these wait for its exec."""

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

    def _own(self, principal: Principal, pid: int) -> Process:
        """Process `pid`, if `principal` acts for it or is the operator; ESRCH, EACCES."""
        process = self._table.get(pid)
        if not principal.is_operator and principal.pid != pid:
            raise KernelError(
                errno.EACCES,
                f"only {process.name} itself and the operator may do that, not {principal.name}",
                rule="own process",
            )
        return process

    def _own_alive(self, principal: Principal, pid: int) -> Process:
        process = self._own(principal, pid)
        rules.check_parent(process)
        return process

    # -- spawn -----------------------------------------------------------------------------------

    async def spawn(self, principal: Principal, parent_pid: int, spec: ProcessSpec) -> Process:
        """Start a child of `parent_pid`. Returns when its program executes.

        Refused with the errno of the first rule of `rules.RULES` that says no, or of what kept
        the program from starting (ENOENT, EACCES, ENOEXEC …); then nothing of it is left.
        """
        with self._gate.enter(principal) as actor:
            parent = self._own(principal, parent_pid)
            if self._supervisor.closing:
                raise KernelError(errno.EAGAIN, "the system is being shut down")
            policy = self._gate.policy
            rules.check(rules.Request(actor, parent, spec, self._table, self._agents, policy))
            process = self._make(parent, spec)
            creator = actor.name if actor.pid != parent.pid else parent.name
            before = self._agents.ensure(
                process.name, process.uid, process.gid, creator, _text(spec)
            )
            self._table.add(process)
            self._agents.set_pid(process.name, process.pid)
            if not process.exec:
                self._announce(process, before)
        if not process.exec:
            self._supervisor.heartbeats.begin(process)
            return process
        try:
            await self._supervisor.launch(process, lambda: self._announce(process, before))
        except BaseException:
            with self._store.transaction():
                withdraw(self._supervisor, process)
                self._agents.restore(process.name, before)
            raise
        return process

    def _make(self, parent: Process, spec: ProcessSpec) -> Process:
        account = rules.account_of(spec, parent)
        tier = rules.tier_of(spec, parent)
        role = Role(spec.role)
        return Process(
            pid=self._table.next_pid(),
            ppid=parent.pid,
            name=spec.name,
            role=role,
            tier=tier,
            model=spec.model or tier.model,
            uid=account.uid,
            gid=account.gid,
            user=account.name,
            node=parent.node,
            restart=Restart(spec.restart) if spec.restart else Restart.default(role),
            started=self._clock.now(),
            exec=tuple(spec.exec),
            env=dict(spec.env),
            cwd=spec.cwd or "",
            heartbeat=spec.heartbeat,
            limits=Limits(**spec.limits.model_dump()),
        )

    def _announce(self, process: Process, before: Agent | None) -> None:
        self._agents.announce(process.name, before)
        self._events.emit(
            ProcessSpawned(
                process.pid, process.name, process.ppid, process.role.value, process.tier.value
            )
        )
        self._table.children_changed(process.ppid, process.pid, added=True)

    # -- agents' ctl -----------------------------------------------------------------------------

    async def start(self, principal: Principal, agent_name: str) -> Process:
        """Spawn what the agent's stored definition says, as a child of the acting process.
        Raises EINVAL if it has none, and what `spawn` raises."""
        actor = self._gate.actor(principal)
        agent = self._agents.get(agent_name)
        if not agent.spec:
            raise KernelError(
                errno.EINVAL, f"{agent_name} has no definition yet: write its spec.yaml"
            )
        spec = parse_spec(agent.spec)
        spec.name = agent_name
        return await self.spawn(principal, actor.pid, spec)

    def stop(self, principal: Principal, agent_name: str) -> None:
        """TERM for the agent's process, and KILL after the grace period. Raises ESRCH."""
        self.signal(principal, self._running(agent_name).pid, "TERM")

    async def restart(self, principal: Principal, agent_name: str) -> None:
        """End the agent's program and start it again: the same process, with what the stored
        definition now says of its program. One that has no process is started."""
        self._agents.get(agent_name)
        running = self._table.by_name(agent_name)
        if running is None:
            await self.start(principal, agent_name)
            return
        with self._gate.enter(principal) as actor:
            self._gate.policy.require_kill(actor, running)
            if not running.exec:
                raise KernelError(errno.EINVAL, f"{agent_name} has no program to start again")
            if running.pid in self._supervisor.signals.starting:
                raise KernelError(errno.EAGAIN, f"{agent_name} is just being started")
            self._redefine(running)
            self._supervisor.renew(running)

    def _running(self, agent_name: str) -> Process:
        self._agents.get(agent_name)
        running = self._table.by_name(agent_name)
        if running is None:
            raise KernelError(errno.ESRCH, f"no process of {agent_name} is alive")
        return running

    def _redefine(self, process: Process) -> None:
        """Take from the definition what concerns the program; role, tier, user and limits were
        granted at the spawn and stay."""
        spec = parse_spec(self._agents.get(process.name).spec or "{}")
        if spec.exec:
            self._table.update(
                process,
                exec=tuple(spec.exec),
                env=dict(spec.env),
                cwd=spec.cwd or "",
                heartbeat=spec.heartbeat,
            )

    # -- signals and the tree --------------------------------------------------------------------

    def signal(self, principal: Principal, pid: int, name: str, grace: float | None = None) -> None:
        """TERM, KILL, STOP, CONT or HUP for a process and its program. `grace`: seconds from TERM
        to KILL. Raises ESRCH, EINVAL, EACCES and EPERM (role, user, state)."""
        with self._gate.enter(principal) as actor:
            process = self._table.get(pid)
            self._gate.policy.require_kill(actor, process)
            _refuse_init(process)
            self._supervisor.signals.send(process, name.upper(), grace)

    def kill_branch(self, principal: Principal, pid: int) -> list[int]:
        """KILL everything below `pid` and then itself, the deepest first; the pids in that order.
        Who may kill a process may kill what it started."""
        with self._gate.enter(principal) as actor:
            root = self._table.get(pid)
            self._gate.policy.require_kill(actor, root)
            _refuse_init(root)
            rules.check_parent(root)
            branch = [*reversed(self._table.descendants(pid)), root]
            killed = [process for process in branch if process.state.alive]
            for process in killed:
                self._supervisor.signals.send(process, "KILL")
        return [process.pid for process in killed]

    def reparent(self, principal: Principal, pid: int, new_ppid: int) -> None:
        """Give a process another parent, and tell it with HUP.

        Raises ESRCH, ELOOP for a cycle, EPERM for a tier above the parent's or another user's,
        EAGAIN at the child limit, EACCES if the parent's role has no children.
        """
        with self._gate.enter(principal, Action.MANAGE) as actor:
            process, parent = self._table.get(pid), self._table.get(new_ppid)
            _refuse_init(process)
            rules.check_parent(process)
            rules.check_parent(parent)
            self._gate.policy.same_user(actor, process)
            self._gate.policy.same_user(actor, parent)
            if process is parent or process in self._table.ancestors(new_ppid):
                raise KernelError(
                    errno.ELOOP, f"{parent.name} is {process.name} or below it", rule="tree"
                )
            if process.ppid == new_ppid:
                return
            self._gate.policy.require(parent, Action.SPAWN)
            rules.check_tier(process.tier, parent)
            rules.check_children(parent, self._table)
            self._table.move(process, new_ppid)
            if process.pid in self._supervisor.signals.starting:
                return  # its program will see its parent as it is
            self._supervisor.signals.send(process, "HUP")

    # -- what a process says of itself -----------------------------------------------------------

    def declare(self, principal: Principal, pid: int, state: State) -> None:
        """Say that it is idle, or running. Raises EPERM for any other state, and where the
        transition is illegal; a grace period and a stopped program end by CONT only."""
        with self._gate.enter(principal):
            process = self._own_alive(principal, pid)
            held = process.stopping or process.ospid is None
            if state not in (State.IDLE, State.RUNNING) or (
                held and process.exec and process.state is State.BLOCKED
            ):
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
            process = self._own_alive(principal, pid)
            _refuse_init(process)
            program = self._programs.find(process.ospid)
            self._supervisor.finish(process, code, State.ZOMBIE, text)
            if program is not None and program.attached:
                self._store.on_commit(lambda: self._programs.detach(program))
            elif program is not None:
                self._supervisor.signals.end_program(program)

    def heartbeat(self, principal: Principal, pid: int) -> None:
        """It is well. Changes nothing that is stored."""
        self._gate.actor(principal)
        self._supervisor.heartbeats.beat(self._own_alive(principal, pid))

    def attach(self, principal: Principal, pid: int, ospid: int) -> None:
        """Make a program that was started elsewhere that of process `pid`.

        Raises ESRCH (no such program), EBUSY (the process has a program, or the program a
        process), EPERM (another user's program, the daemon itself).
        """
        with self._gate.enter(principal):
            process = self._own_alive(principal, pid)
            _refuse_init(process)
            if process.exec or process.ospid is not None:
                raise KernelError(errno.EBUSY, f"{process.name} has a program of its own")
            self._check_attachable(principal, process, ospid)
            program = self._programs.attach(pid, ospid)
            self._store.on_rollback(lambda: self._programs.detach(program))
            self._table.update(
                process, ospid=program.ospid, os_start=program.os_start, attached=True
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
        taken = self._table.by_ospid(ospid) or self._programs.pid_of_thread(ospid)
        if self._programs.find(ospid) is not None or taken is not None:
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

    # -- control files ---------------------------------------------------------------------------

    def command(self, principal: Principal, pid: int, line: str) -> None:
        """One line of /proc/PID/ctl. Raises EINVAL, and what the call behind the verb raises."""
        commands.run_process_command(self, principal, pid, line)

    async def agent_command(self, principal: Principal, name: str, line: str) -> None:
        """One line of /agents/NAME/ctl. Raises EINVAL, and what the call behind the verb raises."""
        await commands.run_agent_command(self, principal, name, line)


def _refuse_init(process: Process) -> None:
    if process.role is Role.KERNEL:
        raise KernelError(errno.EPERM, "process 1 is the kernel itself", rule="init")


def _text(spec: ProcessSpec) -> str:
    """The definition as /agents/NAME/spec.yaml shows it: what was given, and the name."""
    given = spec.model_dump(exclude_defaults=True, exclude={"name"})
    return yaml.safe_dump({"name": spec.name, **given}, sort_keys=False, allow_unicode=True)
