"""/proc/PID/children: the tree of processes as links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.model.process import ProcessKind
from agentfs.process.events import ChildrenChanged
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.files import Owner
from agentfs.vfs.node import Link, Node, Stat
from agentfs.vfs.on import on
from agentfs.vfs.table import DirectoryOf

if TYPE_CHECKING:
    from agentfs.providers.process import ProcessDirectory

__all__ = ["ChildrenDirectory", "pid_of"]


class ChildrenDirectory(DirectoryOf):
    """/proc/PID/children: a link to each child, by pid."""

    PATH = "/proc/PID/children"
    WHAT = "A link to each of its children, named by pid; runs are nobody's."
    ON = (ChildrenChanged,)

    def __init__(self, parent: ProcessDirectory) -> None:
        self.parent = parent
        self.key = parent.key_of("children")

    def owner(self) -> Owner:
        return self.parent.owner()

    def child(self, pid: int) -> ChildLink:
        return ChildLink(self, pid)

    def lookup(self, name: str) -> Node:
        child = self.parent.kernel.table.find(pid_of(name))
        if child is None or child.ppid != self.parent.pid or child.kind is ProcessKind.RUN:
            raise self.missing(name)
        return self.child(child.pid)

    def entries(self) -> Iterator[tuple[str, Node]]:
        for child in self.parent.kernel.table.children(self.parent.pid):
            if child.kind is ProcessKind.RUN:
                continue
            yield str(child.pid), self.child(child.pid)

    @on(ChildrenChanged)
    def _changes(self, event: ChildrenChanged) -> Iterator[Change]:
        node = self.child(event.child)
        if event.added:
            node.remember()
            yield Created(self.key, str(event.child), node)
        else:
            yield Removed(self.key, str(event.child), node.key)


class ChildLink(Link):
    """/proc/PID/children/CHILD."""

    def __init__(self, children: ChildrenDirectory, pid: int) -> None:
        self.key = (children.key, str(pid))
        self._children = children
        self._pid = pid
        self._kept: Stat | None = None

    def remember(self) -> None:
        """Keep the attributes: its coming is announced even if it is gone by then."""
        self._kept = self.stat()

    def stat(self) -> Stat:
        try:
            owner = self._children.owner()
        except KernelError:
            if self._kept is None:
                raise
            return self._kept
        return Stat(0o120777, owner.uid, owner.gid, 0, owner.mtime)

    def target(self, caller: Caller) -> str:
        return f"../../{self._pid}"


def pid_of(name: str) -> int:
    """The pid that a file name says; 0, which is nobody's, for any other name."""
    if name.isascii() and name.isdigit() and name[0] != "0" and len(name) <= 18:
        return int(name)
    return 0
