"""Capabilities in the tree: /proc/PID/caps, and /sys/caps: their names, and what roles have."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.model.capability import VOCABULARY
from agentfs.model.process import Role
from agentfs.process.events import CapabilityDropped
from agentfs.providers.system_table import SystemTable
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Modified
from agentfs.vfs.declare import control, directory, value
from agentfs.vfs.files import Basics, Owner, Value
from agentfs.vfs.node import Directory, Node
from agentfs.vfs.on import When, on
from agentfs.vfs.table import DirectoryOf, Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.process import ProcessDirectory

__all__ = ["ROLES", "CapsDirectory", "RoleChanges", "SysCapsDirectory"]

ROLES = When(ConfigChanged, path="/etc/roles.yaml")
"""The tables of the roles are other ones now."""


class RoleChanges:
    """When the tables of the roles changed last, ns, and how many times since the start."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.changed = int(kernel.started * 1e9)
        self.times = 0
        kernel.events.listen(self._heard, ConfigChanged)

    def _heard(self, record: Record) -> None:
        if ROLES.matches(record.event):
            self.changed = change_time(self._kernel.clock.now(), self.changed)
            self.times += 1


class CapsDirectory(Table):
    """/proc/PID/caps: what a process may, one name or glob of tools a line."""

    PATH = "/proc/PID/caps"
    WHAT = "What it may, and what it gave up."

    def __init__(self, parent: ProcessDirectory) -> None:
        self.parent = parent
        self.kernel = parent.kernel
        self.key = parent.key_of("caps")

    def owner(self) -> Owner:
        owner = self.parent.owner()
        return Owner(owner.uid, owner.gid, max(owner.mtime, self.parent.proc.roles.changed))

    @value("allowed", example="llm\ntool:web_*\n")
    def allowed(self) -> str:
        """What its spec declared in `caps`; `*` if it declared nothing: all that its parent has.
        Empty if it declared an empty list: nothing."""
        declared = self.parent.process.allowed
        return _lines(("*",) if declared is None else declared)

    @value("denied", on=(CapabilityDropped,), example="shell_exec\n")
    def denied(self) -> str:
        """What it never has, whatever else says so: the `deny` of its spec and of those above it,
        and what it dropped. A call that needs one of them is EPERM instead of EACCES."""
        return _lines(sorted(self.kernel.capabilities.denied(self.parent.process).denied))

    @value("effective", on=(CapabilityDropped, ROLES), example="escalate\nllm\ntool:web_*\n")
    def effective(self) -> str:
        """What it may at this moment: the table of its role (/etc/roles.yaml) and what its parent
        had when it was spawned and `allowed`, without `denied`. `-host_read`: everybody else has
        it. `-tool:GLOB`: of the tools above, not these. `& tool:GLOB …`: of the tools above only
        those that match one of these too."""
        return _lines(self.kernel.capabilities.of(self.parent.process).lines)

    @control(
        "ctl",
        0o200,
        example="-network_access",
        errors={
            "EINVAL": "neither -NAME nor +NAME, or there is no such capability",
            "EPERM": "+NAME: nobody gets more than was given at the spawn; process 1",
            "EACCES": "you are neither this process nor the operator",
            "ESRCH": "it has ended",
            "ENOSPC": "256 are denied to it by name",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """`-NAME` gives up a capability, a glob of tools, or with `*` all, for good. It holds at
        once for calls in the tree and for children spawned from now on; children that there are
        keep what they have. A program that runs keeps its network (network_access), its view of
        the machine's files (file_write, host_read) and the starting of other programs (shell_exec)
        until its next start: these are fixed when it is started."""
        process = self.parent.process
        name = command.strip()
        if name.startswith("+"):
            raise KernelError(
                errno.EPERM,
                f"{process.name} cannot get {name[1:]}: what a process may is given at its spawn,"
                " and only becomes less",
                rule="capabilities",
            )
        if not name.startswith("-"):
            raise KernelError(errno.EINVAL, f"-NAME drops a capability; {name!r} is no command")
        self.kernel.capabilities.drop(caller.principal, process.pid, name[1:])


class SysCapsDirectory(SystemTable):
    """/sys/caps: the names of capabilities, and what roles have."""

    PATH = "/sys/caps"
    WHAT = "The names of capabilities, and what roles have."
    key = ("sys", "caps")

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self.roles = RoleChanges(self.kernel)
        self._profiles = _Profiles(self)

    @value("taxonomy", example="spawn_children\tstart processes of its own …\n")
    def taxonomy(self) -> str:
        """Every capability there is, `NAME\\tWHAT IT IS FOR` a line."""
        return "".join(f"{name}\t{what}\n" for name, what in VOCABULARY.items())

    @directory("profiles")
    def profiles(self) -> Directory:
        """What the processes of a role have at most, a file for each role: one name or glob of
        tools a line, from /etc/roles.yaml."""
        return self._profiles

    @on(ROLES)
    def _other_roles(self, event: ConfigChanged) -> Iterator[Change]:
        for _, profile in self._profiles.entries():
            yield Modified(profile.key)


class _Profiles(DirectoryOf):
    """/sys/caps/profiles."""

    def __init__(self, caps: SysCapsDirectory) -> None:
        self._caps = caps
        self.key = (caps.key, "profiles")

    def owner(self) -> Owner:
        return self._caps.owned(self._caps.roles.changed)

    def _profile(self, role: Role) -> Node:
        policy = self._caps.kernel.policy

        def render() -> bytes:
            return _lines(policy.role_capabilities(role).lines).encode()

        return Value(Basics(self.key_of(role.value), 0o444, self.owner), render)

    def lookup(self, name: str) -> Node:
        if name not in [role.value for role in Role]:
            raise self.missing(name)
        return self._profile(Role(name))

    def entries(self) -> Iterator[tuple[str, Node]]:
        for role in Role:
            yield role.value, self._profile(role)


def _lines(names: Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in names)
