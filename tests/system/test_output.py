"""What programs say, when they say too much: the log stays short, and everything else goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually, until

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
    most, began = 0, time.monotonic()
    while time.monotonic() - began < 4:
        most = max(most, *sizes(tree, "yes"))
        time.sleep(0.01)
    with open(f"/proc/{ospid}/io") as io:
        written = int(next(line for line in io if line.startswith("wchar")).split()[1])
    # Without a bound it writes gigabytes in that time; with one what comes between two looks.
    assert written < 1024 * MIB, "it is slowed down"
    eventually(lambda: sizes(tree, "yes")[1] <= 300_000)  # it is being cut, at times
    assert most < 512 * MIB
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


@pytest.fixture
def small(hatchery: Hatchery, tmp_path: Path) -> Iterator[Tree]:
    """A tree whose state is on a disk of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    tree = QuickTree(tmp_path / "tree", hatchery=hatchery)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tree.state], check=True)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()
        subprocess.run(["umount", "-l", tree.state], check=True)


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
