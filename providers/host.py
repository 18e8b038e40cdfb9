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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import trio

from agentfs.errors import KernelError
from agentfs.providers import disk
from agentfs.providers.disk import own_path, reported
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Directory, Fifo, File, Handle, Link, Node, Stat, Time, is_writing

__all__ = [
    "HostDirectory",
    "HostFifo",
    "HostFile",
    "HostHandle",
    "HostLink",
    "HostNode",
    "HostTree",
]

# What of open(2)'s flags is done by the daemon's own descriptor. O_APPEND is not: Linux says where
# the end is, and a page written back by mmap must not land there.
_PASSED_ON = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
_ALWAYS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

# Seconds that Linux may believe what it knows: nobody but its own clients changes these files, a
# person who looks into the state directory with an editor aside.
TIMEOUT = 1.0


class HostTree:
    """One real directory and what is below it.

    `guard(caller)` is asked at every operation, `protect(node, caller)` before each change; both
    raise if the answer is no.
    """

    def __init__(
        self,
        root: Path,
        guard: Callable[[Caller], None] = lambda caller: None,
        protect: Callable[[HostNode, Caller], None] = lambda node, caller: None,
    ) -> None:
        self.path = os.fspath(root)
        self.guard = guard
        self._protect = protect
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

    def changing(self, caller: Caller, *nodes: HostNode | None) -> None:
        """Ask whether `caller` may change all of these."""
        self.guard(caller)
        for node in nodes:
            if node is not None:
                self._protect(node, caller)
        self.version += 1


class HostNode(Node):
    """Anything in a real directory."""

    timeout = TIMEOUT

    def __init__(self, tree: HostTree, found: os.stat_result, generation: int) -> None:
        self.tree = tree
        self.identity = found.st_dev, found.st_ino
        self.mode = found.st_mode
        again = (generation,) if generation else ()
        self.key = ("host", *self.identity, *again)
        self.names: dict[tuple[HostDirectory, str], None] = {}
        self.handles: set[HostHandle] = set()
        self.removed = False  # the last name is gone
        self._fresh: tuple[int, os.stat_result] | None = None

    def found(self, found: os.stat_result) -> None:
        """Keep what was just read, for the `stat` that Linux asks for next."""
        self._fresh = self.tree.version, found

    def tops(self) -> set[str]:
        """The names, directly below the root, through which it is reached."""
        tops = set()
        for parent, name in self.names:
            while parent is not self.tree.root and parent.names:
                parent, name = next(iter(parent.names))
            tops.add(name)
        return tops

    @contextmanager
    def pinned(self) -> Iterator[int]:
        """An O_PATH descriptor of it. Raises ESTALE if it is not where it was."""
        descriptor = self._open()
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        for parent, name in tuple(self.names):
            try:
                with parent.pinned() as directory:
                    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                    descriptor = os.open(name, flags, dir_fd=directory)
            except (FileNotFoundError, NotADirectoryError):
                self.names.pop((parent, name), None)
                continue
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) == self.identity:
                return descriptor
            os.close(descriptor)
            self.names.pop((parent, name), None)
        for handle in self.handles:  # removed, but open
            return os.dup(handle.descriptor)
        raise KernelError(errno.ESTALE, "this file is no longer where it was")

    def stat(self) -> Stat:
        fresh, self._fresh = self._fresh, None
        if fresh is not None and fresh[0] == self.tree.version:
            return disk.as_stat(fresh[1])
        with reported("reading the attributes"):
            for handle in self.handles:
                return disk.as_stat(os.fstat(handle.descriptor))
            with self.pinned() as descriptor:
                return disk.as_stat(os.fstat(descriptor))

    def enter(self, caller: Caller) -> None:
        self.tree.guard(caller)

    def chattr(
        self,
        caller: Caller,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        times: tuple[Time | None, Time | None] = (None, None),
    ) -> None:
        if (mode, uid, gid, size, times) == (None, None, None, None, (None, None)):
            return
        self.tree.changing(caller, self)
        with reported("changing the attributes"), self.pinned() as descriptor:
            path = own_path(descriptor)
            if size is not None:
                os.truncate(path, size)
            if uid is not None or gid is not None:
                os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
            if mode is not None:
                os.chmod(path, mode)
            if times != (None, None):
                now = os.fstat(descriptor)
                accessed, modified = times
                os.utime(
                    path,
                    ns=(
                        now.st_atime_ns if accessed is None else accessed,
                        now.st_mtime_ns if modified is None else modified,
                    ),
                )

    def statvfs(self) -> os.statvfs_result:
        """The space of the file system it is on."""
        with reported("reading the file system's size"), self.pinned() as descriptor:
            return os.fstatvfs(descriptor)

    def getxattr(self, name: str) -> bytes:
        if not name.startswith("user."):
            raise KernelError(errno.ENODATA, f"no attribute {name!r}")
        with reported(f"reading the attribute {name}"), self.pinned() as descriptor:
            return os.getxattr(own_path(descriptor), name)

    def listxattr(self) -> list[str]:
        with reported("reading the attributes"), self.pinned() as descriptor:
            names = os.listxattr(own_path(descriptor))
        return [name for name in names if name.startswith("user.")]

    def setxattr(self, name: str, value: bytes, caller: Caller) -> None:
        if not name.startswith("user."):
            raise KernelError(errno.ENOTSUP, "only attributes that begin with `user.` are kept")
        self.tree.changing(caller, self)
        with reported(f"setting the attribute {name}"), self.pinned() as descriptor:
            os.setxattr(own_path(descriptor), name, value)

    def removexattr(self, name: str, caller: Caller) -> None:
        if not name.startswith("user."):
            raise KernelError(errno.ENODATA, f"no attribute {name!r}")
        self.tree.changing(caller, self)
        with reported(f"removing the attribute {name}"), self.pinned() as descriptor:
            os.removexattr(own_path(descriptor), name)


class HostLink(HostNode, Link):
    """A symbolic link, resolved by Linux on the mount and never by the daemon."""

    def target(self, caller: Caller) -> str:
        self.tree.guard(caller)
        with reported("reading the link"), self.pinned() as descriptor:
            return os.readlink("", dir_fd=descriptor)


class HostFifo(HostNode, Fifo):
    """A named pipe or a socket; Linux serves its bytes."""


class HostFile(HostNode, File):
    """A regular file."""

    def open(self, flags: int, caller: Caller) -> HostHandle:
        self.tree.guard(caller)
        if is_writing(flags) or flags & os.O_TRUNC:
            self.tree.changing(caller, self)
        with reported("opening the file"), self.pinned() as pin:
            wanted = flags & _PASSED_ON | _ALWAYS & ~os.O_NOFOLLOW
            return HostHandle(self, os.open(own_path(pin), wanted))


class HostHandle(Handle):
    """An open real file. It goes on working when the file is renamed or removed."""

    direct = False

    def __init__(self, file: HostFile, descriptor: int) -> None:
        self._file = file
        self.descriptor = descriptor
        file.handles.add(self)

    async def read(self, offset: int, size: int) -> bytes:
        with reported("reading"):
            return await disk.read_at(self.descriptor, offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        self._file.tree.version += 1
        with reported("writing"):
            return os.pwrite(self.descriptor, data, offset)

    def truncate(self, size: int) -> None:
        """ftruncate(2)."""
        self._file.tree.version += 1
        with reported("truncating"):
            os.ftruncate(self.descriptor, size)

    async def fsync(self) -> None:
        with reported("syncing"):
            await trio.to_thread.run_sync(os.fsync, self.descriptor)

    def release(self) -> None:
        if self in self._file.handles:
            self._file.handles.remove(self)
            os.close(self.descriptor)


class HostDirectory(HostNode, Directory):
    """A real directory."""

    def _open(self) -> int:
        chain: list[str] = []
        node = self
        while node is not self.tree.root:
            if not node.names or node.removed:
                raise KernelError(errno.ESTALE, "this directory is no longer where it was")
            node, name = next(iter(node.names))
            chain.append(name)
        return disk.open_directory(self.tree.path, chain[::-1])

    def lookup(self, name: str) -> HostNode:
        with reported(name), self.pinned() as here:
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
        return self.tree.node(found, self, name)

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

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        self.tree.changing(caller, self)
        wanted = flags & _PASSED_ON | _ALWAYS
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
        self.tree.changing(caller, self)
        with reported(f"making {name}"), self.pinned() as here:
            os.mkdir(name, 0o700, dir_fd=here)
            return self._made(here, name, mode | st.S_IFDIR, caller)

    def mknod(self, name: str, mode: int, rdev: int, caller: Caller) -> Node:
        if st.S_IFMT(mode) not in (st.S_IFIFO, st.S_IFSOCK, st.S_IFREG):
            raise KernelError(errno.EPERM, "there are no device files here")
        self.tree.changing(caller, self)
        with reported(f"making {name}"), self.pinned() as here:
            os.mknod(name, st.S_IFMT(mode) | 0o600, dir_fd=here)
            return self._made(here, name, mode, caller)

    def symlink(self, name: str, target: str, caller: Caller) -> Node:
        self.tree.changing(caller, self)
        with reported(f"making {name}"), self.pinned() as here:
            os.symlink(target, name, dir_fd=here)
            return self._made(here, name, 0, caller)

    def link(self, node: Node, name: str, caller: Caller) -> Node:
        if not isinstance(node, HostNode) or node.tree is not self.tree:
            raise KernelError(errno.EXDEV, "a link cannot lead into another file system")
        self.tree.changing(caller, self, node)
        with reported(f"linking {name}"), self.pinned() as here, node.pinned() as source:
            os.link(own_path(source), name, dst_dir_fd=here, follow_symlinks=True)
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
        return self.tree.node(found, self, name)

    def unlink(self, name: str, caller: Caller) -> None:
        node = self.lookup(name)
        self.tree.changing(caller, self, node)
        with reported(f"removing {name}"), self.pinned() as here:
            last = os.stat(name, dir_fd=here, follow_symlinks=False).st_nlink <= 1
            os.unlink(name, dir_fd=here)
        self._lost(name, node, last)

    def rmdir(self, name: str, caller: Caller) -> None:
        node = self.lookup(name)
        self.tree.changing(caller, self, node)
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
        self.tree.changing(caller, self, target, node, replaced)
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
