"""Answers to answers end; work that goes to and fro does not."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from functools import partial

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.events import MessageGivenUp, MessageLooped
from agentfs.mail.message import Message
from agentfs.model.process import Role
from tests.world import World

MOST = 100


@pytest.fixture
def three(world: World) -> World:
    """alice, bob and carol, who are siblings."""
    boss = world.process("boss", role=Role.LEAD)
    for name in ("alice", "bob", "carol"):
        world.process(name, boss.pid)
    return world


def sender(world: World, message: Message) -> str:
    return str(world.header(message, "From"))


def answer(
    world: World, name: str, say: Callable[[str], str], to: str = "", headers: str = ""
) -> Message | None:
    """One turn of a loop that takes what waits and answers it; what it sent."""
    message = world.mail.receiving.claim_next(world.principal(name), name)
    if message is None:
        return None
    text = say(world.body(message))
    return world.send(name, to or sender(world, message), f"{headers}\n{text}")


def turns(world: World, *parts: tuple[str, Callable[[str], str], str], most: int = 1000) -> int:
    """How many answers there are before nobody has anything left to answer."""
    for number, (name, say, to) in zip(range(most), itertools.cycle(parts), strict=False):
        if answer(world, name, say, to) is None:
            return number
    return most


def test_two_who_answer_whatever_comes_end_with_a_dead_letter_and_an_event(three: World) -> None:
    three.send("alice", "bob", "hello")
    assert turns(three, ("bob", str.upper, ""), ("alice", str.upper, "")) == MOST + 2
    looped = [event for event in three.seen if isinstance(event, MessageLooped)]
    (last,) = looped
    given_up = [event for event in three.seen if isinstance(event, MessageGivenUp)]
    assert [event.id for event in given_up] == [last.id]
    assert last.hops == MOST + 1
    (dead,) = three.mail.mailbox(last.agent).dead.values()
    assert (dead.id, dead.sender) == (last.id, last.sender)
    assert "a loop" in dead.reason
    assert three.header(dead, "Hops") == str(MOST + 1)
    assert b"State: dead" in three.mail.sent.content(dead)
    assert three.mail.mailbox("alice").waiting == three.mail.mailbox("bob").waiting == 0


def test_one_that_answers_itself_ends(three: World) -> None:
    three.send("alice", "alice", "note")
    assert turns(three, ("alice", str.strip, "")) == MOST + 1


def test_those_who_say_the_same_to_one_after_the_other_are_no_loop(three: World) -> None:
    """Many that greet each other at random, say."""
    three.send("alice", "bob", "hot potato")
    ring = [(a, str.strip, b) for a, b in ("bc", "ca", "ab")]
    names = {"a": "alice", "b": "bob", "c": "carol"}
    parts = [(names[a], say, names[b]) for a, say, b in ring]
    assert turns(three, *parts, most=3 * MOST) == 3 * MOST


def test_a_ring_of_three_that_say_they_are_automatic_ends(three: World) -> None:
    three.send("alice", "bob", "hot potato")
    mark = "Auto-Submitted: auto-generated\n"
    ring = itertools.cycle([("bob", "carol"), ("carol", "alice"), ("alice", "bob")])
    answers = (answer(three, name, str.strip, to, mark) for name, to in ring)
    sent = itertools.takewhile(lambda message: message is not None, answers)
    assert len(list(itertools.islice(sent, 3 * MOST))) == MOST + 1


def test_those_who_always_say_the_same_each_its_own_end(three: World) -> None:
    three.send("alice", "bob", "hello")
    parts = ("bob", lambda text: "I am away", ""), ("alice", lambda text: "so am I", "")
    assert turns(three, *parts) <= MOST + 4


def test_what_is_automatic_counts_whatever_it_says_and_restarts_do_not_help(three: World) -> None:
    number = itertools.count()
    three.send("alice", "bob", "hello")
    for turn in range(MOST + 1):
        name = ("bob", "alice")[turn % 2]
        mark = "Auto-Submitted: auto-replied\n"
        sent = answer(three, name, lambda text: f"{next(number)}", headers=mark)
        assert sent is not None
        assert (sent.hops, sent.folder) == (turn + 1, "new" if turn < MOST else "dead")
        if turn % 30 == 0:
            for each in ("alice", "bob")[turn == 0 :]:
                three.mail.receiving.settle(three.principal(each), each, "done")
            three.restart()
            three.seen.clear()


def test_work_that_is_given_out_when_a_result_comes_is_no_loop(three: World) -> None:
    """The lead of the word count: as fast as it goes, and the worker always says the same."""
    number = itertools.count()
    three.send("alice", "bob", "piece")
    parts = ("bob", lambda text: "done", ""), ("alice", lambda text: f"{next(number)}", "")
    assert turns(three, *parts, most=600) == 600
    assert not [event for event in three.seen if isinstance(event, MessageLooped)]


def test_a_worker_that_says_the_same_of_every_job_is_no_loop(three: World) -> None:
    for _ in range(3 * MOST):
        three.send("alice", "bob", "go")
        sent = answer(three, "bob", lambda text: "ok")
        assert sent is not None
        assert (sent.hops, sent.folder) == (0, "new")


def test_who_says_the_same_on_purpose_can_say_so(three: World) -> None:
    three.send("alice", "bob", "tick")
    for turn in range(3 * MOST):
        name = ("bob", "alice")[turn % 2]
        sent = answer(three, name, lambda text: "tick", headers="Auto-Submitted: no\n")
        assert sent is not None
        assert (sent.hops, three.header(sent, "Auto-Submitted")) == (0, None)


def test_a_conversation_that_has_time_is_no_loop(three: World) -> None:
    three.send("alice", "bob", "ping")
    for turn in range(3 * MOST):
        three.clock.advance(61)
        sent = answer(three, ("bob", "alice")[turn % 2], str.strip)
        assert sent is not None
        assert sent.hops == 1


@pytest.mark.parametrize("folder", ["new", "cur"])
def test_who_removes_a_message_before_it_answers_ends_too(three: World, folder: str) -> None:
    """A mail program: it reads the file, deletes it, and sends."""
    three.send("alice", "bob", "hello")
    for turn in range(3 * MOST):
        name, other = ("bob", "alice") if turn % 2 == 0 else ("alice", "bob")
        me, box = three.principal(name), three.mail.mailbox(name)
        if not box.new:
            break
        file = next(iter(box.new))
        if folder == "cur":
            three.mail.delivery.claim(me, name, file, file)
        three.mail.delivery.acknowledge(me, name, folder, file)
        three.send(name, other, "HELLO")
    assert turn == MOST + 2
    assert len(three.mail.loops._put_away) == 2
    for name in ("alice", "bob"):
        process = three.table.by_name(name)
        assert process is not None
        three.end(process, 0)
    assert not three.mail.loops._put_away


def test_people_are_no_loop(three: World) -> None:
    three.send("init", "bob", "hello")
    for _ in range(2 * MOST):
        answer(three, "bob", str.strip)
        message = three.mail.receiving.claim_next(three.principal("init"), "init")
        assert message is not None
        assert three.send("init", "bob", "hello").hops == 0


def test_a_reply_counts_whatever_it_says_by_what_it_is_a_reply_to(three: World) -> None:
    """Programs that put their mail away before they answer."""
    last = three.send("alice", "bob", "hello")
    for turn in range(MOST + 1):
        name, other = ("bob", "alice") if turn % 2 == 0 else ("alice", "bob")
        me = three.principal(name)
        three.mail.receiving.claim_next(me, name)
        three.mail.receiving.settle(me, name, "done")
        last = three.send(name, other, f"In-Reply-To: {last.id}\n\nsomething new: {turn}")
    assert (last.hops, last.folder) == (MOST + 1, "dead")
    assert [event.hops for event in three.seen if isinstance(event, MessageLooped)] == [MOST + 1]


def test_the_limit_is_the_configurations(three: World) -> None:
    three.settings.replace("messages: {max_hops: 3}\n")
    three.send("alice", "bob", "hello")
    assert turns(three, ("bob", str.upper, ""), ("alice", str.upper, "")) == 3 + 2


def test_an_answer_that_is_waited_for_is_never_a_loop(three: World) -> None:
    three.settings.replace("messages: {max_hops: 1}\n")
    for number in range(5):
        question = three.send("alice", "bob", f"Reply-By: 10m\n\nwell, {number}?")
        message = three.mail.receiving.claim_next(three.principal("bob"), "bob")
        assert message is not None
        mark = f"In-Reply-To: {question.id}\nAuto-Submitted: auto-replied\n"
        reply = three.send("bob", "alice", f"{mark}\nwell?")
        assert reply.folder == "new"
        three.mail.receiving.claim_next(three.principal("alice"), "alice")


def test_answers_have_a_rate_and_what_is_sent_unasked_has_none(three: World) -> None:
    three.settings.replace("messages: {answer_burst: 5, answers_per_minute: 60}\n")
    for _ in range(20):
        three.send("alice", "bob", "job")
    me = three.principal("bob")
    for _ in range(5):
        answer(three, "bob", lambda text: "ok")
    three.mail.check(me, "bob", "carol")
    three.mail.receiving.claim_next(me, "bob")
    for call in (
        lambda: three.mail.check(me, "bob", "alice"),
        lambda: three.send("bob", "alice", "ok"),
    ):
        with pytest.raises(KernelError, match="is that a loop") as refused:
            call()
        assert (refused.value.errno, refused.value.rule) == (
            errno.EAGAIN,
            "messages.answers_per_minute",
        )
    three.send("bob", "carol", "not an answer")
    three.clock.advance(1.1)
    three.send("bob", "alice", "ok")
    assert len(three.mail.loops._buckets) == 1
    three.clock.advance(60)
    three.sweep()
    assert len(three.mail.loops._buckets) == 0


def test_what_the_kernel_sends_says_that_it_is_automatic(three: World) -> None:
    notice = three.mail.notify("bob", b"look", [("Type", "notice")])
    assert notice is not None
    assert three.header(notice, "Auto-Submitted") == "auto-generated"


def test_a_message_that_could_not_be_acknowledged_is_not_put_away(three: World) -> None:
    message, full = three.send("bob", "alice"), True

    def commit() -> None:
        if full:
            raise KernelError(errno.ENOSPC, "the disk is full")

    three.store.prepare(commit)
    remove = partial(three.mail.delivery.acknowledge, three.principal("alice"), "alice", "new")
    with pytest.raises(KernelError, match="full"):
        remove(message.file)
    assert not three.mail.loops._put_away
    full = False
    remove(message.file)
    assert list(three.mail.loops._put_away.values()) == [message]
