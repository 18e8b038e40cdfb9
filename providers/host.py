"""Real directories in the tree, `/shared` and `memory/`, with everything POSIX has.

A node is identified by device and inode number. It knows the names under which it was found, each
as (directory node, name), and its place is worked out through them whenever it is needed: renaming
a directory needs no look at what is below it. What was found is compared with what was meant each
time, so that a name that somebody else took over is noticed. Links are shown, never followed.

Linux finds changes here by itself, because all of them are calls on the mount.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from weakref import WeakValueDictionary

from agentfs.errors import KernelError
from agentfs.providers import disk
from agentfs.providers.disk import own_path, reported
from agentfs.providers.hostnode import (
    OPEN_ALWAYS,
    OPEN_FLAGS,
    HostFifo,
    HostFile,
    HostHandle,
    HostLink,
    HostNode,
)
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Directory, Handle, Node

__all__ = [
    "HostDirectory",
    "HostFifo",
    "HostFile",
    "HostHandle",
    "HostLink",
    "HostNode",
    "HostTree",
]


class HostTree:
    """One real directory and what is below it.

    `guard(caller)` is asked at every operation. Subclasses that have more to ask override
    `may_read`, `may_write` and `may_move`.
    """

    def __init__(self, root: Path, guard: Callable[[Caller], None] = lambda caller: None) -> None:
        self.path = os.fspath(root)
        self.guard = guard
        self._nodes: WeakValueDictionary[tuple[int, int], HostNode] = WeakValueDictionary()
        self._used_again: dict[tuple[int, int], int] = {}
        self.version = 0  # moves with every change made through this tree
        with reported(self.path):
            self.root = HostDirectory(self, os.stat(self.path, follow_symlinks=False), 0)
        self._nodes[self.root.identity] = self.root

    def node(self, found: os.stat_result, parent: HostDirectory, name: str) -> HostNode:
        """The node of what was found as `name` in `parent`."""
        identity = found.st_dev, found.st_ino
        node = self._nodes.get(identity)
        if node is None or node.removed or st.S_IFMT(node.mode) != st.S_IFMT(found.st_mode):
            if node is not None:  # the number was used again while Linux knew the old file
                self._used_again[identity] = self._used_again.get(identity, 0) + 1
            made = _KINDS.get(st.S_IFMT(found.st_mode), HostFifo)
            node = made(self, found, self._used_again.get(identity, 0))
            self._nodes[identity] = node
        if isinstance(node, HostDirectory):
            node.names.clear()
        if node is not self.root:
            node.names[parent, name] = None
        node.found(found)
        return node

    def reading(self, caller: Caller, *nodes: HostNode | None) -> None:
        """Ask whether `caller` may read all of these."""
        self.guard(caller)
        self.may_read(caller, [path for node in nodes if node for path in node.paths()])

    def changing(self, caller: Caller, *nodes: HostNode | None, made: Iterable[str] = ()) -> None:
        """Ask whether `caller` may change all of these, and make what is at `made`."""
        self.guard(caller)
        self.may_write(caller, [*made, *(path for node in nodes if node for path in node.paths())])
        self.version += 1

    def may_read(self, caller: Caller, paths: list[str]) -> None:
        """Raise unless `caller` may read what is known by these paths."""

    def may_write(self, caller: Caller, paths: list[str]) -> None:
        """Raise unless `caller` may change, make or remove what is known by these paths."""

    def may_move(self, caller: Caller, old: str, new: str) -> None:
        """Raise unless `caller` may give a directory another path."""


class HostDirectory(HostNode, Directory):
    """A real directory. It is gated for what Linux opens by itself: FIFOs and sockets."""

    gated = True

    def _open(self) -> int:
        return disk.open_directory(self.tree.path, self._way())

    def _way(self) -> list[str]:
        """The names that lead to it from the root. Raises ESTALE."""
        chain: list[str] = []
        node = self
        while node is not self.tree.root:
            if not node.names or node.removed:
                raise KernelError(errno.ESTALE, "this directory is no longer where it was")
            node, name = next(iter(node.names))
            chain.append(name)
        return chain[::-1]

    def lookup(self, name: str) -> HostNode:
        with reported(name), self.pinned() as here:
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
        return self.tree.node(found, self, name)

    def reach(self, name: str, caller: Caller) -> HostNode:
        node = self.lookup(name)
        if isinstance(node, HostFifo):  # nobody says whether it is to be read or written
            self.tree.reading(caller, node)
            self.tree.changing(caller, node)
        return node

    def entries(self) -> Iterator[tuple[str, Node]]:
        with reported("listing the directory"), self.pinned() as here:
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            try:
                for name in os.listdir(readable):
                    try:
                        found = os.stat(name, dir_fd=readable, follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # gone while we looked
                    yield name, self.tree.node(found, self, name)
            finally:
                os.close(readable)

    def _made(self, here: int, name: str, mode: int, caller: Caller) -> HostNode:
        """What was just made as `name`, given to the caller."""
        made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        try:
            disk.give(made, mode, caller, os.fstat(here))
            return self.tree.node(os.fstat(made), self, name)
        finally:
            os.close(made)

    def paths(self) -> list[str]:
        return ["/".join(self._way())]

    def entry(self, name: str) -> str:
        """The path, below the root, of what is called `name` in it."""
        return "/".join([*self._way(), name])

    def may_list(self, caller: Caller) -> None:
        self.tree.reading(caller, self)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        self.tree.changing(caller, made=[self.entry(name)])
        wanted = flags & OPEN_FLAGS | OPEN_ALWAYS
        with reported(f"creating {name}"), self.pinned() as here:
            try:
                new = os.O_CREAT | os.O_EXCL
                descriptor = os.open(name, wanted | new, 0o600, dir_fd=here)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                existing = self.lookup(name)
                if not isinstance(existing, HostFile):
                    raise
                return existing, existing.open(flags, caller)
            try:
                node = self._made(here, name, mode | st.S_IFREG, caller)
                assert isinstance(node, HostFile)
                return node, HostHandle(node, descriptor)
            except BaseException:
                os.close(descriptor)
                raise

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        self.tree.changing(caller, made=[self.entry(name)])
        with reported(f"making {name}"), self.pinned() as here:
            os.mkdir(name, 0o700, dir_fd=here)
            return self._made(here, name, mode | st.S_IFDIR, caller)

    def mknod(self, name: str, mode: int, rdev: int, caller: Caller) -> Node:
        if st.S_IFMT(mode) not in (st.S_IFIFO, st.S_IFSOCK, st.S_IFREG):
            raise KernelError(errno.EPERM, "there are no device files here")
        self.tree.changing(caller, made=[self.entry(name)])
        with reported(f"making {name}"), self.pinned() as here:
            os.mknod(name, st.S_IFMT(mode) | 0o600, dir_fd=here)
            return self._made(here, name, mode, caller)

    def symlink(self, name: str, target: str, caller: Caller) -> Node:
        self.tree.changing(caller, made=[self.entry(name)])
        with reported(f"making {name}"), self.pinned() as here:
            os.symlink(target, name, dir_fd=here)
            return self._made(here, name, 0, caller)

    def link(self, node: Node, name: str, caller: Caller) -> Node:
        if not isinstance(node, HostNode) or node.tree is not self.tree:
            raise KernelError(errno.EXDEV, "a link cannot lead into another file system")
        self.tree.reading(caller, node)  # or the new name would be a way to read it
        self.tree.changing(caller, node, made=[self.entry(name)])
        with reported(f"linking {name}"), self.pinned() as here, node.pinned() as source:
            os.link(own_path(source), name, dst_dir_fd=here, follow_symlinks=True)
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
        return self.tree.node(found, self, name)

    def unlink(self, name: str, caller: Caller) -> None:
        node = self.lookup(name)
        self.tree.changing(caller, node)
        with reported(f"removing {name}"), self.pinned() as here:
            last = os.stat(name, dir_fd=here, follow_symlinks=False).st_nlink <= 1
            os.unlink(name, dir_fd=here)
        self._lost(name, node, last)

    def rmdir(self, name: str, caller: Caller) -> None:
        node = self.lookup(name)
        self.tree.changing(caller, node)
        with reported(f"removing {name}"), self.pinned() as here:
            os.rmdir(name, dir_fd=here)
        self._lost(name, node, True)

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        if not isinstance(target, HostDirectory) or target.tree is not self.tree:
            raise KernelError(errno.EXDEV, f"{name} cannot move into another file system")
        if flags not in (0, disk.RENAME_NOREPLACE, disk.RENAME_EXCHANGE):
            raise KernelError(errno.EINVAL, "renameat2's flags here: NOREPLACE or EXCHANGE")
        node, replaced = self.lookup(name), target._present(new_name)
        last = replaced is not None and (
            isinstance(replaced, HostDirectory) or replaced.stat().nlink <= 1
        )
        self._may_move(name, node, target, new_name, caller)
        if replaced is not None and flags == disk.RENAME_EXCHANGE:
            target._may_move(new_name, replaced, self, name, caller)
        self.tree.changing(caller, node, replaced)
        with reported(f"renaming {name}"), self.pinned() as here, target.pinned() as there:
            disk.rename(here, name, there, new_name, flags)
        if replaced is node:
            return  # two names of one file: rename(2) leaves both
        if replaced is not None:
            target._lost(new_name, replaced, last and flags != disk.RENAME_EXCHANGE)
        self._lost(name, node, False)
        node.names[target, new_name] = None
        if replaced is not None and flags == disk.RENAME_EXCHANGE:
            replaced.names[self, name] = None

    def _may_move(
        self, name: str, node: HostNode, target: HostDirectory, new_name: str, caller: Caller
    ) -> None:
        old, new = self.entry(name), target.entry(new_name)
        self.tree.reading(caller, node)  # or the new name would be a way to read it
        self.tree.changing(caller, made=(old, new))
        if isinstance(node, HostDirectory):
            self.tree.may_move(caller, old, new)

    def _present(self, name: str) -> HostNode | None:
        try:
            return self.lookup(name)
        except KernelError as missing:
            if missing.errno == errno.ENOENT:
                return None
            raise

    def _lost(self, name: str, node: HostNode, last: bool) -> None:
        """`name` is not `node`'s name any more; `last`: it was the only one."""
        node.names.pop((self, name), None)
        node.removed = last


_KINDS: dict[int, type[HostNode]] = {
    st.S_IFDIR: HostDirectory,
    st.S_IFREG: HostFile,
    st.S_IFLNK: HostLink,
    st.S_IFIFO: HostFifo,
}
