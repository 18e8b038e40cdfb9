"""Checkpoints as a shell sees them, and what programs notice of one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def tree(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("checkpoints") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


def test_a_checkpoint_is_a_directory(tree: Tree) -> None:
    tree.spawn("bob", role="worker")
    (tree / "agents/bob/memory/note").write_text("then")
    (tree / "sys/checkpoints/good").mkdir()
    info = tree.read("sys/checkpoints/good/info")
    assert "Name:\tgood\n" in info
    assert "Files:\t" in info
    assert tree.run("checkpoint", "list").stdout.startswith("good  ")
    tree.write("sys/checkpoints/good/ctl", "verify\n")
    tree.run("checkpoint", "create", "two")
    assert sorted(os.listdir(tree / "sys/checkpoints")) == ["good", "two"]
    with pytest.raises(FileExistsError):
        (tree / "sys/checkpoints/two").mkdir()
    with pytest.raises(OSError, match="Invalid"):
        (tree / "sys/checkpoints/.x").mkdir()
    tree.run("checkpoint", "rm", "two")
    (tree / "sys/checkpoints/good").rmdir()
    assert os.listdir(tree / "sys/checkpoints") == []
    assert os.listdir(tree.state / "checkpoints") == []
