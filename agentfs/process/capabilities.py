"""The capabilities of processes: what each has at this moment, what a child would have, dropping.

A process has what all of these allow: the table of its role and of the roles of its ancestors (as
/etc/roles.yaml has them now), what its ancestors had declared when it was spawned, and its own
`caps`; minus its own `deny` and theirs. It is worked out from the process's record alone, so the
end of its parent changes nothing, and no change of the tree widens it.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from agentfs.base.errors import KernelError
from agentfs.model.capability import (
    EVERYTHING,
    NEEDS,
    CapabilitySet,
    Ceiling,
    canonical,
    canonical_tool,
)
from agentfs.model.principal import Principal
from agentfs.model.process import Process, Role
from agentfs.process.events import CapabilityDropped
from agentfs.process.table import ProcessTable
from agentfs.store.event_log import EventLog

if TYPE_CHECKING:
    from agentfs.rights.gate import Gate

__all__ = [
    "Capabilities",
    "Child",
    "Holder",
    "RoleTables",
    "ceiling_below",
]

# Processes that differ in what they may; when there are more, all are worked out again.
MAX_KNOWN = 1024

# A record of a process says each of them: more are a program gone wild.
MAX_DENIED = 256


class Holder(Protocol):
    """Whoever has capabilities: a process, or one that is to be spawned."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def allowed(self) -> tuple[str, ...] | None: ...
    @property
    def denied(self) -> tuple[str, ...]: ...
    @property
    def ceiling(self) -> Ceiling | None: ...


@dataclass(frozen=True, slots=True)
class Child:
    """A process that is to be spawned."""

    name: str
    role: Role
    allowed: tuple[str, ...] | None
    denied: tuple[str, ...]
    ceiling: Ceiling | None


class RoleTables:
    """What each role allows at most, and so what each process may. Never changes: when the tables
    do, there is another one of these."""

    def __init__(self, tables: Mapping[Role, Iterable[str]]) -> None:
        self._tables = {role: _table(names) for role, names in tables.items()}
        self._known: dict[Hashable, CapabilitySet] = {}

    def of_role(self, role: Role) -> CapabilitySet:
        """The table of one role."""
        return self._tables[role]

    def effective(self, holder: Holder) -> CapabilitySet:
        """What `holder` may at this moment; process 1 everything. A microsecond: sets are kept by
        what they are made of, so after a drop it is another set."""
        made_of = (holder.role, holder.ceiling, holder.allowed, holder.denied)
        found = self._known.get(made_of)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self._known[made_of] = self._work_out(holder)
        return found

    def _work_out(self, holder: Holder) -> CapabilitySet:
        if holder.role is Role.KERNEL:
            return EVERYTHING
        found = self._tables[holder.role]
        if holder.ceiling is not None:
            for role in holder.ceiling.roles:
                found &= self._tables[Role(role)]
            found &= holder.ceiling.grant
        if holder.allowed is not None:
            found &= CapabilitySet.of(holder.allowed)
        return found.without(holder.denied)

    def require(self, holder: Holder, name: str) -> None:
        """Raise EACCES unless `holder` has capability `name`, EPERM if it is denied; the reason
        says who took it away. For a tool that does what a capability is for, that one is asked for.
        EINVAL for a tool whose name cannot be one."""
        tool = name.removeprefix("tool:") if name.startswith("tool:") else ""
        if tool:
            canonical_tool(tool)
        found = self.effective(holder)
        if found.allows(name):
            return
        needed = NEEDS.get(tool, name)
        wanted = f"the capability {needed}" + (f" for the tool {tool}" if needed != name else "")
        if found.denies(name):
            raise KernelError(
                errno.EPERM,
                f"{holder.name} is denied {wanted}: by its spec or role, or that of a process above"
                " it, or it was dropped",
                rule=f"capability {needed}",
            )
        raise KernelError(
            errno.EACCES,
            f"{holder.name} may not use {wanted}: {self._why_not(holder, name)}",
            rule=f"capability {needed}",
        )

    def _why_not(self, holder: Holder, name: str) -> str:
        if not self._tables[holder.role].allows(name):
            return f"role {holder.role.value} does not have it"
        if holder.allowed is not None and not CapabilitySet.of(holder.allowed).allows(name):
            return "the `caps` of its spec do not name it"
        return "a process above it did not have it when this one was spawned"


def _table(names: Iterable[str]) -> CapabilitySet:
    """Of a role's list: what is there, and what it takes away (`-host_read`)."""
    words = list(names)
    taken = [word[1:] for word in words if word.startswith("-")]
    return CapabilitySet.of(word for word in words if not word.startswith("-")).without(taken)


def ceiling_below(parent: Holder) -> Ceiling | None:
    """The ceiling of a child of `parent`, as `parent` is now; None below process 1: everything."""
    if parent.role is Role.KERNEL:
        return None
    above = parent.ceiling or Ceiling((), EVERYTHING)
    return _below(above, parent.role, parent.allowed, parent.denied)


@lru_cache(maxsize=MAX_KNOWN)
def _below(
    above: Ceiling, role: Role, allowed: tuple[str, ...] | None, denied: tuple[str, ...]
) -> Ceiling:
    """The same one for all children of a parent."""
    grant = above.grant
    if allowed is not None:
        grant &= CapabilitySet.of(allowed)
    return Ceiling(tuple(sorted({*above.roles, role.value})), grant.without(denied))


class Capabilities:
    """What processes may, and the system call with which one gives up what it has."""

    def __init__(self, gate: Gate, table: ProcessTable, events: EventLog) -> None:
        self._gate = gate
        self._table = table
        self._events = events

    def of(self, process: Process) -> CapabilitySet:
        """What `process` may at this moment. Whoever starts its program confines that program by
        this: without `network_access`, `file_write`, `shell_exec` or `host_read` (`allows(name)`
        says). A
        program that runs keeps what it was started with: a drop reaches it with its next start.
        """
        return self._gate.policy.capabilities(process)

    def require(self, principal: Principal, name: str) -> None:
        """Raise EACCES unless the process that `principal` acts for has capability `name`, EPERM
        if it is denied to it. Whoever acts for no process has what the file modes give."""
        if principal.is_agent:
            self._gate.policy.require_capability(self._gate.actor(principal), name)

    def denied(self, process: Process) -> CapabilitySet:
        """What is denied to it by its own spec, by those above it, and by drops."""
        above = process.ceiling
        inherited = frozenset() if above is None else above.grant.denied
        return CapabilitySet(frozenset(), (), inherited).without(process.denied)

    def drop(self, principal: Principal, pid: int, name: str) -> None:
        """Give up a capability for good: a name, a glob of tools or `*`. It holds at once in the
        tree and for children spawned from now on, over restarts of its program too.

        Raises ESRCH, EACCES for anybody but the process itself and the operator, EPERM for
        process 1, EINVAL for an unknown name, ENOSPC for too many.
        """
        with self._gate.enter(principal) as actor:
            process = self._table.get(pid)
            if not principal.is_operator and actor.pid != pid:
                raise KernelError(
                    errno.EACCES,
                    f"only {process.name} itself and the operator may do that, not {actor.name}",
                    rule="own process",
                )
            if process.role is Role.KERNEL:
                raise KernelError(errno.EPERM, "process 1 has every capability", rule="init")
            if not process.state.alive:
                raise KernelError(errno.ESRCH, f"process {pid} is {process.state.value}")
            dropped = canonical(name)
            if dropped in process.denied:
                return
            if len(process.denied) >= MAX_DENIED:
                raise KernelError(
                    errno.ENOSPC,
                    f"{process.name} is denied {MAX_DENIED} capabilities by name: use a glob",
                )
            self._table.update(process, denied=(*process.denied, dropped))
            self._events.emit(CapabilityDropped(pid, process.name, dropped))
