"""The process behind a system call on the tree."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from agentfs.model.principal import Principal
from agentfs.quota.pots import PotKind
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import Charge, Holder, Pot

__all__ = ["Caller"]

LITTLE = 4096
"""So many bytes may be kept for an open file, and count as its being open."""

_BOUNDLESS = Pot(PotKind("unsent", "bytes", "nothing"), lambda: sys.maxsize, ShareSettings)
_KERNEL = Holder("kernel", 0, operator=True)


def _boundless(principal: Principal, pot: str) -> Charge:
    return Charge(_BOUNDLESS, _KERNEL, 0)


@dataclass(frozen=True, slots=True)
class Caller:
    """The process behind one request: its credentials, its thread, and whom it acts for.
    `charge` counts what the daemon holds for it, by pot. A caller that does not come from outside
    has no bound."""

    principal: Principal
    uid: int
    gid: int
    tid: int
    umask: int = 0o022
    charge: Callable[[Principal, str], Charge] = _boundless

    def memory(self) -> Charge:
        """For something that the daemon keeps in memory for it: of no bytes yet."""
        return self.charge(self.principal, "unsent")

    def keeping(self, size: int) -> Charge | None:
        """For bytes that are kept for it to read, if they are many. Raises EDQUOT, ENOSPC."""
        if size <= LITTLE:
            return None
        charge = self.charge(self.principal, "contents")
        charge.resize(size)
        return charge

    def handle(self) -> Charge:
        """For a file or directory that it is about to open. Raises EMFILE, ENFILE."""
        charge = self.charge(self.principal, "handles")
        charge.resize(1)
        return charge

    def descriptor(self) -> Charge:
        """For a descriptor that the daemon is about to open for it. Raises EMFILE, ENFILE."""
        charge = self.charge(self.principal, "descriptors")
        charge.resize(1)
        return charge

    def unmasked(self, mode: int) -> int:
        """The mode that was meant for a new object which others are to use, too.

        Linux has taken the umask off before we see it. If `mode` is what a plain `touch` or `mkdir`
        has then, whoever may read may write as well: 0644 is 0666, and 0600 stays private.
        """
        if mode & 0o666 == 0o666 & ~self.umask:
            return mode | (mode & 0o444) >> 1
        return mode
