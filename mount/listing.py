"""Answers to readdir(3): entries of an open directory, as many as one answer takes."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat as st
import time

import pyfuse3
from pyfuse3 import EntryAttributes

from agentfs.base.errors import KernelError
from agentfs.mount.attributes import tell
from agentfs.mount.handles import OpenDirectory
from agentfs.mount.inodes import Inode, Inodes
from agentfs.mount.requests import Requests
from agentfs.mount.shown import show_number, shown

__all__ = ["Listing"]

log = logging.getLogger(__name__)

DOTS = 2
"""Entries of a listing before those of the node."""

UNKNOWN = 0xFFFFFFFF
"""An inode number that stands for none, as in Linux's own FUSE."""

STEP_SECONDS = 0.004
"""How long one request for entries may take; Linux asks for more."""


class Listing:
    """Answers to requests for entries."""

    def __init__(self, inodes: Inodes, requests: Requests) -> None:
        self._inodes = inodes
        self._requests = requests

    def reply(self, opened: OpenDirectory, start: int, token: pyfuse3.ReaddirToken) -> bool:
        """Answer with the entries from number `start` on. Whether there is none: it is the end."""
        # `.` and `..` come first. Linux makes nothing of what it is told of them but their number.
        parent = opened.inode.parent or opened.inode
        for number, (name, known) in enumerate(((".", opened.inode), ("..", parent))):
            if number >= start and not pyfuse3.readdir_reply(
                token, name.encode(), _only_number(known), number + 1
            ):
                return False
        told = start < DOTS  # an answer without entries is the end
        ends = time.monotonic() + STEP_SECONDS
        for number in itertools.count(max(0, start - DOTS)):
            if told and time.monotonic() > ends:
                break
            try:
                found = opened.entry(number)
            except KernelError as missing:
                if missing.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                continue  # gone since its name was read
            if found is None:
                return not told
            name, node = found
            if node is None or (node.distant and not opened.inode.node.distant):
                if not pyfuse3.readdir_reply(
                    token, os.fsencode(name), _only_name(), number + DOTS + 1
                ):
                    break
                told = True
                continue
            try:
                if node.takes:
                    node = shown(node, self._inodes)
                entry = tell(self._inodes, node, opened.inode, name)
            except (KernelError, OSError):
                continue  # gone since the directory was opened
            except Exception:
                where = self._inodes.where(opened.inode, name)
                log.exception("%s is left out of the listing", where)
                self._requests.fault()
                continue
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, number + DOTS + 1):
                self._inodes.forget(entry.st_ino, 1)
                break
            told = True
        return False


def _only_number(inode: Inode) -> EntryAttributes:
    """What a listing says of a directory itself."""
    entry = EntryAttributes()
    entry.st_ino = inode.number
    entry.st_mode = pyfuse3.ModeT(st.S_IFDIR)
    return entry


def _only_name() -> EntryAttributes:
    """What a listing says of an entry that it does not ask about: Linux looks it up when somebody
    wants to know more. Any number but 0 means that it is there."""
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    show_number(entry, UNKNOWN)
    return entry
