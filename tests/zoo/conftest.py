"""One tree for each file of the zoo; a test leaves it as it found it, or uses names of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree


@pytest.fixture(scope="module")
def zoo(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = QuickTree(tmp_path_factory.mktemp("zoo") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()
