"""What programs say, when they say too much: the log stays short, and everything else goes on."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually, small_disk, until

pytestmark = pytest.mark.mount

MIB = 1024 * 1024


def sizes(tree: Tree, name: str) -> tuple[int, int]:
    """Of the log and of what was rotated, on the disk."""
    found = []
    for path in (tree.state / f"logs/{name}.log", tree.state / f"logs/{name}.log.1"):
        found.append(path.stat().st_size if path.exists() else 0)
    return found[0], found[1]


def test_a_log_is_bounded_while_it_is_written(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "processes: {log_size: 100000}")
    pid = tree.spawn("yes", exec=["yes", "a line of output"])
    steady = tree.spawn("steady", exec="while :; do echo tick; sleep 0.1; done")
    ospid = tree.read(f"proc/{pid}/ospid").strip()
    most, old, began = 0, 0, time.monotonic()
    while time.monotonic() - began < 4:
        size, rotated = sizes(tree, "yes")
        most, old = max(most, size), max(old, rotated)
        time.sleep(0.01)
    with open(f"/proc/{ospid}/io") as io:
        written = int(next(line for line in io if line.startswith("wchar")).split()[1])
    # Without a bound it writes gigabytes in that time; with one what comes between two looks.
    assert written < 1024 * MIB, "it is slowed down"
    assert most < 512 * MIB
    assert 0 < old <= 400_000
    assert tree.read("agents/steady/log").count("tick\n") >= 10, "nobody else is"
    assert tree.read(f"proc/{pid}/state") in ("idle\n", "running\n"), "that is no state of its own"
    first = tree.read("agents/yes/log")[:200].partition("\n")[0]
    eventually(lambda: "bytes of output are dropped" in tree.read("agents/yes/log")[:200], first)
    for process in (pid, steady):
        tree.write(f"proc/{process}/ctl", "KILL")
    until(tree / f"proc/{pid}/exit", "137")


def test_a_program_that_is_held_obeys_stop_cont_and_term(tree: Tree) -> None:
    tree.write("etc/agentfs.yaml", "processes: {log_size: 4096}")
    pid = tree.spawn("yes", exec=["yes"], restart="never")
    eventually(lambda: sizes(tree, "yes")[1])
    tree.write(f"proc/{pid}/ctl", "STOP")
    eventually(lambda: sizes(tree, "yes") == (time.sleep(1.5), sizes(tree, "yes"))[1])
    assert tree.read(f"proc/{pid}/state") == "sleeping\n"
    tree.write(f"proc/{pid}/ctl", "CONT")
    before = (tree.state / "logs/yes.log.1").stat().st_mtime_ns
    eventually(lambda: (tree.state / "logs/yes.log.1").stat().st_mtime_ns > before)
    tree.write(f"proc/{pid}/ctl", "TERM")
    until(tree / f"proc/{pid}/state", "zombie")


def big_writes(where: str = "1") -> list[str]:
    """A program that writes a gigabyte with each call, which no signal but KILL breaks off."""
    return [sys.executable, "-S", "-c", f"import os\nwhile True: os.write({where}, bytes(1 << 30))"]


def ended_for_its_log(tree: Tree, pid: int) -> None:
    until(tree / f"proc/{pid}/state", "dead")
    assert "limit: log_mb" in tree.read("agents/flood/result")


def test_who_writes_a_gigabyte_at_once_is_ended(tree: Tree) -> None:
    """It cannot be slowed down. Linux tells of a write when it is over: the daemon looks."""
    pid = tree.spawn("flood", exec=big_writes(), restart="always")
    ended_for_its_log(tree, pid)
    eventually(lambda: sum(sizes(tree, "flood")) <= 40 * MIB)


def test_a_program_that_has_stopped_itself_does_not_keep_its_children_from_being_held(
    tree: Tree,
) -> None:
    later = "until [ -e go ]; do sleep 0.05; done; exec"
    script = f"setsid sh -c '{later} yes' & ({later} yes) & kill -STOP $$; wait"
    pid = tree.spawn("flood", exec=["sh", "-c", script])
    until(tree / f"proc/{pid}/state", "sleeping")
    (tree / "agents/flood/memory/go").touch()
    eventually(lambda: f"process {pid} writes its log too fast" in tree.log())
    assert tree.read(f"proc/{pid}/state") == "sleeping\n"
    tree.write(f"proc/{pid}/ctl", "KILL")
    until(tree / f"proc/{pid}/state", "dead")


def test_room_behind_the_end_of_a_log_is_given_back(tree: Tree) -> None:
    """fallocate(2) takes it, and the size says nothing of it."""
    script = "fallocate -n -l 100M /proc/self/fd/1 && touch taken; exec sleep 1000"
    pid = tree.spawn("flood", exec=["sh", "-c", script])
    path = tree.state / "logs/flood.log"
    eventually((tree / "agents/flood/memory/taken").exists)
    eventually(lambda: path.stat().st_blocks * 512 < 10 * MIB)
    assert tree.read(f"proc/{pid}/state") in ("idle\n", "running\n")


@pytest.mark.parametrize("how", ["in small writes", "a gigabyte at once"])
def test_who_fills_the_log_of_another_is_stopped_too(tree: Tree, how: str) -> None:
    victim = tree.spawn("victim", exec=["sleep", "1000"])
    log = f"/proc/{tree.read(f'proc/{victim}/ospid').strip()}/fd/1"
    if how == "in small writes":
        pid = tree.spawn("flood", exec=["sh", "-c", f"exec yes >> {log}"], restart="never")
        eventually(lambda: "writes the log victim.log" in tree.log())
        tree.write(f"proc/{pid}/ctl", "KILL")
    else:
        opened = f"os.open({log!r}, os.O_WRONLY | os.O_APPEND)"
        pid = tree.spawn("flood", exec=big_writes(opened), restart="never")
    until(tree / f"proc/{pid}/state", "dead" if how == "in small writes" else "zombie")
    assert tree.read(f"proc/{victim}/state") in ("idle\n", "running\n")


@pytest.fixture
def small(hatchery: Hatchery, tmp_path: Path) -> Iterator[Tree]:
    """A tree whose state is on a disk of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    tree = QuickTree(tmp_path / "tree", hatchery=hatchery)
    with small_disk(tree.state, "8m"):
        try:
            tree.mount()
            yield tree
        finally:
            tree.clean_up()


STUBBORN = """
import os
while True:
    try:
        os.write(1, b"y" * 65536)
    except OSError:
        pass
"""


LOOP = "while :; do head -c 65536 /dev/zero >&7; done"


@pytest.mark.parametrize("program", [["yes"], [sys.executable, "-S", "-c", STUBBORN]])
def test_on_a_small_disk_the_system_goes_on_and_the_program_can_be_killed(
    small: Tree, program: list[str]
) -> None:
    small.spawn("bob")
    pid = small.spawn("flood", exec=program, restart="always")
    eventually(lambda: sizes(small, "flood")[1] or sizes(small, "flood")[0] > 5 * MIB)

    def sends() -> bool:
        try:
            small.write("agents/init/outbox/bob", "hello")
        except OSError:
            return False
        return True

    for _ in range(5):
        eventually(sends, "no message gets through")
    small.write(f"proc/{pid}/ctl", "KILL")  # at the first try, full or not
    until(small / f"proc/{pid}/state", "dead")
    small.unmount()
    small.mount()
    assert len(os.listdir(small / "agents/bob/inbox/new")) == 5


WRITERS = {
    "one": [["python", "-S", "-c", STUBBORN]],
    "several": [["python", "-S", "-c", STUBBORN], ["yes"], ["yes", "y" * 4000]] * 2,
    "through another descriptor": [["sh", "-c", f"exec 7>&1 >/dev/null 2>&1; {LOOP}"]],
    "a child": [["sh", "-c", f"exec 7>&1; ({LOOP}) & wait"]],
}


@pytest.mark.parametrize("writers", WRITERS.values(), ids=WRITERS)
def test_a_tree_whose_disk_logs_have_filled_is_mounted_again(
    small: Tree, tmp_path: Path, writers: list[list[str]]
) -> None:
    go = tmp_path / "go"
    wait = f'until [ -e {go} ]; do sleep 0.05; done; exec "$@"'
    for number, program in enumerate(writers):
        words = [sys.executable if word == "python" else word for word in program]
        small.spawn(f"bob{number}", exec=["sh", "-c", wait, "sh", *words], restart="never")
    small.crash()
    go.touch()
    eventually(lambda: os.statvfs(small.state).f_bavail == 0, "the survivors fill the disk")
    small.mount()
    assert (small.state / "logs/bob0.log").stat().st_size < 8 * MIB

    def works() -> bool:
        try:
            return bool(small.spawn("alice"))
        except OSError as full:  # the survivor wrote faster, until it was held
            assert full.errno == errno.ENOSPC
            return False

    eventually(works)


def test_a_folder_of_logs_that_cannot_be_followed_ends_nobody(tree: Tree) -> None:
    """What one user may have of inotify is used up by others, say."""
    pid = tree.spawn("bob", exec="while :; do echo tick; sleep 0.05; done")
    (tree.state / "logs").rename(tree.state / "away")
    (tree.state / "logs").mkdir()
    tree.spawn("alice", exec="echo hello", restart="never")
    until(tree / "agents/alice/log", "hello")
    assert tree.read(f"proc/{pid}/state").strip() in ("idle", "running")
