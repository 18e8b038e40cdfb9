"""The list of the files in a checkpoint: what each was, and what its content is to be."""

from __future__ import annotations

import json
import os
import stat as st
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["CopiedFile", "Inventory", "entry_of", "read", "walk", "write"]

Inventory = dict[str, "CopiedFile"]
"""Every entry by its path, a directory before what is in it."""


@dataclass(slots=True)
class CopiedFile:
    """A file, directory, link or named pipe, as it was in the living system.

    path: below the state directory.
    mode: with the file type.
    mtime, ctime: in ns. `ctime` is 0 where a change may have been too fast to show in it.
    inode: its number; with `ctime` and the size it tells whether the file is still the same.
    target: of a link.
    same: the path of an entry before it that is the same file, under another name.
    sum: the SHA-256 of the content, in hexadecimal digits.
    """

    path: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    inode: int
    links: int = 1
    target: str = ""
    same: str = ""
    sum: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a file whose content lies in the checkpoint."""
        return st.S_ISREG(self.mode) and not self.same

    def is_still(self, earlier: CopiedFile | None) -> bool:
        """Whether this is the very file that `earlier` was, unchanged."""
        return (
            earlier is not None
            and earlier.ctime != 0
            and (earlier.inode, earlier.ctime, earlier.size, earlier.mode)
            == (self.inode, self.ctime, self.size, self.mode)
        )


def entry_of(path: str, stat: os.stat_result) -> CopiedFile:
    """The entry of what `stat` was said of."""
    return CopiedFile(
        path,
        stat.st_mode,
        stat.st_uid,
        stat.st_gid,
        stat.st_size if st.S_ISREG(stat.st_mode) else 0,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
        stat.st_ino,
        stat.st_nlink,
    )


def walk(root: Path, folder: str, outside: frozenset[str]) -> Iterator[CopiedFile]:
    """Everything in `root`/`folder`, itself first, but for entries that go meanwhile, for sockets,
    behind which nobody would be, for devices, and for the paths `outside`. Raises OSError."""
    try:
        yield entry_of(folder, os.lstat(root / folder))
        with os.scandir(root / folder) as found:
            entries = sorted(found, key=lambda each: each.name)
    except FileNotFoundError:
        return
    for each in entries:
        path = f"{folder}/{each.name}"
        if path in outside:
            continue
        try:
            stat = each.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if st.S_ISDIR(stat.st_mode):
            yield from walk(root, path, outside)
        elif st.S_ISREG(stat.st_mode) or st.S_ISLNK(stat.st_mode) or st.S_ISFIFO(stat.st_mode):
            yield entry_of(path, stat)


def write(path: Path, inventory: Inventory) -> None:
    """Write it down, an object a line. Raises OSError."""
    with open(path, "x", encoding="ascii") as file:
        for entry in inventory.values():
            file.write(f"{json.dumps(asdict(entry))}\n")


def read(path: Path) -> Inventory:
    """Read it again. Raises OSError, ValueError, TypeError."""
    with open(path, encoding="ascii") as file:
        entries = [CopiedFile(**json.loads(line)) for line in file]
    return {entry.path: entry for entry in entries}
