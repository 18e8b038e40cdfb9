"""What the sides of the benchmark are given in the tests: tiny sizes, and trees mounted quickly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.setting import Setting, Tree
from tests.hatchery import Hatchery, QuickTree


class Hatched(Tree):
    """A tree of the benchmark whose daemon comes from the hatchery."""

    def __init__(self, folder: Path, hatchery: Hatchery) -> None:
        self._tree = QuickTree(folder, hatchery=hatchery)
        super().__init__(folder)

    def mount(self) -> None:
        self._tree.mount()
        assert self._tree.daemon is not None
        self.daemon = self._tree.daemon

    def unmount(self) -> None:
        self._tree.clean_up()
        self._tree.daemon = None

    def kill(self) -> None:
        self._tree.crash()


@pytest.fixture
def setting(fuse: None, hatchery: Hatchery, tmp_path: Path) -> Iterator[Setting]:
    """For a side that is to run at all; whatever it leaves mounted is unmounted."""
    made: list[Tree] = []

    def make(folder: Path) -> Tree:
        made.append(Hatched(folder, hatchery))
        return made[-1]

    yield Setting(quick=True, folder=tmp_path, make=make)
    for tree in made:
        tree.unmount()
