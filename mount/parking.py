"""Reads and writes that wait: until there is something to read or room to write, the caller gets a
signal, or the mount goes away.

A FUSE call cannot be interrupted unless the daemon answers it: the caller hangs, even against
SIGKILL. So whenever an interrupt arrives (see `wakeups`), the parked calls find out whom it was
for: the thread that waits has a signal pending that it neither blocks nor ignores. That call
answers EINTR. The thread is found out before it is parked (see `reading`). Where it cannot be, the
opener is taken for it, and all others that hold the file are looked at as well.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.proc import all_pids
from agentfs.model.principal import Principal
from agentfs.mount.proc import PendingSignals, deliverable
from agentfs.mount.reading import holding, waiting
from agentfs.quota.shares import Charge
from agentfs.vfs.node import StreamHandle

__all__ = ["Client", "Parked", "Parking"]

T = TypeVar("T")

# How soon a signal ends a call when the hint was not enough: a caller that was stopped before has
# used up the one FUSE_INTERRUPT that Linux sends for each request.
RESTLESS_SECONDS = 0.1
# The net below: a caller whose end went unnoticed for whatever reason. With 1,000 readers a look
# takes a tenth of a second; an idle daemon is to use less than 1 % of a core.
ROUTINE_SECONDS = 30.0
# The same after callers were frozen, which uses up their FUSE_INTERRUPT as a stop does. Looking at
# one takes 0.1 ms: with so many seconds for each, that is a hundredth of a core.
THAWED_SECONDS = 0.01
SOONEST_SECONDS = 1.0
# Linux makes a signal pending a moment before or after it tells us; look twice.
SECOND_LOOK_SECONDS = 0.02

# Stopping is no reason to end a call: after SIGCONT the caller goes on waiting.
_STOP = 1 << (signal.SIGSTOP - 1)


@dataclass(frozen=True, slots=True)
class Client:
    """A caller that may have to wait: whom it acts for, the thread that opened the file, the number
    of the inode, and the flags of open(2). The number is 0 if the thread has not opened it yet."""

    principal: Principal
    tid: int
    inode: int
    flags: int


class Parked:
    """One call that waits.

    charge: what it takes of the pot `parked`.
    tid: the thread that waits; where that is not `known`, the one that opened the file.
    inode: the number of the file's inode.
    restless: the thread was stopped once. Linux will not interrupt this request again.
    heirs_restless: another process was stopped once that holds the file open.
    thawed: it was interrupted, and had no signal: its thread was frozen.
    """

    __slots__ = (
        "_wake",
        "charge",
        "handle",
        "heirs_restless",
        "inode",
        "interrupted",
        "known",
        "restless",
        "thawed",
        "tid",
    )

    def __init__(
        self, handle: StreamHandle, tid: int, inode: int, charge: Charge, *, known: bool
    ) -> None:
        self.handle = handle
        self.charge = charge
        self.tid = tid
        self.inode = inode
        self.known = known
        self._wake = trio.Event()
        self.interrupted = False
        self.restless = False
        self.heirs_restless = False
        self.thawed = False

    async def rest(self) -> None:
        """Wait until it is woken."""
        await self._wake.wait()
        self._wake = trio.Event()

    def wake(self) -> None:
        self._wake.set()

    def interrupt(self) -> None:
        self.interrupted = True
        self._wake.set()

    def notice_stop(self) -> None:
        """The thread was stopped."""
        self.restless = True

    def notice_thaw(self) -> None:
        """The thread was frozen, perhaps."""
        self.thawed = True

    def notice_stopped_heir(self) -> None:
        """Another process was stopped that holds the file open."""
        self.heirs_restless = True


class Parking:
    """All calls that wait at the moment; each takes one of the pot `parked`. `woken()` is called
    whenever one of them may go on."""

    def __init__(
        self,
        charge: Callable[[Principal, str], Charge],
        woken: Callable[[], object],
        freezes: Callable[[], bool],
    ) -> None:
        """`freezes()`: whether programs are frozen now, or were a moment ago."""
        self._charge = charge
        self._woken = woken
        self._freezes = freezes
        self._parked: set[Parked] = set()
        self._signals = PendingSignals()
        self._hint = trio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._parked)

    async def read(self, handle: StreamHandle, size: int, client: Callable[[], Client]) -> bytes:
        """The next bytes of a stream; `client()` is asked if it has to wait for them. Raises EAGAIN
        (O_NONBLOCK, or too many wait already), EINTR, ENODEV (the mount goes away)."""
        data = handle.try_read(size)
        return await self.wait_to_read(handle, size, client) if data is None else data

    async def wait_to_read(
        self, handle: StreamHandle, size: int, client: Callable[[], Client]
    ) -> bytes:
        """The same, where there was nothing to read at once."""
        parked = await self._park(handle, client())
        return await self._until(parked, partial(handle.try_read, size))

    async def write(self, handle: StreamHandle, data: bytes, client: Callable[[], Client]) -> int:
        """The number of bytes that a stream took. Raises as `read` does."""
        taken = handle.try_write(data)
        if taken is not None:
            return taken
        parked = await self._park(handle, client())
        return await self._until(parked, partial(handle.try_write, data))

    async def _park(self, handle: StreamHandle, client: Client) -> Parked:
        found: tuple[int, int] | None = client.tid, client.flags
        if client.inode:
            others = {parked.tid for parked in self._parked}
            found = await waiting(client.tid, client.inode, others)
        tid, flags = found or (client.tid, client.flags)
        if flags & os.O_NONBLOCK:
            raise KernelError(errno.EAGAIN, "it would have to wait, and O_NONBLOCK says not to")
        charge = self._charge(client.principal, "parked")
        charge.resize(1)
        return Parked(handle, tid, client.inode, charge, known=found is not None)

    async def _until(self, parked: Parked, attempt: Callable[[], T | None]) -> T:
        """What `attempt()` gives once it is not None."""
        unsubscribe = parked.handle.on_wake(partial(self._wake, parked))
        self._parked.add(parked)
        try:
            parked.handle.parked()
            while True:
                # Before the attempt: nothing is given to, or taken from, a caller that is being
                # killed and would never know.
                if parked.interrupted or self._is_interrupted(parked.tid):
                    raise KernelError(errno.EINTR, "a signal ended the wait")
                done = attempt()
                if done is not None:
                    return done
                if self._closed:
                    raise KernelError(errno.ENODEV, "the tree is being unmounted")
                await parked.rest()
        finally:
            self._parked.discard(parked)
            unsubscribe()
            parked.charge.release()
            parked.handle.unparked()

    def _is_interrupted(self, tid: int) -> bool:
        """Whether the thread has a signal to handle. One that is gone may have heirs: no."""
        pending = self._signals.deliverable(tid)
        return pending is not None and bool(pending & ~_STOP)

    def _wake(self, parked: Parked) -> None:
        parked.wake()
        self._woken()

    def hint(self) -> None:
        """Some waiting request was interrupted: find out which."""
        self._hint.set()

    def close(self) -> None:
        """End every call that waits."""
        self._closed = True
        for parked in self._parked:
            parked.wake()

    async def watch(self) -> None:
        """Find interrupted callers, until cancelled."""
        try:
            await self._watch()
        finally:
            self._signals.close()

    async def _watch(self) -> None:
        routine = trio.current_time() + self._routine()
        while True:
            restless = [each for each in self._parked if each.restless or each.heirs_restless]
            wait = RESTLESS_SECONDS if restless else routine - trio.current_time()
            with trio.move_on_after(wait):
                await self._hint.wait()
            if self._hint.is_set():
                self._hint = trio.Event()
                self._look(tuple(self._parked))
                if self._freezes():
                    for parked in self._parked:
                        parked.notice_thaw()
                await trio.sleep(SECOND_LOOK_SECONDS)
            elif trio.current_time() < routine:
                self._look(restless, [each for each in restless if each.heirs_restless])
                continue
            self._look(tuple(self._parked))
            routine = trio.current_time() + self._routine()

    def _routine(self) -> float:
        """Seconds until all are looked at without a hint."""
        if not any(parked.thawed for parked in self._parked):
            return ROUTINE_SECONDS
        return max(SOONEST_SECONDS, THAWED_SECONDS * len(self._parked))

    def _look(self, suspects: Iterable[Parked], with_heirs: Iterable[Parked] | None = None) -> None:
        """Find those of `suspects` that were interrupted. `with_heirs`: the calls whose heirs are
        looked at as well, all of them by default. That costs a look at every process of the
        machine."""
        found = False
        others: list[Parked] = []
        orphaned: list[Parked] = []
        for parked in suspects:
            pending = deliverable(parked.tid)
            if pending is None:
                orphaned.append(parked)
            elif pending & ~_STOP:
                parked.interrupt()
                found = True
                continue
            if pending:
                parked.notice_stop()
            if not parked.known:
                others.append(parked)
        if with_heirs is not None:
            others = [each for each in with_heirs if not each.interrupted]
        if not found and others:
            self._look_among_heirs(others, orphaned)

    def _look_among_heirs(self, parked: list[Parked], orphaned: list[Parked]) -> None:
        """Look at the processes that hold a file open which another one opened, and that could not
        be seen in the call."""
        inodes: dict[int, list[Parked]] = {}
        for unknown in parked:
            inodes.setdefault(unknown.inode, []).append(unknown)
        openers = {unknown.tid for unknown in parked}
        for pid in all_pids():
            pending = None if pid in openers else deliverable(pid)
            if pending is None or not pending:
                continue
            for inode in holding(pid, inodes):
                for unknown in inodes[inode]:
                    if pending & ~_STOP:
                        unknown.interrupt()
                    else:
                        unknown.notice_stopped_heir()
        if orphaned:
            wanted = {unknown.inode for unknown in orphaned}
            held = {inode for pid in all_pids() for inode in holding(pid, wanted)}
            for unknown in orphaned:
                if unknown.inode not in held:
                    unknown.interrupt()
