"""Real directories in the tree, `/shared` and `memory/`, with everything POSIX has.

A node is identified by device and inode number. It knows the names under which it was found, each
as (directory node, name), and its place is worked out through them whenever it is needed: renaming
a directory needs no look at what is below it. A look-up compares each time what it found with what
was meant, so that a name that somebody else took over is noticed. Links are shown, never followed.

Linux finds changes here by itself, because all of them are calls on the mount.
"""

from __future__ import annotations

import errno
import os
import stat as st
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from agentfs.base.errors import KernelError
from agentfs.providers import counting, disk, kept
from agentfs.providers.descriptors import Descriptor
from agentfs.providers.devices import OWN, Device, Devices
from agentfs.providers.disk import reported
from agentfs.providers.hostnode import (
    OPEN_FLAGS,
    TIMEOUT,
    HostFifo,
    HostFile,
    HostHandle,
    HostLink,
    HostNode,
)
from agentfs.quota.file_bytes import Bytes
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

    `guard(caller)` is asked at every operation; `bytes` counts what is in it, if anybody does,
    other disks left out. The directory that `root` is in is on the store's own disk.
    Subclasses that have more to ask override `may_read`, `may_write`, `may_make` and `may_move`;
    `changed` is told what was done.
    """

    most_bytes = sys.maxsize
    """Bytes that one file may have; more is EFBIG."""

    def __init__(
        self,
        root: Path,
        guard: Callable[[Caller], None] = lambda caller: None,
        devices: Devices | None = None,
        counted: Bytes | None = None,
    ) -> None:
        self.bytes = counted
        self.path = os.fspath(root)
        self.guard = guard
        self.devices = Devices() if devices is None else devices
        # One for each (device, number, generation), as long as anybody has it; and the generation
        # of the present one where it is not 0, because the number was used again while Linux knew
        # the old file.
        self._nodes: WeakValueDictionary[tuple[int, int, int], HostNode] = WeakValueDictionary()
        self._generations: dict[tuple[int, int], int] = {}
        self.version = 0
        """Moves with every change that is made through this tree."""
        with reported(self.path):
            found, device, beyond = self._look()
        self.number = found.st_dev
        self.root = HostDirectory(self, found, 0)
        self.root.found_on(device, beyond)
        self._nodes[*self.root.identity, 0] = self.root

    def _look(self) -> tuple[os.stat_result, Device, bool]:
        """The root, where it is, and whether it is mounted there."""
        parent, name = os.path.split(self.path)
        above = Descriptor(disk.open_root(parent, beyond=True))
        return self.look(above, name, OWN, lambda: self.path)

    def stale(self) -> None:
        """All that was read of a file before may be otherwise now."""
        self.version += 1

    def look(
        self, directory: Descriptor, name: str, device: Device, path: Callable[[], str]
    ) -> tuple[os.stat_result, Device, bool]:
        """Look up `name`, which is at `path()`, in a directory on `device`: its attributes, where
        it is, and whether it is mounted there."""
        try:
            return device.call(disk.look, directory.number, name), device, False
        except OSError as failure:
            if failure.errno != errno.EXDEV:
                raise
        beyond = self.devices.beyond(path())
        return beyond.call(disk.look_beyond, directory.number, name), beyond, True

    def node(
        self,
        found: os.stat_result,
        parent: HostDirectory,
        name: str,
        device: Device | None = None,
        beyond: bool = False,
    ) -> HostNode:
        """The node of what was found as `name` in `parent`, on its device if on no other."""
        identity = found.st_dev, found.st_ino
        generation = self._generations.get(identity, 0)
        node = self._nodes.get((*identity, generation))
        if node is None or node.removed or st.S_IFMT(node.mode) != st.S_IFMT(found.st_mode):
            node = self._new(found)
        if isinstance(node, HostDirectory):
            node.names.clear()
        else:
            node.kept = None  # it has a name to be found by
        if node is not self.root:
            node.names[parent, name] = None
            node.found_on(device or parent.device, beyond)
        node.found(found)
        return node

    def known(self, parent: HostDirectory, name: str) -> HostNode | None:
        """The node that was found as `name` in `parent`, if anybody has it still; it may be gone by
        now."""
        return next((node for node in self._nodes.values() if (parent, name) in node.names), None)

    def _new(self, found: os.stat_result) -> HostNode:
        device, number = found.st_dev, found.st_ino
        generation = 0
        while (device, number, generation) in self._nodes:
            generation += 1
        if generation:
            self._generations[device, number] = generation
        else:
            self._generations.pop((device, number), None)
        node = _KINDS.get(st.S_IFMT(found.st_mode), HostFifo)(self, found, generation)
        self._nodes[device, number, generation] = node
        return node

    def lost(self, node: HostNode) -> None:
        """The last name of `node` is gone."""
        counting.removed(node)
        node.removed = True
        if self._generations.get(node.identity) == node.generation:
            del self._generations[node.identity]

    def reading(self, caller: Caller, *nodes: HostNode | None) -> None:
        """Ask whether `caller` may read all of these."""
        self.guard(caller)
        self.may_read(caller, [path for node in nodes if node for path in node.paths()])

    def changing(
        self, caller: Caller, *nodes: HostNode | None, made: Iterable[str] = ()
    ) -> list[str]:
        """Ask whether `caller` may change all of these, and make what is at `made`; the paths of
        the latter and then of the nodes."""
        self.guard(caller)
        paths = [*made, *(path for node in nodes if node for path in node.paths())]
        self.may_write(caller, paths)
        self.version += 1
        return paths

    def may_read(self, caller: Caller, paths: list[str]) -> None:
        """Raise unless `caller` may read what is known by these paths."""

    def may_write(self, caller: Caller, paths: list[str]) -> None:
        """Raise unless `caller` may change, make or remove what is known by these paths."""

    def changed(self, caller: Caller, what: str, path: str, to: str = "") -> None:
        """`caller` did `what` to what is known by this path, or was: for who keeps a record."""

    def may_make(self) -> None:
        """Raise unless there may be one file, directory or link more."""

    def may_move(self, caller: Caller, old: str, new: str) -> None:
        """Raise unless `caller` may give a directory another path."""


class HostDirectory(HostNode, Directory):
    """A real directory."""

    stepwise = True
    missing_timeout = TIMEOUT

    def descriptor(self) -> Descriptor:
        """Its descriptor, for calls relative to it."""
        if self.kept is None:
            chain: list[HostDirectory] = []
            node = self
            while node.kept is None and node is not self.tree.root:
                chain.append(node)
                node = node._place()[0]
            found = node.kept or node._open_root()
            for below in reversed(chain):
                number = below.device.call(
                    disk.open_directory,
                    found.number,
                    below._place()[1],
                    below.beyond,
                    late=os.close,
                )
                found = Descriptor(number, device=below.device)
            here = self.device.call(disk.attributes, found.number)
            if (here.st_dev, here.st_ino) != self.identity:
                raise KernelError(errno.ESTALE, "this directory is no longer where it was")
            self.kept = found
        if not self.removed:
            kept.keep(self)
        return self.kept

    def _open_root(self) -> Descriptor:
        """A new descriptor of the tree's root, which it is."""
        number = self.device.call(disk.open_root, self.tree.path, self.beyond, late=os.close)
        return Descriptor(number, device=self.device)

    def pinned(self) -> Descriptor:
        return self.descriptor()

    @contextmanager
    def outliving(self, name: tuple[HostDirectory, str], last: bool) -> Iterator[None]:
        if last:
            with suppress(KernelError, OSError):
                self.descriptor()
        yield
        if last:
            kept.let_go(self)

    def _place(self) -> tuple[HostDirectory, str]:
        """Its parent and its name there. Raises ENOENT if it was removed, or ESTALE."""
        if self.removed:
            raise KernelError(errno.ENOENT, "this directory was removed")
        if not self.names:
            raise KernelError(errno.ESTALE, "this directory is no longer where it was")
        return next(iter(self.names))

    def _way(self) -> list[str]:
        """The names that lead to it from the root. Raises ESTALE."""
        chain: list[str] = []
        node = self
        while node is not self.tree.root:
            node, name = node._place()
            chain.append(name)
        return chain[::-1]

    def lookup(self, name: str) -> HostNode:
        return self._find(name)[0]

    def _find(self, name: str) -> tuple[HostNode, bool]:
        """The node called `name`, and whether it has no other name."""
        with reported(name):
            here = self.descriptor()
            found, device, beyond = self.tree.look(
                here, name, self.device, lambda: self._path(name)
            )
        only = found.st_nlink <= 1 or st.S_ISDIR(found.st_mode)
        return self.tree.node(found, self, name, device, beyond), only

    def glance(self, name: str) -> Node | None:
        with reported(name):
            here = self.descriptor()
            try:
                found = self.device.call(disk.look, here.number, name)
            except OSError as failure:
                if failure.errno != errno.EXDEV:
                    raise
                return None
        return self.tree.node(found, self, name)

    def names_now(self, caller: Caller) -> Iterator[str]:
        charge = caller.descriptor()
        with reported("listing the directory"):
            here = self.descriptor()
            if not self.device.own:
                yield from self.device.call(disk.names, here.number)
                return
            listing = Descriptor(disk.open_listing(here.number), charge)
            yield from disk.scan(listing.number)

    def entries(self) -> Iterator[tuple[str, Node]]:
        with reported("listing the directory"):
            here = self.descriptor()
            names = self.device.call(disk.names, here.number)
        for name in names:
            try:
                yield name, self.lookup(name)
            except KernelError as missing:
                if missing.errno != errno.ENOENT:  # gone while we looked
                    raise

    def paths(self) -> list[str]:
        return self._formerly() if self.removed else ["/".join(self._way())]

    def _path(self, name: str) -> str:
        """The path on the machine of what is called `name` in it."""
        return os.path.join(self.tree.path, *self._way(), name)

    def entry(self, name: str) -> str:
        """The path, below the root, of what is called `name` in it."""
        return "/".join([*self._way(), name])

    def may_list(self, caller: Caller) -> None:
        self.device.check()
        self.tree.reading(caller, self)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        (path,) = self.tree.changing(caller, made=[self.entry(name)])
        charge = caller.descriptor()
        mark = counting.Marking(self, st.S_IFREG, caller.principal)
        wanted = flags & OPEN_FLAGS | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
        with reported(f"creating {name}"):
            here = self.descriptor()
            try:
                self.tree.may_make()
                number, found = self.device.call(
                    disk.create, here.number, name, wanted, mode, caller, mark, late=_taken_back
                )
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                existing = self.lookup(name)
                if not isinstance(existing, HostFile):
                    raise
                return existing, existing.open(flags, caller)
            descriptor = Descriptor(number, charge, self.device)
            node = self.tree.node(found, self, name)
        assert isinstance(node, HostFile)
        counting.made(node, mark.part)
        self.tree.changed(caller, "created", path)
        return node, HostHandle(node, descriptor, flags, caller)

    def _make(self, name: str, mode: int, caller: Caller, target: str | None = None) -> HostNode:
        """The caller gets it, or there is nothing new."""
        (path,) = self.tree.changing(caller, made=[self.entry(name)])
        self.tree.may_make()
        mark = counting.Marking(self, mode if target is None else st.S_IFLNK, caller.principal)
        with reported(f"making {name}"):
            here = self.descriptor()
            found = self.device.call(disk.make, here.number, name, mode, caller, mark, target)
        node = self.tree.node(found, self, name)
        counting.made(node, mark.part)
        self.tree.changed(caller, "created", path)
        return node

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        return self._make(name, mode | st.S_IFDIR, caller)

    def mknod(self, name: str, mode: int, rdev: int, caller: Caller) -> Node:
        if st.S_IFMT(mode) not in (st.S_IFIFO, st.S_IFSOCK, st.S_IFREG):
            raise KernelError(errno.EPERM, "there are no device files here")
        return self._make(name, mode, caller)

    def symlink(self, name: str, target: str, caller: Caller) -> Node:
        return self._make(name, 0, caller, target)

    def link(self, node: Node, name: str, caller: Caller) -> Node:
        if not isinstance(node, HostNode) or node.tree is not self.tree:
            raise KernelError(errno.EXDEV, "a link cannot lead into another file system")
        self.tree.reading(caller, node)  # or the new name would be a way to read it
        new, old, *_ = self.tree.changing(caller, node, made=[self.entry(name)])
        self.tree.may_make()
        with reported(f"linking {name}"):
            source, here = node.pinned(), self.descriptor()
            found = self.device.call(disk.link, source.number, here.number, name)
        self.tree.changed(caller, "linked", old, new)
        return self.tree.node(found, self, name)

    def unlink(self, name: str, caller: Caller) -> None:
        self._remove(name, caller, is_directory=False)

    def rmdir(self, name: str, caller: Caller) -> None:
        self._remove(name, caller, is_directory=True)

    def _remove(self, name: str, caller: Caller, is_directory: bool) -> None:
        node, last = self._find(name)
        path = self.entry(name)
        self.tree.changing(caller, node)
        with reported(f"removing {name}"), node.outliving((self, name), last):
            here = self.descriptor()
            self.device.call(disk.remove, here.number, name, is_directory)
        self._lost(name, node, last)
        self.tree.changed(caller, "removed", path)

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        if not isinstance(target, HostDirectory) or target.tree is not self.tree:
            raise KernelError(errno.EXDEV, f"{name} cannot move into another file system")
        if flags not in (0, disk.RENAME_NOREPLACE, disk.RENAME_EXCHANGE):
            raise KernelError(errno.EINVAL, "renameat2's flags here: NOREPLACE or EXCHANGE")
        node, (replaced, last) = self.lookup(name), target._present(new_name)
        exchanged = flags == disk.RENAME_EXCHANGE
        old, new = self.entry(name), target.entry(new_name)
        self._may_move(name, node, target, new_name, caller)
        if replaced is not None and exchanged:
            target._may_move(new_name, replaced, self, name, caller)
        self.tree.changing(caller, node, replaced)
        goes: AbstractContextManager[None] = nullcontext()
        if replaced is not None and replaced is not node and not exchanged:
            goes = replaced.outliving((target, new_name), last)
        with reported(f"renaming {name}"), goes:
            here, there = self.descriptor(), target.descriptor()
            self.device.call(disk.rename, here.number, name, there.number, new_name, flags)
        if replaced is node:
            return  # two names of one file: rename(2) leaves both
        if replaced is not None:
            target._lost(new_name, replaced, last and not exchanged)
        self._lost(name, node, False)
        node.names[target, new_name] = None
        if replaced is not None and exchanged:
            replaced.names[self, name] = None
            self.tree.changed(caller, "renamed", new, old)
        elif replaced is not None:
            self.tree.changed(caller, "replaced", new)
        self.tree.changed(caller, "renamed", old, new)

    def _may_move(
        self, name: str, node: HostNode, target: HostDirectory, new_name: str, caller: Caller
    ) -> None:
        old, new = self.entry(name), target.entry(new_name)
        self.tree.reading(caller, node)  # or the new name would be a way to read it
        self.tree.changing(caller, made=(old, new))
        if isinstance(node, HostDirectory):
            self.tree.may_move(caller, old, new)

    def _present(self, name: str) -> tuple[HostNode | None, bool]:
        try:
            return self._find(name)
        except KernelError as missing:
            if missing.errno == errno.ENOENT:
                return None, False
            raise

    def _lost(self, name: str, node: HostNode, last: bool) -> None:
        """`name` is not `node`'s name any more; `last`: it was the only one."""
        node.lost(self, name)
        if last:
            self.tree.lost(node)


def _taken_back(made: disk.Made) -> None:
    """Nobody waited any more for what was created."""
    os.close(made[0])


_KINDS: dict[int, type[HostNode]] = {
    st.S_IFDIR: HostDirectory,
    st.S_IFREG: HostFile,
    st.S_IFLNK: HostLink,
    st.S_IFIFO: HostFifo,
}
