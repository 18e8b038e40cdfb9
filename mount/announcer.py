"""Real inotify for changes that the daemon makes itself.

Linux reports to inotify only what happens through a system call on the mount. So one thread makes
those calls on our own mount: mkdir, create and close, unlink, rename, utimensat. The operations
recognise the thread by its id and answer so that the call succeeds and only tells what already
happened. Tried before built: notify_inval_entry and notify_delete give a directory's watcher
nothing; utimensat with only the modification time set gives IN_MODIFY, with both IN_ATTRIB.

Calls go by path. A directory descriptor kept open would make `umount` answer EBUSY.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import queue
import stat as st
import threading
from dataclasses import dataclass

from agentfs.vfs.changes import Change, Created, Modified, Moved, Removed

__all__ = ["Announcement", "Announcer"]

log = logging.getLogger(__name__)

UTIME_NOW = 0x3FFFFFFF
UTIME_OMIT = 0x3FFFFFFE
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


_ONLY_MTIME = (_Timespec * 2)(_Timespec(0, UTIME_OMIT), _Timespec(0, UTIME_NOW))


@dataclass(frozen=True, slots=True)
class Announcement:
    """A change, and the paths below the mount of what it is about."""

    change: Change
    path: str
    new_path: str = ""
    number: int = 0  # the inode, for Modified


class Announcer:
    """The thread and its queue.

    `tid` is the thread's id, by which the operations recognise it; `current` is what it announces
    at the moment. `done` were made, `failed` were not (their path was gone again), `lost` found the
    queue full.
    """

    def __init__(self, mountpoint: str, limit: int) -> None:
        self._mountpoint = mountpoint
        self._limit = limit
        self._queue: queue.SimpleQueue[Announcement | None] = queue.SimpleQueue()
        self._modified: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._started = threading.Event()
        self.tid = -1
        self.current: Announcement | None = None
        self.done = 0
        self.failed = 0
        self.lost = 0
        self._taken = 0

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """End the thread once the mount is gone, which ends a call that it may be in."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    @property
    def busy(self) -> bool:
        """Whether anything is still to be announced."""
        return self.done + self.failed < self._taken

    def announce(self, announcement: Announcement) -> bool:
        """Queue it; repeated modifications of one file are one. False if the queue is full."""
        if isinstance(announcement.change, Modified):
            if announcement.number in self._modified:
                return True
            self._modified.add(announcement.number)
        if self._queue.qsize() >= self._limit:
            self._modified.discard(announcement.number)
            if self.lost == 0:
                log.warning(
                    "more changes than inotify can be told of (%d wait): watchers miss some,"
                    " readers do not",
                    self._limit,
                )
            self.lost += 1
            return False
        self._taken += 1
        self._queue.put(announcement)
        return True

    def _run(self) -> None:
        self.tid = threading.get_native_id()
        self._started.set()
        while (announcement := self._queue.get()) is not None:
            self._modified.discard(announcement.number)
            self.current = announcement
            failed = 1
            try:
                self._make(announcement)
                failed = 0
            except OSError as failure:
                # The path is gone again, or the mount is: nobody can be watching it any more.
                if failure.errno not in (errno.ENOENT, errno.ENOTCONN, errno.ECONNABORTED):
                    log.info("%s could not be announced: %s", announcement.path, failure)
            except Exception:
                log.exception("%s could not be announced", announcement.path)
            self.current = None
            self.failed += failed
            self.done += 1 - failed

    def _make(self, announcement: Announcement) -> None:
        """Make the system call that tells of it."""
        path = self._mountpoint + announcement.path
        match announcement.change:
            case Modified():
                if _libc.utimensat(AT_FDCWD, os.fsencode(path), _ONLY_MTIME, AT_SYMLINK_NOFOLLOW):
                    raise OSError(ctypes.get_errno(), "utimensat", path)
            case Created(node=node):
                mode = node.stat().mode
                if st.S_ISDIR(mode):
                    os.mkdir(path)
                elif st.S_ISLNK(mode):
                    os.symlink("announced", path)
                elif st.S_ISFIFO(mode):
                    os.mkfifo(path)
                else:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            case Removed(is_directory=True):
                os.rmdir(path)
            case Removed():
                os.unlink(path)
            case Moved():
                os.rename(path, self._mountpoint + announcement.new_path)
