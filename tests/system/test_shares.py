"""Shares on a real mount: one agent takes all that it gets of each pot, and another one, and the
operator, go on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.system.test_blocking import parked
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """One for all tests: each leaves the pots as they were."""
    made = QuickTree(tmp_path_factory.mktemp("shares") / "tree", hatchery=hatchery)
    made.mount()
    try:
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def greedy(tree: Tree) -> Iterator[Puppet]:
    made = Puppet(tree, "greedy")
    yield made
    made.close()


@pytest.fixture
def modest(tree: Tree) -> Iterator[Puppet]:
    made = Puppet(tree, "modest")
    yield made
    made.close()


def pot(tree: Tree, name: str) -> list[str]:
    """Its row of /sys/shares."""
    rows = [row.split() for row in tree.read("sys/shares").splitlines()]
    (found,) = [row for row in rows if row[0] == name]
    return found


def in_use(tree: Tree, name: str) -> int:
    return int(pot(tree, name)[3])


def room(agent: Puppet, name: str) -> tuple[int, int]:
    """(what it holds, what it may still take), as it reads it."""
    rows = [row.split() for row in agent.read("proc/self/limits/shares").splitlines()]
    (found,) = [row for row in rows if row[0] == name]
    return int(found[1]), int(found[2])


def share_events(tree: Tree) -> list[tuple[str, str]]:
    """(agent, pot) of the events that tell of refusals."""
    descriptor = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    read = b""
    try:
        with suppress(BlockingIOError):
            while more := os.read(descriptor, 1 << 20):
                read += more
    finally:
        os.close(descriptor)
    found = map(json.loads, read.splitlines())
    return [(each["agent"], each["pot"]) for each in found if each["type"] == "share_refused"]


WAIT = """
import threading
errors = []
def wait(path):
    fd = os.open(os.path.join(tree, path), os.O_RDONLY)
    try:
        os.read(fd, 65536)
    except OSError as failure:
        errors.append(failure.errno)
def park(path, count):
    for _ in range(count):
        threading.Thread(target=wait, args=(path,), daemon=True).start()
"""


def test_reads_that_wait(tree: Tree, greedy: Puppet, modest: Puppet) -> None:
    tree.write("etc/agentfs.yaml", "mount: {max_parked: 200}\n")
    for agent in (greedy, modest):
        agent.do(f"exec({WAIT!r}, globals())")
    assert room(greedy, "parked") == (0, 90)
    greedy.do("park('agents/self/recv', 120)")
    eventually(lambda: parked(tree) == 90 and greedy.do("len(errors)") == 30)
    assert greedy.do("set(errors) == {11}")  # EAGAIN
    assert room(greedy, "parked") == (90, 0)
    words = greedy.read("proc/self/error")
    assert "greedy holds 90 waiting reads and writes" in words
    assert "mount.max_parked" in words
    assert pot(tree, "parked")[1:5] == ["200", "20", "90", "1"]
    assert share_events(tree) == [("greedy", "parked")]

    modest.do("park('agents/self/recv', 40)")  # another agent
    eventually(lambda: parked(tree) == 130)
    assert modest.do("errors") == []
    for _ in range(70):  # the operator, to the last one
        tree.start("cat", str(tree / "dev/events"), stdout=subprocess.DEVNULL)
    eventually(lambda: parked(tree) == 200)
    tree.write("agents/init/outbox/modest", "hello\n")
    eventually(lambda: parked(tree) == 199)

    greedy.close()  # what it had goes with its end
    eventually(lambda: in_use(tree, "parked") == 109)
