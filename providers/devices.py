"""Where calls on real files are made: at once, or in a thread that is not waited for longer than is
good.

The store's own disk answers in the event loop: each system call is a commit to it there, and when
it hangs nothing goes on anyhow. A mount below /shared or memory/ (or there itself) is another disk,
which may hang by itself: calls beyond a mount point are made in threads, a few for each mount, and
the caller gets ETIMEDOUT when there is no answer in time.
The thread of such a call cannot be ended: it stays until the disk answers, or its mount is
aborted. When all threads of a mount are stuck, it is not asked any more until one comes back.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

import trio

from agentfs.base.errors import KernelError
from agentfs.base.within import mounts
from agentfs.vfs.node import LookUpAgain
from agentfs.vfs.waiting import in_fiber, wait

__all__ = ["OWN", "THREADS", "TIMEOUT", "Device", "Devices", "Mounted"]

log = logging.getLogger(__name__)

THREADS = 8
"""For each mount: so many calls are under way at once, and no more can be stuck."""

MOST_IN_LINE = 100
"""Calls that wait for all mounts together: each has a task of the daemon, which has 200 for them
(`mount.session`). More are EAGAIN."""

TIMEOUT = 10.0
"""Seconds for a call, unless /etc/agentfs.yaml says otherwise (`mount.disk_timeout`)."""

DOUBTFUL = 0.1
"""Where a call is stuck already, others get so much of that time."""

SYNCING = 6
"""fsync(2) writes what many calls left in memory: so many times as long."""

P = ParamSpec("P")
T = TypeVar("T")


class Device:
    """The store's own disk: calls are made at once."""

    own = True

    def call(
        self,
        work: Callable[..., T],
        *args: Any,
        late: Callable[[Any], object] | None = None,
    ) -> T:
        """Give what `work(*args)` does. `late(result)`, in its thread, takes back what was done
        after nobody waited for it any more. Raises OSError; elsewhere ETIMEDOUT, EAGAIN."""
        return work(*args)

    async def syncing(self, descriptor: int) -> None:
        """fsync(2), in a thread. Raises OSError; elsewhere ETIMEDOUT, EAGAIN."""
        await trio.to_thread.run_sync(os.fsync, descriptor)

    def check(self) -> None:
        """Raises ESTALE if another disk is mounted where it was and does not answer."""

    def close(self, descriptor: int) -> None:
        """close(2). Elsewhere in a thread: it may write, or tell a server, and wait for that."""
        os.close(descriptor)


OWN = Device()


class _Call:
    """A call in a thread, and whether anybody still waits for it."""

    def __init__(
        self, device: Mounted, work: Callable[[], Any], late: Callable[[Any], object] | None
    ) -> None:
        self._device = device
        self._work = work
        self._late = late
        self._turn = threading.Lock()
        self._begun = self._done = self._left = False
        self._result: Any = None

    def __call__(self) -> Any:
        with self._turn:
            if self._left:
                return None
            self._begun = True
        try:
            self._result = self._work()
            return self._result
        finally:
            with self._turn:
                self._done = True
                left = self._left
            if left:
                self._device.came_back()
                self._take_back()

    def leave(self) -> None:
        """Nobody waits for it any more."""
        with self._turn:
            self._left = True
            if self._begun and not self._done:
                self._device.stuck()
        if self._done:
            threading.Thread(target=self._take_back, daemon=True).start()

    def _take_back(self) -> None:
        if self._late is not None and self._result is not None:
            try:
                self._late(self._result)
            except OSError as failure:
                log.warning("%s: what came too late stays there: %s", self._device.place, failure)


class Mounted(Device):
    """A file system mounted at `place`: calls are made in threads, while others are served."""

    own = False

    def __init__(self, devices: Devices, place: str) -> None:
        self.place = place
        self.mount = _mount_at(place)
        self._devices = devices
        self._threads = trio.CapacityLimiter(THREADS)
        self._counting = threading.Lock()
        self._stuck = 0
        self._closing: SimpleQueue[int] | None = None

    def call(
        self,
        work: Callable[..., T],
        *args: Any,
        late: Callable[[Any], object] | None = None,
    ) -> T:
        if not in_fiber():  # nobody is served yet, or any more
            return work(*args)
        return wait(lambda: self.run(work, *args, late=late))

    async def run(
        self,
        work: Callable[..., T],
        *args: Any,
        late: Callable[[Any], object] | None = None,
        times: float = 1,
    ) -> T:
        """As `call`, for who can await it. `times` as long as is usual."""
        if self._stuck >= THREADS:
            raise self._silent(0)
        if self._devices.in_line >= MOST_IN_LINE:
            raise KernelError(errno.EAGAIN, f"too many calls wait for {self.place} and others")
        seconds = self._devices.timeout() * times * (DOUBTFUL if self._stuck else 1)
        call = _Call(self, lambda: work(*args), late)
        self._devices.in_line += 1
        try:
            with trio.move_on_after(seconds):
                try:
                    return await trio.to_thread.run_sync(
                        call, abandon_on_cancel=True, limiter=self._threads
                    )
                except trio.Cancelled:
                    call.leave()
                    raise
        finally:
            self._devices.in_line -= 1
        raise self._silent(seconds)

    async def syncing(self, descriptor: int) -> None:
        await self.run(os.fsync, descriptor, times=SYNCING)

    def _silent(self, seconds: float) -> KernelError:
        self.check()
        since = f"has not answered for {seconds:g} s" if seconds else "does not answer"
        return KernelError(
            errno.ETIMEDOUT, f"the disk at {self.place} {since}; what was asked it may still do"
        )

    @property
    def is_stuck(self) -> bool:
        """Whether it has not answered all calls in time, nor since."""
        return self._stuck > 0

    def is_replaced(self) -> bool:
        """Whether it does not answer, and is no more what is mounted there."""
        return self.is_stuck and _mount_at(self.place) != self.mount

    def check(self) -> None:
        if self.is_replaced():
            raise LookUpAgain(self.place)

    def stuck(self) -> None:
        with self._counting:
            self._stuck += 1
            first = self._stuck == 1
        if first:
            log.warning("the disk at %s does not answer", self.place)

    def came_back(self) -> None:
        with self._counting:
            self._stuck -= 1
            last = self._stuck == 0
        if last:
            log.warning("the disk at %s answers again", self.place)

    def close(self, descriptor: int) -> None:
        if self._closing is None:
            self._closing = SimpleQueue()
            threading.Thread(target=_close_all, args=(self._closing,), daemon=True).start()
        self._closing.put(descriptor)


def _close_all(closing: SimpleQueue[int]) -> None:
    while True:
        with suppress(OSError):  # what was not written, nobody waits for any more
            os.close(closing.get())


class Devices:
    """The file systems mounted below ours, as far as anybody has been there. `timeout()` in
    seconds."""

    def __init__(self, timeout: Callable[[], float] = lambda: TIMEOUT) -> None:
        self.timeout = timeout
        self.in_line = 0
        """Calls that are waited for."""
        self._mounted: dict[str, Mounted] = {}

    def beyond(self, place: str) -> Mounted:
        """The file system mounted at this path of the machine."""
        found = self._mounted.get(place)
        if found is None or found.is_replaced():
            found = self._mounted[place] = Mounted(self, place)
        return found


def _mount_at(place: str) -> bytes:
    """The number of the uppermost mount there, which no other has had."""
    return next((number for number, path in reversed([*mounts()]) if path == place), b"")
