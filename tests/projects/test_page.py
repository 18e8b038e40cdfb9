"""docs/projects.md: each line is run as it is written, and says what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.pages import blocks, run

pytestmark = pytest.mark.mount


def test_the_page_is_right(fuse: None, hatchery: Hatchery, tmp_path: Path) -> None:
    tree = QuickTree(tmp_path / "tree", hatchery=hatchery)
    scripts = list(blocks("projects.md"))
    assert len(scripts) == 5
    try:
        tree.mount()
        for script, expected in scripts:
            assert run(script, tree, tmp_path) == expected, script
    finally:
        tree.clean_up()
