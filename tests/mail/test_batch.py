"""Several messages claimed at once, and what a message says of how many more wait."""

from __future__ import annotations

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.mbox import entry
from agentfs.mail.message import Message
from agentfs.model.process import Process
from tests.world import OPERATOR, World


@pytest.fixture
def bob(world: World) -> Process:
    return world.process("bob")


def batch(world: World, most: int) -> list[str]:
    found = world.mail.receiving.claim_batch(world.principal("bob"), "bob", most)
    return [world.body(message) for message in found]


def fill(world: World, count: int) -> list[Message]:
    return [world.send("init", "bob", f"{number}") for number in range(count)]


def test_a_batch_is_claimed_together_and_acknowledged_by_the_next(
    world: World, bob: Process
) -> None:
    fill(world, 5)
    commits = world.store.commits
    assert batch(world, 3) == ["0", "1", "2"]
    assert world.store.commits == commits + 1
    box = world.mail.mailbox("bob")
    assert (len(box.cur), len(box.new)) == (3, 2)
    assert batch(world, 3) == ["3", "4"]
    assert (len(box.cur), len(box.new)) == (2, 0)
    assert batch(world, 3) == []
    assert not box.cur  # asking for more acknowledges, whether there is more or not


def test_the_best_come_first(world: World, bob: Process) -> None:
    for level in ("low", "critical", "normal"):
        world.send("bob", "bob", f"Priority: {level}\n\n{level}")
    world.send("init", "bob", "Priority: critical\n\nfrom the system")
    assert batch(world, 2) == ["critical", "from the system"]
    assert batch(world, 2) == ["normal", "low"]


def test_one_of_a_batch_is_acknowledged_alone_by_its_file(world: World, bob: Process) -> None:
    first, second = fill(world, 2)
    batch(world, 2)
    world.mail.delivery.acknowledge(OPERATOR, "bob", "cur", first.file)
    assert (first.folder, second.folder) == ("done", "cur")
    world.end(bob, 1, restart=True)
    assert (second.folder, second.attempt) == ("new", 2)
    assert batch(world, 5) == ["1"]


def test_recv_and_a_batch_follow_each_other(world: World, bob: Process) -> None:
    messages = fill(world, 4)
    batch(world, 2)
    assert world.recv("bob") == "2"
    assert [message.folder for message in messages] == ["done", "done", "cur", "new"]
    assert batch(world, 2) == ["3"]
    assert [message.folder for message in messages] == ["done", "done", "done", "cur"]


def test_a_batch_has_a_bounded_number_of_bytes_and_one_message_at_least(
    world: World, bob: Process
) -> None:
    world.settings.replace("messages: {max_batch_bytes: 3000}")
    for text in ("a" * 5000, "b" * 1000, "c" * 1000, "d" * 1000):
        world.send("init", "bob", text)
    assert [text[0] for text in batch(world, 10)] == ["a"]
    assert [text[0] for text in batch(world, 10)] == ["b", "c"]
    assert [text[0] for text in batch(world, 10)] == ["d"]


def test_a_clean_end_acknowledges_a_batch_and_another_returns_it(
    world: World, bob: Process
) -> None:
    fill(world, 4)
    batch(world, 2)
    world.end(bob, 0, restart=True)
    assert batch(world, 2) == ["2", "3"]
    world.end(bob, 1, restart=True)
    assert world.waiting("bob") == ["2", "3"]


def test_a_batch_that_was_under_way_when_the_daemon_was_killed_comes_again(
    world: World, bob: Process
) -> None:
    fill(world, 3)
    batch(world, 2)
    world.restart()
    found = world.mail.receiving.claim_batch(world.principal("bob"), "bob", 10)
    assert [(world.body(message), message.attempt) for message in found] == [
        ("0", 2),
        ("1", 2),
        ("2", 1),
    ]


def test_every_message_says_how_many_more_wait(world: World, bob: Process) -> None:
    fill(world, 4)
    first = world.mail.receiving.claim_next(world.principal("bob"), "bob")
    assert first is not None
    text = world.mail.receiving.received(first)
    assert text.startswith(f"Messages-Waiting: 3\nMessage-ID: <{first.id}@here>\n".encode())
    found = world.mail.receiving.claim_batch(world.principal("bob"), "bob", 2)
    for message in found:
        head = f"Claimed-As: {message.file}\nMessages-Waiting: 1\n"
        assert world.mail.receiving.received(message, message.file).startswith(head.encode())
    # What lies in the Maildir does not change under the programs that read it.
    assert b"Messages-Waiting" not in world.mail.content(first)


def test_others_may_not_claim_a_batch(world: World, bob: Process) -> None:
    world.process("carol")
    fill(world, 1)
    with pytest.raises(KernelError, match="the mail of bob is not for carol"):
        world.mail.receiving.claim_batch(world.principal("carol"), "bob", 1)


def test_an_entry_of_an_mbox_quotes_what_looks_like_a_separator(world: World, bob: Process) -> None:
    message = world.send("init", "bob", "\nFrom here\n>From there\n From the side\nend")
    text = entry(message, world.mail.content(message))
    assert text.startswith(b"From init Fri Jan 15 08:00:00 2027\nMessage-ID: ")
    assert text.endswith(b"\n\n>From here\n>>From there\n From the side\nend\n\n")
    closed = world.send("init", "bob", "a line\n")
    assert entry(closed, world.mail.content(closed)).endswith(b"\n\na line\n\n")
