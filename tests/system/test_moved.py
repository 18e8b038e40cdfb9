"""A tree whose path changes under it: it goes on there, and leaves no dead mount behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agentfs.tools.mounts import mounts
from tests.system.test_inotify import Watcher
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


def ends(tree: Tree, path: Path) -> None:
    """`agentfs umount` where it is now ends the daemon, and nothing is mounted afterwards."""
    tree.run("umount", str(path))
    tree.daemon = None
    assert str(path) not in mounts()


def works(tree: Tree, path: Path, name: str) -> None:
    """Mail arrives there, a program starts and finds it, and watchers are told."""
    tree.path = path
    eventually(lambda: f"the tree is at {path} now" in tree.log(), tree.log())
    os.mkdir(path / f"agents/{name}")
    (path / f"agents/init/outbox/{name}").write_text("hello\n")
    assert len(os.listdir(path / f"agents/{name}/inbox/new")) == 1
    watcher = Watcher(tree, path / "agents")
    tree.spawn(f"{name}-runs", exec=["sh", "-c", 'echo "$AGENTFS"; cat "$AGENTFS/proc/self/pid"'])
    seen = watcher.until("CREATE,ISDIR", f"agents/{name}-runs")
    assert seen
    assert seen[-1] == ("CREATE,ISDIR", f"agents/{name}-runs")
    log = path / f"agents/{name}-runs/log"
    eventually(lambda: log.read_text().startswith(f"{path}\n"))


def test_a_directory_above_it_is_renamed(trees: Callable[..., Tree], tmp_path: Path) -> None:
    tree = trees("one/two/tree")
    tree.state.rename(tmp_path / "state")
    tree.state = tmp_path / "state"
    tree.mount()
    (tmp_path / "one").rename(tmp_path / "uno")
    path = tmp_path / "uno/two/tree/mnt"
    works(tree, path, "bob")
    ends(tree, path)


@root_only
def test_the_mount_is_moved(trees: Callable[..., Tree], tmp_path: Path) -> None:
    tree = trees()
    tree.mount()
    # what is below a shared mount cannot be moved: a private one of its own
    place = tmp_path / "private"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    subprocess.run(["mount", "--make-private", place], check=True)
    try:
        tree.unmount()
        tree.path = place / "mnt"
        tree.path.mkdir()
        tree.mount()
        new = place / "new"
        new.mkdir()
        subprocess.run(["mount", "--move", tree.path, new], check=True)
        works(tree, new, "bob")
        ends(tree, new)
    finally:
        tree.clean_up()
        subprocess.run(["umount", "-l", place], check=True)


@root_only
def test_something_is_mounted_over_it_for_a_while(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    bob = tree.spawn("bob", exec=["sleep", "1000"])
    subprocess.run(["mount", "-t", "tmpfs", "none", tree.path], check=True)
    try:
        eventually(lambda: "something is mounted over it" in tree.log())
        assert os.listdir(tree.path) == []
    finally:
        subprocess.run(["umount", tree.path], check=True)
    assert tree.read(f"proc/{bob}/state").strip() != "dead"
    works(tree, tree.path, "carol")
    ends(tree, tree.path)


@root_only
def test_a_second_place_that_it_is_seen_at_changes_nothing(
    trees: Callable[..., Tree], tmp_path: Path
) -> None:
    tree = trees()
    tree.mount()
    (tmp_path / "bound").mkdir()
    subprocess.run(["mount", "--bind", tree.path, tmp_path / "bound"], check=True)
    try:
        assert (tmp_path / "bound/proc/1/name").read_text() == "init\n"
    finally:
        subprocess.run(["umount", tmp_path / "bound"], check=True)
    assert "the tree is at" not in tree.log()
    ends(tree, tree.path)
