"""Answers to the calls that the announcer's process makes: they succeed, and change nothing.

While an entry is announced as new, looking it up answers ENOENT, so that Linux goes on to create
it. While one is announced as removed it is found, whatever became of it.
"""

from __future__ import annotations

import errno
import stat as st

import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, ModeT

from agentfs.base.errors import KernelError
from agentfs.mount.announcer import Announcement, Announcer
from agentfs.mount.attributes import attributes, tell
from agentfs.mount.inodes import Inode, Inodes
from agentfs.vfs.changes import Created, HungUp, Moved, Removed
from agentfs.vfs.node import Directory, Node, Stat

__all__ = ["ANNOUNCED", "Announced"]

ANNOUNCED = FileHandleT(0)
"""The handle of a file that the process opens, and closes at once."""

PATIENCE_SECONDS = 0.05

NEVER = 1
"""A time in ns at which nothing was changed."""


class _Ghost(Node):
    """A removed node, to be found once more so that its removal can be seen."""

    timeout = 0.0

    def __init__(self, key: object, is_directory: bool) -> None:
        self.key = ("ghost", key)
        self._mode = st.S_IFDIR | 0o755 if is_directory else st.S_IFREG | 0o644

    def stat(self) -> Stat:
        return Stat(self._mode, 0, 0)


class Announced:
    """The tree as the announcer's process sees it. Each method answers one of its calls."""

    def __init__(self, inodes: Inodes, announcer: Announcer) -> None:
        self._inodes = inodes
        self._announcer = announcer

    def _current(self) -> Announcement:
        current = self._announcer.current
        if current is None:
            raise KernelError(errno.ESTALE, "nothing is being announced")
        return current

    # -- on the way to what is announced ---------------------------------------------------------

    def lookup(self, directory: Inode, name: str) -> EntryAttributes:
        """The entry as the announcement wants it."""
        self._announcer.answer()
        match self._current().change:
            case Created(directory=key, name=created) if (key, created) == (directory.key, name):
                raise KernelError(errno.ENOENT, "it is being announced")
            case Removed(directory=key, name=removed) as change if (key, removed) == (
                directory.key,
                name,
            ):
                known = self._inodes.known(change.key)
                node = _Ghost(change.key, change.is_directory) if known is None else known.node
                return tell(self._inodes, node, directory, name)
            case Moved(target=key, new_name=new) if (key, new) == (directory.key, name):
                raise KernelError(errno.ENOENT, "it is being announced")
            case Moved(directory=key, name=old, node=node) if (key, old) == (directory.key, name):
                return tell(self._inodes, node, directory, name)
            case HungUp(key=key):
                fifo = self._inodes.known(key)
                if fifo is not None and (fifo.parent, fifo.name) == (directory, name):
                    entry = self._attributes(fifo)
                    fifo.refer()
                    return entry
        entry = tell(self._inodes, directory.directory().lookup(name), directory, name)
        entry.attr_timeout = 0  # its questions change nothing for others, who still have to ask
        return entry

    def getattr(self, inode: Inode) -> EntryAttributes:
        """The attributes that the process is told of an inode."""
        self._announcer.answer()
        return self._attributes(inode)

    def _attributes(self, inode: Inode) -> EntryAttributes:
        """On the way to a FIFO that is hung up, one that was removed meanwhile is there once more:
        somebody may still wait in its open."""
        try:
            entry = attributes(inode)
            if not isinstance(inode.node, Directory):
                entry.attr_timeout = 0
            elif inode.kept:
                # Nothing of a directory is in the page cache: even new ones may be kept, or
                # every step of the announcer's call would ask for them again.
                entry.attr_timeout = inode.node.timeout
            return entry
        except KernelError:
            if not isinstance(self._current().change, HungUp):
                raise
        entry = EntryAttributes()
        entry.st_ino = inode.number
        kind = st.S_IFDIR | 0o755 if isinstance(inode.node, Directory) else st.S_IFIFO | 0o666
        entry.st_mode = ModeT(kind)
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def open(self) -> FileInfo:
        self._announcer.answer()
        return FileInfo(fh=ANNOUNCED, direct_io=True, keep_cache=True)

    def flush(self) -> None:
        """It closes the file: the call is over."""
        self._announcer.answer(last=True)

    # -- the call itself -------------------------------------------------------------------------

    def create(self, directory: Inode, name: str) -> tuple[FileInfo, EntryAttributes]:
        return FileInfo(fh=ANNOUNCED, direct_io=True), self.make(directory, name, last=False)

    def make(self, directory: Inode, name: str, *, last: bool = True) -> EntryAttributes:
        """The announced entry, as if it had just been made. A name that is told of briefly is not
        to be kept by Linux: nobody tells it when that is gone."""
        self._announcer.answer(last=last)
        current = self._current()
        change = current.change
        if not isinstance(change, Created) or change.name != name:
            raise KernelError(errno.ESTALE, "another entry is being announced")
        passes = current.brief and self._inodes.known(change.node.key) is None
        entry = tell(self._inodes, change.node, directory, name)
        if passes:
            inode = self._inodes.get(entry.st_ino)
            inode.pass_by()
            self._announcer.passes(current, inode)
            entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def setattr(self, inode: Inode) -> EntryAttributes:
        """The attributes for a call that only tells of a change.

        Linux takes the answer of a setattr over without looking at the cached pages, and an answer
        to a getattr that was under way meanwhile is dropped. So: if the inode changed since the
        announcement began, the call fails, and the announcement of that change does its work.
        Otherwise the answer has a time that was never told and may not be kept, so that the next
        reader asks; and until Linux has the answer, nobody is told of a further change: every
        handler waits for that before it answers (see `handler`).
        """
        self._announcer.answer()
        current = self._current()
        if current.modified is not inode or inode.changes != self._announcer.began_at:
            raise KernelError(errno.ENOENT, "it changed again")
        entry = attributes(inode)
        entry.attr_timeout = 0
        entry.st_mtime_ns = NEVER
        self._announcer.answered(inode)
        self._announcer.answer(last=True)
        return entry

    def remove(self) -> None:
        """The announced entry, as if it had just been removed."""
        self._announcer.answer()
        if not isinstance(self._current().change, Removed):
            raise KernelError(errno.ESTALE, "no removal is being announced")
        self._announcer.answer(last=True)

    def rename(self, target: Inode, name: str) -> None:
        """The announced entry, as if it had just been renamed."""
        self._announcer.answer()
        change = self._current().change
        if not isinstance(change, Moved):
            raise KernelError(errno.ESTALE, "no renaming is being announced")
        inode = self._inodes.known(change.node.key)
        if inode is not None:
            inode.move(target, name)
        self._announcer.answer(last=True)

    # -- everybody else's calls meanwhile --------------------------------------------------------

    async def quiet(self, inode: Inode) -> None:
        """Before somebody else is told of `inode`: wait until no modification of it is announced.

        Linux drops cached pages a moment after it took new attributes over, and a reader that asked
        at the same time would still find them. The announcer may in turn wait for a writer that
        asks here with the file locked, so this does not wait for long.
        """
        current = self._announcer.current
        if current is not None and current.modified is inode:
            with trio.move_on_after(PATIENCE_SECONDS):
                await self._announcer.settled()
