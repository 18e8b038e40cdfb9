"""No request holds up the others: the daemon's own measure of it, on a real tree."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from agentfs.base.watchdog import LoopHold
from tests.tree import Tree

pytestmark = pytest.mark.mount


def _drain(tree: Tree, seen: list[int]) -> None:
    """Read all events that are kept, to the newest."""
    file = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    data = b""
    try:
        while piece := os.read(file, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    finally:
        os.close(file)
    seen += [json.loads(line)["seq"] for line in data.splitlines()]


def test_sixteen_readers_of_a_full_ring_of_events_hold_up_nobody(tree: Tree) -> None:
    """Each record was found by copying all that come after it: 13 s for a neighbour's read."""
    pid = tree.spawn("restless")
    ctl = os.open(tree / f"proc/{pid}/ctl", os.O_WRONLY)
    commands = b"running\nidle\n" * 500
    for _ in range(11):
        os.write(ctl, commands)
    os.close(ctl)
    readers = [(seen := list[int](), threading.Thread(target=_drain, args=(tree, seen)))
               for _ in range(16)]  # fmt: skip
    for _, thread in readers:
        thread.start()
    for _, thread in readers:
        thread.join()
    for seen, _ in readers:
        assert len(seen) > 9000
        assert seen == list(range(seen[0], seen[-1] + 1))
    assert tree.holds(0.05) == []


def test_a_write_of_many_commands_holds_up_nobody(tree: Tree) -> None:
    """5,000 transactions in one write(2)."""
    pid = tree.spawn("restless")
    ctl = os.open(tree / f"proc/{pid}/ctl", os.O_WRONLY)
    os.write(ctl, b"running\nidle\n" * 2500)
    os.close(ctl)
    assert tree.read(f"proc/{pid}/state") == "idle\n"
    assert tree.holds(0.05) == []


def test_every_tree_of_the_tests_is_asked_for_it_at_its_end(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree")
    tree.state.mkdir()
    (tree.state / "kernel.log").write_text(
        f"{LoopHold('lookup', 'lookup by 7', 0.9, 0.02)}\n"  # the disk was busy
        f"{LoopHold('readdir', 'readdir by 8', 0.13, 0.12, 3)}\n"
        f"{LoopHold('write', 'write by 9', 5.5, 0.01)}\n"
    )
    with pytest.raises(AssertionError) as told:
        tree.clean_up()
    assert "by 7" not in str(told.value)
    assert "readdir by 8" in str(told.value)
    assert "write by 9" in str(told.value)
    tree.may_hold = True
    tree.clean_up()
