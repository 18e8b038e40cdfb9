"""Real files that are counted: each change says whose bytes it added, or asks whether it may.
Files on another disk than the store's, which the operator mounted, are left out: they take none of
its room.
"""

from __future__ import annotations

import stat as st
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.providers.disk import attributes, own_path
from agentfs.quota.file_bytes import Bytes, Makers, taken

if TYPE_CHECKING:
    from agentfs.providers.hostnode import HostNode

__all__ = ["Marking", "closed", "growing", "made", "opened", "part_of", "removed", "settle"]


class growing:  # noqa: N801  # used as a statement, as contextlib's are
    """In this block `principal` changes a file, open as `descriptor`, and writes `amount` bytes
    that end at `end`. Raises ShareError if that could be more than it may have."""

    __slots__ = ("_amount", "_bytes", "_descriptor", "_end", "_node", "_principal")

    def __init__(
        self,
        node: HostNode,
        descriptor: int,
        principal: Principal,
        end: int = 0,
        amount: int = 0,
    ) -> None:
        self._bytes = _bytes(node)
        self._node = node
        self._descriptor = descriptor
        self._principal = principal
        self._end = end
        self._amount = amount

    def __enter__(self) -> None:
        if self._bytes is None:
            return
        found = attributes(self._descriptor)
        if self._end > found.st_size or found.st_blocks * 512 < found.st_size:
            self._bytes.check(self._principal, self._amount)

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        if self._bytes is not None:
            settle(self._node, self._descriptor, self._principal)


def settle(node: HostNode, descriptor: int, principal: Principal) -> None:
    """Count what the file takes now, which `principal` wrote. Linux says too little while it writes
    a file to the disk (ext4 has taken blocks off one figure, and not yet put them to the other): at
    the next change, or when it is closed, it is known."""
    counted = _bytes(node)
    if counted is None:
        return
    more = node.counts(taken(attributes(descriptor)))
    if more:
        counted.changed(part_of(node), principal, more, named=not node.removed)


def _bytes(node: HostNode) -> Bytes | None:
    """Where it is counted."""
    return node.tree.bytes if node.device.own else None


def part_of(node: HostNode) -> Makers:
    """Whose its bytes are."""
    if node.part is None:
        counted = node.tree.bytes
        assert counted is not None
        if not counted.marks:
            node.part = Makers("")
        elif not _keeps_marks(node.mode):
            node.part = Makers(f"u{node.uid}")
        else:
            try:
                pinned = node.pinned()
                node.part = Makers.read(own_path(pinned.number), node.uid)
            except (KernelError, OSError):
                return Makers(f"u{node.uid}")  # for now
    return node.part


class Marking:
    """Call it with the path of what `principal` has just made in a directory, which may be a link,
    or with its descriptor. Raises ShareError if that is one more than it may have. `part`: whose
    it is."""

    __slots__ = ("_bytes", "_mode", "_principal", "part")

    def __init__(self, directory: HostNode, mode: int, principal: Principal) -> None:
        self._bytes = _bytes(directory)
        self._mode = mode
        self._principal = principal
        self.part: Makers | None = None

    def __call__(self, made: str | int) -> None:
        counted = self._bytes
        if counted is None:
            return
        counted.check(self._principal)
        if not counted.marks:
            self.part = Makers("")
            return
        self.part = Makers(counted.mark(self._principal))
        if _keeps_marks(self._mode):
            self.part.write(made, follow=isinstance(made, int))


def made(node: HostNode, part: Makers | None) -> None:
    """It is there."""
    counted = _bytes(node)
    if counted is not None and part is not None:
        node.part = part if _keeps_marks(node.mode) or not counted.marks else Makers(f"u{node.uid}")
        counted.made(node.part, node.taken)


def removed(node: HostNode) -> None:
    """Its last name is gone."""
    counted = _bytes(node)
    if counted is not None:
        counted.removed(part_of(node), node.taken, is_open=bool(node.handles))


def opened(node: HostNode) -> None:
    """It is open for the first time."""
    counted = _bytes(node)
    if counted is not None and node.removed:
        counted.opened(part_of(node), node.taken)


def closed(node: HostNode, descriptor: int) -> None:
    """It is open no more."""
    counted = _bytes(node)
    if counted is None or node.part is None:
        return
    if node.removed:
        counted.closed(node.part, node.taken)
    elif node.part.changed:
        node.part.write(own_path(descriptor))


def _keeps_marks(mode: int) -> bool:
    """Linux lets nothing else have attributes of users."""
    return st.S_IFMT(mode) in (st.S_IFREG, st.S_IFDIR)
