"""What each role allows at most, and so what each process may.

A process has what all of these allow: the table of its role and those of its ancestors' roles (as
/etc/roles.yaml has them now), what its ancestors had declared when it was spawned, and its own
`caps`; minus what is denied to it or to them. All of that is in the process's own record. So the
end of its parent changes nothing, and no change of the tree widens what it may.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterable, Mapping
from typing import Protocol

from agentfs.base.errors import KernelError
from agentfs.model.capability import EVERYTHING, NEEDS, CapabilitySet, Ceiling, canonical_tool
from agentfs.model.process import Role

__all__ = ["CapabilityHolder", "RoleCapabilities"]

MAX_KNOWN = 1024
"""Sets that are kept. Processes share one unless they differ in what they may; when there are more
sets, all are worked out again."""


class CapabilityHolder(Protocol):
    """A process, or one that is to be spawned."""

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


class RoleCapabilities:
    """One version of the tables. It never changes: a new document makes another one of these."""

    def __init__(self, tables: Mapping[Role, Iterable[str]]) -> None:
        self._tables = {role: _table(names) for role, names in tables.items()}
        self._known: dict[Hashable, CapabilitySet] = {}

    def of_role(self, role: Role) -> CapabilitySet:
        """The table of one role."""
        return self._tables[role]

    def effective(self, holder: CapabilityHolder) -> CapabilitySet:
        """What `holder` may at this moment; process 1 may everything. It takes a microsecond,
        because sets are kept by what they are made of; so after a drop it is another set."""
        made_of = (holder.role, holder.ceiling, holder.allowed, holder.denied)
        found = self._known.get(made_of)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self._known[made_of] = self._work_out(holder)
        return found

    def _work_out(self, holder: CapabilityHolder) -> CapabilitySet:
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

    def require(self, holder: CapabilityHolder, name: str) -> None:
        """Raise EACCES unless `holder` has capability `name`, EPERM if it is denied; the reason
        says who took it away. A tool that does what a capability is for needs that capability.
        Raises EINVAL for a tool whose name cannot be one."""
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

    def _why_not(self, holder: CapabilityHolder, name: str) -> str:
        if not self._tables[holder.role].allows(name):
            return f"role {holder.role.value} does not have it"
        if holder.allowed is not None and not CapabilitySet.of(holder.allowed).allows(name):
            return "the `caps` of its spec do not name it"
        return "a process above it did not have it when this one was spawned"


def _table(names: Iterable[str]) -> CapabilitySet:
    """The set that a role's list means: what it gives, without what it takes away
    (`-host_read`)."""
    words = list(names)
    taken = [word[1:] for word in words if word.startswith("-")]
    return CapabilitySet.of(word for word in words if not word.startswith("-")).without(taken)
