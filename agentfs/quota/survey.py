"""A walk over the real files below a directory: how many bytes each maker has there. For a thread.
Other disks that are mounted there may hang: they are left out.
"""

from __future__ import annotations

import errno
import os
import stat as st
import time

from agentfs.base.within import open_within
from agentfs.quota.file_bytes import Makers, taken

__all__ = ["Survey"]

STEP = 100
"""Entries between two pauses: half a millisecond's work."""

PAUSE = 0.001
"""Seconds. The walk takes a third of a core at most, and others their turn."""

DEEPEST = 64
"""Levels of directories that are looked into: each takes two descriptors."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Survey:
    """One walk. `found`: bytes by mark, the root itself left out; `whole`: it saw everything."""

    def __init__(self, root: str, *, marks: bool) -> None:
        self._root = root
        self._marks = marks
        self._linked: set[tuple[int, int]] = set()
        self._step = 0
        self.found: dict[str, int] = {}
        self.whole = True
        self._stopped = False

    def stop(self) -> None:
        """Have the walk end soon. For another thread than the one that walks."""
        self._stopped = True

    def run(self) -> None:
        """Look at everything. Neither a link nor a rename under its feet leads it astray."""
        parent, name = os.path.split(self._root)
        try:
            above = os.open(parent, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            self.whole = False
            return
        try:
            root = open_within(above, name, _FOLDER)
        except OSError as failure:
            self.whole = failure.errno == errno.EXDEV
            return
        finally:
            os.close(above)
        try:
            self._walk(root, 0)
        finally:
            os.close(root)

    def _walk(self, folder: int, depth: int) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                self._step += 1
                if self._step % STEP == 0:
                    time.sleep(PAUSE)
                if self._stopped:
                    self.whole = False
                    return
                found = _attributes(folder, entry.name)
                if found is not None:
                    self._look(folder, entry.name, found, depth)

    def _look(self, folder: int, name: str, found: os.stat_result, depth: int) -> None:
        if found.st_nlink > 1 and not st.S_ISDIR(found.st_mode):
            if (found.st_dev, found.st_ino) in self._linked:
                return
            self._linked.add((found.st_dev, found.st_ino))
        self._add(folder, name, found)
        if not st.S_ISDIR(found.st_mode):
            return
        try:
            below = open_within(folder, name, _FOLDER)
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.EXDEV):
                self.whole = False
            return
        try:
            if depth < DEEPEST:
                self._walk(below, depth + 1)
            else:
                self.whole = False
        finally:
            os.close(below)

    def _add(self, folder: int, name: str, found: os.stat_result) -> None:
        total = taken(found)
        if not self._marks:
            self.found[""] = self.found.get("", 0) + total
            return
        part = Makers(f"u{found.st_uid}")
        if st.S_ISREG(found.st_mode) or st.S_ISDIR(found.st_mode):
            part = Makers.read(f"/proc/self/fd/{folder}/{name}", found.st_uid, follow=False)
        for mark, number in part.split(total):
            self.found[mark] = self.found.get(mark, 0) + number


def _attributes(folder: int, name: str) -> os.stat_result | None:
    """None if it is gone, or mounted there."""
    try:
        found = open_within(folder, name, os.O_PATH | os.O_NOFOLLOW)
    except OSError as failure:
        if failure.errno in (errno.ENOENT, errno.EXDEV):
            return None
        raise
    try:
        return os.fstat(found)
    finally:
        os.close(found)
