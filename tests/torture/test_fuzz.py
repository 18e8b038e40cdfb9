"""The fuzzer's short form; `./run torture --fuzz SECONDS` is the long one."""

from __future__ import annotations

import pytest

from tests.torture.fuzz import Fuzz
from tests.tree import Tree

pytestmark = pytest.mark.mount


@pytest.mark.parametrize("seed", [1, 2])
def test_no_call_is_a_fault_or_holds_the_loop(tree: Tree, seed: int) -> None:
    report = Fuzz(tree, seed).run(calls=6000)
    assert report.faults == [], str(report)
    assert report.accepted > 600, str(report)
    assert tree.read("proc/1/state") == "running\n"
