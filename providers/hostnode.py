"""Nodes of real files: how one is found again, whatever became of its names, and what it can do."""

from __future__ import annotations

import errno
import os
import stat as st
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.providers import counting, disk
from agentfs.providers.descriptors import Descriptor, most
from agentfs.providers.devices import OWN, Device, Mounted
from agentfs.providers.disk import own_path, reported
from agentfs.quota.file_bytes import MARK, Makers, taken
from agentfs.quota.shares import Charge
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import (
    KIND,
    Attributes,
    Fifo,
    File,
    Handle,
    Link,
    Node,
    Stat,
    is_writing,
)

if TYPE_CHECKING:
    from agentfs.providers.host import HostDirectory, HostTree

__all__ = [
    "OPEN_FLAGS",
    "TIMEOUT",
    "HostFifo",
    "HostFile",
    "HostHandle",
    "HostLink",
    "HostNode",
]

# These of open(2)'s flags go to the daemon's own descriptor. O_APPEND does not: Linux says where
# the end is, and a page written back by mmap must not land there.
OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC

# Seconds that Linux may believe what it knows, and what is not there: nobody but its own clients
# changes these files, whom it needs no time-out for. A person with an editor in the state directory
# is seen that late.
TIMEOUT = 60.0


HIDDEN = (KIND, MARK)
"""Attributes that are the tree's own."""


class HostNode(Node):
    """Anything in a real directory.

    `taken`: the bytes it counts with, and `part` whose they are, once that was asked.
    `device`: the disk that it is on, which every call on it goes through; `beyond`: it is mounted
    where it was found.
    `kept`: its descriptor, where it is kept open: a directory's for the next call on it, and that
    of what lost its last name as long as Linux, or an open file, knows it.

    Each call on another disk may take a while, in which others use the same node. So what it is
    made with has to live as long: a Descriptor in a local variable, and no view of `names`.
    """

    timeout = TIMEOUT

    def __init__(self, tree: HostTree, found: os.stat_result, generation: int) -> None:
        self.tree = tree
        self.device: Device = OWN
        self.beyond = self.distant = False
        self.identity = found.st_dev, found.st_ino
        self.generation = generation
        self.mode = found.st_mode
        self.key = ("host", *self.identity, generation)
        if generation == 0 and found.st_dev == tree.number:
            self.serial = found.st_ino
        self.names: dict[tuple[HostDirectory, str], None] = {}
        self.former: tuple[str, ...] = ()
        self.handles: set[HostHandle] = set()
        self.kept: Descriptor | None = None
        self.removed = False  # the last name is gone
        self.taken = taken(found)
        self.part: Makers | None = None
        self.uid = found.st_uid
        self._fresh: tuple[int, os.stat_result] | None = None

    def found(self, found: os.stat_result) -> None:
        """Keep what was just read, for the `stat` that Linux asks for next."""
        self._fresh = self.tree.version, found
        self.uid = found.st_uid
        if not self.handles:  # else what was counted of it
            self.taken = taken(found)

    def counts(self, now: int) -> int:
        """It counts with so many bytes `now`; how many more these are than before."""
        more, self.taken = now - self.taken, now
        return more

    def found_on(self, device: Device, beyond: bool) -> None:
        """It was found on this disk."""
        self.device, self.beyond, self.distant = device, beyond, not device.own

    def paths(self) -> list[str]:
        """Where it is, below the root, by every name under which it was found; or was last. The
        rules are asked about these, so who has none is refused: ESTALE.

        Of a hard link under two names both are asked, if both were looked up while Linux knew the
        file; to look for the others would be a search of the whole disk. The maker of the second
        name may read and write the file, and could have copied it as well.
        """
        return [parent.entry(name) for parent, name in self.names] or self._formerly()

    def _formerly(self) -> list[str]:
        if not self.former:
            raise KernelError(errno.ESTALE, "nobody knows any more where this was")
        return list(self.former)

    @contextmanager
    def outliving(self, name: tuple[HostDirectory, str], last: bool) -> Iterator[None]:
        """In this block `name` of it goes, the `last` one or the last that is known: what Linux
        knows of it goes on working afterwards, as on any disk."""
        if (last or self.names.keys() == {name}) and Descriptor.count < most():
            with suppress(KernelError, OSError):  # without one it is ESTALE from then on
                self.kept = self._open(os.O_PATH)
        try:
            yield
        except BaseException:
            self.kept = None
            raise

    def lost(self, parent: HostDirectory, name: str) -> None:
        """It is not `name` in `parent` any more."""
        with suppress(KernelError):
            self.former = tuple(self.paths())
        self.names.pop((parent, name), None)

    def pinned(self) -> Descriptor:
        """An O_PATH descriptor of it. Raises ESTALE if it is not where it was."""
        return self.kept or self._open(os.O_PATH)

    def _open(self, flags: int, charge: Charge | None = None) -> Descriptor:
        """A new descriptor of it. Raises ESTALE if it is not where it was."""
        wanted = (*self.identity, st.S_IFMT(self.mode))  # numbers are used again
        for parent, name in tuple(self.names):
            here = parent.descriptor()
            found = self.device.call(
                disk.open_at, here.number, name, flags, wanted, self.beyond, late=os.close
            )
            if found is not None:
                return Descriptor(found, charge, self.device)
            self.lost(parent, name)
        known = self._known()
        if known is None:
            raise KernelError(errno.ESTALE, "this file is no longer where it was")
        again = self.device.call(disk.reopen, known.number, flags, late=os.close)
        return Descriptor(again, charge, self.device)

    def _known(self) -> Descriptor | None:
        """A descriptor that there is of it."""
        if self.kept is not None:
            return self.kept
        return next((handle.descriptor for handle in self.handles), None)

    def stat(self) -> Stat:
        fresh, self._fresh = self._fresh, None
        if fresh is not None and fresh[0] == self.tree.version:
            return disk.as_stat(fresh[1])
        with reported("reading the attributes"):
            known = self._known()
            if known is None and not self.beyond:
                for parent, name in tuple(self.names):
                    here = parent.descriptor()
                    found = self.device.call(disk.look_if_there, here.number, name)
                    if found is not None and (found.st_dev, found.st_ino) == self.identity:
                        return disk.as_stat(found)
            if known is None:
                known = self.pinned()  # not by that name: it is looked for, or ESTALE
            return disk.as_stat(self.device.call(disk.attributes, known.number))

    def enter(self, caller: Caller) -> None:
        self.tree.guard(caller)

    def inspect(self, caller: Caller) -> None:
        self.tree.reading(caller, self)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        if wanted == Attributes():
            return
        path, *_ = self.tree.changing(caller, self)
        self.bounded(wanted.size or 0)
        with reported("changing the attributes"):
            if self.handles:
                opened = next(iter(self.handles)).descriptor
                self._change(opened.number, opened, wanted, caller)
            else:
                pinned = self.pinned()
                self._change(own_path(pinned.number), pinned, wanted, caller)
        for what in _changed(wanted):
            self.tree.changed(caller, what, path)

    def _change(
        self, path: str | int, opened: Descriptor, wanted: Attributes, caller: Caller
    ) -> None:
        if wanted.size is None:
            self.device.call(disk.change, path, wanted)
            return
        with counting.growing(self, opened.number, caller.principal):
            self.device.call(disk.change, path, wanted)

    def bounded(self, size: int) -> None:
        """EFBIG for a size that no file of the tree may have."""
        if size > self.tree.most_bytes:
            raise KernelError(errno.EFBIG, f"at most {self.tree.most_bytes} bytes")

    def getxattr(self, name: str) -> bytes:
        if name == KIND:
            return super().getxattr(name)
        if not name.startswith("user.") or name == MARK:
            raise KernelError(errno.ENODATA, f"no attribute {name!r}")
        with reported(f"reading the attribute {name}"):
            pinned = self.pinned()
            return self.device.call(disk.getxattr, pinned.number, name)

    def listxattr(self) -> list[str]:
        # Without the kind and the mark: a copy of the file is to have the same attributes.
        with reported("reading the attributes"):
            pinned = self.pinned()
            names = self.device.call(disk.listxattr, pinned.number)
        return [name for name in names if name.startswith("user.") and name not in HIDDEN]

    def setxattr(self, name: str, value: bytes, caller: Caller) -> None:
        if not name.startswith("user."):
            raise KernelError(errno.ENOTSUP, "only attributes that begin with `user.` are kept")
        path, *_ = self.tree.changing(caller, self)
        if name in HIDDEN:
            return  # a copy of something that is no real file, with its attributes
        with reported(f"setting the attribute {name}"):
            pinned = self.pinned()
            # It may take a block of its own, whatever the size of the file is.
            with counting.growing(self, pinned.number, caller.principal, sys.maxsize, len(value)):
                self.device.call(disk.setxattr, pinned.number, name, value)
        self.tree.changed(caller, "attributes", path)

    def removexattr(self, name: str, caller: Caller) -> None:
        if not name.startswith("user.") or name == MARK:
            raise KernelError(errno.ENODATA, f"no attribute {name!r}")
        path, *_ = self.tree.changing(caller, self)
        with reported(f"removing the attribute {name}"):
            pinned = self.pinned()
            with counting.growing(self, pinned.number, caller.principal):
                self.device.call(disk.removexattr, pinned.number, name)
        self.tree.changed(caller, "attributes", path)


def _changed(wanted: Attributes) -> Iterator[str]:
    """The words for a change of attributes; that of times alone is nothing."""
    if wanted.size is not None:
        yield "written"
    if wanted.mode is not None:
        yield f"mode {wanted.mode:04o}"
    if wanted.uid is not None or wanted.gid is not None:
        uid, gid = ("" if each is None else each for each in (wanted.uid, wanted.gid))
        yield f"owner {uid}:{gid}"


class HostLink(HostNode, Link):
    """A symbolic link, resolved by Linux on the mount and never by the daemon."""

    def target(self, caller: Caller) -> str:
        self.tree.reading(caller, self)
        with reported("reading the link"):
            pinned = self.pinned()
            return self.device.call(disk.target, pinned.number)


class HostFifo(HostNode, Fifo):
    """A named pipe or a socket. Linux serves its bytes and opens it without asking us, so it has to
    ask for the name each time."""

    timeout = 0.0
    guarded = True

    def admitted(self, caller: Caller) -> None:
        # Nobody says whether it is to be read or written.
        self.tree.reading(caller, self)
        self.tree.may_write(caller, self.paths())


class HostFile(HostNode, File):
    """A regular file."""

    kind = "plain"

    def open(self, flags: int, caller: Caller) -> HostHandle:
        if flags & os.O_ACCMODE != os.O_WRONLY:
            self.tree.reading(caller, self)
        path = None
        if is_writing(flags) or flags & os.O_TRUNC:
            path, *_ = self.tree.changing(caller, self)
        charge = caller.descriptor()
        with reported("opening the file"):
            # It is emptied once it is sure to be the right one.
            descriptor = self._open(flags & OPEN_FLAGS & ~os.O_TRUNC, charge)
            handle = HostHandle(self, descriptor, flags, caller)
            if flags & os.O_TRUNC:
                try:
                    handle.empty()
                except BaseException:
                    handle.release()
                    raise
        if path is not None:
            self.tree.changed(caller, "written", path)
        return handle


class HostHandle(Handle):
    """An open real file. It goes on working when the file is renamed or removed.

    A file that is opened for writing alone is not written through the page cache: for each write of
    that kind Linux asks for the attribute security.capability, and copies the data once more.
    Nobody can map such a file. Other readers see the change by its time. Linux then does not take
    the set-user-id and set-group-id bits off a file that another than root writes.
    """

    def __init__(self, file: HostFile, descriptor: Descriptor, flags: int, caller: Caller) -> None:
        writes_only = flags & os.O_ACCMODE == os.O_WRONLY
        device, tree = file.device, file.tree
        self.direct = (
            writes_only and device.own and disk.tells_writes_apart(tree.path, file.identity[0])
        )
        self._drops_set_id = self.direct and caller.uid != 0
        self._file = file
        self.descriptor = descriptor
        self._principal = caller.principal
        self._writes = is_writing(flags)
        if not file.handles:
            counting.opened(file)
        file.handles.add(self)

    async def read(self, offset: int, size: int) -> bytes:
        opened, device = self.descriptor, self._file.device
        with reported("reading"):
            if isinstance(device, Mounted):
                return await device.run(disk.read, opened.number, size, offset)
            return await disk.read_at(opened.number, offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        opened = self.descriptor
        self._file.tree.stale()
        self._file.bounded(offset + len(data))
        end = offset + len(data)
        with reported("writing"), self._growing(end, len(data)):
            return self._file.device.call(
                disk.write, opened.number, data, offset, self._drops_set_id
            )

    def _growing(self, end: int = 0, amount: int = 0) -> counting.growing:
        return counting.growing(self._file, self.descriptor.number, self._principal, end, amount)

    def empty(self) -> None:
        """Do what O_TRUNC does, also to a file that is only read."""
        opened = self.descriptor
        self._file.tree.stale()
        with reported("truncating"), self._growing():
            self._file.device.call(disk.truncate, own_path(opened.number), 0)

    def truncate(self, size: int) -> None:
        """ftruncate(2)."""
        opened = self.descriptor
        self._file.tree.stale()
        self._file.bounded(size)
        with reported("truncating"), self._growing():
            self._file.device.call(disk.resize, opened.number, size)

    async def fsync(self) -> None:
        opened = self.descriptor
        with reported("syncing"):
            await self._file.device.syncing(opened.number)

    def release(self) -> None:
        if self in self._file.handles:
            self._file.handles.remove(self)
            if self._writes:
                counting.settle(self._file, self.descriptor.number, self._principal)
            if not self._file.handles:
                counting.closed(self._file, self.descriptor.number)
            del self.descriptor
