"""The disk is full at the last moment of a transaction: what it did to the mail is undone, and the
next message gets its number. It gets nothing else of it: not its turn, nor its end, nor its
reader."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.message import Message
from agentfs.mail.readers import Reader
from agentfs.model.process import Process
from tests.world import World


class Disk:
    """Full at the last moment of the next commit, if `full`."""

    def __init__(self, world: World) -> None:
        self.full = False
        world.store.prepare(self._commit)

    def _commit(self) -> None:
        if self.full:
            self.full = False
            raise KernelError(errno.ENOSPC, "no space is left on the disk")


@pytest.fixture
def disk(world: World) -> Disk:
    return Disk(world)


@pytest.fixture
def alice(world: World) -> Process:
    return world.process("alice")


@pytest.fixture
def bob(world: World) -> Process:
    return world.process("bob")


def refused_send(world: World, disk: Disk, text: str) -> int:
    """The number that the refused message had."""
    number, _ = world.mail.boxes.stamp()
    disk.full = True
    with pytest.raises(KernelError) as caught:
        world.send("alice", "bob", text)
    assert caught.value.errno == errno.ENOSPC
    return number


def claim(world: World, name: str) -> Message:
    message = world.mail.receiving.claim_next(world.principal(name), name)
    assert message is not None
    return message


def test_the_next_message_has_its_number_and_not_its_turn(
    world: World, disk: Disk, alice: Process, bob: Process
) -> None:
    number = refused_send(world, disk, "Priority: critical\n\nrefused")
    low = world.send("alice", "bob", "Priority: low\n\nlast")
    world.send("alice", "bob", "Priority: critical\n\nfirst")
    assert low.seq == number
    assert [world.recv("bob"), world.recv("bob"), world.recv("bob")] == ["first", "last", None]


def test_the_next_message_has_its_number_and_not_its_end(
    world: World, disk: Disk, alice: Process, bob: Process
) -> None:
    number = refused_send(world, disk, "Expires: 1m\n\nrefused")
    kept = world.send("alice", "bob", "Expires: 1h\n\nkept")
    short = world.send("alice", "bob", "Expires: 2m\n\nshort")
    assert kept.seq == number
    for seconds, left in ((61, {"kept", "short"}), (60, {"kept"}), (3600, set())):
        world.clock.advance(seconds)
        world.mail.boxes.expire_due()
        assert set(world.waiting("bob")) == left
    assert short.folder == kept.folder == "expired"


def test_a_reader_that_waits_gets_the_next_once(
    world: World, disk: Disk, alice: Process, bob: Process
) -> None:
    """It is not woken for what was refused, and keeps its place in the line."""
    principal, reader, woken = world.principal("bob"), Reader("bob"), list[str]()
    world.mail.receiving.wait(principal, "bob", reader, lambda: woken.append("bob"))
    refused_send(world, disk, "refused")
    assert woken == []
    world.send("alice", "bob", "came")
    assert woken == ["bob"]
    message = world.mail.receiving.claim_next(principal, "bob", reader)
    assert message is not None
    assert (world.body(message), message.attempt) == ("came", 1)
    assert world.mail.receiving.claim_next(principal, "bob", reader) is None
    assert message.folder == "done"


def test_a_claim_leaves_both_messages_where_they_were(
    world: World, disk: Disk, alice: Process, bob: Process
) -> None:
    """The one that it would have acknowledged, and the one that it would have given out."""
    for text in ("one", "two", "three"):
        world.send("alice", "bob", text)
    one, before = claim(world, "bob"), world.memory()
    for _ in range(2):
        disk.full = True
        with pytest.raises(KernelError):
            world.recv("bob")
        assert world.memory() == before
    two = claim(world, "bob")
    assert (world.body(two), two.attempt, one.folder) == ("two", 1, "done")
    world.restart()
    assert [message.attempt for message in world.mail.mailbox("bob").cur.values()] == [1]


def test_a_return_leaves_the_message_with_its_reader(
    world: World, disk: Disk, alice: Process, bob: Process
) -> None:
    """Its attempt is not counted, and when it is returned it has the turn that it had."""
    for text in ("one", "two"):
        world.send("alice", "bob", text)
    one, before = claim(world, "bob"), world.memory()
    disk.full = True
    with pytest.raises(KernelError):
        world.mail.receiving.settle(world.principal("bob"), "bob", "failed")
    assert world.memory() == before
    world.send("alice", "bob", "Priority: low\n\nlow")
    world.mail.receiving.settle(world.principal("bob"), "bob", "failed")
    assert (one.folder, one.attempt) == ("new", 2)
    assert [world.recv("bob"), world.recv("bob"), world.recv("bob")] == ["one", "two", "low"]


def test_a_claim_that_timed_out_is_ended_later_if_the_disk_is_full(
    world: World, disk: Disk, alice: Process
) -> None:
    """Once there is room it is ended, once, and no other claim with it."""
    carol = world.process("carol", alice.pid, timeout_seconds=60, max_concurrent_tasks=None)
    for text in ("one", "two"):
        world.send("alice", "carol", text)
    one = claim(world, "carol")
    world.clock.advance(61)
    disk.full = True
    assert world.mail.boxes.claimed.time_out_due() == 0
    assert (one.folder, one.attempt) == ("cur", 1)
    assert world.mail.boxes.claimed.time_out_due() == 1
    assert (one.folder, one.attempt) == ("new", 2)
    assert world.mail.boxes.claimed.of(carol.pid) == []
    assert [world.recv("carol"), world.recv("carol")] == ["one", "two"]
