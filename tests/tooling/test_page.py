"""docs/tools.md: each line is run as it is written, and says what the page says."""

from __future__ import annotations

from pathlib import Path

from tests.pages import blocks, run
from tests.tree import Tree


def test_the_page_is_right(tree: Tree, tmp_path: Path) -> None:
    scripts = list(blocks("tools.md"))
    assert len(scripts) >= 9
    for script, expected in scripts:
        printed = run(script, tree, tmp_path)
        if "agentfs spawn" not in script:
            assert printed == expected, script
        else:  # a pid comes first
            assert printed.endswith(expected), script
