"""A tree with tools, which the tests of a file share: a toolbox takes a moment to start."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.tree import Tree, eventually


@pytest.fixture(scope="module")
def shared(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("tools") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def tree(shared: Tree) -> Iterator[Tree]:
    """Without tools, before a test and after it."""
    yield shared
    shared.write("etc/tools.yaml", "tools: {}\n")


@pytest.fixture
def agent(tree: Tree) -> Iterator[Callable[..., Puppet]]:
    """Starts an agent whose program the test commands; it ends with the test."""
    made: list[Puppet] = []

    def start(name: str, **spec: object) -> Puppet:
        made.append(Puppet(tree, name, **spec))
        return made[-1]

    yield start
    for puppet in made:
        puppet.close()
    for puppet in made:
        state = f"proc/{puppet.pid}/state"
        eventually(lambda state=state: tree.read(state).strip() in ("zombie", "dead"))
