"""Pages of docs/ whose lines are run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.tree import Tree

__all__ = ["blocks", "run"]

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Each script of a page, and what it prints; "" where the page does not say it."""
    yield from BLOCK.findall((DOCS / page).read_text())


def run(script: str, tree: Tree, folder: Path, **env: str) -> str:
    """What a script prints: in `folder`, where `agentfs` is that of the checkout. It has to
    succeed."""
    command = folder / "bin/agentfs"
    if not command.exists():
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentfs.tools.cli "$@"\n')
        command.chmod(0o755)
    path = os.pathsep.join(
        [str(command.parent), os.path.dirname(sys.executable), env.pop("PATH", os.environ["PATH"])]
    )
    done = subprocess.run(
        ["bash", "-e"],
        input=script,
        cwd=folder,
        env=os.environ | env | {"AGENTFS": str(tree.path), "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, script + done.stdout + done.stderr
    return done.stdout
