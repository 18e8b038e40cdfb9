"""Reads and writes that wait: until there is something to read or room to write, the caller gets a
signal, or the mount goes away.

A FUSE call cannot be interrupted unless the daemon answers it: the caller hangs, even against
SIGKILL. So whenever an interrupt arrives (see `wakeups`) the parked calls find out whom it was for:
the opener, or another process that holds the file open, has a signal pending that it neither blocks
nor ignores, or is gone. That call answers EINTR.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import trio

from agentfs.errors import KernelError
from agentfs.mount.handles import open_files
from agentfs.vfs.node import StreamHandle

__all__ = ["Parked", "Parking", "deliverable"]

T = TypeVar("T")

# How soon a signal ends a call when the hint was not enough: a caller that was stopped before has
# used up the one FUSE_INTERRUPT that Linux sends for each request.
RESTLESS_SECONDS = 0.1
# The net below: a caller whose end went unnoticed for whatever reason. With 1,000 readers a look
# takes a tenth of a second; an idle daemon is to use less than 1 % of a core.
ROUTINE_SECONDS = 30.0
# Linux makes a signal pending a moment before or after it tells us; look twice.
SECOND_LOOK_SECONDS = 0.02

# Stopping is no reason to end a call: after SIGCONT the caller goes on waiting.
_STOP = 1 << (signal.SIGSTOP - 1)

# Of /proc/TID/status. A look among heirs reads that of every process: 35 µs each so, 110 with all
# of its lines taken apart.
_SIGNALS = re.compile(
    rb"\nState:\t(?P<state>.).*\nSigPnd:\t(?P<own>\w+)\nShdPnd:\t(?P<shared>\w+)"
    rb"\nSigBlk:\t(?P<blocked>\w+)\nSigIgn:\t(?P<ignored>\w+)\n",
    re.DOTALL,
)


class Parked:
    """One call that waits. `opener` is the thread that opened the file, `path` where it is.
    `restless`: the opener was stopped once, `heirs_restless`: another that holds the file open."""

    __slots__ = ("handle", "heirs_restless", "interrupted", "opener", "path", "restless", "wake")

    def __init__(self, handle: StreamHandle, opener: int, path: str) -> None:
        self.handle = handle
        self.opener = opener
        self.path = path
        self.wake = trio.Event()
        self.interrupted = False
        self.restless = False
        self.heirs_restless = False

    def interrupt(self) -> None:
        self.interrupted = True
        self.wake.set()


class Parking:
    """All calls that wait at the moment; at most `limit()` of them."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self.on_wake: Callable[[], object] = lambda: None
        """Called whenever one that waits may go on."""
        self._parked: set[Parked] = set()
        self._hint = trio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._parked)

    async def read(
        self, handle: StreamHandle, size: int, *, wait: bool, opener: int, path: str
    ) -> bytes:
        """The next bytes of a stream. Raises EAGAIN (`wait` is False, or too many wait already),
        EINTR, ENODEV (the mount goes away)."""
        data = handle.try_read(size)
        if data is not None:
            return data
        parked = self._park(handle, opener, path, wait=wait)
        return await self._until(parked, lambda: handle.try_read(size))

    async def write(
        self, handle: StreamHandle, data: bytes, *, wait: bool, opener: int, path: str
    ) -> int:
        """The number of bytes that a stream took. Raises as `read` does."""
        taken = handle.try_write(data)
        if taken is not None:
            return taken
        parked = self._park(handle, opener, path, wait=wait)
        return await self._until(parked, lambda: handle.try_write(data))

    def _park(self, handle: StreamHandle, opener: int, path: str, *, wait: bool) -> Parked:
        if not wait:
            raise KernelError(errno.EAGAIN, "it would have to wait, and O_NONBLOCK says not to")
        if len(self._parked) >= self._limit():
            raise KernelError(
                errno.EAGAIN,
                f"{self._limit()} calls wait already (mount.max_parked)",
                rule="max_parked",
            )
        return Parked(handle, opener, path)

    async def _until(self, parked: Parked, attempt: Callable[[], T | None]) -> T:
        """What `attempt()` gives once it is not None."""
        unsubscribe = parked.handle.on_wake(lambda: self._wake(parked))
        self._parked.add(parked)
        try:
            parked.handle.parked()
            while True:
                # Before the attempt: nothing is given to, or taken from, a caller that is being
                # killed and would never know.
                if parked.interrupted or _is_interrupted(parked.opener):
                    raise KernelError(errno.EINTR, "a signal ended the wait")
                done = attempt()
                if done is not None:
                    return done
                if self._closed:
                    raise KernelError(errno.ENODEV, "the tree is being unmounted")
                await parked.wake.wait()
                parked.wake = trio.Event()
        finally:
            self._parked.discard(parked)
            unsubscribe()
            parked.handle.unparked()

    def _wake(self, parked: Parked) -> None:
        parked.wake.set()
        self.on_wake()

    def hint(self) -> None:
        """Some waiting request was interrupted: find out which."""
        self._hint.set()

    def close(self) -> None:
        """End every call that waits."""
        self._closed = True
        for parked in self._parked:
            parked.wake.set()

    async def watch(self) -> None:
        """Find interrupted callers, until cancelled."""
        routine = trio.current_time() + ROUTINE_SECONDS
        while True:
            restless = [each for each in self._parked if each.restless or each.heirs_restless]
            wait = RESTLESS_SECONDS if restless else routine - trio.current_time()
            with trio.move_on_after(wait):
                await self._hint.wait()
            if self._hint.is_set():
                self._hint = trio.Event()
                self._look(tuple(self._parked))
                await trio.sleep(SECOND_LOOK_SECONDS)
            elif trio.current_time() < routine:
                self._look(restless, [each for each in restless if each.heirs_restless])
                continue
            routine = trio.current_time() + ROUTINE_SECONDS
            self._look(tuple(self._parked))

    def _look(self, suspects: Iterable[Parked], with_heirs: Iterable[Parked] | None = None) -> None:
        """`with_heirs`: those whose heirs are looked at as well, all of them by default: that
        costs a look at every process of the machine."""
        found = False
        others: list[Parked] = []
        orphaned: list[Parked] = []
        for parked in suspects:
            pending = deliverable(parked.opener)
            if pending is None:
                orphaned.append(parked)
            elif pending & ~_STOP:
                parked.interrupt()
                found = True
                continue
            if pending:
                parked.restless = True  # for good: Linux will not interrupt this request again
            others.append(parked)
        if with_heirs is not None:
            others = [each for each in with_heirs if not each.interrupted]
        if not found and others:
            self._look_among_heirs(others, orphaned)

    def _look_among_heirs(self, parked: list[Parked], orphaned: list[Parked]) -> None:
        """Processes that hold a file open which another one opened (`exec 3<file; cat <&3`)."""
        paths: dict[str, list[Parked]] = {}
        for waiting in parked:
            paths.setdefault(waiting.path, []).append(waiting)
        openers = {waiting.opener for waiting in parked}
        for pid in _processes():
            pending = None if pid in openers else deliverable(pid)
            if pending is None or not pending:
                continue
            for path in open_files(pid) & paths.keys():
                for waiting in paths[path]:
                    if pending & ~_STOP:
                        waiting.interrupt()
                    else:
                        waiting.heirs_restless = True
        if orphaned:
            held = {path for pid in _processes() for path in open_files(pid)}
            for waiting in orphaned:
                if waiting.path not in held:
                    waiting.interrupt()


def _is_interrupted(opener: int) -> bool:
    """Whether the thread has a signal to handle. One that is gone may have heirs: no."""
    pending = deliverable(opener)
    return pending is not None and bool(pending & ~_STOP)


def _processes() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def deliverable(tid: int) -> int | None:
    """The signals (bit n-1 for signal n) that wait for a thread and that it neither blocks nor
    ignores; None if the thread is gone or ending."""
    try:
        with open(f"/proc/{tid}/status", "rb", buffering=0) as file:
            found = _SIGNALS.search(file.read())
    except OSError:
        return None
    if found is None or found["state"] in (b"Z", b"X"):
        return None
    pending = int(found["own"], 16) | int(found["shared"], 16)
    return pending & ~(int(found["blocked"], 16) | int(found["ignored"], 16))
