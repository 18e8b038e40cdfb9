"""Real files that are counted: each change says whose bytes it added, or asks whether it may."""

from __future__ import annotations

import os
import stat as st
from typing import TYPE_CHECKING

from agentfs.errors import KernelError
from agentfs.providers.disk import own_path
from agentfs.resources.filebytes import Bytes, Part, taken
from agentfs.security.principal import Principal

if TYPE_CHECKING:
    from agentfs.providers.hostnode import HostNode

__all__ = ["closed", "growing", "made", "mark", "opened", "part_of", "removed", "settle"]


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
        self._bytes = node.tree.bytes
        self._node = node
        self._descriptor = descriptor
        self._principal = principal
        self._end = end
        self._amount = amount

    def __enter__(self) -> None:
        if self._bytes is None:
            return
        found = os.fstat(self._descriptor)
        if self._end > found.st_size or found.st_blocks * 512 < found.st_size:
            self._bytes.check(self._principal, self._amount)

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        if self._bytes is not None:
            settle(self._node, self._descriptor, self._principal)


def settle(node: HostNode, descriptor: int, principal: Principal) -> None:
    """Count what the file takes now, which `principal` wrote. Linux says too little while it writes
    a file to the disk (ext4 has taken blocks off one figure, and not yet put them to the other): at
    the next change, or when it is closed, it is known."""
    counted, now = node.tree.bytes, taken(os.fstat(descriptor))
    if counted is not None and now != node.taken:
        change, node.taken = now - node.taken, now
        counted.changed(part_of(node), principal, change, named=not node.removed)


def part_of(node: HostNode) -> Part:
    """Whose its bytes are."""
    if node.part is None:
        counted = node.tree.bytes
        assert counted is not None
        if not counted.marks:
            node.part = Part("")
        elif not _keeps_marks(node.mode):
            node.part = Part(f"u{node.uid}")
        else:
            try:
                with node.pinned() as descriptor:
                    node.part = Part.read(own_path(descriptor), node.uid)
            except (KernelError, OSError):
                return Part(f"u{node.uid}")  # for now
    return node.part


def mark(counted: Bytes | None, path: str | int, mode: int, principal: Principal) -> Part | None:
    """`principal` has just made something at `path`, which may be a link. Raises ShareError if that
    is one more than it may have."""
    if counted is None:
        return None
    counted.check(principal)
    if not counted.marks:
        return Part("")
    part = Part(counted.mark(principal))
    if _keeps_marks(mode):
        part.write(path, follow=isinstance(path, int))
    return part


def made(node: HostNode, part: Part | None) -> None:
    """It is there."""
    counted = node.tree.bytes
    if counted is not None and part is not None:
        node.part = part if _keeps_marks(node.mode) or not counted.marks else Part(f"u{node.uid}")
        counted.made(node.part, node.taken)


def removed(node: HostNode) -> None:
    """Its last name is gone."""
    counted = node.tree.bytes
    if counted is not None:
        counted.removed(part_of(node), node.taken, is_open=bool(node.handles))


def opened(node: HostNode) -> None:
    """It is open for the first time."""
    counted = node.tree.bytes
    if counted is not None and node.removed:
        counted.opened(part_of(node), node.taken)


def closed(node: HostNode, descriptor: int) -> None:
    """It is open no more."""
    counted = node.tree.bytes
    if counted is None or node.part is None:
        return
    if node.removed:
        counted.closed(node.part, node.taken)
    elif node.part.changed:
        node.part.write(own_path(descriptor))


def _keeps_marks(mode: int) -> bool:
    """Linux lets nothing else have attributes of users."""
    return st.S_IFMT(mode) in (st.S_IFREG, st.S_IFDIR)
