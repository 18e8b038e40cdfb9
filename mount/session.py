"""Mounting, serving, and going away again."""

from __future__ import annotations

import logging
import os
import resource
import select
import subprocess
from collections.abc import Callable

import pyfuse3
import trio

from agentfs.base.watchdog import Watchdog
from agentfs.mount.announcer import Announcer
from agentfs.mount.coherence import Coherence
from agentfs.mount.fairness import MOST
from agentfs.mount.forgetting import give_back
from agentfs.mount.host import Host
from agentfs.mount.inodes import Inodes
from agentfs.mount.mounttable import place_of
from agentfs.mount.operations import Operations
from agentfs.mount.parking import Parking
from agentfs.mount.wakeups import Wakeups
from agentfs.store.event_log import EventLog, Record
from agentfs.vfs.changes import Change, Modified, Removed
from agentfs.vfs.namespace import Namespace
from agentfs.vfs.node import Directory

__all__ = ["Mount", "serve"]

log = logging.getLogger(__name__)

# Tasks for requests that do not wait, or only for their turn, beside those for parked reads.
# pyfuse3's own default is 99 for all.
SPARE_TASKS = 200 + MOST
# Tasks that wait for the next request. If more requests come at once than there are, pyfuse3 makes
# and ends a task for each of the others: 40 µs, measured.
IDLE_TASKS = 8

# Inodes that are seen to between two turns of the event loop, when the tree is another one: 10 µs
# for each, and more where it is on the disk.
STEP = 200

# Seconds between two looks at where the tree is: reading the mount table takes 0.1 ms.
LOOK_EVERY = 2.0

NOWHERE = "/dev/null/nowhere"
"""A path below which nothing can be, for calls by path while the tree has none."""


class Mount:
    """A served tree and its figures.

    mountpoint: where it was mounted.
    place: where it can be seen now; empty: nowhere.
    """

    def __init__(
        self, namespace: Namespace, host: Host, mountpoint: str, watchdog: Watchdog
    ) -> None:
        self._namespace = namespace
        self._host = host
        self._events: EventLog | None = None
        self._taking = trio.CancelScope()
        self._idle, self._resumed = trio.Event(), trio.Event()
        self.watchdog = watchdog
        self.mountpoint = mountpoint
        self.place = mountpoint
        self.inodes = Inodes(namespace.root)
        self.announcer = Announcer(mountpoint, host.announce_queue())
        self.coherence = Coherence(self.inodes, self.announcer)
        self.wakeups = Wakeups(self._interrupted, self.announcer.expected)
        self.parking = Parking(
            lambda *who: host.charge(*who),
            self.wakeups.end_turn,
            lambda: host.standstill.lately,
        )
        self.operations = Operations(
            host, self.inodes, self.announcer, self.parking, self.wakeups, watchdog
        )

    def _interrupted(self) -> None:
        self.parking.hint()

    # -- one tree after the other ----------------------------------------------------------------

    async def take_requests(self, most: int) -> None:
        """Answer requests, by so many tasks at most, until the mount is gone. While it is suspended
        they wait in the device."""
        while True:
            with trio.CancelScope() as self._taking:
                await pyfuse3.main(IDLE_TASKS, most)
                return
            self._idle.set()
            await self._resumed.wait()

    async def suspend(self) -> None:
        """Take no requests from now on. Those under way end with ESTALE."""
        self._idle, self._resumed = trio.Event(), trio.Event()
        self._suspend(True)
        self._taking.cancel()
        await self._idle.wait()

    async def show(self, namespace: Namespace, events: EventLog) -> None:
        """Have this tree in the place of the one that was shown until it was suspended, and take
        requests again. Open files are stale. Linux keeps what it knows of a path that there is in
        both, asks for it anew, and watchers are told what went and what may have changed."""
        self.follow(events)
        self._namespace = namespace
        self.operations.handles.expire()
        changes: list[Change] = []
        for number, (inode, node) in enumerate(self.inodes.transplant(namespace.root), start=1):
            if not inode.stale:
                changes.append(Modified(inode.key))
            elif node is None and inode.parent is not None and not inode.parent.stale:
                # Of one that another took the place of nothing is told: Linux would take a
                # directory that is removed by its name for dead, and by then that is the new one.
                is_directory = isinstance(inode.node, Directory)
                gone = Removed(inode.parent.key, inode.name, inode.key, is_directory=is_directory)
                changes.append(gone)
            if inode.stale:
                self.coherence.ask_again(inode)
            if number % STEP == 0:
                await trio.lowlevel.checkpoint()
        for number, change in enumerate(changes, start=1):
            self.coherence.apply((change,))
            if number % STEP == 0:
                await trio.lowlevel.checkpoint()
        self._suspend(False)
        self._resumed.set()

    def _suspend(self, suspended: bool) -> None:
        self.operations.requests.suspend(suspended)
        self.wakeups.suspend(suspended)

    def follow(self, events: EventLog) -> None:
        """The changes of the tree are told here from now on."""
        self.unfollow()
        self._events = events
        events.listen(self.take)

    def unfollow(self) -> None:
        if self._events is not None:
            self._events.unlisten(self.take)
            self._events = None

    def take(self, record: Record) -> None:
        """An event of the kernel: let caches and watchers see what it changed."""
        changes = self._namespace.changes(record.event, self.inodes.known)
        if changes:
            self.coherence.apply(changes)

    def moved(self, place: str) -> None:
        """It is to be seen at another path now, or nowhere."""
        log.warning("the tree is at %s now", place or "no path: something is mounted over it")
        self.place = place
        self.announcer.moved(place or NOWHERE)
        if place:
            self._host.moved(place)

    def apply(self, change: Change) -> None:
        """A change that comes from elsewhere than an event."""
        self.coherence.apply((change,))

    def statistics(self) -> dict[str, int]:
        """Figures for /sys/metrics."""
        return {
            "requests": self.wakeups.requests,
            "requests_deferred": self.operations.requests.fairness.deferred,
            "faults": self.operations.requests.faults,
            "inodes": len(self.inodes),
            "handles": len(self.operations.handles),
            "parked": len(self.parking),
            "interrupts": self.wakeups.interrupts,
            "invalidations": self.coherence.invalidations,
            "announced": self.announcer.done,
            "announcements_waiting": self.announcer.waiting,
            "announcements_lost": self.announcer.lost,
        }


async def serve(
    mount: Mount,
    events: EventLog,
    options: set[str],
    ready: Callable[[], object],
    stop: trio.Event,
    max_tasks: int,
) -> None:
    """Mount, call `ready()` once the tree can be used, and serve until it is unmounted from
    outside or `stop` is set. Leaves nothing mounted. Raises OSError if it cannot be mounted."""
    _raise_file_limit()
    mount.wakeups.install()
    try:
        pyfuse3.init(mount.operations, mount.mountpoint, options)
    except RuntimeError as failure:
        mount.wakeups.restore()
        raise OSError(f"{mount.mountpoint} cannot be mounted: {failure}") from None
    mount.follow(events)
    mount.operations.mounts.begin(mount.mountpoint)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.watchdog.run)
            nursery.start_soon(mount.take_requests, max_tasks + SPARE_TASKS)
            nursery.start_soon(mount.operations.requests.fairness.run)
            nursery.start_soon(mount.parking.watch)
            nursery.start_soon(mount.announcer.run)
            nursery.start_soon(give_back, mount.inodes)
            nursery.start_soon(_watch_mount_table, mount, mount.wakeups.disconnected)
            nursery.start_soon(_when, mount.wakeups.disconnected, stop.set)
            ready()
            await stop.wait()
            mount.parking.close()
            await trio.sleep(0.05)  # let the parked reads answer before the device is closed
            nursery.cancel_scope.cancel()
    finally:
        mount.unfollow()
        for opened in mount.operations.handles.files():
            opened.handle.release()
        _unmount(mount)
        mount.announcer.stop()
        mount.wakeups.restore()


async def _when(event: trio.Event, call: Callable[[], object]) -> None:
    await event.wait()
    call()


async def _watch_mount_table(mount: Mount, gone: trio.Event) -> None:
    """Notice a lazy unmount, which the device does not report while a file is open, and where the
    tree is when a directory above it was renamed, or the mount was moved.

    /proc/self/mountinfo polls as POLLPRI when it changes, and as readable always: an epoll of its
    own picks out the one that counts. A renamed directory is no change of it: for that it is looked
    at from time to time. Where nobody knows the tree's device there is nothing to look for.
    """
    device = mount.operations.mounts.device
    with open("/proc/self/mountinfo", "rb", 0) as table, select.epoll() as changes:  # noqa: ASYNC230
        changes.register(table.fileno(), select.EPOLLPRI | select.EPOLLERR)
        while device:
            with trio.move_on_after(LOOK_EVERY):
                await trio.lowlevel.wait_readable(changes.fileno())
            changes.poll(0)
            place = place_of(device, mount.place, table)
            if place is None:
                gone.set()
                return
            if place != mount.place:
                mount.moved(place)


def _unmount(mount: Mount) -> None:
    """Take the mount away where it is now. A mount that lies over it is not ours to take away: then
    our mount stays, dead, until somebody does that, and `agentfs umount` takes it."""
    pyfuse3.close(unmount=mount.place == mount.mountpoint)
    if mount.place == mount.mountpoint:
        return
    if not mount.place:
        log.warning("something lies over %s: the dead mount stays below it", mount.mountpoint)
        return
    words = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    done = subprocess.run([*words, "--", mount.place], check=False, capture_output=True, text=True)
    if done.returncode:
        log.warning("%s cannot be unmounted: %s", mount.place, done.stderr.strip())


def _raise_file_limit() -> None:
    """Let the daemon open as many files as it may: /shared's clients are its open files too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
