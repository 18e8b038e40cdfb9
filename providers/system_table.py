"""Directories of the system itself: the operator owns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from agentfs.vfs.files import Owner
from agentfs.vfs.node import Time
from agentfs.vfs.table import Attached, Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["HasKernel", "SystemTable"]


class HasKernel(Protocol):
    """Such a directory is made with this: as a rule the directory above."""

    @property
    def kernel(self) -> Kernel: ...


class SystemTable(Table):
    """A directory of the operator. Everything attached to it is made once."""

    def __init__(self, above: HasKernel) -> None:
        self.kernel = above.kernel
        self._attached: dict[type, Any] = {}

    def changed(self) -> Time:
        """When it changed last: never, since the daemon started."""
        return int(self.kernel.started * 1e9)

    def owned(self, changed: Time) -> Owner:
        """The owner of what changed then."""
        return Owner(*self.kernel.owner, changed)

    def owner(self) -> Owner:
        return self.owned(self.changed())

    def attached(self, kind: type[Attached]) -> Attached:
        found: Attached | None = self._attached.get(kind)
        if found is None:
            found = self._attached[kind] = super().attached(kind)
        return found
