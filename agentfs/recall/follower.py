"""Keeps the index like the files: it follows the memories with inotify(7), and reads what changed.

The real directories are followed, below the tree. So it makes no difference whether a file was
written through the mount, through a bind mount, or by a person in the state directory. What
happened while nothing ran, and what inotify has no room for, is found by scans that compare stamps;
where there are no watches left, scans come round again and again.

All of it is for threads, and one of them at a time: `lock`. A `step` is at work for `STEP` seconds
at most, so that a query never waits for long, however much there is to read.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from inotify_simple import INotify, flags

from agentfs.recall import files
from agentfs.recall.index import MemoryIndex, Seen, Stamp
from agentfs.recall.note import heading
from agentfs.recall.words import words

__all__ = ["NOTES", "STEP", "Follower"]

log = logging.getLogger(__name__)

NOTES = "notes"
"""The directory in a memory in which notes are kept."""

STEP = 0.05
"""Seconds of processor time of one step. A file is read in one; a megabyte takes longer."""

_BATCH = 64
"""Files in one transaction of the index."""

ROUND, REST = 60.0, 10.0
"""Seconds between two scans of what cannot be followed, and how many times as long as one took."""

_CHANGES = (
    flags.CREATE
    | flags.MODIFY
    | flags.CLOSE_WRITE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE
    | flags.ONLYDIR
)
_ENDED = flags.DELETE_SELF | flags.MOVE_SELF

Place = tuple[int, bytes]
"""An agent, by its number, and a path in its memory; the empty one is the memory itself."""


@dataclass
class _Memory:
    """The memory of an agent. `watches`: those of its directories, by path. `blind`: there are some
    that have none, so that it is scanned again. `scanned`: it was, once."""

    path: str
    watches: dict[bytes, int] = field(default_factory=dict)
    blind: bool = False
    scanned: bool = False


class Follower:
    """What is to be read: `_changed` files, and `_scans` of directories, the one under way with
    its `_walk`."""

    def __init__(self, index: MemoryIndex) -> None:
        self.index = index
        self.lock = threading.Lock()
        self.read = 0  # files, all in all
        self._told: deque[tuple[int, str | None]] = deque()  # by the event loop
        self._memories: dict[int, _Memory] = {}
        self._inotify: INotify | None = None
        self._sightless = False  # there is none
        self._places: dict[int, Place] = {}  # directories by watch
        self._changed: dict[Place, None] = {}
        self._scans: dict[Place, None] = {}
        self._walk: Iterator[None] | None = None
        self._walking = 0  # the agent whose memory that is
        self._forgotten: set[int] = set()
        self._round: float | None = None  # when the one under way began
        self._due = 0.0  # when the next one is to begin

    # -- for the event loop ------------------------------------------------------------------------

    def follow(self, agent: int, path: Path) -> None:
        """There is a memory at this path."""
        self._told.append((agent, os.fspath(path)))

    def forget(self, agent: int) -> None:
        """That agent is no more."""
        self._told.append((agent, None))

    def fileno(self) -> int | None:
        """It is readable when something has changed; None: there is no inotify."""
        return None if self._inotify is None else self._inotify.fileno()

    # -- in a thread, with the lock ----------------------------------------------------------------

    def close(self) -> None:
        if self._walk is not None:
            self._walk.close()  # type: ignore[attr-defined]  # a generator
            self._walk = None
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self.index.close()

    def ready(self) -> None:
        """Have the index open, and inotify. Raises sqlite3.Error, OSError."""
        if self._inotify is None and not self._sightless:
            try:
                self._inotify = INotify()
            except OSError as failure:
                self._sightless = True
                log.warning("memories are scanned, for want of inotify: %s", failure.strerror)
        if self.index.open():
            self._scans |= dict.fromkeys((agent, b"") for agent in self._memories)

    def step(self, seconds: float = STEP) -> bool:
        """Do what there is to do for so long; whether something is left. Raises sqlite3.Error if
        the index cannot be written: it goes on from there the next time."""
        ends = time.thread_time() + seconds
        self._hear()
        self._drain()
        self._look_round()
        while self._pending():
            if self._changed:
                self._read_some()
            else:
                self._scan_some(ends)
            if time.thread_time() >= ends:
                break
        return self._pending()

    def due(self) -> float | None:
        """When the next round of scans is due, monotonic; None: everything is followed."""
        return self._due if any(memory.blind for memory in self._memories.values()) else None

    def catch_up(self, agent: int, seconds: float) -> bool:
        """Read what has changed in one memory, so that a query knows of it; whether something is
        left."""
        self.step(0.0)
        ends = time.thread_time() + seconds
        memory = self._memories.get(agent)
        if memory is not None and b"" not in memory.watches:
            self._scans[agent, b""] = None
        while time.thread_time() < ends:
            if mine := _of(self._changed, agent):
                self._read_all(mine[:_BATCH])
            elif self._walk is not None and self._walking == agent:
                self._scan_some(ends)
            elif mine := _of(self._scans, agent):
                del self._scans[mine[0]]
                for _ in self._scan(*mine[0]):
                    if time.thread_time() >= ends:
                        self._scans[mine[0]] = None
                        break
            else:
                return False
        return True

    def knows(self, agent: int) -> bool:
        """Whether all of a memory was looked at once."""
        memory = self._memories.get(agent)
        return memory is not None and memory.scanned

    def look_again(self, agent: int, path: bytes) -> None:
        """This file is not what the index says."""
        self._changed[agent, path] = None

    def _pending(self) -> bool:
        return bool(self._changed or self._scans or self._walk or self._forgotten)

    # -- what is told ------------------------------------------------------------------------------

    def _hear(self) -> None:
        while self._told:
            agent, path = self._told.popleft()
            if path is None:
                self._end(agent)
                self._forgotten.add(agent)
            elif agent not in self._memories:
                self._forgotten.discard(agent)
                self._memories[agent] = _Memory(path)
                self._scans[agent, b""] = None
        if self._forgotten:
            with self.index.writing():
                for agent in self._forgotten:
                    self.index.drop_agent(agent)
            self._forgotten.clear()

    def _end(self, agent: int) -> None:
        memory = self._memories.pop(agent, None)
        if memory is not None:
            self._unwatch(memory, b"")
        for table in (self._changed, self._scans):
            for place in _of(table, agent):
                del table[place]

    def _drain(self) -> None:
        """Take what inotify has to say."""
        if self._inotify is None:
            return
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                self._scans |= dict.fromkeys((agent, b"") for agent in self._memories)
                continue
            place = self._places.get(event.wd)
            if place is None:
                continue
            if event.mask & (_ENDED | flags.IGNORED | flags.UNMOUNT):
                self._lost(event.wd, place)
                continue
            agent, path = place
            changed = agent, os.path.join(path, os.fsencode(event.name))
            if not event.mask & flags.ISDIR:
                self._changed[changed] = None
            elif event.mask & (flags.CREATE | flags.MOVED_TO):
                self._scans[changed] = None
            elif event.mask & (flags.DELETE | flags.MOVED_FROM):
                self._unwatch(self._memories[agent], changed[1])
                self._changed[changed] = None  # with all that is below

    def _lost(self, watch: int, place: Place) -> None:
        """A directory is followed no more. Of one below the memory the one above it says why; the
        memory itself may come back under its name."""
        self._places.pop(watch, None)
        memory = self._memories[place[0]]
        if memory.watches.get(place[1]) == watch:
            del memory.watches[place[1]]
        if not place[1]:
            self._unwatch(memory, b"")
            self._changed[place] = None
            memory.blind = True  # it may be there again at the next look

    def _unwatch(self, memory: _Memory, path: bytes) -> None:
        """Follow what was at this path no more, and nothing below."""
        below = path + b"/" if path else b""
        for each in [w for w in memory.watches if w == path or w.startswith(below)]:
            watch = memory.watches.pop(each)
            self._places.pop(watch, None)
            if self._inotify is not None:
                with suppress(OSError):
                    self._inotify.rm_watch(watch)

    def _watch(self, agent: int, folder: int, path: bytes) -> None:
        memory = self._memories[agent]
        if self._inotify is None:
            memory.blind = True
            return
        try:
            watch = self._inotify.add_watch(f"/proc/self/fd/{folder}", _CHANGES | _ENDED)
        except OSError as failure:
            if failure.errno != errno.ENOENT and not memory.blind:
                log.warning("%s is scanned from time to time: %s", memory.path, failure.strerror)
            memory.blind = True
            return
        before = self._places.get(watch)
        if before is not None and before != (agent, path):  # it was moved here
            self._memories[before[0]].watches.pop(before[1], None)
        self._places[watch] = agent, path
        memory.watches[path] = watch

    def _look_round(self) -> None:
        """Begin the next round, in which everything is scanned that cannot be followed."""
        now = time.monotonic()
        if self._round is not None and not self._scans and self._walk is None:
            self._due = now + max(ROUND, REST * (now - self._round))
            self._round = None
        if self._round is None and now >= self._due:
            blind = [agent for agent, memory in self._memories.items() if memory.blind]
            if blind:
                self._round = now
                self._scans |= dict.fromkeys((agent, b"") for agent in blind)

    # -- scans -------------------------------------------------------------------------------------

    def _scan_some(self, ends: float) -> None:
        if self._walk is None:
            if not self._scans:
                return
            place = next(iter(self._scans))
            del self._scans[place]
            if place[0] not in self._memories:
                return
            self._walk, self._walking = self._scan(*place), place[0]
        try:
            for _ in self._walk:
                if time.thread_time() >= ends:
                    return
        except OSError as failure:
            log.warning("a memory could not be scanned: %s", failure.strerror)
        self._walk = None

    def _scan(self, agent: int, path: bytes) -> Iterator[None]:
        """Find what is not as the index has it; a part of it at a time."""
        memory = self._memories[agent]
        if not path:
            memory.blind = False
        known = self.index.stamps(agent, path)
        with suppress(FileNotFoundError), files.home(memory.path) as root:
            for number, (found, stamp) in enumerate(
                files.below(root, path, lambda folder, inner: self._watch(agent, folder, inner))
            ):
                if known.pop(found, "") != stamp.text:
                    self._changed[agent, found] = None
                if number % 100 == 99:
                    yield
        for gone in known:
            self._changed[agent, gone] = None
        if b"" not in memory.watches:
            memory.blind = True  # it is not there, or another disk is
        if not path:
            memory.scanned = True

    # -- files -------------------------------------------------------------------------------------

    def _read_some(self) -> None:
        self._read_all([place for place, _ in zip(self._changed, range(_BATCH), strict=False)])

    def _read_all(self, places: list[Place]) -> None:
        """Have the index know these files. If it cannot be written, they stay to be read."""
        with self.index.writing():
            for agent, path in places:
                if agent in self._memories:
                    self._read(agent, path)
        for place in places:
            self._changed.pop(place, None)

    def _read(self, agent: int, path: bytes) -> None:
        found = None
        with suppress(FileNotFoundError), files.home(self._memories[agent].path) as root:
            found = files.read(root, path)
        self.read += 1
        if found is None:
            for other in self.index.drop(agent, path):
                self._changed[agent, other] = None  # it may have one name by now
            return
        stamp, text = found.stamp, found.text
        if stamp.links > 1 and not self._all_here(agent, stamp, path):
            text = None
        self.index.put(agent, path, _seen(stamp, text), expires=is_note(path))

    def _all_here(self, agent: int, stamp: Stamp, path: bytes) -> bool:
        """Whether a file has no name outside of this memory: it might be the file of somebody else.
        Of names that are all here the last that was read is found."""
        return len(self.index.others(agent, stamp.text, path)) + 1 >= stamp.links


def _of(places: dict[Place, None], agent: int) -> list[Place]:
    return [place for place in places if place[0] == agent]


def is_note(path: bytes) -> bool:
    """Whether a file is one of those that `remember` makes."""
    return path.startswith(f"{NOTES}/".encode()) and path.count(b"/") == 1


def _seen(stamp: Stamp, text: str | None) -> Seen:
    if text is None:
        return Seen(stamp, heading(""), ())
    head = heading(text)
    if head.lines:
        text = f"{' '.join(head.tags)}\n{text.split(chr(10), head.lines)[-1]}"
    return Seen(stamp, head, words(text))
