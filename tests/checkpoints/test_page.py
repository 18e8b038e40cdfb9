"""docs/checkpoints.md: each line is run as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.pages import blocks, run

pytestmark = pytest.mark.mount


def test_the_page_is_right(hatchery: Hatchery, tmp_path: Path) -> None:
    tree = QuickTree(tmp_path / "tree", hatchery=hatchery)
    try:
        tree.mount()
        scripts = list(blocks("checkpoints.md"))
        assert len(scripts) == 4
        for script, expected in scripts:
            assert run(script, tree, tmp_path) == expected, script
        done = tree.doctor()
        assert "rolled back" not in done.stdout
    finally:
        tree.clean_up()
