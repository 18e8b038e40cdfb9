"""The agents of our documents, left alone for a day by a clock that goes 2,000 times as fast.

`./run torture --soak N` leaves them alone for as long as wanted.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.torture.failpoints import Panel
from tests.torture.soak import DAY, RATE, soak
from tests.tree import eventually

pytestmark = [pytest.mark.mount, pytest.mark.torture]


def test_who_is_left_alone_for_a_day_does_nothing_twice(fuse: None, tmp_path: Path) -> None:
    report = soak(tmp_path / "soak", seconds=1.0, fast=1.1 * DAY / RATE)
    print(report)
    assert report.faults == []
    assert report.agents == 18
    assert report.fast > DAY  # so what the kernel does once a day was done
    assert report.events["sent_forgotten"], report


def test_a_fast_clock_is_the_kernels_and_not_the_programs(
    mortals: Hatchery, tmp_path: Path
) -> None:
    panel = Panel(tmp_path / "panel")
    tree = QuickTree(tmp_path / "tree", hatchery=mortals)
    tree.words = ("--panel", panel.path)
    try:
        tree.mount()
        tree.write("agents/init/reminders/new", "in 1h late\n")
        inbox = tree / "agents/init/inbox/new"
        assert list(inbox.iterdir()) == []
        began = time.monotonic()
        panel.rate = 1000.0
        assert float(tree.read("proc/uptime")) < 3600
        eventually(lambda: list(inbox.iterdir()), patience=60)
        assert time.monotonic() - began > 3.0
        assert float(tree.read("proc/uptime")) > 3600
        panel.rate = 1.0
        first = float(tree.read("proc/uptime"))
        assert 0 <= float(tree.read("proc/uptime")) - first < 60
    finally:
        tree.clean_up()
