"""From a node's Stat to what pyfuse3 sends."""

from __future__ import annotations

import pyfuse3

from agentfs.mount.inodes import Inode, Inodes
from agentfs.mount.shown import Shown, show_number
from agentfs.vfs.node import Node

__all__ = ["attributes", "tell"]

BLOCK = 512  # what st_blocks counts in, stat(2)


def attributes(inode: Inode) -> pyfuse3.EntryAttributes:
    """The attributes of an inode, with the time for which the kernel may keep them.

    Linux holds new attributes valid a moment before it drops the pages that they outdate. A reader
    that comes in between and need not ask still finds those pages. So the first answer after a
    change may not be kept: a reader that comes in between has to ask, and that takes longer. The
    attributes of a directory that nobody watches for all events are never kept: see `calls`.
    """
    stat, news = inode.tell()
    node = inode.node
    size = stat.size or inode.fetched
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode.number
    if isinstance(node, Shown):
        show_number(entry, node.number)
    entry.generation = inode.generation
    entry.entry_timeout = 0.0 if node.fresh else node.timeout
    entry.attr_timeout = node.timeout if inode.kept and not news else 0
    entry.st_mode = pyfuse3.ModeT(stat.mode)
    entry.st_nlink = stat.nlink
    entry.st_uid = stat.uid
    entry.st_gid = stat.gid
    entry.st_rdev = stat.rdev
    entry.st_size = size
    entry.st_blksize = 4096
    entry.st_blocks = (size + BLOCK - 1) // BLOCK if stat.blocks is None else stat.blocks
    entry.st_atime_ns = stat.atime or stat.mtime
    entry.st_mtime_ns = stat.mtime
    entry.st_ctime_ns = stat.ctime or stat.mtime
    return entry


def tell(inodes: Inodes, node: Node, parent: Inode, name: str) -> pyfuse3.EntryAttributes:
    """The entry of a node, found as `name` in `parent`. Linux holds one more reference then."""
    # It counts before the attributes are asked for, which may have to wait: a forget that comes
    # meanwhile would drop the inode otherwise.
    inode = inodes.remember(node, parent, name)
    try:
        return attributes(inode)
    except BaseException:
        inodes.forget(inode.number, 1)
        raise
