"""The neighbour's short form; `./run torture --neighbour 60` measures, on a quiet machine."""

from __future__ import annotations

import pytest

from tests.torture.neighbour import CALLS, Neighbour, Report
from tests.tree import Tree

pytestmark = pytest.mark.mount


def test_an_agent_that_tries_everything_keeps_its_neighbour_from_nothing(tree: Tree) -> None:
    report = Neighbour(tree).run(5.0, idle=0.5)
    assert report.refused == []
    assert report.held == []
    assert all(len(report.attacked[call]) >= 20 for call in CALLS)


def test_the_report_says_what_is_above_the_targets() -> None:
    quick, slow = (
        dict.fromkeys(CALLS, [0.001] * 100),
        dict.fromkeys(CALLS, [0.001] * 98 + [0.1] * 2),
    )
    assert Report(quick, quick, quick, kill=0.5).faults == []
    assert Report(quick, slow, slow, kill=0.5).faults == []
    assert len(Report(quick, quick, slow, ["send: no"] * 3, kill=2.0).faults) == 5
