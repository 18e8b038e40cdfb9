"""Whether a process may be spawned.

Each rule is silent or raises. The first of `RULES` that raises decides, and nothing has changed by
then.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentfs.base.errors import KernelError
from agentfs.machine.readable import covers, named_files
from agentfs.model.names import check_reserved
from agentfs.model.principal import Principal
from agentfs.model.process import Process, Role, Tier
from agentfs.model.spec import ProcessSpec
from agentfs.process.agents import Agents
from agentfs.process.capabilities import Child, ceiling_below
from agentfs.process.ceilings import Ceilings
from agentfs.process.table import ProcessTable
from agentfs.rights.policy import Action, Policy
from agentfs.store.part import Part, Parts

__all__ = [
    "RULES",
    "Account",
    "SpawnRequest",
    "account_of",
    "check",
    "check_parent",
    "own",
    "own_alive",
    "tier_of",
]


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """`actor` asks that `parent` gets a child as `spec` says. They differ if the operator asks."""

    actor: Process
    parent: Process
    spec: ProcessSpec
    table: ProcessTable
    agents: Agents
    policy: Policy
    ceilings: Ceilings
    parts: Parts

    @property
    def role(self) -> Role:
        return Role(self.spec.role)

    @property
    def tier(self) -> Tier:
        return tier_of(self.spec, self.parent, self.policy)

    @property
    def child(self) -> Child:
        """The process that it would be, as far as capabilities go."""
        spec = self.spec
        allowed = None if spec.caps is None else tuple(spec.caps)
        ceiling = ceiling_below(self.parent)
        return Child(spec.name, self.role, allowed, tuple(spec.deny), ceiling)


def tier_of(spec: ProcessSpec, parent: Process, policy: Policy) -> Tier:
    """The tier of a child: the one asked for, else operational, or the lowest that its role can be
    of: a spec that wants more thinking has to name its tier."""
    if spec.tier is not None:
        return Tier(spec.tier)
    possible = policy.roles[Role(spec.role)].tiers
    return max(possible, key=lambda tier: tier.rank, default=Tier.OPERATIONAL)


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a process runs as."""

    uid: int
    gid: int
    name: str


def account_of(spec: ProcessSpec, parent: Process) -> Account:
    """The user a spec names, else the parent's. Raises EINVAL for one that there is not."""
    if spec.user is None or spec.user == parent.user:
        return Account(parent.uid, parent.gid, parent.user)
    try:
        entry = pwd.getpwnam(spec.user)
    except (KeyError, ValueError):
        raise KernelError(
            errno.EINVAL, f"user: there is no user {spec.user!r} on this machine", rule="user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


# -- the rules, in the order of the list ---------------------------------------------------------


def _role_may_spawn(asked: SpawnRequest) -> None:
    path = f"/agents/{asked.spec.name}"
    asked.policy.require(asked.parent, Action.SPAWN, path, what=asked.spec.told())


def _role_can_be_had(asked: SpawnRequest) -> None:
    if asked.role is Role.KERNEL:
        raise KernelError(errno.EPERM, "role kernel is process 1's only", rule="role")


def _capability(asked: SpawnRequest) -> None:
    asked.policy.require_capability(asked.parent, "spawn_children")


def _user(asked: SpawnRequest) -> None:
    spec, parent = asked.spec, asked.parent
    if spec.user is None or spec.user == parent.user:
        return
    if asked.actor.role is not Role.KERNEL:
        raise KernelError(
            errno.EPERM,
            f"only process 1 may assign another user: {parent.name} runs as {parent.user}, its"
            f" children cannot run as {spec.user}",
            rule="user",
        )
    wanted = account_of(spec, parent)
    if wanted.uid != os.geteuid() and os.geteuid() != 0:
        raise KernelError(
            errno.EPERM,
            f"this AgentFS does not run as root and cannot start programs as {spec.user}",
            rule="user",
        )


def _tools(asked: SpawnRequest) -> None:
    for tool in asked.spec.tools:
        asked.policy.require_capability(asked.child, f"tool:{tool}")


def _group_limit(asked: SpawnRequest) -> None:
    asked.parts.tell(Part.check_group, asked.actor, asked.parent, asked.spec)


def _parent_alive(asked: SpawnRequest) -> None:
    check_parent(asked.parent)


def check_parent(parent: Process) -> None:
    """Raise ESRCH unless `parent` can get children."""
    if not parent.state.alive:
        raise KernelError(
            errno.ESRCH, f"process {parent.pid}, {parent.name}, is {parent.state.value}"
        )


def own(table: ProcessTable, principal: Principal, pid: int) -> Process:
    """Process `pid`, if `principal` acts for it or is the operator. Raises ESRCH and EACCES."""
    process = table.get(pid)
    if not principal.is_operator and principal.pid != pid:
        raise KernelError(
            errno.EACCES,
            f"only {process.name} itself and the operator may do that, not {principal.name}",
            rule="own process",
        )
    return process


def own_alive(table: ProcessTable, principal: Principal, pid: int) -> Process:
    """The same of a living process. Raises ESRCH and EACCES."""
    process = own(table, principal, pid)
    check_parent(process)
    return process


def _tier(asked: SpawnRequest) -> None:
    check_tier(asked.tier, asked.parent)


def check_tier(tier: Tier, parent: Process) -> None:
    """Raise EPERM if `tier` is above the parent's."""
    if tier.rank < parent.tier.rank:
        raise KernelError(
            errno.EPERM,
            f"the cognitive tier of a child is never above its parent's: {parent.name} is"
            f" {parent.tier.value}, {tier.value} was asked for",
            rule="tier",
        )


def _max_children(asked: SpawnRequest) -> None:
    check_children(asked.parent, asked.table, asked.ceilings)


def check_children(parent: Process, table: ProcessTable, ceilings: Ceilings) -> None:
    """Raise EAGAIN, as fork(2) does, if `parent` has all the living children it may have."""
    most = ceilings.whole(parent, "max_children")
    if most is not None and table.count_live_children(parent.pid) >= most:
        raise KernelError(
            errno.EAGAIN,
            f"{parent.name} has {most} living children, as many as it may have",
            rule="max_children",
        )


def _role_tier(asked: SpawnRequest) -> None:
    if asked.tier not in asked.policy.roles[asked.role].tiers:
        raise KernelError(
            errno.EPERM,
            f"the cognitive tier of a {asked.role.value} is never {asked.tier.value}",
            rule=f"roles.yaml: {asked.role.value} tiers",
        )


def _name(asked: SpawnRequest) -> None:
    name = asked.spec.name
    if not name:
        raise KernelError(errno.EINVAL, "name: an agent needs a name", rule="name")
    running = asked.table.by_name(name)
    if running is not None:
        raise KernelError(
            errno.EEXIST, f"the name {name!r} is taken by process {running.pid}", rule="name"
        )
    agent = asked.agents.find(name)
    if agent is None:
        asked.agents.check_new(asked.actor, name)
        return
    check_reserved(name)
    if asked.actor.role is Role.KERNEL or asked.agents.made(asked.actor.agent, agent):
        return
    raise KernelError(
        errno.EEXIST,
        f"the name {name!r} is taken: {agent.creator} defined that agent, only {agent.creator} and"
        " the operator may put it to work",
        rule="name",
    )


def _program(asked: SpawnRequest) -> None:
    """Refuse what no operating system could start: here nothing has to be taken back."""
    spec = asked.spec
    if spec.exec and not spec.exec[0]:
        raise KernelError(errno.EINVAL, "exec: the name of the program is empty", rule="program")
    texts = [*spec.exec, spec.cwd or "", *spec.env, *spec.env.values()]
    for text in texts:
        if "\0" in text or not _encodable(text):
            raise KernelError(
                errno.EINVAL,
                f"exec, env, cwd: {text!r} cannot be given to a program",
                rule="program",
            )
    for name in spec.env:
        if not name or "=" in name:
            raise KernelError(errno.EINVAL, f"env: {name!r} cannot name a variable", rule="program")


def _own_program(asked: SpawnRequest) -> None:
    check_own_program(asked.policy, asked.actor, asked.spec.exec)


def check_own_program(policy: Policy, actor: Process, command: Sequence[str]) -> None:
    """Raise EACCES, or EPERM if it is denied, if `actor` would have the kernel start a program for
    it that it may not start itself: without `shell_exec` any but its own."""
    if command and command[0] not in actor.exec[:1]:
        policy.require_capability(actor, "shell_exec")


def _reads(asked: SpawnRequest) -> None:
    readable_by(asked.policy, asked.actor, asked.spec)


def readable_by(
    policy: Policy, actor: Process, spec: ProcessSpec
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """What the program of a definition that `actor` makes may read: `Process.reads` and
    `own_files`. An actor that may not read the machine itself hands on what it was given, and
    nothing more. Raises EPERM."""
    reads = tuple(dict.fromkeys(spec.read))
    if policy.capabilities(actor).allows("host_read"):
        return reads, None
    ours = actor.own_files
    if ours is None:  # somebody who may read these files chose them
        ours = named_files(actor.exec, actor.cwd)
    for path in reads:
        if not covers(path, actor.reads):
            raise KernelError(
                errno.EPERM,
                f"{actor.name} is denied host_read and cannot let others read {path}",
                rule="capability host_read",
            )
    files = named_files(spec.exec, spec.cwd or "")
    return reads, tuple(file for file in files if file in ours or covers(file, actor.reads))


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _budget(asked: SpawnRequest) -> None:
    asked.parts.tell(Part.check_grant, asked.parent, asked.tier, asked.spec)


RULES: tuple[Callable[[SpawnRequest], None], ...] = (
    _role_may_spawn,
    _role_can_be_had,
    _capability,
    _user,
    _tools,
    _group_limit,
    _parent_alive,
    _tier,
    _max_children,
    _role_tier,
    _name,
    _program,
    _own_program,
    _reads,
    _budget,
)


def check(asked: SpawnRequest) -> None:
    """Ask every question. Raises what the first one raises that is answered with no."""
    for rule in RULES:
        rule(asked)
