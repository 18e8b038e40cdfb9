"""The daemon's descriptors that its clients' open files take: who has how many, and the bound.

Every open real file is a descriptor of the daemon, which also needs some for itself: without one it
starts no program, finds out about no caller, and notices no change of the mount table.
"""

from __future__ import annotations

import errno
import os
import resource
from collections import Counter
from collections.abc import Hashable
from typing import ClassVar

from agentfs.errors import KernelError
from agentfs.vfs.caller import Caller

__all__ = ["Descriptor", "holder_of", "most"]

RULE = "open files"
CLIENTS = 0.75
"""The clients' share of RLIMIT_NOFILE; the rest is the daemon's own."""

_held: Counter[Hashable] = Counter()


class Descriptor:
    """An open descriptor, closed with the last who has it; `holder` has it open."""

    __slots__ = ("_holder", "number")

    count: ClassVar[int] = 0
    """How many there are."""

    def __init__(self, number: int, holder: Hashable = None) -> None:
        self.number = number
        self._holder = holder
        Descriptor.count += 1
        _held[holder] += 1

    def __del__(self) -> None:
        Descriptor.count -= 1
        _held[self._holder] -= 1
        if not _held[self._holder]:
            del _held[self._holder]
        os.close(self.number)


def most() -> int:
    """How many clients may take."""
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * CLIENTS)


def holder_of(caller: Caller) -> Hashable:
    """Who holds what `caller` is about to open. Raises EMFILE for an agent that has more than it
    leaves for all others, ENFILE if none are left."""
    principal = caller.principal
    holder = (principal.kind, principal.uid if principal.pid is None else principal.pid)
    left = most() - Descriptor.count
    if left <= 0:
        raise KernelError(errno.ENFILE, "all files that the tree may have open are", rule=RULE)
    if _held[holder] >= left and not principal.is_operator:
        raise KernelError(
            errno.EMFILE,
            f"{principal.name} has {_held[holder]:,} files open and leaves {left:,} to all others",
            rule=RULE,
        )
    return holder
