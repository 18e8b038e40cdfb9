"""Nodes: what a path leads to, and the handles that opening one gives.

A node is a view of something in the kernel, made when it is looked up and never stored by
providers; two nodes with equal `key` are the same file. The mount keeps one inode for each key.
All methods may raise `KernelError`; its errno is what the caller's system call returns.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from agentfs.base.errors import KernelError

if TYPE_CHECKING:
    from agentfs.vfs.caller import Caller

__all__ = [
    "FOREVER",
    "KIND",
    "Attributes",
    "Directory",
    "Fifo",
    "File",
    "Handle",
    "Link",
    "LookUpAgain",
    "Node",
    "Stat",
    "StreamHandle",
    "Time",
]

FOREVER = 3600.0
"""Seconds the kernel may keep what it knows of a node: long, because every change is announced."""

KIND = "user.agentfs.kind"
"""The extended attribute that says what kind of node it is; docs/namespace.md has them."""

Time = int
"""Nanoseconds since 1970 UTC."""


@dataclass(slots=True)
class Stat:
    """The answer of stat(2) for a node. `mode` has the file type; sizes in bytes, times in ns."""

    mode: int
    uid: int
    gid: int
    size: int = 0
    mtime: Time = 0
    nlink: int = 1
    atime: Time = 0
    ctime: Time = 0
    rdev: int = 0
    blocks: int | None = None
    content: bytes | None = None  # what `size` counts, where it is rendered


class LookUpAgain(OSError):  # noqa: N818  # no error: what Linux is asked to do
    """The name is to be looked up again, and leads somewhere else for this caller. Linux does so by
    itself, once a call, for ESTALE (open and truncate tried on 6.18).
    """

    def __init__(self, name: str) -> None:
        super().__init__(errno.ESTALE, f"{name} is to be looked up again")


@dataclass(frozen=True, slots=True)
class Attributes:
    """The wishes of chmod, chown, truncate and utime; None leaves it as it is. `mode` are
    permission bits, `size` is in bytes, `times` are those of the last access and the last
    change."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    times: tuple[Time | None, Time | None] = (None, None)

    def beyond(self, stat: Stat) -> Attributes:
        """Without the mode and the owner that the file has already."""
        return replace(
            self,
            mode=None if self.mode == st.S_IMODE(stat.mode) else self.mode,
            uid=None if self.uid == stat.uid else self.uid,
            gid=None if self.gid == stat.gid else self.gid,
        )


class Node:
    """Anything with a name. `key` identifies it as long as it exists, `kind` is one word that tells
    programs what reading and writing it does.

    `timeout`: seconds for which the kernel may cache the entry and the attributes without asking.
    Nodes whose changes the provider announces say FOREVER, others a second or none.
    `guarded`: Linux opens it by itself, without asking us: who looks it up has to be admitted. It
    needs a `timeout` of 0.
    `serial`: a number that no other node has, and that is its own as long as it exists, also across
    restarts, where there is one: a real file's inode number. Below 2**50.
    `apart`: each look-up gives an inode of its own. For files whose writes may wait: Linux lets one
    write at a time into an inode, and a second one would wait there, deaf to SIGKILL. They need a
    `timeout` of 0, and their changes reach nobody who watches the file itself.
    `renewed`: while somebody writes it, a look-up gives another inode, so that Linux can say who
    has which open file. It needs a `timeout` of 0.
    `fresh`: the kernel keeps its attributes for `timeout`, and its entry not at all: each use of
    the name asks for it.
    `distant`: it is on a disk that may take long to answer, or hang; a listing of what is not shows
    its name alone.
    `takes`: a file whose reading takes something that then is gone, or waits for what has not come
    yet. To those who only ask what it is, it is a named pipe, so that no search and no backup reads
    it. It has to be `fresh`.
    """

    key: Hashable
    kind: str = "file"
    timeout: float = FOREVER
    guarded: ClassVar[bool] = False
    serial: int | None = None
    apart: bool = False
    renewed: bool = False
    fresh: bool = False
    distant: bool = False
    takes: bool = False

    def stat(self) -> Stat:
        raise NotImplementedError

    def enter(self, caller: Caller) -> None:
        """Ask whether `caller` may use this node at all, beyond its mode.

        Called before every open, listing and change. Raises EACCES for a private path.
        """

    def admitted(self, caller: Caller) -> None:
        """Ask whether `caller` may find it. Asked where the class is `guarded`."""

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        """chmod, chown, truncate and utime in one.

        Refused with EPERM here, unless it is so already; times are ignored, because `touch` is
        harmless.
        """
        wanted = wanted.beyond(self.stat())
        if (wanted.mode, wanted.uid, wanted.gid) != (None, None, None):
            raise KernelError(errno.EPERM, "the mode and the owner of this file are fixed")
        if wanted.size is not None:
            raise KernelError(errno.EPERM, "this file cannot be truncated")

    def inspect(self, caller: Caller) -> None:
        """Ask whether `caller` may see its extended attributes."""
        self.enter(caller)

    def getxattr(self, name: str) -> bytes:
        """An extended attribute. Raises ENODATA for any but the kind."""
        if name == KIND:
            return self.kind.encode()
        raise KernelError(errno.ENODATA, f"no attribute {name!r}")

    def listxattr(self) -> list[str]:
        """The names of the extended attributes."""
        return [KIND]

    def setxattr(self, name: str, value: bytes, caller: Caller) -> None:
        raise KernelError(errno.ENOTSUP, "this file takes no extended attributes")

    def removexattr(self, name: str, caller: Caller) -> None:
        raise KernelError(errno.ENODATA, f"no attribute {name!r}")


class Link(Node):
    """A symbolic link. Its target may depend on who asks (`/proc/self`)."""

    kind = "link"

    def listxattr(self) -> list[str]:
        return []  # Linux lets links and FIFOs have none of a user's

    def target(self, caller: Caller) -> str:
        raise NotImplementedError


class Fifo(Node):
    """A named pipe; Linux itself serves its bytes."""

    kind = "fifo"

    def listxattr(self) -> list[str]:
        return []


class File(Node):
    """A regular file, whatever is behind it."""

    def open(self, flags: int, caller: Caller) -> Handle:
        """Open it with the flags of open(2), after `enter` and the mode have said yes."""
        raise NotImplementedError


class Directory(Node):
    """A directory. A call that a subclass does not override is refused with EPERM.

    `gated`: who looks an entry up is asked for, every time, and has to be admitted: what keeps
    others out of entries that Linux opens by itself. It costs finding out who calls, and such
    entries need a `timeout` of 0.
    `restless`: entries come and go all the time, and rarely does anybody watch them. Linux is not
    given its attributes to keep, so that who begins to watch it has to ask; until then, nobody is
    told of its entries. It costs whoever uses a path through it a round trip.
    `missing_timeout`: seconds for which Linux may keep that a name is not in it.
    `stepwise`: it may be very long, and can be listed in steps while it changes: `names_now`.
    """

    kind = "directory"
    gated: ClassVar[bool] = False
    restless: ClassVar[bool] = False
    stepwise: ClassVar[bool] = False
    missing_timeout: ClassVar[float] = 0.0

    def lookup(self, name: str) -> Node:
        """The node called `name`. Raises ENOENT."""
        raise NotImplementedError

    def glance(self, name: str) -> Node | None:
        """The node called `name` for a listing; None if it is not known without asking a disk that
        is `distant`. Raises ENOENT."""
        return self.lookup(name)

    def entries(self) -> Iterable[tuple[str, Node]]:
        """Every (name, node) in it, as `ls` shows them."""
        raise NotImplementedError

    def names_now(self, caller: Caller) -> Iterator[str]:
        """The names in it for `caller`, read on as they are taken. Asked where it is `stepwise`."""
        raise NotImplementedError

    def may_list(self, caller: Caller) -> None:
        """Ask whether `caller` may list it, beyond `enter`."""

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        """The entries that `caller` is shown."""
        return self.entries()

    def admit(self, name: str, caller: Caller) -> None:
        """Ask whether `caller` may look `name` up. Asked where the class is `gated` only."""

    def reach(self, name: str, caller: Caller) -> Node:
        """The node that `caller`, who was admitted, finds as `name`. Asked where the class is
        `gated`."""
        return self.lookup(name)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        """Make and open the file `name`."""
        raise self._fixed("create a file")

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        raise self._fixed("make a directory")

    def mknod(self, name: str, mode: int, rdev: int, caller: Caller) -> Node:
        raise self._fixed("make a special file")

    def symlink(self, name: str, target: str, caller: Caller) -> Node:
        raise self._fixed("make a link")

    def link(self, node: Node, name: str, caller: Caller) -> Node:
        raise self._fixed("make a link")

    def unlink(self, name: str, caller: Caller) -> None:
        raise self._fixed("remove a file")

    def rmdir(self, name: str, caller: Caller) -> None:
        raise self._fixed("remove a directory")

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        """Move `name` to `target`/`new_name`; `flags` as in renameat2(2)."""
        raise self._fixed("rename")

    async def relocate(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        """`rename`, for those who may wait: what is moved may have to be read first, which can
        take long."""
        self.rename(name, target, new_name, flags, caller)

    def _fixed(self, doing: str) -> KernelError:
        return KernelError(errno.EPERM, f"nobody can {doing} here", rule="fixed directory")


class Handle:
    """An open file.

    `direct`: reads and writes go to the handle, nothing is cached and the size does not matter.
    `version`: for cached files, changes whenever the content does; the kernel may keep the pages
    of an earlier open if it is the same.
    """

    direct: bool = True
    seekable: bool = True
    version: object = None
    followed: ClassVar[bool] = False
    """It matters who has the file open: `flush` is for the close that ends it."""
    whole: ClassVar[bool] = False
    """All that is written is one thing: taken, or refused, by the close that ends it, and dropped
    if there was none."""

    @property
    def kept(self) -> int:
        """How many bytes of content it keeps as they were when it was opened."""
        return 0

    async def begin(self) -> bytes:
        """Wait for what it needs before it is open. The content, if nobody knew its size before."""
        return b""

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; empty at the end."""
        return b""

    async def write(self, offset: int, data: bytes) -> int:
        """Take `data`; the number of bytes taken."""
        raise KernelError(errno.EBADF, "this file was not opened for writing")

    async def flush(self) -> None:
        """The last descriptor is being closed: the last chance to refuse what was written."""

    async def hold(self) -> None:
        """A descriptor is being closed, and nobody can tell whether it is the last one: as `flush`,
        but more may be written, and the file closed again."""
        await self.flush()

    async def fsync(self) -> None:
        """Make what was written survive a power cut."""

    def release(self) -> None:
        """The last descriptor is gone. Errors go nowhere."""

    @property
    def unflushed(self) -> bool:
        """Whether `flush` would do something; the mount then asks first who else has the file
        open, because a child's exit closes inherited descriptors too."""
        return False


class StreamHandle(Handle):
    """An open stream: records that come in their own time, or room for what is written that does.

    The mount does the waiting, for reads and for writes: it tries, and again after every `wake`.
    """

    seekable = False
    packets = False
    """Opened with O_DIRECT: each read gives one record, see pipe2(2)."""
    patient = True
    """Opened without O_NONBLOCK."""

    def __init__(self) -> None:
        self._wakers: set[Callable[[], object]] = set()

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        """A read begins: where in the file, for streams that are seekable, and who makes it (None:
        that cannot be told). Asking that costs a look into /proc."""

    def try_read(self, size: int) -> bytes | None:
        """The next bytes; empty at the end of file; None if there is nothing yet."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether `try_read` would answer at once."""
        raise NotImplementedError

    def try_write(self, data: bytes) -> int | None:
        """Take `data`; the number of bytes taken, or None if there is no room yet."""
        raise KernelError(errno.EBADF, "this file was not opened for writing")

    def writable(self) -> bool:
        """Whether `try_write` would answer at once."""
        return True

    def parked(self) -> None:
        """A reader or writer begins to wait."""

    def unparked(self) -> None:
        """One of those waits no more, whatever came of it."""

    def on_wake(self, waker: Callable[[], object]) -> Callable[[], object]:
        """Call `waker()` whenever `ready` or `writable` may have become true; the result takes
        that back."""
        self._wakers.add(waker)
        return lambda: self._wakers.discard(waker)

    def wake(self) -> None:
        """Tell everybody who waits to try again."""
        for waker in tuple(self._wakers):
            waker()

    async def read(self, offset: int, size: int) -> bytes:
        raise TypeError("a stream is read through try_read")

    async def write(self, offset: int, data: bytes) -> int:
        raise TypeError("a stream is written through try_write")


class Awaited(StreamHandle):
    """A call waits for this before it is made again: it is readable then, and at its end. Reading
    raises why the call may not be made."""

    def give_up(self) -> None:
        """A signal ended the wait."""
        raise NotImplementedError


def is_writing(flags: int) -> bool:
    """Whether open(2)'s flags ask for writing."""
    return flags & os.O_ACCMODE != os.O_RDONLY


def regular(mode: int) -> int:
    """The mode bits of a regular file with the permissions `mode`."""
    return st.S_IFREG | mode
