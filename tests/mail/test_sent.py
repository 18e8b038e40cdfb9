"""What a sender sees of its messages, and how long."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.events import SentForgotten
from agentfs.mail.message import Message
from agentfs.model.process import Process
from tests.world import OPERATOR, World


@pytest.fixture
def alice(world: World) -> Process:
    return world.process("alice")


@pytest.fixture
def bob(world: World, alice: Process) -> Process:
    return world.process("bob", alice.pid)


def lines(world: World, message: Message) -> dict[str, str]:
    """The header lines of `sent/ID` that stand before the message."""
    content = world.mail.sent.content(message)
    assert len(content) == world.mail.sent.size(message)
    head = content.partition(b"Message-ID: ")[0].decode()
    return dict(line.split(": ", 1) for line in head.splitlines() if line)


def test_a_message_is_queued_then_claimed_then_done(
    world: World, alice: Process, bob: Process
) -> None:
    message = world.send("alice", "bob", "hello")
    assert lines(world, message) == {"State": "queued", "Attempt": "1"}
    world.recv("bob")
    claimed = {"State": "claimed", "Claimed-By": f"bob ({bob.pid})", "Attempt": "1"}
    assert lines(world, message) == claimed
    world.end(bob, 0)
    assert lines(world, message) == {
        "State": "done",
        "Claimed-By": "bob",
        "Attempt": "1",
        "Finished": "2027-01-15T08:00:00.000Z",
    }
    assert world.mail.sent.content(message).endswith(b"\n\nhello")
    assert world.mail.archive.sent("alice") == {message.seq: message}
    assert not world.mail.archive.sent("bob")


def test_it_says_that_a_message_expired_or_was_given_up(
    world: World, alice: Process, bob: Process
) -> None:
    expiring = world.send("alice", "bob", "Expires: 5s\n\nsoon over")
    poison = world.send("alice", "bob", "poison")
    world.clock.advance(6)
    world.mail.mailbox("bob")
    assert lines(world, expiring)["State"] == "expired"
    for _ in range(5):
        world.recv("bob")
        world.end(bob, 1, restart=True)
    said = lines(world, poison)
    assert (said["State"], said["Attempt"], said["Claimed-By"]) == ("dead", "5", "bob")
    assert said["Reason"].startswith("delivered 5 times")
    # The receiver drops the dead letter: it was never done for all that.
    world.mail.delivery.acknowledge(OPERATOR, "bob", "dead", poison.id)
    assert lines(world, poison) == said
    world.restart()
    kept = world.mail.archive.find(poison.seq)
    assert kept is not None
    assert lines(world, kept) == said


def test_of_a_long_message_the_headers_are_kept(world: World, alice: Process, bob: Process) -> None:
    message = world.send("alice", "bob", "x" * 10_000)
    size = message.size
    assert world.mail.sent.content(message).endswith(b"x" * 10_000)
    world.recv("bob")
    world.end(bob, 0)
    assert lines(world, message)["Body-Dropped"] == f"{size} bytes"
    assert world.mail.sent.content(message).endswith(b"Priority: normal\n\n")


def test_the_record_of_a_finished_message_can_be_dropped_by_its_sender_alone(
    world: World, alice: Process, bob: Process
) -> None:
    message = world.send("alice", "bob")
    forget = world.mail.sent.forget
    for state in ("queued", "claimed"):
        with pytest.raises(KernelError, match=f"is {state}: .* not called back") as refused:
            forget(world.principal("alice"), "alice", message.seq)
        assert refused.value.errno == errno.EBUSY
        world.recv("bob")
    world.send("alice", "bob", "next")
    world.recv("bob")
    with pytest.raises(KernelError) as refused:
        forget(world.principal("bob"), "alice", message.seq)
    assert refused.value.errno == errno.EACCES
    world.seen.clear()
    forget(world.principal("alice"), "alice", message.seq)
    assert world.seen == [SentForgotten("alice", (message.id,))]
    with pytest.raises(KernelError) as refused:
        forget(world.principal("alice"), "alice", message.seq)
    assert refused.value.errno == errno.ENOENT
    assert world.mail.archive.find(message.seq) is None


def test_dropping_the_record_of_a_dead_letter_leaves_it_with_its_receiver(
    world: World, alice: Process, bob: Process
) -> None:
    world.settings.replace("messages: {max_delivery_attempts: 1}")
    message = world.send("alice", "bob")
    world.recv("bob")
    world.end(bob, 1, restart=True)
    world.mail.sent.forget(world.principal("alice"), "alice", message.seq)
    assert not world.mail.archive.sent("alice")
    assert list(world.mail.mailbox("bob").dead) == [message.id]
    world.mail.delivery.acknowledge(OPERATOR, "bob", "dead", message.id)
    assert world.stored() == []


def test_what_waited_for_an_agent_that_was_removed_is_dead_for_its_sender(
    world: World, alice: Process
) -> None:
    world.agent("ghost")
    message = world.send("alice", "ghost")
    other = world.send("init", "ghost")
    world.agents.remove(OPERATOR, "ghost")
    said = lines(world, message)
    assert (said["State"], said["Reason"]) == ("dead", "ghost was removed")
    assert lines(world, other)["State"] == "dead"
    assert world.unfinished() == []
    world.agents.remove(OPERATOR, world.agent("nobody"))


# -- retention -----------------------------------------------------------------------------------


def exchange(world: World, count: int, text: str = "x") -> None:
    """alice sends, bob takes and acknowledges: all but the last."""
    for _ in range(count):
        world.send("alice", "bob", text)
        world.recv("bob")


def test_at_most_so_many_finished_messages_are_kept_and_the_oldest_go(
    world: World, alice: Process, bob: Process
) -> None:
    world.settings.replace("messages: {max_sent: 20}")
    waiting = world.send("alice", alice.name, "for myself, and it stays")
    numbers = []
    for _ in range(60):
        exchange(world, 1)
        finished = world.mail.archive.finished("alice")
        numbers.append(len(finished))
        newest = sorted(finished)
        assert newest == list(range(newest[0], newest[0] + len(newest))) if newest else True
    assert max(numbers) == 20
    assert min(numbers[20:]) == 18  # a tenth goes at once
    assert waiting.seq in world.mail.archive.sent("alice")
    world.restart()
    assert len(world.mail.archive.finished("alice")) == numbers[-1]


def test_one_finished_message_is_the_least_that_is_kept(
    world: World, alice: Process, bob: Process
) -> None:
    world.settings.replace("messages: {max_sent: 1}")
    exchange(world, 5)
    assert len(world.mail.archive.finished("alice")) == 1


def test_finished_messages_go_when_they_are_too_old_and_nothing_else_does(
    world: World, alice: Process, bob: Process
) -> None:
    exchange(world, 3)
    world.send("alice", "bob", "still waits")
    world.clock.advance(86_399)
    assert world.sweep() == 0
    exchange(world, 2)
    world.clock.advance(1)
    assert world.sweep() == 2  # the third was acknowledged with the fourth
    assert world.sweep() == 0
    world.clock.advance(100 * 86_400)
    assert world.sweep() == 2
    left = {message.folder for message in world.mail.archive.sent("alice").values()}
    assert left == {"new", "cur"}


def test_a_long_sweep_goes_in_batches_and_goes_on_by_itself(
    world: World, alice: Process, bob: Process
) -> None:
    exchange(world, 501)
    world.clock.advance(86_400)
    commits = world.store.commits
    assert world.sweep() == 200
    assert world.store.commits == commits + 1
    assert len(world.mail.archive.finished("alice")) == 300
    for left in (100, 0, 0):
        world.clock.advance(0.01)
        world.timers.run_due()
        assert len(world.mail.archive.finished("alice")) == left


def test_records_are_swept_in_the_order_they_were_finished_after_a_restart_too(
    world: World, alice: Process, bob: Process
) -> None:
    late = world.send("alice", "bob", "is claimed first and finished last")
    world.mail.delivery.claim(OPERATOR, "bob", late.file, "held")
    exchange(world, 3)
    world.clock.advance(10)
    world.mail.delivery.acknowledge(OPERATOR, "bob", "cur", "held")
    world.restart()
    assert list(world.mail.archive.finished("alice"))[-1] == late.seq
    world.clock.advance(86_400 - 10)
    world.sweep()
    assert list(world.mail.archive.finished("alice")) == [late.seq]


def test_a_change_that_is_rolled_back_brings_swept_records_back_in_order(
    world: World, alice: Process, bob: Process
) -> None:
    world.settings.replace("messages: {max_sent: 10}")
    exchange(world, 11)
    world.send("alice", "bob")
    before, stored = world.memory(), world.stored()
    order = list(world.mail.archive.finished("alice"))

    def fails() -> None:
        with world.store.transaction():
            world.recv("bob")
            assert len(world.mail.archive.finished("alice")) == 9
            raise OSError

    with pytest.raises(OSError):
        fails()
    assert (world.memory(), world.stored()) == (before, stored)
    assert list(world.mail.archive.finished("alice")) == order


def test_after_10_000_messages_nothing_has_grown_beyond_its_bounds(
    world: World, alice: Process, bob: Process
) -> None:
    """100 turns of 100 messages: what is kept is what the configuration says."""
    world.settings.replace("messages: {max_sent: 50, max_delivery_attempts: 1, max_dead: 30}")
    principal = world.principal("bob")
    turns, size = 100, 100
    for turn in range(turns):
        with world.store.transaction():  # one commit a turn: it is the tables that are looked at
            for _ in range(size):
                world.send("alice", "bob")
            assert len(world.mail.receiving.claim_batch(principal, "bob", size)) == size
            world.end(bob, turn % 2, restart=True)  # acknowledged, or given up
        world.seen.clear()
    assert len(world.mail.archive.finished("alice")) <= 50
    assert len(world.mail.mailbox("bob").dead) == 30
    assert len(world.mail.archive) <= 80
    assert len(list(world.stored())) <= 80  # type: ignore[call-overload]
