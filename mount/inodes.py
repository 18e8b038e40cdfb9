"""The inode table: the nodes that the Linux kernel knows, by number and by key.

An inode lives from the first look-up to the last forget. `stat` shows its number, so the number
follows from the node: it is the same when Linux has forgotten the inode and asks again. A file on
the disk has the disk's number, all others have a hash of their key. Numbers stay below 2**53: a
JavaScript program keeps them in a double. So a number can be guessed. A file handle, as
open_by_handle_at(2) takes it, is a number and a generation: generations are random.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import itertools
import secrets
import stat as st
import time
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import pyfuse3
import trio

from agentfs.base.errors import KernelError
from agentfs.mount.watch import EVENTS
from agentfs.vfs.node import FOREVER, Directory, Node, Stat

__all__ = ["Inode", "Inodes", "Renewed"]

# Each kind of number has a range of its own.
REAL = 1 << 50
HASHED = 1 << 51
COUNTED = 1 << 52

# After so many new inodes the garbage collector is told to leave all of them alone. Nodes have no
# circles, so none of them waits for a collection. To go through the nodes of a long listing took it
# 60 ms and more (30,000), in which nobody was served.
NEW_MOST = 5_000

YOUNG_SECONDS = 1.0
"""How long after a change a file is read from a snapshot, past Linux's page cache. Linux learns a
size in one thread and takes pages in another: while a value changes, one read in a hundred came out
cut at the size that it had before (three readers, and a writer that has no other work)."""


class Inode:
    """One file as the Linux kernel knows it.

    lookups: the references that Linux holds.
    parent, name: where it was found last.
    passing: Linux was told of its creation, and nobody has looked at it. It is to be forgotten.
    touched: the time of its last change, in ns. The st_mtime that Linux is told is never older.
    changes: the number of its changes so far.
    last_change: when the last of them was (time.monotonic).
    told: the content whose size Linux was told last.
    told_changes: the value of `changes` at that time.
    asked: when somebody asked for its attributes last (time.monotonic).
    cached: the version of the content that may be in Linux's page cache.
    gone: its node was removed. Open handles of it may remain.
    stale: it is of a tree that is no more. Linux is told to look its name up again.
    outdated: the number of names by which Linux may still find it though it lost them. Linux is
        told of each by an announcement.
    wanted: the events that somebody may watch it for (see `watch`). Nobody watches a restless
        directory until a program that is about to do so asks for its attributes (see `calls`), so
        Linux has to ask as long as there are events that nobody wants.
    fetched: the size in bytes of a content that is fetched at the open, as it was then.
    followed: its open files whose end matters.
    begun: the number of such files that it ever had.
    generation: goes with the number in a file handle. Linux keeps 32 bits of it.
    """

    __slots__ = (
        "asked",
        "begun",
        "cached",
        "changes",
        "fetched",
        "followed",
        "generation",
        "gone",
        "key",
        "last_change",
        "lookups",
        "name",
        "node",
        "number",
        "outdated",
        "parent",
        "passing",
        "stale",
        "told",
        "told_changes",
        "touched",
        "wanted",
    )

    def __init__(self, number: int, node: Node, parent: Inode | None, name: str) -> None:
        self.number = pyfuse3.InodeT(number)
        self.node = node
        self.key = node.key
        self.parent = parent
        self.name = name
        self.lookups = 0
        self.touched = 0
        self.changes = 0
        self.last_change = -YOUNG_SECONDS
        self.told: bytes | None = None
        self.told_changes = 0
        self.asked = 0.0
        self.cached: object = None
        self.gone = False
        self.stale = False
        self.outdated = 0
        self.fetched = 0
        self.followed = 0
        self.begun = 0
        self.passing = False
        self.generation = secrets.randbits(31) + 1
        self.wanted = 0 if isinstance(node, Directory) and node.restless else EVENTS

    # -- what Linux knows of it ------------------------------------------------------------------

    def refer(self) -> None:
        """Linux holds one more reference."""
        self.lookups += 1

    def found(self, node: Node, parent: Inode, name: str) -> None:
        """Linux found it as `name` in `parent`, and holds one more reference."""
        self.lookups += 1
        self.passing = False
        self.node = node
        if self.parent is not None:
            self.parent, self.name = parent, name

    def forget(self, lookups: int) -> bool:
        """Linux gives references back. Whether it holds none any more."""
        self.lookups -= lookups
        return self.lookups <= 0

    def ask(self) -> None:
        """Somebody asks for its attributes now."""
        self.asked = time.monotonic()

    def tell(self) -> tuple[Stat, bool]:
        """The attributes that Linux is told now, and whether it changed since the last time."""
        stat = self.stat()
        news = self.told_changes != self.changes
        self.told, self.told_changes = stat.content, self.changes
        return stat, news

    def stat(self) -> Stat:
        """The node's attributes. Raises ENOENT if it was removed. A removed directory can be
        somebody's working directory, and is empty."""
        if self.gone:
            if isinstance(self.node, Directory) and not self.outdated:
                return Stat(st.S_IFDIR | 0o555, 0, 0, nlink=0)
            raise KernelError(errno.ENOENT, f"{self.name} was removed")
        stat = self.node.stat()
        if self.node.timeout < FOREVER:
            return stat  # a real file: its times are its own, and nobody announces it
        if self.touched > stat.mtime:
            stat.mtime = stat.ctime = self.touched
        else:
            self.touched = stat.mtime
        return stat

    def pass_by(self) -> None:
        """Only its creation was told."""
        self.passing = True

    def watch(self, events: int) -> None:
        """Somebody may watch it for these events, too, from now on."""
        self.wanted |= events

    @property
    def kept(self) -> bool:
        """Whether Linux may keep its attributes."""
        return self.wanted == EVENTS and not self.passing

    def fetch(self, size: int) -> None:
        """Its content was fetched, and has so many bytes."""
        self.fetched = size

    def opens(self) -> bool:
        """It is opened for reading through Linux's page cache. Whether the pages that Linux has of
        it are still right."""
        version = self._version()
        right, self.cached = self.cached == version, version
        return right

    def _version(self) -> object:
        """Changes whenever the content does: each change of ours is counted, one of a real file
        shows in its time and size."""
        if self.node.timeout >= FOREVER:
            return self.changes
        stat = self.node.stat()
        return stat.mtime, stat.size

    # -- what becomes of it ----------------------------------------------------------------------

    def touch(self) -> None:
        """It changed: st_mtime moves strictly forward."""
        self.touched = max(time.time_ns(), self.touched + 1)
        self.changes += 1
        self.last_change = time.monotonic()

    @property
    def young(self) -> bool:
        """Whether it changed a moment ago, and so may again."""
        return time.monotonic() - self.last_change < YOUNG_SECONDS

    def remove(self) -> None:
        """Its node is no more."""
        self.gone = True

    def expire(self) -> None:
        """Its tree is no more."""
        self.gone = self.stale = True

    def move(self, parent: Inode, name: str) -> None:
        """It is `name` in `parent` now."""
        self.parent, self.name = parent, name

    def become(self, node: Node) -> None:
        """The file is seen through `node` now."""
        self.node = node

    def replace(self, node: Node, parent: Inode, name: str) -> None:
        """It is another file now: `node`, found as `name` in `parent`."""
        self.node, self.key = node, node.key
        self.parent, self.name = parent, name
        self.gone = False
        self.wanted = EVENTS
        self.cached = None
        self.touch()

    def lose_name(self) -> None:
        """It lost a name by which Linux may still find it."""
        self.outdated += 1

    def lost_name_told(self) -> None:
        """Linux was told of a name that it lost."""
        self.outdated -= 1

    # -- who has it open -------------------------------------------------------------------------

    def begin(self) -> None:
        """A file of it is open now whose end matters."""
        self.followed += 1
        self.begun += 1

    def end(self) -> None:
        """Such a file has ended."""
        self.followed -= 1

    @property
    def place(self) -> tuple[Hashable, str]:
        """The key of the directory where it was found last, and its name there."""
        return None if self.parent is None else self.parent.key, self.name

    @property
    def taken(self) -> bool:
        """Whether somebody writes it, and the next one is to have an inode of its own."""
        return self.node.renewed and self.followed > 0

    def directory(self) -> Directory:
        if not isinstance(self.node, Directory):
            raise KernelError(errno.ENOTDIR, f"{self.name} is no directory")
        if self.gone:
            raise KernelError(errno.ENOENT, f"{self.name} was removed")
        return self.node


class Renewed(NamedTuple):
    """An inode in another tree, and what is by its path there; None: nothing."""

    inode: Inode
    node: Node | None


def _found(parent: Inode, name: str) -> Node | None:
    try:
        return parent.directory().lookup(name)
    except (KernelError, OSError):
        return None


class Inodes:
    """All inodes by number, and the current ones by key."""

    def __init__(self, root: Node) -> None:
        self._counted = itertools.count(COUNTED)
        self._new = 0
        self.root = Inode(pyfuse3.ROOT_INODE, root, None, "")
        self.root.refer()
        self._by_number: dict[int, Inode] = {self.root.number: self.root}
        self._by_key: dict[Hashable, Inode] = {root.key: self.root}
        self.forgotten = 0
        """Since they were shrunk."""
        self._enough = 0, trio.Event()

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Inode:
        """Raises ESTALE for a number that was forgotten, which the Linux kernel never uses, and for
        what is of an earlier tree: Linux looks that up again by itself, if it came by a path."""
        inode = self._by_number.get(number)
        if inode is None or inode.stale:
            raise KernelError(errno.ESTALE, f"inode {number} is not known")
        return inode

    def known(self, key: Hashable) -> Inode | None:
        """The inode of `key` if the Linux kernel knows it."""
        return self._by_key.get(key)

    def remember(self, node: Node, parent: Inode, name: str) -> Inode:
        """The inode of `node`, of which Linux is told now, as `name` in `parent`. Linux holds one
        more reference then."""
        inode = None if node.apart else self._by_key.get(node.key)
        if inode is None or (inode.followed and inode.taken):
            inode = self._new_inode(node, parent, name)
        inode.found(node, parent, name)
        return inode

    def _new_inode(self, node: Node, parent: Inode, name: str) -> Inode:
        inode = Inode(self._new_number(node), node, parent, name)
        self._by_number[inode.number] = inode
        self._new += 1
        if self._new >= NEW_MOST:
            self._new = 0
            gc.freeze()
        if not node.apart:
            self._by_key[node.key] = inode
        return inode

    def transplant(self, root: Node) -> Iterator[Renewed]:
        """The tree is another one, with this `root`. Each inode whose path leads to a node of the
        same key is that node from now on; all others are stale. A node that Linux keeps for less
        than `FOREVER` is looked up anew anyway. Gives what became of each as it goes; nothing of
        the inodes may be used before it is through."""
        self.root.become(root)
        self._by_key = {root.key: self.root}
        yield Renewed(self.root, root)
        below: dict[int, list[Inode]] = {}
        for inode in self._by_number.values():
            if inode.parent is not None and not inode.gone:
                below.setdefault(inode.parent.number, []).append(inode)
            elif inode is not self.root:
                inode.expire()
        ahead = [self.root]
        while ahead:
            parent = ahead.pop()
            for inode in below.pop(parent.number, ()):
                found = None if parent.stale else _found(parent, inode.name)
                kept = (
                    found is not None
                    and found.key == inode.key
                    and found.timeout >= FOREVER
                    and not found.apart
                )
                if kept:
                    assert found is not None
                    inode.become(found)
                    self._by_key[found.key] = inode
                else:
                    inode.expire()
                ahead.append(inode)
                yield Renewed(inode, found)

    def number(self, node: Node) -> int:
        """The number that a node has, or will have once Linux is told of it."""
        known = self._by_key.get(node.key)
        return self._new_number(node) if known is None else known.number

    def _new_number(self, node: Node) -> int:
        """The number of a node that Linux does not know. If Linux still knows another node by it,
        which is gone (or has the same hash, of 2**51), the next free number is taken."""
        if node.apart:
            return next(self._counted)
        if node.serial is not None and node.serial < REAL:
            number = REAL + node.serial
            if number not in self._by_number:
                return number
        digest = hashlib.blake2b(repr(node.key).encode(), digest_size=8).digest()
        number = HASHED + int.from_bytes(digest) % HASHED
        while number in self._by_number:
            number = HASHED + (number + 1) % HASHED
        return number

    def forget(self, number: int, lookups: int) -> None:
        """Linux gives so many references back. With the last one the inode is dropped."""
        inode = self._by_number.get(number)
        if inode is None or inode is self.root or not inode.forget(lookups):
            return
        del self._by_number[number]
        if self._by_key.get(inode.key) is inode:
            del self._by_key[inode.key]
        self.forgotten += 1
        if self.forgotten == self._enough[0]:
            self._enough[1].set()

    async def forgot_many(self, count: int) -> None:
        """Wait until so many were forgotten since they were shrunk."""
        if self.forgotten < count:
            self._enough = count, trio.Event()
            await self._enough[1].wait()

    def shrink(self) -> None:
        """Take no more room than what is left of them: a dict never does so by itself."""
        self._by_number = dict(self._by_number)
        self._by_key = dict(self._by_key)
        self.forgotten = 0

    def remove(self, inode: Inode) -> None:
        """Its node is no more; the number stays until it is forgotten."""
        inode.remove()
        if self._by_key.get(inode.key) is inode:
            del self._by_key[inode.key]

    def rebind(self, inode: Inode, node: Node, parent: Inode, name: str) -> None:
        """The inode that Linux knows is `node` from now on (after a rename onto it)."""
        if self._by_key.get(inode.key) is inode:
            del self._by_key[inode.key]
        old = self._by_key.get(node.key)
        if old is not None and old is not inode:
            old.remove()
        inode.replace(node, parent, name)
        self._by_key[node.key] = inode

    def settle(self, inode: Inode, directory: Inode, name: str) -> None:
        """The Linux kernel takes `inode` for `directory`/`name`: make it what is there now."""
        if inode.node.apart:  # its own, whatever else is found there
            return
        try:
            node = directory.directory().lookup(name)
        except KernelError:
            return
        if node.key == inode.key:
            inode.become(node)
            inode.move(directory, name)
        else:
            self.rebind(inode, node, directory, name)

    def path(self, inode: Inode) -> str | None:
        """Where it is below the mount, with a leading slash; None if that is not known."""
        names: list[str] = []
        walked: Inode | None = inode
        while walked is not None and walked is not self.root:
            if walked.gone or len(names) > 256:
                return None
            names.append(walked.name)
            walked = walked.parent
        return "/" + "/".join(reversed(names))

    def where(self, inode: Inode, name: str = "") -> str:
        """The path of an inode, or of `name` in it, for people to read."""
        path = self.path(inode) or f"/…/{inode.name}"
        return f"{path.rstrip('/')}/{name}" if name else path
