"""The whole tree as the mount sees it: a root, and what an event changes in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from agentfs.store.event import Event
from agentfs.vfs.changes import Change, Known
from agentfs.vfs.node import Directory, Node

__all__ = ["Namespace"]


class Changes(Protocol):
    """Which nodes an event changes; of those whose content is another now, the `known` ones."""

    def __call__(self, event: Event, known: Known = ..., /) -> Iterable[Change]: ...


class Namespace:
    """A root directory and the function that says which nodes an event changes."""

    def __init__(self, root: Directory, changes: Changes) -> None:
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
