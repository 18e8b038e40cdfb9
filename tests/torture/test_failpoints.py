"""A daemon dies exactly where it is told to, and its clock is as wrong as it is told to be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.torture.aftermath import strays_of
from tests.torture.failpoints import SITES, Panel, arm
from tests.tree import eventually

pytestmark = [pytest.mark.mount]


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    return Panel(tmp_path / "panel")


@pytest.fixture
def armed(mortals: Hatchery, tmp_path: Path, panel: Panel) -> Iterator[QuickTree]:
    """A tree whose daemons listen to the panel; not mounted yet."""
    tree = QuickTree(tmp_path / "tree", hatchery=mortals)
    tree.words = ("--panel", panel.path)
    yield tree
    tree.clean_up()


def test_a_panel_is_one_page_for_all_who_open_it(tmp_path: Path, panel: Panel) -> None:
    other = Panel(tmp_path / "panel")
    panel.offset, panel.hits, panel.fell, panel.rate = -1.5, 7, "commit", 60.0
    assert (other.offset, other.hits, other.fell, other.rate) == (-1.5, 7, "commit", 60.0)
    assert Panel(tmp_path / "new").rate == 1.0
    other.clear()
    assert (panel.offset, panel.hits, panel.fell, panel.rate) == (-1.5, 0, "", 60.0)


def test_there_is_no_failpoint_of_another_name(panel: Panel) -> None:
    with pytest.raises(ValueError, match="there is no failpoint comit; there are: begin, write"):
        arm(panel, "comit", 1)


def test_a_daemon_falls_at_the_hit_and_the_next_one_goes_on(armed: QuickTree, panel: Panel) -> None:
    armed.words += ("--failpoint", "logged:12")
    armed.mount()
    sent = 0
    with pytest.raises(OSError):
        for sent in range(100):
            armed.write("agents/init/outbox/init", f"{sent}")
    assert panel.fell == "logged"
    armed.daemon = None
    armed.words = ("--panel", panel.path)
    armed.mount()
    # The one that was cut had been committed, so it is there.
    assert len(list((armed / "agents/init/inbox/new").iterdir())) == sent + 1


@pytest.mark.parametrize("site", ["log", "told", "reply"])
def test_a_daemon_can_fall_at(site: str, armed: QuickTree, panel: Panel) -> None:
    assert site in SITES
    armed.words += ("--failpoint", f"{site}:30")
    armed.mount()
    (armed / "agents/init/inbox/new").stat()  # Linux knows it, so it has to be told
    with pytest.raises(OSError):
        for number in range(100):
            armed.write("agents/init/outbox/init", f"{number}")
    assert panel.fell == site
    armed.daemon = None


def test_the_clock_can_be_stepped_and_nothing_is_lost(armed: QuickTree, panel: Panel) -> None:
    armed.mount()
    for offset in (0.0, 86400.0, -86400.0):
        panel.offset = offset
        armed.write("agents/init/outbox/init", f"{offset}")
    found = [path.read_text() for path in sorted((armed / "agents/init/inbox/new").iterdir())]
    assert [text.rpartition("\n")[2] for text in found] == ["0.0", "86400.0", "-86400.0"]
    dates = [text.partition("Date: ")[2].partition("\n")[0] for text in found]
    assert len({date[:16] for date in dates}) == 3  # three days
    eventually(lambda: armed.read("sys/health"))


def test_a_spawn_that_was_cut_leaves_neither_process_nor_agent_nor_program(
    armed: QuickTree, panel: Panel
) -> None:
    armed.words += ("--failpoint", "launched:1")
    armed.mount()
    with pytest.raises(OSError):
        armed.spawn("runs", exec=["sleep", "600"])
    assert panel.fell == "launched"
    armed.daemon = None
    armed.words = ("--panel", panel.path)
    armed.mount()
    assert sorted(os.listdir(armed / "agents")) == ["init", "self"]
    assert strays_of(armed) == []
    armed.spawn("runs", exec=["sleep", "600"])
