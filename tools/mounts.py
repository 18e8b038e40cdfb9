"""The machine's mount table, as far as it tells of AgentFS. Standard library only."""

from __future__ import annotations

import errno
import os
import re

__all__ = ["TYPE", "is_stale", "mounts"]

TYPE = "fuse.agentfs"
"""The file system type that the daemon mounts with (`subtype=agentfs`)."""

GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""What the Linux kernel answers for a mount whose daemon is no more."""


def mounts(table: str = "/proc/self/mounts") -> list[str]:
    """Where AgentFS trees are mounted, in the order of the mount table, the newest last."""
    found = []
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            if fields[2] == TYPE:
                found.append(_unescape(fields[1]))
    return found


def _unescape(field: str) -> str:
    r"""A path as the table writes it, `\040` for a space and so on, as it is."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def is_stale(path: str) -> bool:
    """Whether `path` is a mount that a daemon left behind when it crashed.

    Asks statfs, which no cache answers: the attributes of the root may outlive the daemon.
    """
    try:
        os.statvfs(path)
    except OSError as failure:
        return failure.errno in GONE
    return False
