"""One request for an approval, as the store keeps it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from agentfs.base.content import hashed

__all__ = ["KIND", "OPERATOR", "ApprovalRequest", "ApprovalState", "Key"]

KIND = "approval"

OPERATOR = "operator"
"""The one who decides where a rule names no agent."""

Key = tuple[str, str, str, str]


class ApprovalState(enum.Enum):
    """How far a request is."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    """Nobody decided in time, or nobody used the approval in time."""
    WITHDRAWN = "withdrawn"
    """The caller did not wait for the decision."""
    USED = "used"

    @property
    def open(self) -> bool:
        return self in (ApprovalState.PENDING, ApprovalState.APPROVED)


@dataclass(slots=True)
class ApprovalRequest:
    """Process `pid` of `agent` asks `by` for an approval: an agent, one of several (`ann, bob`), or
    the operator. A pending request is rejected at
    `deadline`, a wall-clock time; an approval that was not used by then is void. Each of these may
    take `timeout` seconds. `body` is the beginning of the content, a character a byte; `size` is
    the number of all its bytes, and `about` is what the call says besides. `who` has decided."""

    id: int
    agent: str
    pid: int
    user: str
    action: str
    path: str
    rule: str
    by: str
    timeout: float
    asked: float
    deadline: float
    state: ApprovalState = ApprovalState.PENDING
    who: str = ""
    reason: str = ""
    changed: int = 0  # ns, for st_mtime
    body: str = ""
    size: int = 0
    about: str = ""
    sha256: str = hashed(b"", "")

    @property
    def key(self) -> Key:
        """Two open requests never have the same key."""
        return self.agent, self.action, self.path, self.sha256

    @property
    def agreed(self) -> bool:
        """Whether somebody agreed in time. An approval is void once it was not used for long; that
        the daemon was away for so long is no fault of those who agreed."""
        late = self.state is ApprovalState.EXPIRED and bool(self.who)
        return late or self.state is ApprovalState.APPROVED

    @property
    def deciders(self) -> list[str]:
        """Those who are asked, each of whom may decide."""
        return self.by.split(", ")

    @property
    def content(self) -> bytes:
        """The beginning of the content."""
        return self.body.encode("latin-1")

    @property
    def name(self) -> str:
        """The name of its directory, and its key in the store."""
        return f"{self.id:06d}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {slot: getattr(self, slot) for slot in self.__slots__} | {"state": self.state.value}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ApprovalRequest:
        """Read what `record` gave."""
        return cls(**(record | {"state": ApprovalState(record["state"])}))
