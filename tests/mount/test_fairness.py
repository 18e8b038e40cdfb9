"""Whose request is next: by hand, and through a mount that one agent floods."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import trio
import trio.testing

from agentfs.model.principal import INIT, Kind, Principal
from agentfs.mount.fairness import BUSY, MOST, SAMPLE, TURNS, WINDOW, Fairness, key_of
from tests.puppet import Puppet
from tests.tree import Tree, eventually

BOB, ANN = 2, 3


class Device:
    """What `Fairness` is told of the device."""

    def __init__(self) -> None:
        self.more = True
        self.passed = 0
        self.fairness = Fairness(lambda: self.more, self._pass_on)

    def _pass_on(self) -> None:
        self.passed += 1


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    yield device
    assert device.fairness._count == 0
    assert not device.fairness._waiting


def test_keys_are_of_processes_users_and_strangers() -> None:
    def principal(kind: Kind, pid: int | None, uid: int) -> Principal:
        return Principal(kind, pid, "x", uid, uid)

    keys = {
        key_of(principal(Kind.AGENT, 2, 0)),
        key_of(principal(Kind.OPERATOR, INIT, 0)),
        key_of(principal(Kind.USER, None, 0)),
        key_of(principal(Kind.USER, None, 1000)),
    }
    assert len(keys) == 4
    assert key_of(principal(Kind.AGENT, 2, 5)) in keys


def test_who_had_more_than_an_equal_part_is_ahead(device: Device) -> None:
    fair = device.fairness
    fair.charge(BOB, 100.0, 0.05)
    assert not fair.is_ahead(BOB), "it is alone"
    fair.charge(ANN, 100.0, 0.001)
    assert fair.is_ahead(BOB)
    assert not fair.is_ahead(ANN)
    fair.charge(ANN, 100.0, 0.049)
    assert not fair.is_ahead(BOB)
    fair.charge(INIT, 100.0, 5.0)
    assert not fair.is_ahead(INIT), "the operator never is"


def test_what_was_longer_ago_than_two_windows_does_not_count(device: Device) -> None:
    fair = device.fairness
    fair.charge(BOB, 100.0, 0.05)
    fair.charge(ANN, 100.0, 0.001)
    fair.charge(ANN, 100.0 + WINDOW, 0.001)
    assert fair.is_ahead(BOB)
    fair.charge(ANN, 100.0 + 2 * WINDOW, 0.001)
    assert not fair.is_ahead(BOB)
    fair.charge(BOB, 100.0 + 2 * WINDOW, 0.05)
    fair.charge(ANN, 200.0, 0.001)
    assert not fair.is_ahead(BOB)


def test_it_is_asked_whose_a_request_is_where_that_matters(device: Device) -> None:
    fair = device.fairness
    assert not fair.asks()
    fair.charge(BOB, 100.0, BUSY * WINDOW * 1.1)
    assert [fair.asks() for _ in range(2 * SAMPLE)].count(True) == 2
    fair.charge(ANN, 100.0, 0.0001)
    assert all(fair.asks() for _ in range(SAMPLE))


def test_a_thread_is_asked_now_and_then(device: Device) -> None:
    asked = []

    def find() -> Principal:
        asked.append(1)
        return Principal(Kind.AGENT, BOB, "bob", 0, 0)

    assert [device.fairness.remembered(77, find) for _ in range(3)] == [BOB] * 3
    assert len(asked) == 1


def test_nobody_waits_where_nothing_else_is_to_do(device: Device) -> None:
    fair = device.fairness
    fair.charge(BOB, 100.0, 0.05)
    fair.charge(ANN, 100.0, 0.001)
    assert fair.must_wait(BOB)
    assert not fair.must_wait(ANN)
    device.more = False
    assert not fair.must_wait(BOB)
    fair._count = MOST
    device.more = True
    assert not fair.must_wait(BOB)
    fair._count = 0


async def test_of_those_that_stepped_aside_the_one_who_had_least_is_next(device: Device) -> None:
    fair, order = device.fairness, list[str]()
    fair.charge(BOB, 100.0, 0.05)
    fair.charge(ANN, 100.0, 0.02)

    async def request(key: int, name: str) -> None:
        await fair.wait(key)
        order.append(name)

    async with trio.open_nursery() as nursery:
        for number in range(2):
            for key, name in ((BOB, "bob"), (ANN, "ann")):
                nursery.start_soon(request, key, f"{name} {number}")
                await trio.testing.wait_all_tasks_blocked()
        assert device.passed == 4, "another task takes what comes"
        assert fair.must_wait(BOB), "behind its own"
        given_up = trio.CancelScope()
        with given_up:
            given_up.cancel()
            await fair.wait(BOB)
        nursery.start_soon(fair.run)
        with trio.fail_after(30):
            while len(order) < 4:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert order == ["ann 0", "ann 1", "bob 0", "bob 1"]
    assert fair.deferred == 5


async def test_what_has_come_is_taken_in_between(device: Device) -> None:
    """The one who takes it has some turns of the loop for that, and no more."""
    fair, turns = device.fairness, list[int]()
    fair.charge(BOB, 100.0, 0.05)

    async def request() -> None:
        await fair.wait(BOB)
        turns.append(turn)

    turn = 0
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(request)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(fair.run)
        with trio.fail_after(30):
            while len(turns) < 3:
                turn += 1
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert all(later - earlier >= TURNS for earlier, later in pairwise(turns))


FLOOD = """
import mmap, os, struct, sys, threading
tree = os.environ["AGENTFS"]
counts = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 8 * 64)

def flood(slot):
    done = 0
    while True:
        os.getxattr(tree + "/README", "user.agentfs.kind")
        done += 1
        struct.pack_into("=Q", counts, 8 * slot, done)

for number in range(8):
    if os.fork() == 0:
        for thread in range(7):
            threading.Thread(target=flood, args=(8 * number + thread,)).start()
        flood(8 * number + 7)
while True:
    os.wait()
"""

COUNT = """
import mmap, os, struct
def count(path, number):
    counts = mmap.mmap(os.open(path, os.O_RDWR), 8 * 64)
    def done():
        return sum(struct.unpack("=64Q", counts[:]))
    found = []
    for _ in range(number):
        before = done()
        os.getxattr(tree + "/README", "user.agentfs.kind")
        found.append(done() - before)
    return found
"""


@pytest.mark.mount
def test_a_request_does_not_wait_behind_all_those_of_a_flood(tree: Tree, tmp_path: Path) -> None:
    """64 threads of one agent ask all the time. In order, 63 would be answered before another's."""
    counts = tmp_path / "counts"
    counts.write_bytes(bytes(8 * 64))
    with closing(Puppet(tree, "victim")) as victim:
        victim.do(f"exec({COUNT!r}, globals())")
        tree.spawn("flood", exec=[sys.executable, "-c", FLOOD, str(counts)], restart="never")

        def at_work() -> bool:
            content = counts.read_bytes()
            return all(any(content[at : at + 8]) for at in range(0, 8 * 64, 8))

        eventually(at_work)
        found = victim.do(f"count({str(counts)!r}, 300)")
    assert median(found) <= 16, sorted(found)
