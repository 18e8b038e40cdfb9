"""docs/tools.md: each line is run as it is written, and says what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.tree import Tree

PAGE = Path(__file__).parents[2] / "docs/tools.md"
BLOCK = re.compile(r"```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def test_the_page_is_right(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/agentfs"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentfs.tools.cli "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path}/bin:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    env = os.environ | {"AGENTFS": str(tree.path), "PATH": path}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 9
    for script, expected in blocks:
        done = subprocess.run(
            ["bash", "-e"], input=script, cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, script + done.stderr
        if "agentfs spawn" not in script:
            assert done.stdout == expected, script
        else:  # a pid comes first
            assert done.stdout.endswith(expected), script
