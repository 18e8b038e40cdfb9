"""Trees, and programs that stand in for people's command-line agents."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree

Program = Callable[[str, str], str]
"""(its name, the text of a Python program) -> its path."""


@pytest.fixture
def tree(hatchery: Hatchery, tmp_path: Path) -> Iterator[Tree]:
    made = QuickTree(tmp_path / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Writes a program."""

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable} -P\n{text}")
        path.chmod(0o755)
        return str(path)

    return write
