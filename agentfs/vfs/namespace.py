"""The whole tree as the mount sees it: a root, and what an event changes in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agentfs.vfs.changes import Change
from agentfs.vfs.node import Directory, Node

__all__ = ["Namespace"]


class Namespace:
    """A root directory, and `changes(event, known)`, which says which nodes an event changes (see
    `EventIndex`); without `known`, all of them."""

    def __init__(self, root: Directory, changes: Callable[..., Iterable[Change]]) -> None:
        self.root = root
        self.changes = changes

    def find(self, path: str) -> Node:
        """The node at `path`, links not followed. Raises ENOENT, ENOTDIR as a KernelError."""
        node: Node = self.root
        for name in path.strip("/").split("/"):
            if name:
                assert isinstance(node, Directory), f"{path}: not a directory"
                node = node.lookup(name)
        return node
