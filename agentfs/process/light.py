"""Light entries of the process table: runs of pipelines, and the programs that do their steps.

They are no agents': they have no mailbox, no memory and no second start, and are gone as soon as
they have ended. Everything else that holds for a process holds for them: limits, budgets, groups,
capabilities, signals for the branch, the audit.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.machine.programs import Programs
from agentfs.machine.step_program import StepProgram
from agentfs.model.capability import Ceiling, canonical
from agentfs.model.process import (
    DEFAULT_LIMITS,
    Limits,
    OnLimit,
    Process,
    ProcessKind,
    Restart,
    Role,
    State,
    Tier,
)
from agentfs.model.spec import ProcessSpec
from agentfs.process.agents import Agents
from agentfs.process.capabilities import Child, ceiling_below
from agentfs.process.events import ProcessSpawned
from agentfs.process.step_files import ATTEMPT, NODE, RUN, StepFiles, files_of
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.rights.policy import Policy
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["ROLE", "Light"]

ROLE = Role.WORKER
"""The role of runs that the operator starts. Others have their starter's, so /etc/roles.yaml allows
them what it allows that."""

LONGEST_NAME = 160
"""Characters of a step's name: it is the name of a file, too."""

LONGEST_COMMAND = 4096
"""Characters of a step's command in its record; Linux knows the rest while it runs."""


class Light:
    """Makes them, and ends them. Inside a transaction, or in one of its own."""

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        agents: Agents,
        policy: Policy,
        programs: Programs,
        supervisor: Supervisor,
    ) -> None:
        self._state_dir = ground.state_dir
        self._parts = ground.parts
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._table = table
        self._agents = agents
        self._policy = policy
        self._programs = programs
        self._supervisor = supervisor

    @property
    def closing(self) -> bool:
        """Whether the system is being shut down: programs end, and none is started."""
        return self._supervisor.closing

    # -- runs ------------------------------------------------------------------------------------

    def begin_run(
        self,
        starter: Process,
        title: str,
        *,
        caps: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        limits: Limits | None = None,
        ceiling: Ceiling | None = None,
        budget: Mapping[str, int] | None = None,
        on_limit: OnLimit = OnLimit.RAISE,
    ) -> Process:
        """The entry of a run of pipeline `title`, as a child of `starter` that does not count as
        one. It acts in the name of the starter's agent, has at most what the starter has, and goes
        on when that ends.

        `caps` are those that it has of the starter's (None: all), `deny` those that it never has.
        `limits` are its own, beside those above it (None: the defaults of every process). `ceiling`
        is what it may have at most, beside what its starter may: that of whoever made the schedule
        that starts it, say. `budget`: tokens by tier, out of the starter's own.

        Raises EINVAL for unknown capabilities, ESRCH if the starter has ended, EAGAIN (its group is
        full), EPERM and EDQUOT (the budget), and EAGAIN while the system ends.
        """
        if self._supervisor.closing:
            raise KernelError(errno.EAGAIN, "the system is being shut down")
        if not starter.state.alive:
            raise KernelError(
                errno.ESRCH, f"process {starter.pid}, {starter.name}, is {starter.state.value}"
            )
        allowed = None if caps is None else tuple(dict.fromkeys(map(canonical, caps)))
        tier = self._tier(starter)
        above = ceiling_below(starter)
        spec = ProcessSpec.model_construct(budget=dict(budget)) if budget else _PLAIN
        with self._store.transaction():
            if starter.group:
                self._parts.tell(Part.check_group, starter, starter, spec)
            if budget:
                self._parts.tell(Part.check_grant, starter, tier, spec)
            pid = self._table.next_pid()
            process = self._make(pid, starter, f"{title}@{pid}", ProcessKind.RUN, tier)
            process.allowed = allowed
            process.denied = tuple(dict.fromkeys(map(canonical, deny)))
            process.ceiling = above if ceiling is None else _within(above, ceiling)
            process.limits = DEFAULT_LIMITS if limits is None else limits
            process.on_limit = on_limit
            process.state = State.RUNNING
            self._table.add(process)
            if budget:
                self._parts.tell(Part.spawned, process, spec)
            self._announce(process)
        return process

    def set_state(self, process: Process, state: State) -> None:
        """Say what a run does: it is running, or idle (it only waits), or sleeping (somebody
        stopped it)."""
        if process.state is not state:
            self._table.set_state(process, state, force=True)

    def end_run(self, process: Process, code: int, *, cancel: bool = False) -> None:
        """Its end: what it had goes back, what is still below it goes to the process above, and
        its entry is gone. `cancel`: what its steps have started is ended, too. Nothing if it has
        ended already, or is just ending: a KILL of the entry ends the run."""
        if self._table.find(process.pid) is process and not self._supervisor.is_ending(process):
            with self._store.transaction():
                if cancel:
                    self.cancel_branch(process)
                self._supervisor.finish(process, code, State.ZOMBIE)

    def cancel_branch(self, run: Process, grace: float | None = None) -> None:
        """TERM to all programs below a run, and KILL to what is left of each after the grace
        period, in seconds (None: that of the settings). Sub-runs are not touched, nor what is below
        them."""
        with self._store.transaction():
            for process in self._below(run):
                self._end(process, grace)

    def cancel_step(self, step: Process, grace: float | None = None) -> None:
        """The same for one step. Nothing if it has ended."""
        if self._table.find(step.pid) is step:
            with self._store.transaction():
                for process in (*self._below(step), step):
                    self._end(process, grace)

    def _end(self, process: Process, grace: float | None) -> None:
        if process.state.alive and not process.stopping:
            self._supervisor.signals.send(process, "TERM", grace)

    def _below(self, process: Process) -> list[Process]:
        """Everything alive below it that belongs to no other run, bottom-up."""
        found: list[Process] = []
        for child in self._table.live_children(process.pid):
            if child.kind is not ProcessKind.RUN:
                found += (*self._below(child), child)
        return found

    # -- steps -----------------------------------------------------------------------------------

    def files(self, step: Process) -> StepFiles:
        """The files of the attempt that `step` does."""
        return files_of(self._state_dir, step)

    def find_step(self, run: int, path: str, attempt: int) -> Process | None:
        """The process that does an attempt of the node at `path`; None if there is none."""
        told = {RUN: str(run), NODE: path, ATTEMPT: str(attempt)}
        return next((p for p in self._table.live_children(run) if p.metadata == told), None)

    async def wait_for_tree(self) -> None:
        """Wait until programs may be started: their tree is there."""
        await self._supervisor.wait_for_tree()

    def check_program(self, run: Process, command: Sequence[str]) -> None:
        """Raise EACCES, or EPERM if it is denied, unless the starter of a run may have a program
        started: without `shell_exec` none but its own. A run that may less is kept to that by the
        machine."""
        if command[0] not in self._table.agent_of(run).exec[:1]:
            starter = Child(run.agent, run.role, None, (), run.ceiling)
            self._policy.require_capability(starter, "shell_exec")

    async def start_step(
        self, run: Process, path: str, attempt: int, program: StepProgram
    ) -> Process:
        """Start the program of an attempt. Returns when it executes; its end is told by
        `Part.step_ended`. Its files have to be there already.

        The entry is committed before anything is executed: one that is found without a program has
        perhaps begun. Raises KernelError with the errno of what failed; then nothing has begun, and
        no end is told.
        """
        await self._supervisor.wait_for_tree()
        if self._supervisor.closing:
            raise KernelError(errno.EAGAIN, "the system is being shut down")
        self._require_alive(run)
        with self._store.transaction():
            step = self._make_step(run, path, attempt, program)
            self._table.add(step)
        log = self._agents.log_path(step.name)
        try:
            _link(self.files(step), log)
            await self._supervisor.follow(
                step,
                lambda: self._programs.start_step(step, program, log),
                lambda: self._announce(step),
            )
        except BaseException:
            log.unlink(missing_ok=True)
            self._withdraw(step)
            raise
        return step

    def _make_step(self, run: Process, path: str, attempt: int, program: StepProgram) -> Process:
        step = self._make(
            self._table.next_pid(), run, _step_name(run, path), ProcessKind.STEP, run.tier
        )
        step.exec, step.cwd = _cut(program.exec), program.cwd
        # Those of its run hold for it, too; that on children is about each process alone.
        step.limits = Limits.none_but(max_children=run.limits.max_children)
        step.on_limit = run.on_limit
        step.ceiling, step.reads = ceiling_below(run), program.reads
        step.metadata = {RUN: str(run.pid), NODE: path, ATTEMPT: str(attempt)}
        step.state = State.RUNNING
        return step

    def _withdraw(self, step: Process) -> None:
        """It was not started."""
        if self._table.find(step.pid) is step:
            with self._store.transaction():
                self._table.remove(step.pid)

    def forget_log(self, step: Process) -> None:
        """Its program has ended: its log is with its other files, and nobody follows it any more.
        Raises nothing."""
        log = self._agents.log_path(step.name)
        for path in (log, log.with_name(log.name + ".1")):
            path.unlink(missing_ok=True)

    # -- both ------------------------------------------------------------------------------------

    def _make(self, pid: int, parent: Process, name: str, kind: ProcessKind, tier: Tier) -> Process:
        return Process(
            pid=pid,
            ppid=parent.pid,
            name=name,
            role=_role_below(parent),
            tier=tier,
            model=self._policy.models[tier],
            uid=parent.uid,
            gid=parent.gid,
            user=parent.user,
            node=parent.node,
            restart=Restart.NEVER,
            started=self._clock.now(),
            group=parent.group,
            kind=kind,
            behalf=parent.agent,
        )

    def _tier(self, starter: Process) -> Tier:
        """The starter's, or the next below it that processes of the role can be of. EPERM if there
        is none."""
        role = _role_below(starter)
        possible = [t for t in self._policy.roles[role].tiers if t.rank >= starter.tier.rank]
        if not possible:
            raise KernelError(
                errno.EPERM,
                f"/etc/roles.yaml has no tier for a {role.value} below a process that is"
                f" {starter.tier.value}",
                rule=f"roles.yaml: {role.value} tiers",
            )
        return min(possible, key=lambda tier: tier.rank)

    def _announce(self, process: Process) -> None:
        words = process.role.value, process.tier.value
        self._events.emit(ProcessSpawned(process.pid, process.name, process.ppid, *words))
        if process.kind is ProcessKind.STEP:
            self._table.children_changed(process.ppid, process.pid, added=True)

    def _require_alive(self, run: Process) -> None:
        if self._table.find(run.pid) is not run or not run.state.alive:
            raise KernelError(errno.ESRCH, f"the run {run.name} has ended")


_PLAIN = ProcessSpec()


def _role_below(starter: Process) -> Role:
    return ROLE if starter.role is Role.KERNEL else starter.role


def _within(above: Ceiling | None, ceiling: Ceiling) -> Ceiling:
    """What both allow."""
    if above is None:
        return ceiling
    roles = tuple(sorted({*above.roles, *ceiling.roles}))
    return Ceiling(roles, above.grant & ceiling.grant)


def _step_name(run: Process, path: str) -> str:
    """`PIPELINE@RUN:NODE`; of a long one the end is kept, with what tells it from others."""
    name = f"{run.name}:{path}"
    if len(name) <= LONGEST_NAME:
        return name
    tail = path[-(LONGEST_NAME // 2) :]
    return f"{run.name[: LONGEST_NAME // 4]}:{len(path)}…{tail}"


def _cut(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command as its record has it."""
    kept: list[str] = []
    left = LONGEST_COMMAND
    for argument in command:
        if len(argument) > left:
            return (*kept, argument[:left] + "…")
        kept.append(argument)
        left -= len(argument)
    return tuple(kept)


def _link(files: StepFiles, log: Path) -> None:
    """Have the log in the folder where logs are followed. Raises what the disk says."""
    try:
        log.unlink(missing_ok=True)
        log.hardlink_to(files.log)
    except OSError as failure:
        raise KernelError.from_os(failure, f"cannot make {log.name}") from failure
