"""The tree that a command works in: one that is mounted, or one that is mounted for it."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentfs.tools.mounting import start
from agentfs.tools.mounts import condition, mounts, resolved
from agentfs.tools.tree import ToolError, Tree, find
from agentfs.tools.unmounting import umount_tree

__all__ = ["existing", "place"]

PATIENCE = 15.0
"""Seconds for which an unmounted daemon may take to end."""


@contextmanager
def place(
    directory: str | None, state: str | None, audit_key: str | None, *, detach: bool
) -> Iterator[Tree]:
    """The tree to work in. If it is mounted here it is also unmounted here, unless all went well
    and it is to stay (`detach`)."""
    found = existing(directory)
    if directory is None:
        directory = os.environ.get("AGENTFS") or None  # named, and nothing is mounted there
    if found is not None:
        if state is not None:
            raise ToolError(
                f"{found}: a tree is mounted there already, and has its state directory"
            )
        yield Tree(found)
        return
    temporary = None
    if directory is None:
        temporary = tempfile.mkdtemp(prefix="agentfs-")
        directory = os.path.join(temporary, "mnt")
        os.mkdir(directory)
        state = state or os.path.join(temporary, "state")
    stay = False
    daemon = None
    try:
        daemon = start(directory, state, [], audit_key)
        yield Tree(resolved(directory))
        stay = detach
    finally:
        if not stay:
            if daemon is not None and not _has_ended(daemon):
                with suppress(ToolError):  # unmounted from outside meanwhile
                    umount_tree(directory, lazy=True)
                select.select([daemon], [], [], PATIENCE)  # a thread of it may wait for a disk
            if temporary is not None:
                shutil.rmtree(temporary)
        if daemon is not None:
            os.close(daemon)


def _has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def existing(directory: str | None) -> str | None:
    """The live tree to use, if there is one. Raises ToolError if there are several."""
    if directory is not None:
        path = resolved(directory)
        return path if path in mounts() and condition(path) == "live" else None
    directory = os.environ.get("AGENTFS")
    if directory:
        return existing(directory)
    if any(condition(path) == "live" for path in mounts()):
        return find()
    return None
