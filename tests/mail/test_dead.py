"""Dead letters: kept under their id, dropped, put back."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.events import DeadLetterDropped, MessageDone, MessageGivenUp, MessageRevived
from agentfs.mail.message import Message
from agentfs.model.process import Process
from tests.world import OPERATOR, World


@pytest.fixture
def bob(world: World) -> Process:
    return world.process("bob")


def bury(world: World, bob: Process, text: str = "poison") -> Message:
    """A message that bob never acknowledged."""
    message = world.send("init", "bob", text)
    while message.folder != "dead":
        assert world.recv("bob") == text.rpartition("\n\n")[2]
        world.end(bob, 1, restart=True)
    return message


def test_a_dead_letter_is_named_by_its_id(world: World, bob: Process) -> None:
    message = bury(world, bob)
    assert message.file == message.id == f"{message.seq:012d}"
    assert world.mail.mailbox("bob").dead == {message.id: message}
    given_up = [event for event in world.seen if isinstance(event, MessageGivenUp)]
    assert [event.id for event in given_up] == [message.id]


def test_a_dead_letter_that_is_put_back_is_delivered_again_as_the_next_attempt(
    world: World, bob: Process
) -> None:
    message = bury(world, bob)
    world.seen.clear()
    world.mail.delivery.revive(world.principal("bob"), "bob", message.id, "again")
    assert world.seen == [MessageRevived("bob", message.id, "again", message.id, 6)]
    assert (message.folder, message.file, message.reason) == ("new", "again", "")
    assert world.header(message, "Delivery-Attempt") == "6"
    world.restart()
    kept = world.mail.archive.find(message.seq)
    assert kept is not None
    # It has as many attempts as a new message has, and is given up after them.
    for attempt in range(6, 11):
        assert (kept.folder, kept.attempt) == ("new", attempt)
        assert world.recv("bob") == "poison"
        process = world.table.by_name("bob")
        assert process is not None
        world.end(process, 1, restart=True)
    assert (kept.folder, kept.attempt) == ("dead", 10)
    world.mail.delivery.revive(OPERATOR, "bob", kept.id, "once-more")
    assert (kept.attempt, kept.revived) == (11, 10)
    assert world.recv("bob") == "poison"


def test_putting_back_is_refused_in_words(world: World, bob: Process) -> None:
    expiring = bury(world, bob, "Expires: 60s\n\nsoon over")
    message = bury(world, bob)
    waiting = world.send("init", "bob", filename="taken")
    world.agent("carol")

    def refused(code: int, file: str, renamed: str, principal: object = OPERATOR) -> None:
        before = world.memory()
        with pytest.raises(KernelError) as caught:
            world.mail.delivery.revive(principal, "bob", file, renamed)  # type: ignore[arg-type]
        assert caught.value.errno == code
        assert caught.value.reason
        assert world.memory() == before

    refused(errno.ENOENT, "000000000999", "x")
    refused(errno.ENOENT, waiting.file, "x")
    refused(errno.EEXIST, message.id, "taken")
    refused(errno.EINVAL, message.id, "a/b")
    world.process("carol")
    refused(errno.EACCES, message.id, "x", world.principal("carol"))
    world.clock.advance(61)
    refused(errno.ETIMEDOUT, expiring.id, "x")
    world.settings.replace("messages: {max_waiting: 1}")
    refused(errno.ENOSPC, message.id, "x")


def test_a_dead_letter_can_be_dropped(world: World, bob: Process) -> None:
    message = bury(world, bob)
    world.seen.clear()
    world.mail.delivery.acknowledge(world.principal("bob"), "bob", "dead", message.id)
    assert world.seen == [MessageDone("bob", message.id, "dead", message.id)]
    assert world.unfinished() == []


def test_the_oldest_dead_letter_goes_with_an_event_when_there_are_too_many(
    world: World, bob: Process
) -> None:
    world.settings.replace("messages: {max_dead: 3, max_delivery_attempts: 1}")
    messages = []
    for number in range(5):
        messages.append(bury(world, bob, f"letter {number}"))
        world.clock.advance(1)
    assert list(world.mail.mailbox("bob").dead) == [message.id for message in messages[2:]]
    dropped = [event for event in world.seen if isinstance(event, DeadLetterDropped)]
    why = "more than 3 dead letters (messages.max_dead)"
    assert dropped == [DeadLetterDropped("bob", m.id, m.id, why) for m in messages[:2]]
    world.restart()
    assert len(world.mail.mailbox("bob").dead) == 3


def test_a_lower_bound_on_dead_letters_holds_from_the_next_sweep_on(
    world: World, bob: Process
) -> None:
    world.settings.replace("messages: {max_delivery_attempts: 1}")
    for _ in range(6):
        bury(world, bob)
    world.settings.replace("messages: {max_dead: 2}")
    assert world.sweep() == 4
    assert len(world.mail.mailbox("bob").dead) == 2


def test_dead_letters_go_with_an_event_when_they_are_too_old(world: World, bob: Process) -> None:
    old = bury(world, bob)
    world.clock.advance(86_400)
    young = bury(world, bob)
    world.clock.advance(29 * 86_400)
    world.seen.clear()
    assert world.sweep() == 1
    [event] = [event for event in world.seen if isinstance(event, DeadLetterDropped)]
    assert (event.agent, event.id) == ("bob", old.id)
    assert world.mail.mailbox("bob").dead == {young.id: young}


def test_what_waits_or_is_claimed_is_never_swept(world: World, bob: Process) -> None:
    claimed = world.send("init", "bob")
    world.mail.delivery.claim(OPERATOR, "bob", claimed.file, "held")
    waiting = world.send("init", "bob")
    world.clock.advance(10 * 365 * 86_400)
    assert world.sweep() == 0
    assert (claimed.folder, waiting.folder) == ("cur", "new")
