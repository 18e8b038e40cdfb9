"""An object that agents share (a queue, a topic) has an owner, a group and mode bits.

They are asked about the principal and not about the uid. So `chmod 700` keeps other agents out even
where all of them run as one user.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass, replace
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.model.principal import Kind, Principal

__all__ = ["Access", "Ownership"]


class Access(enum.Enum):
    """A use of the object. The value is the word for it in a refusal."""

    READ = "read"
    """See its content, and leave it there: subscribe."""
    TAKE = "take from"
    """Take something out, which nobody else gets then: receive."""
    SEND = "write to"
    """Put something in: send, publish."""

    @property
    def bit(self) -> int:
        """The mode bit that allows it, among the three of a class."""
        return 0o2 if self is Access.SEND else 0o4


@dataclass(frozen=True, slots=True)
class Ownership:
    """`owner` is an agent's name ("init" for the operator), `mode` the nine permission bits."""

    owner: str
    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, principal: Principal, mode: int) -> Ownership:
        """The ownership of what `principal` makes: it belongs to the agent that it acts for."""
        return cls(principal.agent, principal.uid, principal.gid, mode & 0o777)

    # -- who may -----------------------------------------------------------------------------------

    def owned_by(self, principal: Principal) -> bool:
        """Whether `principal` is the owner, or the operator."""
        return principal.is_operator or (principal.is_agent and principal.agent == self.owner)

    def permits(self, principal: Principal, access: Access) -> bool:
        """Whether the mode allows it. The owner's bits hold for the owner agent, the group's for an
        agent with its gid, the last three for all others. The operator may do everything. A
        principal that acts for no process may only read."""
        if principal.is_operator:
            return True
        if not principal.is_agent and access is not Access.READ:
            return False
        return bool(self.mode >> self._shift(principal) & access.bit)

    def require(self, principal: Principal, access: Access, what: str) -> None:
        """Raise EACCES unless `permits`. `what` names the object: "the topic news"."""
        if not self.permits(principal, access):
            raise KernelError(
                errno.EACCES,
                f"{principal.name} may not {access.value} {what}, which belongs to {self.owner}"
                f" and has mode {self.mode:04o}",
                rule="mode",
            )

    def require_owner(self, principal: Principal, doing: str) -> None:
        """Raise EPERM unless it is the owner agent or the operator. `doing`: "remove topic x"."""
        if not self.owned_by(principal):
            raise KernelError(
                errno.EPERM,
                f"only {self.owner} and the operator may {doing}, not {principal.name}",
                rule="owner",
            )

    # -- changing it -------------------------------------------------------------------------------

    def with_mode(self, principal: Principal, mode: int, what: str) -> Ownership:
        """This ownership with another mode. Raises EPERM unless the owner agent or the operator
        asks."""
        self.require_owner(principal, f"change the mode of {what}")
        return replace(self, mode=mode & 0o777)

    # -- in the store ------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"owner": self.owner, "uid": self.uid, "gid": self.gid, "mode": self.mode}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Ownership:
        """Read what `record` gave. Other fields in it are ignored."""
        return cls(record["owner"], record["uid"], record["gid"], record["mode"])

    def _shift(self, principal: Principal) -> int:
        if principal.is_agent and principal.agent == self.owner:
            return 6
        return 3 if principal.gid == self.gid and principal.kind is not Kind.STRANGER else 0
