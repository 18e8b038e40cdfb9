"""Real inotify for changes that the daemon makes itself.

Linux reports to inotify only what happens through a system call on the mount. So a process of our
own makes those calls on our own mount: mkdir, create and close, unlink, rename, utimensat. The
operations recognise the process by its pid, and answer so that the call succeeds and only tells
what happened already (see `announced`). Tried before built: notify_inval_entry and notify_delete
give a directory's watcher nothing.

The process is told several calls ahead, and says in a page of shared memory how far it is: waking
the daemon for every answer, and the process for every call, took as long as the call itself. A
modification is told alone, for the sake of caches: see `Announced.setattr`.

It is a process and not a thread. If the daemon is killed while a thread of it waits for its own
mount, the thread cannot end before the mount answers, and the mount's device is not closed before
the thread ends: everybody who uses the mount hangs for good (seen, in the kill -9 test). Calls go
by path, because a directory kept open would make `umount` answer EBUSY.
"""

from __future__ import annotations

import errno
import logging
import math
import mmap
import os
import select
import socket
import stat as st
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from agentfs.base.errors import KernelError
from agentfs.mount.announce_process import BEGUN, ENDED, MOST, OVER, RESULTS
from agentfs.mount.inodes import Inode
from agentfs.vfs.changes import Change, Created, HungUp, Modified, Moved, Removed
from agentfs.vfs.node import Directory, File

__all__ = ["Announcement", "Announcer"]

log = logging.getLogger(__name__)

SIZE = 8 * (RESULTS + MOST)

# Names that Linux is to forget: it is told so many at a time, when nothing was announced for so
# long, or there are so many. A name that is kept takes 2 KB here and in Linux. A change that comes
# meanwhile is announced behind them: 50 µs for each.
DROPS = 4
DROPS_MOST = 4096
LULL_SECONDS = 0.25
COMMAND = (sys.executable, "-I", "-S", os.fspath(Path(__file__).with_name("announce_process.py")))
ENDING_SECONDS = 5.0

# How long a reader may take from our answer to its using it, 5 µs as a rule, and how many in a row
# are waited for.
READER_SECONDS = 0.001
READERS_MOST = 5

# The path is gone again, or the mount is: nobody can be watching it any more.
UNREMARKABLE = frozenset({errno.ENOENT, errno.ENOTCONN, errno.ECONNABORTED})


@dataclass(frozen=True, slots=True)
class Announcement:
    """A change, and the paths below the mount of the files that it is about.

    inode: the file that was modified, or moved. Linux knows a moved file by its old name until it
        is told.
    closes: it was told already that the file was opened and modified. It is to be closed.
    brief: of a new file only the creation is told.
    drops: it was told so, and Linux is to forget the name.
    """

    change: Change
    path: str
    new_path: str = ""
    inode: Inode | None = None
    closes: bool = False
    brief: bool = False
    drops: bool = False

    @property
    def modified(self) -> Inode | None:
        """The inode whose modification it tells of."""
        return self.inode if isinstance(self.change, Modified) else None

    @property
    def writes(self) -> bool:
        """Whether it is told as writing a file, and closing it, because somebody may wait for a
        value to be whole. A file that is taken by opening it is not opened for that, and of a file
        that is `apart` nobody would see it."""
        node = None if self.modified is None else self.modified.node
        return isinstance(node, File) and not node.takes and not node.apart

    def operation(self) -> str:
        """The system call that tells of it. Raises KernelError if what came is gone again."""
        match self.change:
            case _ if self.drops:
                return "drop"
            case Modified():
                if self.closes:
                    return "close"
                return "write" if self.writes else "modify"
            case Removed(is_directory=is_directory):
                return "rmdir" if is_directory else "unlink"
            case Moved():
                return "rename"
            case HungUp():
                return "hangup"
            case Created(node=File()):
                return "mknod" if self.brief else "create"
            case Created(node=Directory()):
                return "mkdir"
            case Created(node=node):
                mode = node.stat().mode
                if st.S_ISLNK(mode):
                    return "symlink"
                return "mkfifo" if st.S_ISFIFO(mode) else "create"


class Announcer:
    """The queue, and the task that feeds the process.

    tid: the process's id, by which the operations recognise it.
    modifying: the inode whose modification is announced, if any.
    began_at: the count of its changes when that began.
    contested: the file that was just announced changed again. The request that changed it must wait
        for `settled`.
    done, failed, lost: announcements that were made; that were not, because their path was gone
        again; that found the queue full.
    """

    def __init__(self, mountpoint: str, limit: int) -> None:
        self._mountpoint = mountpoint
        self._limit = limit
        self._queue: deque[Announcement] = deque()
        self._drops: deque[Announcement] = deque()  # made when nothing else is to be told
        self._announced = self._before = 0
        self._modified: set[Inode] = set()
        self._more = trio.Event()
        self._ended: list[subprocess.Popen[bytes]] = []
        self._settling: Inode | None = None
        self._settled = trio.Event()
        # Of the present process: its socket, how far it is, what it was told, and how many of
        # those calls we know to be over.
        self._line: socket.socket | None = None
        self._progress = memoryview(bytes(SIZE)).cast("Q")
        self._told: deque[Announcement] = deque()
        self._over = 0
        self._alone = False  # a modification is being announced
        self._answered = trio.Event()
        self.contested = False
        self._talking = False
        self.modifying: Inode | None = None
        self.began_at = 0
        self.tid = -1
        self._done = 0
        self._failed = 0
        self.lost = 0

    @property
    def done(self) -> int:
        self.catch_up()
        return self._done

    @property
    def failed(self) -> int:
        self.catch_up()
        return self._failed

    @property
    def waiting(self) -> int:
        """How many are still to be announced, with the one that is being."""
        self.catch_up()
        return len(self._queue) + len(self._told)

    @property
    def busy(self) -> bool:
        """Whether anything is still to be announced. The close of a file that was just written
        counts: it is queued when the process has said that it wrote."""
        return self.waiting > 0 or self._alone

    @property
    def current(self) -> Announcement | None:
        """The announcement under way. A modification is as soon as the process is told, because
        from then on nobody else may be told of that inode."""
        self.catch_up()
        begun: int = self._progress[BEGUN]
        return self._told[0] if self._told and (self._alone or begun > self._over) else None

    def announce(self, announcement: Announcement) -> None:
        """Queue it; repeated modifications of one file are one. A full queue counts it as lost."""
        inode = announcement.modified
        if inode is not None and inode in self._modified:
            return
        self._announced += 1
        if self.waiting >= self._limit:
            if self.lost == 0:
                log.warning(
                    "more changes than inotify can be told of (%d wait): watchers miss some,"
                    " readers do not",
                    self._limit,
                )
            self.lost += 1
            return
        if inode is not None:
            self._modified.add(inode)
        self._queue.append(announcement)
        if len(self._queue) == 1:
            with suppress(OSError):  # the task below meets it as well, and acts
                self._tell()
        if self._queue:
            self._more.set()

    def passes(self, announcement: Announcement, inode: Inode) -> None:
        """Linux is told of an inode that it is to forget soon, unless somebody looks at it."""
        self._drops.append(replace(announcement, inode=inode, brief=False, drops=True))
        if len(self._drops) == 1:
            self._more.set()

    def expected(self) -> bool:
        """Whether the process, which just got an answer, is sure to ask something else at once."""
        talking, self._talking = self._talking, False
        return talking

    def answer(self, *, last: bool = False) -> None:
        """The process is about to be answered. The `last` answer ends its call."""
        self._talking = not last or len(self._told) > 1

    async def run(self) -> None:
        """Announce until cancelled; should the process end, start another."""
        while True:
            async with self._process() as told:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._hear, told)
                        nursery.start_soon(self._feed, told)
                except* OSError as failures:
                    failure = failures.exceptions[0]
                    log.error("the announcing process ended (%s): starting another", failure)
            self._take_back()
            self._settle()

    # -- modifications: see `Announced.setattr` --------------------------------------------------

    def answered(self, inode: Inode) -> None:
        """The process is told the attributes of `inode`; until it says so, Linux may be about to
        take them over."""
        self._settling = inode

    def changing(self, inode: Inode) -> None:
        """`inode` changes again."""
        if inode is self._settling:
            self.contested = True

    async def settled(self) -> None:
        """Wait until Linux has taken over what the process was told."""
        await self._settled.wait()

    def _settle(self) -> None:
        self.modifying = None
        self._settling = None
        self.contested = False
        self._settled.set()
        self._settled = trio.Event()

    # -- the process -----------------------------------------------------------------------------

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[trio.socket.SocketType]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        page = os.memfd_create("announced")
        try:
            os.ftruncate(page, SIZE)
            self._progress = memoryview(mmap.mmap(page, SIZE)).cast("Q")
            with theirs:
                process = subprocess.Popen(  # noqa: ASYNC220  # 1 ms, and vfork: no waiting
                    [*COMMAND, str(page), str(os.getpid())],
                    stdin=theirs.fileno(),
                    pass_fds=[page],
                    cwd="/",
                    start_new_session=True,
                )
        finally:
            os.close(page)
        self.tid = process.pid
        try:
            with trio.socket.from_stdlib_socket(ours) as told:
                self._line = ours
                yield told
        finally:
            self._progress[ENDED] = 1
            self.tid = -1
            self._line = None
            self._ended.append(process)

    def stop(self) -> None:
        """See the process end. The mount must be gone: that ends a call in which it may be."""
        for process in self._ended:
            if process.poll() is None and not _ends(process.pid, ENDING_SECONDS):
                log.warning("the announcing process %d does not end", process.pid)
                process.kill()
            process.poll()

    async def _feed(self, told: trio.socket.SocketType) -> None:
        while True:
            while self._queue:
                modified = self._queue[0].modified
                if modified is None:
                    self._tell()
                    if self._queue and self._queue[0].modified is None:  # it has enough to do
                        await self._all_over(told)
                else:
                    await self._let_readers_finish(modified)
                    await self._all_over(told)
                    await self._modify(told, self._queue.popleft(), modified)
            self._more = trio.Event()
            with trio.move_on_after(LULL_SECONDS if self._drops else math.inf):
                await self._more.wait()
            await self._drop_names(told)

    async def _drop_names(self, told: trio.socket.SocketType) -> None:
        """Have Linux forget the names that it is not to keep, if nothing was announced in the last
        lull, or there are too many."""
        self.catch_up()
        before, self._before = self._before, self._announced
        while self._drops and not self._queue:
            if before != self._announced and len(self._drops) <= DROPS_MOST:
                return
            drops = [self._drops.popleft() for _ in range(min(DROPS, len(self._drops)))]
            self._queue.extend(each for each in drops if each.inode and each.inode.passing)
            self._tell()
            await self._all_over(told)

    async def _hear(self, told: trio.socket.SocketType) -> None:
        while await told.recv(16):
            self._answered.set()
        raise OSError("its socket was closed")

    async def _ask(self, told: trio.socket.SocketType, packet: bytes) -> None:
        self._answered = trio.Event()
        await told.send(packet)
        await self._answered.wait()

    async def _all_over(self, told: trio.socket.SocketType) -> None:
        """Wait until all that the process was told is made."""
        self.catch_up()
        if self._told:
            await self._ask(told, b"ask\0\0")
            self.catch_up()

    async def _let_readers_finish(self, inode: Inode) -> None:
        """Wait until the readers that were just told of `inode` have taken that in. Those that ask
        later are held back by `Announced.quiet`. If it is asked for all the time, this does not
        wait for ever."""
        for _ in range(READERS_MOST):
            wait = inode.asked + READER_SECONDS - time.monotonic()
            if wait <= 0:
                return
            await trio.sleep(wait)

    async def _modify(
        self, told: trio.socket.SocketType, announcement: Announcement, inode: Inode
    ) -> None:
        self._modified.discard(inode)
        self.began_at = inode.changes
        self._told.append(announcement)
        self._alone = True
        self.modifying = inode
        try:
            await self._ask(told, self._packet(announcement))
        finally:
            self._alone = False
        self.catch_up()
        self._settle()
        if announcement.writes:
            self._queue.appendleft(replace(announcement, inode=None, closes=True))

    def _tell(self) -> None:
        """Tell the process as much as it can be told without waiting."""
        self.catch_up()
        while self._queue and len(self._told) < MOST:
            announcement = self._queue[0]
            if self._line is None or self._alone or announcement.modified is not None:
                return
            try:
                self._line.send(self._packet(announcement))
                self._told.append(announcement)
            except BlockingIOError:
                return
            except KernelError:  # what came is gone again, with all that it was part of
                self._failed += 1
            self._queue.popleft()

    def moved(self, mountpoint: str) -> None:
        """The tree is mounted at another path now."""
        self._mountpoint = mountpoint

    def _packet(self, announcement: Announcement) -> bytes:
        new_path = self._mountpoint + announcement.new_path if announcement.new_path else ""
        parts = (announcement.operation(), self._mountpoint + announcement.path, new_path)
        return b"\0".join(map(os.fsencode, parts))

    def catch_up(self) -> None:
        """Take in how far the process is."""
        over: int = self._progress[OVER]
        while self._over < over:
            self._over += 1
            self._made(self._told.popleft(), self._progress[RESULTS + self._over % MOST])

    def _made(self, announcement: Announcement, number: int) -> None:
        """A call is over: 0, or its errno."""
        if announcement.drops:
            return
        if number == 0:
            self._done += 1
            if announcement.inode is not None and announcement.modified is None:
                announcement.inode.lost_name_told()
            return
        self._failed += 1
        if number not in UNREMARKABLE:
            log.info("%s could not be announced: %s", announcement.path, os.strerror(number))

    def _take_back(self) -> None:
        """The calls that a process had not begun when it ended are for the next one."""
        self.catch_up()
        if self._told and self._progress[BEGUN] > self._over:
            self._told.popleft()
            self._failed += 1
        self._queue.extendleft(reversed(self._told))
        self._told.clear()
        self._over = 0
        self._progress = memoryview(bytes(SIZE)).cast("Q")


def _ends(child: int, seconds: float) -> bool:
    """Wait for the end of a child. `Popen.wait` with a time looks every 50 ms: half of what the end
    of a mount took."""
    end = os.pidfd_open(child)
    try:
        return bool(select.select([end], [], [], seconds)[0])
    finally:
        os.close(end)
