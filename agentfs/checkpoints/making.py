"""Making one checkpoint, in a thread: files are copied while everybody works, and once more those
that changed meanwhile, while everybody stands still.

A file that is the same as in the checkpoint before has one copy on the disk, which both name (hard
links). No such link goes to a living file: that may be written in place. An unfinished checkpoint
has a name that begins with a dot, and is removed by the next start.
"""

from __future__ import annotations

import json
import os
import shutil
import stat as st
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentfs.base.within import mounts
from agentfs.checkpoints import copies, inventory
from agentfs.checkpoints.inventory import CopiedFile, Inventory
from agentfs.store.layout import STORE

__all__ = [
    "CHECKPOINTS",
    "FILES",
    "FOLDERS",
    "INFO",
    "LISTED",
    "Making",
    "mounted_below",
    "remove_tree",
]

CHECKPOINTS = "checkpoints"
"""The folder of all of them, in the state directory."""

FOLDERS = ("agents", "artifacts", "projects", "runs", "shared")
"""The folders of the state directory that are in a checkpoint, beside the store: memory of agents
and of projects, artifacts, what runs need, and what is shared. No secret, no key, no log."""

INFO, LISTED, FILES = "info.json", "files.jsonl", "files"
"""What lies in a checkpoint beside the store: its figures, its inventory, and the files."""

YOUNG = 1_000_000_000
"""Nanoseconds. A disk may tell time in coarse steps: a file that changed so shortly before it was
copied may have changed again, and it would not show."""


class Making:
    """Makes a checkpoint of `state` in `place`. `earlier` is the one before, if there is one.

    outside: what is mounted below the folders, and is in no checkpoint.
    """

    def __init__(self, state: Path, place: Path, earlier: Path | None) -> None:
        self._state = state
        self.place = place
        self.store = place / STORE
        self._files = place / FILES
        self._earlier = earlier
        self._before: Inventory = {}
        self._found: Inventory = {}
        self._is_still = False
        self._linked: set[str] = set()
        self.outside: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Copy everything, while everybody works. Raises OSError."""
        self.place.mkdir(mode=0o700)
        self._files.mkdir(mode=0o700)
        if self._earlier is not None:
            with suppress(OSError, ValueError, TypeError):  # without it everything is copied
                self._before = inventory.read(self._earlier / LISTED)
        self._round()

    def settle(self) -> None:
        """Copy again what has changed. Nobody writes meanwhile. Raises OSError."""
        self._is_still = True
        self._round()

    def _round(self) -> None:
        self.outside |= mounted_below(self._state)
        found: Inventory = {}
        by_inode: dict[int, str] = {}
        for folder in FOLDERS:
            for entry in inventory.walk(self._state, folder, self.outside):
                found[entry.path] = entry
                if entry.links > 1 and st.S_ISREG(entry.mode):
                    entry.same = by_inode.setdefault(entry.inode, entry.path)
                    if entry.same == entry.path:
                        entry.same = ""
        kept = {
            path: known
            for path, known in self._found.items()
            if path in found and _is_there(known, found[path])
        }
        gone = [path for path in self._found if path not in kept]
        self._remove(gone)
        self._found = {}
        for path, entry in found.items():
            known = kept.get(path)
            if known is not None:
                entry.target, entry.sum = known.target, known.sum
                entry.ctime = known.ctime
                self._found[path] = entry
            elif self._take(entry):
                self._found[path] = entry

    def _remove(self, paths: Iterable[str]) -> None:
        """Remove copies: what is in a directory before it."""
        for path in sorted(paths, reverse=True):
            copied, was = self._files / path, self._found[path]
            if was.same:
                continue
            if st.S_ISDIR(was.mode):
                shutil.rmtree(copied, ignore_errors=True)
            else:
                copied.unlink(missing_ok=True)

    def _take(self, entry: CopiedFile) -> bool:
        """Have a copy of it. False if it is gone."""
        if entry.same:
            return True
        source, target = self._state / entry.path, self._files / entry.path
        if entry.ctime > time.time_ns() - YOUNG:
            entry.ctime = 0
        earlier = self._before.get(entry.path)
        if entry.is_file and earlier is not None and entry.is_still(earlier) and not earlier.same:
            assert self._earlier is not None
            try:
                os.link(self._earlier / FILES / entry.path, target)
                entry.sum = earlier.sum
                self._linked.add(entry.path)
                return True
            except OSError:  # too many links, or it is damaged
                target.unlink(missing_ok=True)
        try:
            copies.copy(entry, source, target)
        except FileNotFoundError:  # it went since it was listed, or what it lay in
            if self._is_still and os.path.lexists(source):
                raise
            shutil.rmtree(target, ignore_errors=True)
            with suppress(OSError):
                target.unlink()
            return False
        self._linked.discard(entry.path)
        return True

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Sum up what is new, write the inventory and the facts, and sync it all; returns the
        facts. The store was copied by now. Raises OSError."""
        size = files = 0
        copied_size = 0
        for entry in self._found.values():
            if entry.is_file:
                copied = self._files / entry.path
                entry.size = copied.stat().st_size
                entry.sum = entry.sum or copies.sum_of(copied)
                size, files = size + entry.size, files + 1
                copied_size += 0 if entry.path in self._linked else entry.size
        inventory.write(self.place / LISTED, self._found)
        facts = facts | {
            "files": files,
            "bytes": size,
            "copied": copied_size,
            "store": self.store.stat().st_size,
            "left_out": sorted(self.outside),
            "sums": {STORE: copies.sum_of(self.store), LISTED: copies.sum_of(self.place / LISTED)},
        }
        (self.place / INFO).write_text(json.dumps(facts), "ascii")
        copies.sync_disk(self.place)
        return facts


def _is_there(known: CopiedFile, now: CopiedFile) -> bool:
    """Whether the copy that was made of `known` is one of `now`. A directory and a link are their
    names and modes."""
    if st.S_IFMT(known.mode) != st.S_IFMT(now.mode):
        return False
    if st.S_ISDIR(now.mode) or st.S_ISFIFO(now.mode):
        return True
    if known.same or now.same:
        return known.same == now.same
    return (known.inode, known.ctime, known.size) == (now.inode, now.ctime, now.size)


def mounted_below(state: Path) -> frozenset[str]:
    """The paths, below the state directory, of what is mounted on or in one of the folders."""
    root = os.path.realpath(state)
    below = (os.path.relpath(path, root) for _, path in mounts() if path.startswith(f"{root}/"))
    return frozenset(path for path in below if path.split("/", 1)[0] in FOLDERS)


def remove_tree(place: Path) -> None:
    """Remove what nobody needs, as far as it goes. For a thread."""
    shutil.rmtree(place, ignore_errors=True)
