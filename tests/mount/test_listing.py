"""A listing of many entries is taken in steps, and takes no name twice."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from agentfs.model.principal import Kind, Principal
from agentfs.mount.handles import OpenDirectory
from agentfs.mount.inodes import NEW_MOST, Inodes
from agentfs.providers.host import HostTree
from agentfs.vfs.caller import Caller

ME = Caller(Principal(Kind.OPERATOR, 1, "init", os.geteuid(), os.getegid()), 0, 0, os.getpid())


def test_names_are_read_as_they_are_asked_for_and_again_after_a_rewind(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}").touch()
    inodes = Inodes(HostTree(tmp_path).root)
    opened = OpenDirectory(inodes.root, ME, ME.handle())
    first = opened.entry(0)
    assert first is not None
    assert opened.entries is not None
    assert len(opened.entries) == 1
    assert opened.entry(50) is None
    assert {name for name, _ in opened.entries} == {f"{number}" for number in range(50)}
    again = opened.entry(0)
    assert again is not None
    assert again[0] == first[0]
    (tmp_path / "new").touch()
    opened.rewind()
    assert opened.entry(50) is not None
    assert opened.entry(51) is None


def test_the_collector_leaves_the_inodes_of_a_long_listing_alone(tmp_path: Path) -> None:
    """A collection goes through all that was made since the one before, with the loop standing."""
    tree = HostTree(tmp_path)
    tree.root.apart = True  # each time an inode of its own
    inodes = Inodes(tree.root)
    before = gc.get_freeze_count()
    try:
        for number in range(NEW_MOST):
            inodes.remember(tree.root, inodes.root, f"{number}")
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
