"""The capabilities of processes: what a child would have, and giving up what one has.

What a process may at this moment is worked out by `agentfs.rights.role_capabilities`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import lru_cache

from agentfs.base.errors import KernelError
from agentfs.model.capability import EVERYTHING, KEPT, CapabilitySet, Ceiling, canonical
from agentfs.model.principal import Principal
from agentfs.model.process import Process, Role
from agentfs.process.events import CapabilityDropped
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.role_capabilities import CapabilityHolder
from agentfs.store.ground import Ground

__all__ = ["Capabilities", "Child", "ceiling_below"]

# A record of a process says each of them: more are a program gone wild.
MAX_DENIED = 256


@dataclass(frozen=True, slots=True)
class Child:
    """A process that is to be spawned."""

    name: str
    role: Role
    allowed: tuple[str, ...] | None
    denied: tuple[str, ...]
    ceiling: Ceiling | None


def ceiling_below(parent: CapabilityHolder) -> Ceiling | None:
    """The ceiling of a child of `parent`, as `parent` is now; None below process 1: everything."""
    if parent.role is Role.KERNEL:
        return None
    above = parent.ceiling or Ceiling((), EVERYTHING)
    return _below(above, parent.role, parent.allowed, parent.denied)


@lru_cache(maxsize=KEPT)
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

    def __init__(self, ground: Ground, gate: Gate, table: ProcessTable) -> None:
        self._gate = gate
        self._table = table
        self._events = ground.events

    def of(self, process: Process) -> CapabilitySet:
        """What `process` may at this moment. Its program is confined by this when it starts. A
        program that runs keeps what it was started with: a drop reaches it with its next start.
        """
        return self._gate.policy.capabilities(process)

    def require(self, principal: Principal, name: str) -> None:
        """Raise EACCES unless the process that `principal` acts for has capability `name`, EPERM
        if it is denied to it. A caller that acts for no process has what the
        file modes give."""
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
