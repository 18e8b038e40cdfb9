"""The requests under way: whose each is, and what the watchdog is told of it."""

from __future__ import annotations

import os
import time
from typing import Any

from pyfuse3 import RequestContext

from agentfs.base.errors import KernelError
from agentfs.base.watchdog import Watchdog
from agentfs.model.principal import Principal
from agentfs.mount.announcer import Announcer
from agentfs.mount.fairness import Fairness, key_of
from agentfs.mount.handles import Handles, OpenFile
from agentfs.mount.host import Host
from agentfs.mount.inodes import Inodes
from agentfs.vfs.caller import Caller

__all__ = ["Asked", "Requests"]

# Requests whose first argument is a handle; that of all others is an inode.
OF_FILES = frozenset({"read", "write", "flush", "fsync", "release"})
OF_DIRECTORIES = frozenset({"readdir", "releasedir", "fsyncdir"})


class Asked:
    """One request.

    key: the principal that it counts for (see `fairness`), where that is known already.
    by: its caller, where that was asked for.
    """

    __slots__ = ("_args", "_began", "_opened", "_requests", "by", "key", "name")

    def __init__(
        self, requests: Requests, name: str, args: tuple[Any, ...], key: int | None
    ) -> None:
        self._requests = requests
        self._args = args
        self._opened: OpenFile | None = None
        self._began = 0.0
        self.name = name
        self.key = key
        self.by: Caller | None = None

    def caller(self, ctx: RequestContext) -> Caller:
        """The caller that makes it."""
        host = self._requests.host
        principal = host.identify(ctx.pid, ctx.uid, ctx.gid)
        self.by = Caller(principal, ctx.uid, ctx.gid, ctx.pid, ctx.umask, host.charge)
        return self.by

    def concerns(self, opened: OpenFile) -> None:
        """It is about an open file to which no number leads any more."""
        self._opened = opened

    # -- around each piece of it that does not wait: see `driven` --------------------------------

    def resumed(self) -> None:
        self._requests.at_work = self
        self._began = time.monotonic()

    def paused(self) -> None:
        requests = self._requests
        held = requests.watchdog.took(self.name, self, self._began)
        key = self.key
        if key is None and self.by is not None:
            key = key_of(self.by.principal)
        requests.fairness.charge(key, self._began, held)

    def __str__(self) -> str:
        """Asked only of a request that took long."""
        path, caller = self._where()
        caller = self.by or caller
        by = "" if caller is None else f" by {caller.principal.name} (thread {caller.tid})"
        return f"{self.name} of {path}{by}"

    def _where(self) -> tuple[str, Caller | None]:
        handles, inodes = self._requests.handles, self._requests.inodes
        first = self._args[0] if self._args else None
        try:
            if self._opened is not None or self.name in OF_FILES:
                file = self._opened or handles.file(first)  # type: ignore[arg-type]
                return inodes.where(file.inode), file.caller
            if self.name in OF_DIRECTORIES:
                directory = handles.directory(first)  # type: ignore[arg-type]
                return inodes.where(directory.inode), directory.caller
            name = self._args[1] if len(self._args) > 1 else b""
            inode = inodes.get(first)  # type: ignore[arg-type]
            text = os.fsdecode(name) if isinstance(name, bytes) and "attr" not in self.name else ""
            return inodes.where(inode, text), None
        except Exception:  # noqa: BLE001  # it is gone since: no words are worth a fault
            return "what is gone", None


class Requests:
    """All requests.

    at_work: the one of which a piece runs now. While it waits, others take its place.
    faults: the number of those that failed by a fault of ours (EIO).
    suspended: none is taken now. Those under way end, with ESTALE.
    """

    def __init__(
        self,
        host: Host,
        inodes: Inodes,
        handles: Handles,
        announcer: Announcer,
        fairness: Fairness,
        watchdog: Watchdog,
    ) -> None:
        self.host = host
        self.inodes = inodes
        self.handles = handles
        self.fairness = fairness
        self.watchdog = watchdog
        self.faults = 0
        self.suspended = False
        self.at_work = Asked(self, "nothing", (), None)
        self._announcer = announcer

    def whose(self, name: str, args: tuple[object, ...]) -> int | None:
        """The principal that a request counts for (see `fairness`); None for a request that is to
        go on at once."""
        found = self._caller_of(name, args)
        if isinstance(found, RequestContext):
            tid, uid, gid = found.pid, found.uid, found.gid
            return self.fairness.remembered(tid, lambda: self.host.identify(tid, uid, gid))
        return None if found is None else key_of(found)

    def _caller_of(self, name: str, args: tuple[Any, ...]) -> Principal | RequestContext | None:
        """Whose an open file is, or which thread calls; None for the announcer."""
        try:
            if name in OF_FILES:
                return self.handles.file(args[0]).caller.principal
            if name in OF_DIRECTORIES:
                return self.handles.directory(args[0]).caller.principal
        except KernelError:
            return None  # the announcer's
        ctx = args[-1] if args else None
        if not isinstance(ctx, RequestContext) or not ctx.pid or ctx.pid == self._announcer.tid:
            return None
        return ctx

    async def stand_still(self, name: str, args: tuple[object, ...]) -> None:
        """Wait until requests may go on, unless this one may pass: the announcer's, which tells of
        the past, and a close that changes nothing, as that of the one who asked for a rollback."""
        if name == "flush" and not self._changes(args):
            return
        still, found = self.host.standstill, self._caller_of(name, args)
        if isinstance(found, RequestContext):
            found = self.host.identify(found.pid, found.uid, found.gid)
        if found is not None and not still.may_pass(found):
            await still.wait()

    def _changes(self, args: tuple[Any, ...]) -> bool:
        """Whether the close of a file takes up what was written to it."""
        try:
            return self.handles.file(args[0]).handle.unflushed
        except KernelError:
            return False  # the announcer's

    def suspend(self, suspended: bool) -> None:
        """None is to be taken from now on, or they are taken again."""
        self.suspended = suspended

    def fault(self) -> None:
        """One failed by a fault of ours."""
        self.faults += 1
