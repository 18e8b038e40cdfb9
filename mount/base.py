"""What all operations share: who calls, what is refused, and telling Linux of a node."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.base.watchdog import Watchdog
from agentfs.mount.announcements import Announcements
from agentfs.mount.announcer import Announcer
from agentfs.mount.asked import OF_DIRECTORIES, OF_FILES, Asked
from agentfs.mount.attributes import tell
from agentfs.mount.fairness import Fairness, key_of
from agentfs.mount.handles import Handles
from agentfs.mount.inodes import Inode, Inodes
from agentfs.mount.mounttable import Mounts, device_of
from agentfs.mount.parking import Client, Parking
from agentfs.mount.system import System
from agentfs.mount.wakeups import Wakeups
from agentfs.mount.walking import Walkers
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import LookUpAgain, Node

__all__ = ["Base"]

log = logging.getLogger(__name__)

T = TypeVar("T")

# Refusals that tell nothing new, unless they name a rule (EAGAIN is a rate limit, too): nothing to
# read yet, a signal, the end of the mount.
_QUIET = frozenset({errno.EAGAIN, errno.EINTR, errno.ENODEV, errno.ENODATA})


class Base(pyfuse3.Operations):
    """`requests` and `faults` count handler calls and faults of ours (EIO)."""

    def __init__(
        self,
        system: System,
        mountpoint: str,
        inodes: Inodes,
        announcer: Announcer,
        wakeups: Wakeups,
        parking: Parking,
        statistics_of: str,
        watchdog: Watchdog,
    ) -> None:
        super().__init__()
        self.watchdog = watchdog
        self.asked: Asked | None = None  # the one at work, which none is while it waits
        self._system = system
        self._mountpoint = mountpoint
        self._statistics_of = statistics_of
        self.inodes = inodes
        self.handles = Handles()
        self.announcer = announcer
        self.announcements = Announcements(inodes, announcer)
        self.wakeups = wakeups
        self.parking = parking
        self.fairness = Fairness(wakeups.more, wakeups.turns.pass_on)
        self.requests = 0
        self.faults = 0
        self._looking_again: dict[int, Inode] = {}
        self.walkers = Walkers()

    def moved(self, mountpoint: str) -> None:
        """The tree is mounted at another path now."""
        self._mountpoint = mountpoint

    def whose(self, name: str, args: tuple[object, ...]) -> int | None:
        """Whom a request counts for (see `fairness`); None for what is to go on at once."""
        try:
            if name in OF_FILES:
                return key_of(self.handles.file(args[0]).caller.principal)  # type: ignore[arg-type]
            if name in OF_DIRECTORIES:
                opened = self.handles.directory(args[0])  # type: ignore[arg-type]
                return key_of(opened.caller.principal)
        except KernelError:
            return None  # the announcer's
        ctx = args[-1] if args else None
        if not isinstance(ctx, RequestContext) or not ctx.pid or self.announcements.by(ctx):
            return None
        tid, uid, gid = ctx.pid, ctx.uid, ctx.gid
        return self.fairness.remembered(tid, lambda: self._system.identify(tid, uid, gid))

    def _caller(self, ctx: RequestContext) -> Caller:
        principal = self._system.identify(ctx.pid, ctx.uid, ctx.gid)
        caller = Caller(principal, ctx.uid, ctx.gid, ctx.pid, ctx.umask, self._system.charge)
        if self.asked is not None:
            self.asked.caller = caller
        return caller

    @cached_property
    def mounts(self) -> Mounts:
        """Those of this file system. Ask for it before anybody can move or unmount it."""
        with open("/proc/self/mountinfo", "rb", 0) as table:
            return Mounts(device_of(self._mountpoint, table) or "")

    def where(self, inode: Inode, name: str = "") -> str:
        path = self.inodes.path(inode) or f"/…/{inode.name}"
        return f"{path.rstrip('/')}/{name}" if name else path

    def _refused(self, caller: Caller, path: str, refusal: KernelError) -> FUSEError:
        if isinstance(refusal, ApprovalError):
            # Linux holds a lock on the directory, for which all others would wait as well: it is
            # asked for, and the caller may try again when it is given.
            with suppress(KernelError):
                self._system.approval(refusal).release()
        if refusal.errno not in _QUIET or refusal.rule:
            self._system.refused(caller.principal, path, refusal)
        return FUSEError(refusal.errno)

    async def _approved(self, client: Client, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt()` gives, made again once somebody has approved it where that is needed.
        Raises EAGAIN where it may not wait, EINTR, and EACCES if the answer is no."""
        while True:
            try:
                return await attempt()
            except ApprovalError as needed:
                awaited = self._system.approval(needed)
            try:
                await self.parking.read(awaited, 1, client)
            except KernelError as end:
                if end.errno == errno.EINTR:
                    awaited.give_up()
                raise
            finally:
                awaited.release()

    def _entry(self, parent: Inode, name: str, node: Node) -> EntryAttributes:
        """Tell the Linux kernel of a node; it holds one more reference then."""
        return tell(self.inodes, node, parent, name)

    def _is_outdated(self, inode: Inode) -> bool:
        """Whether Linux may come to `inode` by a name that it has no more, and was not told yet."""
        if inode.outdated:
            self.announcer.catch_up()
        return inode.outdated > 0

    def _is_found(self, inode: Inode, tid: int) -> None:
        """Before `inode` is opened: if Linux may have come to it by an outdated name, or somebody
        else was faster, it is to look up again, which it does by itself, once a call, for ESTALE.
        The thread comes back if there is such a name."""
        sent_back = self._looking_again.pop(tid, None) if self._looking_again else None
        taken = inode.taken and sent_back is None
        if taken or (self._is_outdated(inode) and sent_back is not inode):
            self._looking_again[tid] = inode
            raise LookUpAgain(inode.name)

    def _is_missing(self, tid: int) -> None:
        """The thread found nothing: it does not come back."""
        if self._looking_again:
            self._looking_again.pop(tid, None)

    def _settle(self, inode: Inode, directory: Inode, name: str) -> None:
        """The Linux kernel holds `inode` to be `directory`/`name`: make it what is there now."""
        if inode.node.apart:  # its own, whatever else is found there
            return
        try:
            node = directory.directory().lookup(name)
        except KernelError:
            return
        if node.key == inode.key:
            inode.parent, inode.name, inode.node = directory, name, node
        else:
            self.inodes.rebind(inode, node, directory, name)
