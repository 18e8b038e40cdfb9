"""The machine's mount table, as far as it tells of AgentFS. Standard library only."""

from __future__ import annotations

import errno
import os
import re
import select
import signal

__all__ = ["TYPE", "condition", "device", "mounts", "resolved"]

TYPE = "fuse.agentfs"
"""The file system type that the daemon mounts with (`subtype=agentfs`)."""

GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""The errors that Linux gives for a mount whose daemon is gone."""

PATIENCE = 3.0
"""Seconds that a daemon may take to answer statfs, on a busy machine too."""

STALE = 7
"""The exit code by which `condition`'s child says so."""


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


def device(mountpoint: str, table: str = "/proc/self/mountinfo") -> str:
    """The device number of the tree at `mountpoint`, `major:minor`; empty if none is there."""
    found = ""
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            if f" - {TYPE} " in line and _unescape(fields[4]) == mountpoint:
                found = fields[2]  # the newest is on top
    return found


def resolved(directory: str) -> str:
    """The absolute path without links. A mount is not looked into: it could be hung."""
    path = os.path.abspath(directory)
    return path if path in mounts() else os.path.realpath(path)


def condition(path: str) -> str:
    """How a mount is: `live`, `stale` (its daemon is gone) or `hung` (it does not answer).

    Asks statfs, which no cache answers: the attributes of the root may outlive the daemon. A child
    asks: a program that waits for a daemon which does not answer cannot even be killed.
    """
    child = os.fork()
    if child == 0:
        os.closerange(0, 1024)  # nobody shall wait for it because it holds a pipe open
        os._exit(_ask(path))
    descriptor = os.pidfd_open(child)
    answered = False
    try:
        answered = bool(select.select([descriptor], [], [], PATIENCE)[0])
    finally:
        os.close(descriptor)
        if not answered:
            os.kill(child, signal.SIGKILL)  # it may die of it, later; nobody waits
    if not answered:
        return "hung"
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "stale" if code == STALE else "live"


def _ask(path: str) -> int:
    try:
        os.statvfs(path)
    except OSError as failed:
        return STALE if failed.errno in GONE else 0
    return 0
