"""docs/guardian.md: each line is run as it is written, and prints what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import blocks, run
from tests.tree import Tree

pytestmark = pytest.mark.mount


def test_the_page_is_right(tree: Tree, tmp_path: Path) -> None:
    scripts = list(blocks("guardian.md"))
    assert len(scripts) >= 6
    for script, expected in scripts:
        assert run(script, tree, tmp_path) == expected, script
