"""What the mount needs of the system whose tree it serves, beside the tree."""

from __future__ import annotations

import os
from typing import Protocol

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.model.principal import Principal
from agentfs.quota.shares import Charge
from agentfs.vfs.node import Awaited
from agentfs.vfs.standstill import Standstill

__all__ = ["Host"]


class Host(Protocol):
    """Answers who calls, keeps refusals, and sets the bounds."""

    @property
    def standstill(self) -> Standstill:
        """Whether requests are to wait just now."""

    def identify(self, tid: int, uid: int, gid: int) -> Principal:
        """Whom the calling thread acts for."""

    def refused(self, principal: Principal, path: str, refusal: KernelError) -> None:
        """A call was refused: keep the reason for `/proc/self/error`."""

    def approval(self, needed: ApprovalError) -> Awaited:
        """Ask for the approval that a call needs, and wait for the decision with this. Raises
        EAGAIN if too many are asked for already."""

    def charge(self, principal: Principal, pot: str) -> Charge:
        """For what `principal` will hold of what all have together: of nothing yet."""

    def disk(self) -> os.statvfs_result:
        """What statvfs(3) says of the disk that has the state."""

    def room(self, principal: Principal) -> int | None:
        """Bytes of real files that `principal` may still write; None: as many as the disk has."""

    def announce_queue(self) -> int:
        """How many announcements to inotify may wait."""

    def moved(self, place: str) -> None:
        """The tree is at another path now."""
