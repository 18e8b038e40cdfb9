"""Real inotify for changes that the daemon makes itself.

Linux reports to inotify only what happens through a system call on the mount. So a process of our
own makes those calls on our own mount: mkdir, create and close, unlink, rename, utimensat. The
operations recognise it by its pid and answer so that the call succeeds and only tells what already
happened. Tried before built: notify_inval_entry and notify_delete give a directory's watcher
nothing.

A process, not a thread: when the daemon is killed while a thread of it waits for its own mount,
the thread cannot end before the mount answers, the mount's device is not closed before the thread
ends, and so everybody who uses the mount hangs for good (seen, in the kill -9 test). Calls go by
path, because a directory kept open would make `umount` answer EBUSY.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat as st
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from agentfs.errors import KernelError
from agentfs.mount.inodes import Inode
from agentfs.vfs.changes import Change, Created, HungUp, Modified, Moved, Removed

__all__ = ["Announcement", "Announcer"]

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("announce.py")
ENDING_SECONDS = 5.0

# How long a reader may take from our answer to its using it, 5 µs as a rule, and how many in a row
# are waited for.
READER_SECONDS = 0.001
READERS_MOST = 5

# The path is gone again, or the mount is: nobody can be watching it any more.
UNREMARKABLE = frozenset({errno.ENOENT, errno.ENOTCONN, errno.ECONNABORTED})


@dataclass(frozen=True, slots=True)
class Announcement:
    """A change, and the paths below the mount of what it is about."""

    change: Change
    path: str
    new_path: str = ""
    inode: Inode | None = None  # for Modified

    def operation(self) -> str:
        """The system call that tells of it."""
        match self.change:
            case Modified():
                return "modify"
            case Removed(is_directory=is_directory):
                return "rmdir" if is_directory else "unlink"
            case Moved():
                return "rename"
            case HungUp():
                return "hangup"
            case Created(node=node):
                mode = node.stat().mode
                if st.S_ISDIR(mode):
                    return "mkdir"
                if st.S_ISLNK(mode):
                    return "symlink"
                return "mkfifo" if st.S_ISFIFO(mode) else "create"


class Announcer:
    """The queue, and the task that feeds the process.

    `tid` is the process's id, by which the operations recognise it; `current` is what it announces
    at the moment, and `began_at` the count of its inode's changes then. `contested`: what was just
    announced changed again, and whoever changed it must wait for `settled`. `done`
    were made, `failed` were not (their path was gone again), `lost` found the queue full.
    """

    def __init__(self, mountpoint: str, limit: int) -> None:
        self._mountpoint = mountpoint
        self._limit = limit
        self._queue: deque[Announcement] = deque()
        self._modified: set[Inode] = set()
        self._more = trio.Event()
        self._ended: list[subprocess.Popen[bytes]] = []
        self._settling: Inode | None = None
        self._settled = trio.Event()
        self.contested = False
        self.began_at = 0
        self.tid = -1
        self.current: Announcement | None = None
        self.done = 0
        self.failed = 0
        self.lost = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether anything is still to be announced."""
        return bool(self._queue) or self.current is not None

    def announce(self, announcement: Announcement) -> None:
        """Queue it; repeated modifications of one file are one. A full queue counts it as lost."""
        inode = announcement.inode
        if inode is not None and inode in self._modified:
            return
        if len(self._queue) >= self._limit:
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
        self._more.set()

    async def run(self) -> None:
        """Announce until cancelled; should the process end, start another."""
        while True:
            async with self._process() as told:
                try:
                    await self._feed(told)
                except OSError as failure:
                    log.error("the announcing process ended (%s): starting another", failure)
            self.current = None
            self._settle()

    # -- modifications: see `Announcements.modified` ---------------------------------------------

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
        self._settling = None
        self.contested = False
        self._settled.set()
        self._settled = trio.Event()

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[trio.socket.SocketType]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220  # 1 ms, and vfork: nothing to wait for
                [sys.executable, "-I", "-S", os.fspath(SCRIPT)],
                stdin=theirs.fileno(),
                cwd="/",
                start_new_session=True,
            )
        self.tid = process.pid
        try:
            with trio.socket.from_stdlib_socket(ours) as told:
                yield told
        finally:
            self.tid = -1
            self._ended.append(process)

    def stop(self) -> None:
        """Once the mount is gone, which ends a call that the process may be in: see it end."""
        for process in self._ended:
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("the announcing process %d does not end", process.pid)
                process.kill()

    async def _feed(self, told: trio.socket.SocketType) -> None:
        while True:
            while self._queue:
                await self._let_readers_finish(self._queue[0].inode)
                await self._make(told, self._queue.popleft())
            self._more = trio.Event()
            await self._more.wait()

    async def _let_readers_finish(self, inode: Inode | None) -> None:
        """Wait until whoever was just told of `inode` has taken that in: see `Announcements.quiet`,
        which holds back those who ask later. Not for ever, if it is asked for all the time."""
        for _ in range(READERS_MOST):
            wait = 0.0 if inode is None else inode.asked + READER_SECONDS - time.monotonic()
            if wait <= 0:
                return
            await trio.sleep(wait)

    async def _make(self, told: trio.socket.SocketType, announcement: Announcement) -> None:
        self.current = announcement
        if announcement.inode is not None:
            self._modified.discard(announcement.inode)
            self.began_at = announcement.inode.changes
        new_path = self._mountpoint + announcement.new_path if announcement.new_path else ""
        try:
            operation = announcement.operation()
        except KernelError:  # what came is gone again, with all that it was part of
            self.current = None
            self._settle()
            self.failed += 1
            return
        parts = (operation, self._mountpoint + announcement.path, new_path)
        await told.send(b"\0".join(map(os.fsencode, parts)))
        answer = await told.recv(32)
        if not answer:
            raise OSError("its socket was closed")
        self.current = None
        self._settle()
        number = int(answer)
        if number == 0:
            self.done += 1
            return
        self.failed += 1
        if number not in UNREMARKABLE:
            log.info("%s could not be announced: %s", announcement.path, os.strerror(abs(number)))
