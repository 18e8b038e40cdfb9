"""A file whose reading takes something, or waits, is a named pipe to those who only look at it.

Every program knows of a named pipe that reading it does just that: a search, a backup or an archive
asks what a file is and passes named pipes by, while `cat recv` asks nothing and opens. Linux serves
a FIFO by itself, so the same name leads to the regular file when it is opened. Linux keeps no such
entry, looks the name up for every call, and we see which call that is (see `calls`). A thread is
shown the FIFO only where it is certain that it opens nothing: its open of the FIFO would wait for
another end, for ever.
"""

from __future__ import annotations

import ctypes
import stat as st
import sys

import pyfuse3

from agentfs.mount.inodes import Inode, Inodes
from agentfs.vfs.caller import Caller
from agentfs.vfs.node import Attributes, Fifo, Node, Stat

__all__ = ["Shown", "show_number", "shown"]


def _place_of_number() -> int | None:
    """Where an EntryAttributes has the number that `stat` shows. pyfuse3 sets it together with the
    one by which Linux knows the inode, and offers no way to set it alone; None if it is not found.
    """
    mark = 0x5AFE_C0DE_0DD5_EED5
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(mark)
    found = ctypes.string_at(id(entry), entry.__sizeof__()).split(mark.to_bytes(8, sys.byteorder))
    return len(found[0]) + 8 + len(found[1]) if len(found) == 3 else None


_PLACE = _place_of_number()


def show_number(entry: pyfuse3.EntryAttributes, number: int) -> None:
    """Let `stat` show this number, and leave the one by which Linux knows the inode."""
    if _PLACE is not None:
        place = ctypes.c_uint64.from_address(id(entry) + _PLACE)
        place.value = number


class Shown(Fifo):
    """A file as it is shown. `opened` is the inode that a program gets which opens it, where Linux
    knows that one. `number` is the number of that inode: `stat` shows it for both, because `cp`
    opens only a file that has the number which it saw before."""

    fresh = True

    def __init__(self, file: Node, opened: Inode | None, number: int) -> None:
        self.number = number
        self.key = ("shown", file.key)
        self.kind = file.kind
        self._file = file
        self._opened = opened

    def stat(self) -> Stat:
        opened = self._opened
        stat = self._file.stat() if opened is None or opened.gone else opened.stat()
        stat.mode = st.S_IFIFO | st.S_IMODE(stat.mode)
        return stat

    def enter(self, caller: Caller) -> None:
        self._file.enter(caller)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        self._file.chattr(caller, wanted)

    def listxattr(self) -> list[str]:
        return self._file.listxattr()

    def inspect(self, caller: Caller) -> None:
        self._file.inspect(caller)


def shown(file: Node, inodes: Inodes) -> Shown:
    """A file that `takes`, as programs see it that only look."""
    return Shown(file, inodes.known(file.key), inodes.number(file))
