"""In-Reply-To and References: valid references are kept, all others leave no trace."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfs.mail.message import Message
from tests.world import World


def reply(world: World, sender: str, receiver: str, to: object, text: str = "re") -> Message:
    return world.send(sender, receiver, f"In-Reply-To: {to}\n\n{text}")


def links(world: World, message: Message) -> tuple[str | None, str | None]:
    return world.header(message, "In-Reply-To"), world.header(message, "References")


def name(message: Message) -> str:
    return f"<{message.id}@here>"


@pytest.fixture
def three(world: World) -> World:
    for agent in ("alice", "bob", "carol"):
        world.process(agent)
    return world


@pytest.mark.parametrize("form", ["<{0:012d}@here>", "{0:012d}", "{0}"])
def test_a_reply_refers_to_what_it_replies_to(three: World, form: str) -> None:
    question = three.send("alice", "bob", "how?")
    answer = reply(three, "bob", "alice", form.format(question.seq))
    assert links(three, answer) == (name(question), name(question))
    assert three.body(answer) == "re"
    again = reply(three, "alice", "bob", name(answer))
    assert links(three, again) == (name(answer), f"{name(question)} {name(answer)}")


def test_links_come_after_the_kernels_headers_and_before_the_senders(three: World) -> None:
    first = three.send("alice", "bob", "how?")
    text = f"Subject: Re\nIn-Reply-To: {first.seq}\nX-Own: 1\n\nre"
    answer = three.send("bob", "alice", text)
    head = three.mail.content(answer).partition(b"\n\n")[0].decode()
    assert [line.partition(":")[0] for line in head.splitlines()] == [
        "Message-ID", "From", "To", "Date", "Relation", "Priority",
        "In-Reply-To", "References", "Subject", "X-Own",
    ]  # fmt: skip


def test_references_of_a_sender_are_dropped(three: World) -> None:
    first = three.send("alice", "bob", "how?")
    forged = three.send("bob", "alice", f"References: <{first.id}@here> <7@here>\nX: 1\n\nre")
    assert links(three, forged) == (None, None)
    mixed = three.send(
        "bob", "alice", f"In-Reply-To: {first.seq}\nReferences: <7@here> <8@here>\n\nre"
    )
    assert links(three, mixed) == (name(first), name(first))


@pytest.mark.parametrize(
    "said",
    ["<000000009999@here>", "9999", "0", "-1", "", "x", "<1@elsewhere>", "<1@here> <1@here>",
     "<x@here>", "1 2", "<1@here", "١", "9" * 40, "<" + "9" * 40 + "@here>"],
)  # fmt: skip
def test_an_unknown_reference_is_dropped_without_an_error(three: World, said: str) -> None:
    three.send("alice", "bob", "how?")
    answer = reply(three, "bob", "alice", said)
    assert links(three, answer) == (None, None)
    assert three.body(answer) == "re"


def test_two_references_are_none(three: World) -> None:
    first = three.send("alice", "bob", "how?")
    text = f"In-Reply-To: {first.seq}\nIn-Reply-To: {first.seq}\n\nre"
    assert links(three, three.send("bob", "alice", text)) == (None, None)


def test_foreign_and_unknown_references_leave_the_same_bytes(three: World) -> None:
    """H16: nobody learns from a reply which messages there are."""
    foreign = three.send("alice", "bob", "secret")
    first = reply(three, "carol", "alice", name(foreign))
    second = reply(three, "carol", "alice", "<000000777777@here>")

    def without_id(message: Message) -> bytes:
        return three.mail.content(message).replace(message.id.encode(), b"")

    assert without_id(first) == without_id(second)
    assert first.record() | {"arrived": 0} == second.record() | {"arrived": 0}


def test_sender_receiver_and_claimant_may_refer_and_nobody_else(three: World) -> None:
    message = three.send("alice", "bob", "how?")
    assert links(three, reply(three, "alice", "carol", name(message)))[0] == name(message)
    assert links(three, reply(three, "bob", "carol", name(message)))[0] == name(message)
    assert links(three, reply(three, "carol", "alice", name(message)))[0] is None
    # What matters in a queue: who claimed the message, though it is not in its mailbox.
    with three.store.transaction():
        three.mail.boxes.mark(message, claimant="carol")
    assert links(three, reply(three, "carol", "alice", name(message)))[0] == name(message)


def test_a_message_that_is_done_can_still_be_replied_to_until_it_is_not_kept(three: World) -> None:
    message = three.send("alice", "bob", "how?")
    three.recv("bob")
    three.send("alice", "bob", "next")
    three.recv("bob")
    assert message.folder == "done"
    assert links(three, reply(three, "bob", "alice", message.seq))[0] == name(message)
    with three.store.transaction():
        three.mail.boxes.delete(message)
    assert links(three, reply(three, "bob", "alice", message.seq))[0] is None


def test_an_expired_message_cannot_be_replied_to(three: World) -> None:
    message = three.send("alice", "bob", "Expires: 5s\n\nquick")
    claimed = three.send("alice", "bob", "Priority: high\nExpires: 5s\n\nquick")
    assert three.recv("bob") == "quick"
    three.clock.advance(6)
    assert links(three, reply(three, "bob", "alice", message.seq))[0] is None
    assert links(three, reply(three, "bob", "alice", claimed.seq))[0] == name(claimed)


def test_a_long_thread_keeps_its_first_and_its_newest_messages(three: World) -> None:
    messages = [three.send("alice", "bob", "0")]
    for number in range(1, 30):
        who = ("alice", "bob") if number % 2 == 0 else ("bob", "alice")
        messages.append(reply(three, *who, messages[-1].seq))
    references = links(three, messages[-1])[1]
    assert references is not None
    expected = [messages[0], *messages[-21:-1]]
    assert references.split() == [name(each) for each in expected]


def test_threads_survive_kill_9(three: World) -> None:
    first = three.send("alice", "bob", "0")
    second = reply(three, "bob", "alice", first.seq)
    three.restart()
    third = reply(three, "alice", "bob", second.seq)
    assert links(three, third)[1] == f"{name(first)} {name(second)}"


AGENTS = ("alice", "bob", "carol")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "recv", "later", "restart"]),
        st.sampled_from(AGENTS),
        st.sampled_from(AGENTS),
        st.integers(0, 12),
        st.sampled_from(["", "", "Expires: 20s\n", "Reply-By: 20s\n"]),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=30, deadline=None)
def test_the_threads_that_are_delivered_are_the_graph_of_valid_references(
    steps: list[tuple[str, str, str, int, str]],
) -> None:
    """H16, over random histories: against a model that knows who wrote what to whom."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            for agent in AGENTS:
                world.process(agent)
            compare(world, steps)
        finally:
            world.close()


def compare(world: World, steps: list[tuple[str, str, str, int, str]]) -> None:
    sent: list[tuple[Message, str, str, float | None, bool]] = []
    parents: dict[int, int | None] = {}  # what the model says
    taken: set[int] = set()
    answered: set[int] = set()
    for step, who, other, back, header in steps:
        now = world.clock.now()
        if step == "recv":
            box = world.mail.mailbox(who)
            first = box.first()
            if first is not None:
                taken.add(first.seq)
            world.recv(who)
        elif step == "later":
            world.clock.advance(7)
        elif step == "restart":
            world.restart()
        else:
            parent = sent[-back] if 0 < back <= len(sent) else None
            said = f"In-Reply-To: {parent[0].seq if parent else 99999}\n"
            message = world.send(who, other, f"{said}{header}\ntext")
            parents[message.seq] = None
            if parent is not None:
                old, sender, receiver, ends, asks = parent
                late = ends is not None and now >= ends
                missed = late and (old.seq not in answered if asks else old.seq not in taken)
                if asks and late and old.seq not in answered:
                    missed = True
                if who in (sender, receiver) and not missed:
                    parents[message.seq] = old.seq
                    if asks and who == receiver and other == sender:
                        answered.add(old.seq)
                if late and old.seq not in taken:
                    parents[message.seq] = None  # it expired before anybody took it
            ends = now + 20 if header else None
            sent.append((message, who, other, ends, "Reply" in header))
    graph: dict[int, int | None] = {}
    for message in world.mail.archive:
        if message.seq not in parents:
            continue  # a copy, a notice
        content = world.mail.content(message)
        head = content.partition(b"\n\n")[0].decode()
        headers = dict(line.split(": ", 1) for line in head.splitlines())
        found = headers.get("In-Reply-To")
        graph[message.seq] = None if found is None else int(found[1:13])
        line, at = [], parents[message.seq]
        while at is not None:
            line.append(f"<{at:012d}@here>")
            at = parents[at]
        expected = line[::-1]
        if len(expected) > 21:
            expected = [expected[0], *expected[-20:]]
        assert headers.get("References", "").split() == expected
    assert graph == {seq: parents[seq] for seq in graph}
    assert set(graph) == set(parents)
