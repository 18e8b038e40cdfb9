"""The system calls on processes: each asks for the right, then does its work in one transaction."""

from __future__ import annotations

import errno
import os

from agentfs.base.errors import KernelError
from agentfs.base.yaml_text import write_yaml
from agentfs.machine.proc import read_status
from agentfs.machine.programs import Programs
from agentfs.model.principal import Principal
from agentfs.model.process import Agent, Limits, OnLimit, Process, Restart, Role, State
from agentfs.model.spec import ProcessSpec, parse_spec
from agentfs.process import commands, rules
from agentfs.process.agents import Agents
from agentfs.process.capabilities import ceiling_below
from agentfs.process.ceilings import Ceilings
from agentfs.process.events import AgentFailed, ProcessChanged, ProcessSpawned
from agentfs.process.failure import ended_how
from agentfs.process.recovery import begin_spawn, end_spawn
from agentfs.process.step_files import run_of
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.store.later import when_there_is_room
from agentfs.store.part import Part

__all__ = ["Processes"]


def _refuse_init(process: Process) -> None:
    """Raise EPERM for process 1."""
    if process.role is Role.KERNEL:
        raise KernelError(errno.EPERM, "process 1 is the kernel itself", rule="init")


def _refuse_light(process: Process) -> None:
    """Raise EPERM for a run or a step."""
    if process.light:
        raise KernelError(
            errno.EPERM,
            f"process {process.pid}, {process.name}, is a {process.kind.value} of a pipeline: it"
            " has no other parent, no other program, and no other end than its own",
            rule=process.kind.value,
        )


class Processes:
    """Every call takes its principal first. None waits, except those that start a program: they
    wait for its exec."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        programs: Programs,
        supervisor: Supervisor,
    ) -> None:
        self._parts = ground.parts
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._gate = gate
        self._table = table
        self._agents = agents
        self._programs = programs
        self._supervisor = supervisor
        self._ceilings = Ceilings(table, ground.settings)

    # -- spawn -----------------------------------------------------------------------------------

    async def spawn(self, principal: Principal, parent_pid: int, spec: ProcessSpec) -> Process:
        """Start a child of `parent_pid`. Returns when its program executes.

        Refused with the errno of the first rule of `rules.RULES` that says no, or of what kept
        the program from starting (ENOENT, EACCES, ENOEXEC …); then nothing of it is left.
        """
        with self._gate.enter(principal, "spawns") as actor:
            parent = rules.own(self._table, principal, parent_pid)
            if self._supervisor.closing:
                raise KernelError(errno.EAGAIN, "the system is being shut down")
            rules.check(
                rules.SpawnRequest(
                    actor,
                    parent,
                    spec,
                    self._table,
                    self._agents,
                    self._gate.policy,
                    self._ceilings,
                    self._parts,
                )
            )
            if spec.exec:
                self._gate.check_launch(actor.agent)
            process = self._make(actor, parent, spec)
            before = self._agents.ensure(
                process.name, process.uid, process.gid, actor.agent, _text(spec), spec.prompt
            )
            self._table.add(process)
            self._parts.tell(Part.spawned, process, spec)
            self._agents.set_pid(process.name, process.pid)
            if not process.exec:
                self._announce(process, before)
            else:
                begin_spawn(self._store, process, before)
        if not process.exec:
            self._supervisor.heartbeats.begin(process)
            return process

        def started() -> None:
            self._gate.attribute(principal)
            end_spawn(self._store, process)
            self._announce(process, before)

        try:
            await self._supervisor.launch(process, started)
        except BaseException:
            self._take_back(principal, process, before)
            raise
        return process

    def _take_back(self, principal: Principal, process: Process, before: Agent | None) -> None:
        """Undo a spawn whose program did not start; where the disk is full, as soon as there is
        room. A daemon that ends before that leaves it to the next one."""

        def take_back() -> None:
            if self._table.find(process.pid) is process:
                with self._store.transaction():
                    self._gate.attribute(principal)
                    self._supervisor.withdraw(process)
                    self._agents.restore(process.name, before)
                    end_spawn(self._store, process)

        words = f"process {process.pid} was not started, and is taken back"
        when_there_is_room(self._timers, take_back, words)

    def _make(self, actor: Process, parent: Process, spec: ProcessSpec) -> Process:
        account = rules.account_of(spec, parent)
        tier = rules.tier_of(spec, parent, self._gate.policy)
        role = Role(spec.role)
        reads, own_files = rules.readable_by(self._gate.policy, actor, spec)
        return Process(
            pid=self._table.next_pid(),
            ppid=parent.pid,
            name=spec.name,
            role=role,
            tier=tier,
            model=spec.model or self._gate.policy.models[tier],
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
            restart_notice=spec.restart_notice,
            limits=Limits(**spec.limits.model_dump()),
            on_limit=OnLimit(spec.on_limit),
            allowed=None if spec.caps is None else tuple(spec.caps),
            denied=tuple(spec.deny),
            group=parent.group if spec.group is None else spec.group,
            groups=tuple(spec.groups),
            metadata=dict(spec.metadata),
            ceiling=ceiling_below(parent),
            reads=reads,
            own_files=own_files,
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
        with self._gate.enter(principal, "signals") as actor:
            self._may_signal(
                actor, running, f"restart\n{self._agents.get(agent_name).spec}".rstrip()
            )
            if not running.exec:
                raise KernelError(errno.EINVAL, f"{agent_name} has no program to start again")
            if self._supervisor.signals.is_starting(running.pid):
                raise KernelError(errno.EAGAIN, f"{agent_name} is just being started")
            self._gate.check_launch(actor.agent)
            self._redefine(actor, running)
            self._supervisor.renew(running)

    def _running(self, agent_name: str) -> Process:
        self._agents.get(agent_name)
        running = self._table.by_name(agent_name)
        if running is None:
            raise KernelError(errno.ESRCH, f"no process of {agent_name} is alive")
        return running

    def _redefine(self, actor: Process, process: Process) -> None:
        """Take from the definition what concerns the program; role, tier, user and limits were
        granted at the spawn and stay."""
        spec = parse_spec(self._agents.get(process.name).spec or "{}")
        if spec.exec:
            if spec.exec[0] != process.exec[0]:
                rules.check_own_program(self._gate.policy, actor, spec.exec)
            reads, own_files = self._readable(actor, process, spec)
            self._table.update(
                process,
                exec=tuple(spec.exec),
                env=dict(spec.env),
                cwd=spec.cwd or "",
                heartbeat=spec.heartbeat,
                restart_notice=spec.restart_notice,
                reads=reads,
                own_files=own_files,
            )

    def _readable(
        self, actor: Process, process: Process, spec: ProcessSpec
    ) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        """What its program may read now: all that both may hand on, the process that starts it and
        the one that wrote the definition. Where the writer is gone, no more than it had."""
        policy, writer = (
            self._gate.policy,
            self._table.by_name(self._agents.get(process.name).creator),
        )
        reads, ours = rules.readable_by(policy, actor, spec)
        _, theirs = rules.readable_by(policy, writer or process, spec)
        if ours is None or theirs is None:
            return reads, theirs if ours is None else ours
        return reads, tuple(file for file in ours if file in theirs)

    # -- signals and the tree --------------------------------------------------------------------

    def signal(self, principal: Principal, pid: int, name: str, grace: float | None = None) -> None:
        """TERM, KILL, STOP, CONT or HUP for a process and its program. `grace`: seconds from TERM
        to KILL. Carried out also where the store has no room to note it. Raises ESRCH, EINVAL,
        EACCES and EPERM (role, user, state)."""
        allowed: list[Process] = []
        try:
            with self._gate.enter(principal, "signals") as actor:
                process = self._table.get(pid)
                self._may_signal(actor, process, name)
                allowed.append(process)
                self._supervisor.signals.send(process, name.upper(), grace)
        except KernelError as failure:
            self._without_room(principal, failure, allowed, name.upper(), grace)

    def kill_branch(self, principal: Principal, pid: int) -> list[int]:
        """KILL everything below `pid` and then itself, the deepest first; the pids in that order.
        The right to kill a process is that to kill all that it started."""
        killed: list[Process] = []
        try:
            with self._gate.enter(principal, "signals") as actor:
                root = self._table.get(pid)
                self._may_signal(actor, root, "kill-branch")
                rules.check_parent(root)
                branch = [*reversed(self._table.descendants(pid)), root]
                killed = [process for process in branch if process.state.alive]
                for process in killed:
                    self._supervisor.signals.send(process, "KILL")
        except KernelError as failure:
            self._without_room(principal, failure, killed, "KILL")
        return [process.pid for process in killed]

    def _without_room(
        self,
        principal: Principal,
        failure: KernelError,
        allowed: list[Process],
        name: str,
        grace: float | None = None,
    ) -> None:
        """Signal those that it is allowed for, if all that `failure` says is that it could not be
        stored. Raises it otherwise: a rule decided."""
        if failure.errno != errno.ENOSPC or failure.rule or not allowed:
            raise failure
        for process in allowed:
            self._supervisor.signals.send_unrecorded(
                process, name, grace, lambda: self._gate.attribute(principal)
            )

    def _may_signal(self, actor: Process, process: Process, how: str) -> None:
        _refuse_init(process)
        path = f"/proc/runs/{run_of(process)}" if process.light else f"/agents/{process.name}"
        self._gate.policy.require(actor, Action.KILL, path, process, what=how.encode())
        if actor.pid != process.pid:
            self._gate.policy.require_capability(actor, "kill_processes")

    def reparent(self, principal: Principal, pid: int, new_ppid: int) -> None:
        """Give a process another parent, and tell it with a line HUP in its `signals`: its program
        gets no signal, which would end a program that does not catch it.

        Raises ESRCH, ELOOP for a cycle, EPERM for a tier above the parent's or another user's,
        EAGAIN at the child limit, EACCES if the parent's role has no children.
        """
        with self._gate.enter(principal) as actor:
            process, parent = self._table.get(pid), self._table.get(new_ppid)
            path, what = f"/agents/{process.name}", f"reparent to {parent.name}".encode()
            self._gate.policy.require(actor, Action.MANAGE_TREE, path, process, what=what)
            self._gate.policy.require_capability(actor, "manage_tree")
            _refuse_init(process)
            _refuse_light(process)
            _refuse_light(parent)
            rules.check_parent(process)
            rules.check_parent(parent)
            self._gate.policy.same_user(actor, parent)
            if process is parent or process in self._table.ancestors(new_ppid):
                raise KernelError(
                    errno.ELOOP, f"{parent.name} is {process.name} or below it", rule="tree"
                )
            if process.ppid == new_ppid:
                return
            self._gate.policy.require(parent, Action.SPAWN, path, what=what)
            rules.check_tier(process.tier, parent)
            rules.check_children(parent, self._table, self._ceilings)
            self._table.move(process, new_ppid)
            self._supervisor.signals.notice(process, "HUP")

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
            _refuse_init(process)
            _refuse_light(process)
            program = self._programs.find(process.ospid)
            if code:
                self._events.emit(AgentFailed(process.pid, process.name, ended_how(code)))
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
            _refuse_init(process)
            _refuse_light(process)
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
        stat = read_status(ospid) if ospid > 0 else None
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
            stat = read_status(ospid)
            ospid = 0 if stat is None else stat.ppid
        return False

    # -- the end ---------------------------------------------------------------------------------

    def collect(self, principal: Principal, pid: int) -> int | None:
        """The exit code of a process that has ended, None while it lives. A call of its parent
        reaps it as well. Raises ESRCH."""
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


def _text(spec: ProcessSpec) -> str:
    """The definition as /agents/NAME/spec.yaml shows it: what was given, and the name."""
    given = spec.model_dump(exclude_defaults=True, exclude={"name"})
    return write_yaml({"name": spec.name, **given})
