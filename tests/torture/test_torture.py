"""Half a minute of torture: nothing is lost, nothing comes twice without saying so, and no call is
half done.

`./run torture --seconds N` goes on for as long as wanted.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.hatchery import Hatchery
from tests.torture.flow import FlowSweep
from tests.torture.labour import TaskSweep
from tests.torture.rig import torture
from tests.torture.sweep import STEPS, Sweep

pytestmark = [pytest.mark.mount, pytest.mark.torture]

SECONDS, MESSAGES = 25.0, 10_000


def test_kills_at_random_lose_nothing_and_repeat_nothing_unmarked(
    fuse: None, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    report = torture(tmp_path / "rig", SECONDS, MESSAGES, seed)
    print(report)
    words = f"seed {seed}: {report}"
    assert report.violations == [], words
    assert report.kept is None
    # It was torture: everybody was killed, and much came through all the same.
    assert report.hazards["kill a consumer"], words
    assert report.hazards["kill a producer"], words
    assert any("daemon" in what or what.startswith("fell") for what in report.hazards), words
    assert len(report.history.accepted) > 300, words  # on a machine with much else to do
    assert report.history.duplicates > 0, words


def test_a_daemon_that_dies_in_a_call_leaves_it_done_or_undone(mortals: Hatchery) -> None:
    # One moment in each part of the scenario; there are about thirty for a call.
    moments = [230, 420, 640, 860]
    report = Sweep(0).run(moments, mortals)
    assert report.faults == []
    assert report.hits > 10 * len(STEPS)
    assert report.fell.total() == len(moments)


def test_a_run_with_nodes_of_all_kinds_ends_alike_over_a_death(mortals: Hatchery) -> None:
    moments = [300, 480, 700, 1000]  # in steps of its: a program, a worker, an agent, a person
    report = FlowSweep(0).run(moments, mortals)
    assert report.faults == []
    assert report.hits > 1000
    assert report.fell.total() == len(moments)


def test_tasks_of_every_kind_end_alike_over_a_death(mortals: Hatchery) -> None:
    moments = [200, 400]
    report = TaskSweep(0).run(moments, mortals)
    assert report.faults == []
    assert report.hits > 400
    assert report.fell.total() == len(moments)
