"""What a reader of `recv` says of the message it has, and what it gets after a crash."""

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.message import Message
from agentfs.model.process import Process, State
from tests.world import World


@pytest.fixture
def bob(world: World) -> Process:
    return world.process("bob")


def claimed(world: World) -> Message:
    message = world.mail.receiving.claim_next(world.principal("bob"), "bob")
    assert message is not None
    return message


def settle(world: World, outcome: str, reason: str = "") -> None:
    world.mail.receiving.settle(world.principal("bob"), "bob", outcome, reason)


def test_done_acknowledges_without_asking_for_the_next(world: World, bob: Process) -> None:
    world.send("init", "bob", "one")
    message = claimed(world)
    assert bob.state is State.RUNNING
    settle(world, "done")
    assert (message.folder, bob.state) == ("done", State.IDLE)
    assert world.recv("bob") is None


def test_back_lets_it_wait_again_and_was_no_attempt(world: World, bob: Process) -> None:
    sent = world.send("init", "bob", "one")
    claimed(world)
    settle(world, "back")
    assert (sent.folder, sent.attempt, bob.state) == ("new", 1, State.IDLE)
    assert claimed(world) is sent


def test_failed_raises_the_attempt_and_the_fifth_is_the_last(world: World, bob: Process) -> None:
    sent = world.send("init", "bob", "poison")
    for attempt in range(1, 6):
        assert claimed(world).attempt == attempt
        settle(world, "failed", "ValueError: not a number")
    assert sent.folder == "dead"
    assert sent.reason.endswith("last: ValueError: not a number")
    assert world.recv("bob") is None


def test_there_must_be_something_to_settle_and_the_word_be_known(
    world: World, bob: Process
) -> None:
    with pytest.raises(KernelError) as caught:
        settle(world, "done")
    assert caught.value.errno == errno.ENOENT
    sent = world.send("init", "bob")
    claimed(world)
    with pytest.raises(KernelError) as caught:
        settle(world, "perhaps")
    assert caught.value.errno == errno.EINVAL
    assert sent.folder == "cur"
    world.process("eve")
    with pytest.raises(KernelError) as caught:
        world.mail.receiving.settle(world.principal("eve"), "bob", "done")
    assert caught.value.errno == errno.EACCES


def test_what_a_reader_may_not_have_got_before_a_crash_is_given_again(
    world: World, bob: Process
) -> None:
    sent = world.send("init", "bob", "one")
    world.send("init", "bob", "two")
    claimed(world)
    for attempt in (2, 3):
        world.restart()
        assert world.mail.receiving.waiting("bob", bob.pid)
        again = claimed(world)
        assert (again.id, again.attempt) == (sent.id, attempt)
        assert world.header(again, "Delivery-Attempt") == str(attempt)
    assert world.recv("bob") == "two"  # which acknowledges it
    assert [row[0] for row in world.unfinished()] == [sent.seq + 1]
    assert world.recv("bob") is None
    assert world.unfinished() == []


def test_a_reader_is_woken_for_what_it_may_not_have_got_when_nothing_else_waits(
    world: World, bob: Process
) -> None:
    world.send("init", "bob", "one")
    claimed(world)
    world.restart()
    assert not world.mail.receiving.waiting("bob")
    assert world.mail.receiving.waiting("bob", bob.pid)
    assert world.recv("bob") == "one"
    assert not world.mail.receiving.waiting("bob", bob.pid)


def test_what_is_settled_after_a_crash_is_not_given_again(world: World, bob: Process) -> None:
    world.send("init", "bob", "one")
    sent = world.send("init", "bob", "two")
    claimed(world)
    world.restart()
    settle(world, "done")
    assert claimed(world).id == sent.id
    world.restart()
    settle(world, "back")
    again = claimed(world)
    assert (again.id, again.attempt) == (sent.id, 1)
    world.send("init", "bob", "three")
    assert world.recv("bob") == "three"


def test_what_was_claimed_by_renaming_stays_claimed_after_a_crash(
    world: World, bob: Process
) -> None:
    sent = world.send("init", "bob", "one")
    world.mail.delivery.claim(world.principal("bob"), "bob", sent.file, "renamed:2,S")
    world.restart()
    assert world.recv("bob") is None
    assert list(world.mail.mailbox("bob").cur) == ["renamed:2,S"]
