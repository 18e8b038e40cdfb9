"""The way of a change in the kernel to caches and watchers.

The Linux kernel keeps entries and attributes for an hour; so, before the reply to the call that
caused a change, the changed inodes are invalidated (attributes only: 2 µs, waits for no lock). On
the next stat, and on the next read from the page cache, the kernel asks again, sees that st_mtime
moved, and drops its pages itself. Never invalidate pages or entries here: those wait for locks
that a request of ours can hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar

import pyfuse3

from agentfs.mount.announcer import Announcement, Announcer
from agentfs.mount.inodes import Inode, Inodes
from agentfs.mount.watch import ARRIVAL, CREATION, LEAVING, REMOVAL, WRITING
from agentfs.vfs.changes import Change, Created, HungUp, Modified, Moved, Removed
from agentfs.vfs.node import File

__all__ = ["Coherence", "by_client"]

log = logging.getLogger(__name__)

_NOTHING: frozenset[Hashable] = frozenset()
_ours: ContextVar[frozenset[Hashable]] = ContextVar("announced by the client's own call")


class by_client:  # noqa: N801  # read as words: `with by_client(…)`
    """A change in this block of one of these names, (directory key, name), or keys, is reported to
    inotify by the client's own system call: do not announce it again.

    A class, because every write and close comes here, and a generator takes twice the calls.
    """

    __slots__ = ("_changed", "_token")

    def __init__(self, *changed: Hashable) -> None:
        self._changed = frozenset(changed)

    def __enter__(self) -> None:
        self._token = _ours.set(self._changed)

    def __exit__(self, *failure: object) -> None:
        _ours.reset(self._token)


class Coherence:
    """Applies changes to the inode table, to the caches, and to the announcer's queue."""

    def __init__(self, inodes: Inodes, announcer: Announcer) -> None:
        self._inodes = inodes
        self._announcer = announcer
        self.invalidations = 0
        self._apply: dict[type, Callable[..., None]] = {
            Modified: self._modified,
            Created: self._created,
            Removed: self._removed,
            Moved: self._moved,
            HungUp: self._hung_up,
        }

    def apply(self, changes: Iterable[Change]) -> None:
        """Make these changes visible. Synchronous; never waits."""
        ours = _ours.get(_NOTHING)
        for change in changes:
            self._apply[type(change)](change, ours)

    def _invalidate(self, inode: Inode) -> None:
        inode.touch()
        if not inode.kept:
            return  # Linux asks every time
        self._announcer.changing(inode)
        self.ask_again(inode)

    def ask_again(self, inode: Inode) -> None:
        """Let Linux ask for the attributes of an inode before it uses them again."""
        self.invalidations += 1
        try:
            pyfuse3.invalidate_inode(inode.number, attr_only=True)
        except OSError as failure:
            # ENOENT: the kernel forgot it, the message is under way. ENODEV: unmounted.
            log.debug("inode %d could not be invalidated: %s", inode.number, failure)

    def _announce(
        self,
        change: Change,
        directory: Inode,
        name: str,
        inode: Inode | None = None,
        *,
        brief: bool = False,
    ) -> None:
        path = self._inodes.path(directory)
        if path is None:
            return
        new_path = ""
        if isinstance(change, Moved):
            target = self._inodes.known(change.target)
            base = None if target is None else self._inodes.path(target)
            if base is None:
                return
            new_path = f"{base}/{change.new_name}"
        self._announcer.announce(
            Announcement(change, f"{path.rstrip('/')}/{name}", new_path, inode, brief=brief)
        )

    def _modified(self, change: Modified, ours: frozenset[Hashable]) -> None:
        inode = self._inodes.known(change.key)
        if inode is None:
            return
        self._invalidate(inode)
        if change.key not in ours:
            path = self._inodes.path(inode)
            if path is not None:
                self._announcer.announce(Announcement(change, path, inode=inode))

    def _created(self, change: Created, ours: frozenset[Hashable]) -> None:
        directory = self._inodes.known(change.directory)
        if directory is None:
            return
        self._invalidate(directory)
        if (change.directory, change.name) not in ours:
            self._announce_creation(change, directory)

    def _announce_creation(self, change: Created, directory: Inode) -> None:
        """Where nobody waits for a new file to be opened and closed, two requests less tell of it,
        and where nobody waits for new files, none."""
        if directory.wanted & (CREATION | WRITING):
            brief = isinstance(change.node, File) and not directory.wanted & WRITING
            self._announce(change, directory, change.name, brief=brief)

    def _removed(self, change: Removed, ours: frozenset[Hashable]) -> None:
        inode = self._inodes.known(change.key)
        if inode is not None:
            self._inodes.remove(inode)
            self._invalidate(inode)
        directory = self._inodes.known(change.directory)
        if directory is None:
            return
        self._invalidate(directory)
        if (inode is None or inode.passing) and not directory.wanted & REMOVAL:
            return  # Linux does not keep it, and nobody waits for it
        if (change.directory, change.name) not in ours:
            if inode is not None:
                inode.lose_name()
            self._announce(change, directory, change.name, inode)

    def _hung_up(self, change: HungUp, ours: frozenset[Hashable]) -> None:
        inode = self._inodes.known(change.key)
        path = None if inode is None else self._inodes.path(inode)
        if path is not None:
            self._announcer.announce(Announcement(change, path))

    def _moved(self, change: Moved, ours: frozenset[Hashable]) -> None:
        directory = self._inodes.known(change.directory)
        target = self._inodes.known(change.target)
        inode = self._inodes.known(change.node.key)
        if inode is not None:
            inode.become(change.node)
            self._invalidate(inode)
        for changed in (directory, target):
            if changed is not None:
                self._invalidate(changed)
        if (change.directory, change.name) in ours:
            return
        wanted = (directory and directory.wanted & LEAVING) or (target and target.wanted & ARRIVAL)
        if (inode is None or inode.passing) and not wanted:
            return
        if inode is not None and directory is not None:
            inode.lose_name()
        if directory is not None and target is not None:
            self._announce(change, directory, change.name, inode)
            return
        # One of the two folders is not known, so nobody watches it: for the other it is a change
        # of its own.
        if directory is not None:
            gone = Removed(change.directory, change.name, change.node.key)
            self._announce(gone, directory, change.name, inode)
        if target is not None:
            self._announce_creation(Created(change.target, change.new_name, change.node), target)
