"""Questions and answers: who answers, what ends an ask, and that all of it survives a crash."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from agentfs.asks.ask import Ask, AskState
from agentfs.asks.events import (
    AskAnswered,
    AskCancelled,
    AskDropped,
    AskExpired,
    AskFailed,
    AskOpened,
)
from agentfs.base.errors import KernelError
from agentfs.mail.events import MessageArrived
from agentfs.mail.message import Message
from agentfs.model.process import Role
from tests.world import OPERATOR, World

OPEN, ANSWERED, EXPIRED, FAILED, CANCELLED = (
    AskState.OPEN, AskState.ANSWERED, AskState.EXPIRED, AskState.FAILED, AskState.CANCELLED,
)  # fmt: skip


@pytest.fixture
def pair(world: World) -> World:
    for agent in ("alice", "bob", "carol"):
        world.process(agent)
    return world


def ask(world: World, text: str = "To: bob\n\nhow?", agent: str = "alice") -> Ask:
    return world.asks.ask(world.principal(agent), agent, text.encode())


def by_header(world: World, deadline: str = "10m", receiver: str = "bob") -> Ask:
    message = world.send("alice", receiver, f"Reply-By: {deadline}\n\nhow?")
    return world.asks.get("alice", message.seq)


def reply(world: World, to: object, sender: str = "bob", receiver: str = "alice") -> Message:
    return world.send(sender, receiver, f"In-Reply-To: {to}\n\nthus")


def again(world: World, one: Ask) -> Ask:
    return world.asks.get(one.asker, one.id)


def remove(world: World, name: str) -> None:
    process = world.table.by_name(name)
    assert process is not None
    world.end(process, 0)
    with world.store.transaction():
        world.table.remove(process.pid)
    world.agents.remove(OPERATOR, name)


def kinds(world: World) -> list[str]:
    found = [event.type for event in world.seen if event.type.startswith("ask")]
    world.seen.clear()
    return found


def inbox(world: World, name: str) -> list[tuple[str | None, str | None]]:
    return [
        (world.header(message, "Type"), world.header(message, "In-Reply-To"))
        for _, message in sorted(world.mail.mailbox(name).new.items())
    ]


def why(one: Ask) -> int | None:
    try:
        one.check()
    except KernelError as reason:
        return reason.errno
    return None


@pytest.fixture(params=[False, True], ids=["running", "restarted"])
def maybe(request: pytest.FixtureRequest) -> Callable[[World], None]:
    """Whether the daemon is killed at this point."""
    return (lambda world: world.restart()) if request.param else (lambda world: None)


# -- asking ----------------------------------------------------------------------------------------


def test_the_whole_life_of_a_question(pair: World, maybe: Callable[[World], None]) -> None:
    one = ask(pair)
    assert (one.asker, one.to, one.state) == ("alice", "bob", OPEN)
    assert one.deadline == pair.clock.now() + 600
    assert kinds(pair) == ["ask_opened"]
    maybe(pair)
    (question,) = pair.mail.mailbox("bob").new.values()
    assert pair.mail.content(question) == pair.asks.question(again(pair, one))
    assert pair.header(question, "Reply-By")
    assert pair.recv("bob") == "how?"
    maybe(pair)
    answer = reply(pair, question.seq)
    maybe(pair)
    closed = again(pair, one)
    assert (closed.state, closed.answer) == (ANSWERED, answer.seq)
    text = pair.asks.answer(closed).decode()
    assert text.endswith("\n\nthus")
    assert f"In-Reply-To: <{question.id}@here>" in text.splitlines()
    assert "From: bob" in text.splitlines()
    pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    maybe(pair)
    assert not pair.asks.of("alice")
    assert not list(pair.store.records("ask"))
    assert not list(pair.store.records("ask-text"))


def test_the_answer_to_asks_new_is_in_the_ask_and_nowhere_else(pair: World) -> None:
    one = ask(pair)
    pair.seen.clear()
    answer = reply(pair, one.id)
    assert pair.waiting("alice") == []
    assert answer.folder == "done"
    assert pair.mail.archive.sent("bob")[answer.seq] is answer
    arrived = [event.agent for event in pair.seen if isinstance(event, MessageArrived)]
    assert arrived == ["asks/alice"]
    assert [copy.seq for copy in pair.mail.overheard.of("init").kept][-1] == answer.seq
    assert again(pair, one).state is ANSWERED


def test_the_answer_to_a_question_by_header_is_in_the_inbox_and_in_the_ask(pair: World) -> None:
    one = by_header(pair)
    answer = reply(pair, one.id)
    assert pair.recv("alice") == "thus"
    assert pair.asks.answer(again(pair, one)) == pair.mail.content(answer)
    pair.send("bob", "alice", "next")
    assert pair.recv("alice") == "next"  # the answer is acknowledged, and stays with the ask
    assert pair.asks.answer(again(pair, one)).endswith(b"thus")


def test_a_long_question_and_a_long_answer_are_kept_whole(pair: World) -> None:
    body = "x" * 500_000
    one = ask(pair, f"To: bob\n\n{body}")
    pair.recv("bob")
    pair.send("alice", "bob", "next")
    pair.recv("bob")  # the question is acknowledged
    answer = pair.send("bob", "alice", f"In-Reply-To: {one.id}\n\n{body}")
    pair.restart()
    assert pair.asks.question(again(pair, one)).decode().endswith(f"\n\n{body}")
    assert pair.asks.answer(again(pair, one)).decode().endswith(f"\n\n{body}")
    kept = pair.mail.archive.find(answer.seq)
    assert kept is not None
    assert kept.dropped > 500_000
    assert kept.size < 1000


def test_bytes_that_are_no_text_come_back_as_they_were(pair: World) -> None:
    body = bytes(range(256))
    one = pair.asks.ask(pair.principal("alice"), "alice", b"To: bob\n\n" + body)
    assert pair.asks.question(one).endswith(b"\n\n" + body)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("To: nobody\n\nhow?", errno.ENOENT),
        ("To: bob\n\n", errno.EINVAL),
        ("To: bob\n", errno.EINVAL),
        ("To: bob", errno.EINVAL),
        ("how?", errno.EINVAL),
        ("Subject: x\n\nhow?", errno.EINVAL),
        ("To: bob\nReply-By: soon\n\nhow?", errno.EINVAL),
        ("To: bob\nReply-By: 2001-01-01T00:00Z\n\nhow?", errno.EINVAL),
        ("To: bob\nReply-By: 0s\n\nhow?", errno.EINVAL),
        ("To: bob\nReply-By: 1m\nReply-By: 1m\n\nhow?", errno.EINVAL),
        (f"To: bob\n\n{'x' * 2_000_000}", errno.EMSGSIZE),
    ],
)
def test_a_bad_question_is_refused_and_leaves_no_trace(pair: World, text: str, code: int) -> None:
    before = pair.memory()
    with pytest.raises(KernelError) as refused:
        ask(pair, text)
    assert refused.value.errno == code
    assert refused.value.reason
    assert pair.memory() == before
    assert not pair.asks.of("alice")
    assert not list(pair.store.records("ask"))


def test_a_broadcast_is_no_question(world: World) -> None:
    world.process("alice", role=Role.DAEMON)
    with pytest.raises(KernelError, match="nobody answers a broadcast") as refused:
        ask(world, "To: *\n\nhow?")
    assert refused.value.errno == errno.EINVAL
    assert not list(world.store.records("ask"))


def test_only_the_agent_itself_and_the_operator_ask_for_it(pair: World) -> None:
    with pytest.raises(KernelError) as refused:
        pair.asks.ask(pair.principal("bob"), "alice", b"To: bob\n\nhow?")
    assert refused.value.errno == errno.EACCES
    assert pair.asks.ask(OPERATOR, "alice", b"To: bob\n\nhow?").asker == "alice"


def test_open_questions_are_bounded(pair: World) -> None:
    pair.settings.replace("messages: {max_open_asks: 2}")
    ask(pair)
    one = by_header(pair)
    before = pair.memory()
    for attempt in (lambda: ask(pair), lambda: by_header(pair)):
        with pytest.raises(KernelError) as refused:
            attempt()
        assert refused.value.errno == errno.EAGAIN
        assert refused.value.rule == "messages.max_open_asks"
    assert pair.memory() == before
    reply(pair, one.id)
    ask(pair)
    ask(pair, agent="carol")


def test_a_message_saved_into_cur_asks_nobody(pair: World) -> None:
    from agentfs.mail.message import Draft

    one = by_header(pair)
    (question,) = pair.mail.mailbox("bob").new.values()
    content = pair.mail.content(question)
    pair.clock.advance(1000)  # the date in it is past
    draft = Draft.parse(content, now=pair.clock.now(), to="bob", filename="x", claimed=True)
    saved = pair.mail.send(pair.principal("bob"), "bob", draft)
    assert pair.header(saved, "Reply-By") is not None
    assert not pair.asks.of("bob")
    assert again(pair, one).state is EXPIRED


# -- answering -------------------------------------------------------------------------------------


def test_i5_a_reply_made_the_standard_way_reaches_the_waiting_ask(pair: World) -> None:
    """HiveKernel I5: its own reply helper named another id than the one waited for."""
    one = ask(pair)
    (question,) = pair.mail.mailbox("bob").new.values()
    named = pair.header(question, "Message-ID")
    woken: list[bool] = []
    pair.asks.on_end(one, lambda: woken.append(True))
    reply(pair, named)
    assert woken == [True]
    assert again(pair, one).state is ANSWERED


def test_only_the_first_reply_answers_and_later_ones_are_mail(pair: World) -> None:
    one = ask(pair)
    first = reply(pair, one.id)
    second = reply(pair, one.id)
    assert again(pair, one).answer == first.seq
    assert inbox(pair, "alice") == [(None, f"<{one.key}@here>")]
    assert pair.waiting("alice") == ["thus"]
    assert second.folder == "new"


@pytest.mark.parametrize("sender", ["carol", "init", "alice"])
def test_nobody_else_answers(pair: World, sender: str) -> None:
    one = ask(pair)
    reply(pair, one.id, sender=sender)
    assert again(pair, one).state is OPEN
    assert pair.waiting("alice") == ["thus"]


def test_a_reply_to_somebody_else_does_not_answer(pair: World) -> None:
    one = ask(pair)
    reply(pair, one.id, receiver="carol")
    assert again(pair, one).state is OPEN


def test_who_acknowledged_the_question_can_still_answer(pair: World) -> None:
    pair.settings.replace("messages: {max_sent: 1, sent_retention: 1s}")
    one = ask(pair)
    for _ in range(30):
        pair.send("alice", "bob", "Priority: low\n\nmore")
    while pair.recv("bob"):
        pair.clock.advance(2)
    pair.release_stale()
    pair.asks.tidy()
    pair.restart()
    reply(pair, one.id)
    assert again(pair, one).state is ANSWERED


def test_a_question_to_oneself_can_be_answered(pair: World) -> None:
    one = ask(pair, "To: alice\n\nwho am I?")
    assert pair.recv("alice") == "who am I?"
    reply(pair, one.id, sender="alice")
    assert again(pair, one).state is ANSWERED
    assert pair.waiting("alice") == []


def test_an_answer_can_ask_back(pair: World) -> None:
    one = ask(pair)
    text = f"In-Reply-To: {one.id}\nReply-By: 1m\n\nwhich one?"
    back = pair.send("bob", "alice", text)
    assert again(pair, one).state is ANSWERED
    reply(pair, back.seq, sender="alice", receiver="bob")
    assert pair.asks.get("bob", back.seq).state is ANSWERED
    assert pair.waiting("bob")[-1] == "thus"


def test_the_claimant_answers_a_question_that_went_to_a_queue(pair: World) -> None:
    one = by_header(pair)
    with pair.store.transaction():  # as a queue's owner accepts and hands out
        message = pair.mail.archive.find(one.id)
        assert message is not None
        pair.asks._table.change(one, questions={one.id: "queues/jobs"})
        pair.mail.boxes.mark(message, claimant="carol")
        pair.mail.boxes.finish(message, "done")
        message.mailbox = "queues/jobs"
    reply(pair, one.id, sender="bob")
    assert one.state is OPEN
    reply(pair, one.id, sender="carol")
    assert one.state is ANSWERED
    message.mailbox = "bob"


# -- deadlines -------------------------------------------------------------------------------------


def test_an_unanswered_question_expires_at_its_deadline(pair: World) -> None:
    one = ask(pair, "To: bob\nReply-By: 10s\n\nhow?")
    woken: list[bool] = []
    pair.asks.on_end(one, lambda: woken.append(True))
    pair.clock.advance(9.999)
    pair.timers.run_due()
    assert (one.state, woken) == (OPEN, [])
    pair.clock.advance(0.001)
    pair.timers.run_due()
    assert (one.state, woken) == (EXPIRED, [True])
    assert why(one) == errno.ETIMEDOUT
    assert "ask_expired" in kinds(pair)
    assert pair.waiting("alice") == []  # who reads it from the ask is not told otherwise
    assert pair.waiting("bob") == []  # nobody took it: it is gone too


def test_who_asked_by_header_is_told_that_there_is_no_answer(pair: World) -> None:
    one = by_header(pair, "10s")
    pair.clock.advance(10)
    pair.timers.run_due()
    assert inbox(pair, "alice") == [("ask-expired", f"<{one.key}@here>")]
    assert again(pair, one).state is EXPIRED


def test_whoever_looks_sees_the_deadline_before_the_timer_fires(pair: World) -> None:
    one = ask(pair, "To: bob\nReply-By: 10s\n\nhow?")
    pair.clock.advance(10)
    assert again(pair, one).state is EXPIRED


def test_the_wall_clock_may_be_stepped(pair: World) -> None:
    one = ask(pair, "To: bob\nReply-By: 1h\n\nhow?")
    pair.clock.step(7200)
    pair.clock.advance(61)  # timers do not see the step, they look again once a minute
    pair.timers.run_due()
    assert one.state is EXPIRED
    two = ask(pair, "To: bob\nReply-By: 10s\n\nhow?")
    pair.clock.step(-7200)
    pair.clock.advance(11)
    pair.timers.run_due()
    assert two.state is OPEN


def test_a_question_that_expired_while_the_daemon_was_down_is_expired(pair: World) -> None:
    one, two = ask(pair, "To: bob\nReply-By: 10s\n\nhow?"), by_header(pair, "10s")
    pair.clock.advance(11)
    pair.restart()
    pair.timers.run_due()
    assert [again(pair, each).state for each in (one, two)] == [EXPIRED, EXPIRED]
    assert inbox(pair, "alice") == [("ask-expired", f"<{two.key}@here>")]


@pytest.mark.parametrize("how", ["expired", "cancelled"])
def test_a_reply_that_comes_too_late_is_delivered_without_its_link(
    pair: World, how: str, maybe: Callable[[World], None]
) -> None:
    """H16: an expired reference."""
    one = ask(pair, "To: bob\nReply-By: 10s\n\nhow?")
    assert pair.recv("bob") == "how?"
    if how == "expired":
        pair.clock.advance(10)
    else:
        pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    maybe(pair)
    reply(pair, one.id)
    assert inbox(pair, "alice") == [(None, None)]
    assert pair.waiting("alice") == ["thus"]
    pair.clock.advance(100_000)
    pair.asks.tidy()
    assert not pair.asks.of("alice")
    reply(pair, one.id)  # also when the ask is not kept any more
    assert inbox(pair, "alice") == [(None, None)] * 2


def test_a_question_that_expires_first_has_no_answer_any_more(pair: World) -> None:
    message = pair.send("alice", "bob", "Reply-By: 1h\nExpires: 10s\n\nhow?")
    pair.clock.advance(10)
    pair.timers.run_due()
    one = pair.asks.get("alice", message.seq)
    assert one.state is EXPIRED
    assert "before anybody took it" in one.reason
    assert inbox(pair, "alice") == [("ask-expired", f"<{one.key}@here>")]


def test_a_question_that_was_taken_can_be_answered_after_it_would_have_expired(
    pair: World,
) -> None:
    message = pair.send("alice", "bob", "Reply-By: 1h\nExpires: 10s\n\nhow?")
    pair.recv("bob")
    pair.clock.advance(1000)
    pair.timers.run_due()
    reply(pair, message.seq)
    assert pair.asks.get("alice", message.seq).state is ANSWERED


# -- the other end fails ---------------------------------------------------------------------------


def test_a_question_that_became_a_dead_letter_is_not_waited_for(pair: World) -> None:
    pair.settings.replace("messages: {max_delivery_attempts: 1}")
    one, two = ask(pair), by_header(pair)
    for _ in range(2):
        pair.recv("bob")
        bob = pair.table.by_name("bob")
        assert bob is not None
        pair.end(bob, 1, restart=True)
    assert [again(pair, each).state for each in (one, two)] == [FAILED, FAILED]
    assert why(again(pair, one)) == errno.EHOSTUNREACH
    assert inbox(pair, "alice") == [("ask-failed", f"<{two.key}@here>")]


def test_a_dead_letter_whose_news_was_lost_in_a_crash_is_noticed_at_the_start(pair: World) -> None:
    one = by_header(pair)
    pair.asks._heard = lambda record: None  # type: ignore[method-assign]
    pair.events._listeners.clear()  # the daemon dies between the two transactions
    pair.settings.replace("messages: {max_delivery_attempts: 1}")
    pair.recv("bob")
    bob = pair.table.by_name("bob")
    assert bob is not None
    pair.end(bob, 1, restart=True)
    assert one.state is OPEN
    pair.restart()
    assert again(pair, one).state is FAILED


def test_a_process_that_ends_leaves_the_question_to_the_next(pair: World) -> None:
    one = ask(pair)
    pair.recv("bob")
    bob = pair.table.by_name("bob")
    assert bob is not None
    pair.end(bob, 1)
    assert again(pair, one).state is OPEN
    pair.process("bob")
    assert pair.recv("bob") == "how?"
    reply(pair, one.id)
    assert again(pair, one).state is ANSWERED


def test_removing_the_agent_that_was_asked_ends_the_wait(pair: World) -> None:
    one = ask(pair)
    remove(pair, "bob")
    assert again(pair, one).state is FAILED
    assert again(pair, one).reason == "bob was removed"
    assert why(again(pair, one)) == errno.EHOSTUNREACH


def test_removing_the_agent_that_asks_removes_its_questions(pair: World) -> None:
    one = ask(pair)
    woken: list[bool] = []
    pair.asks.on_end(one, lambda: woken.append(True))
    remove(pair, "alice")
    assert woken == [True]
    assert not list(pair.store.records("ask"))
    assert not list(pair.store.records("ask-text"))


# -- cancelling ------------------------------------------------------------------------------------


def test_h15_an_ask_is_cancelled_once_by_its_owner_and_by_nobody_else(pair: World) -> None:
    one = ask(pair)
    for _ in range(2):
        with pytest.raises(KernelError) as refused:
            pair.asks.cancel(pair.principal("bob"), "alice", one.id)
        assert refused.value.errno == errno.EACCES
    assert list(pair.asks.of("alice")) == [one.id]
    woken: list[AskState] = []
    pair.asks.on_end(one, lambda: woken.append(one.state))
    kinds(pair)
    pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    assert set(woken) == {CANCELLED}
    assert why(one) == errno.ECANCELED
    assert kinds(pair) == ["ask_cancelled", "ask_dropped"]
    with pytest.raises(KernelError) as refused:
        pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    assert refused.value.errno == errno.ENOENT
    with pytest.raises(KernelError) as refused:  # also then it says no more than before
        pair.asks.cancel(pair.principal("bob"), "alice", one.id)
    assert refused.value.errno == errno.EACCES
    pair.asks.cancel(OPERATOR, "alice", ask(pair).id)


def test_cancelling_withdraws_a_question_that_waits_and_tells_the_other_side(
    pair: World, maybe: Callable[[World], None]
) -> None:
    one = ask(pair)
    pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    maybe(pair)
    assert inbox(pair, "bob") == [("ask-cancelled", f"<{one.key}@here>")]
    (notice,) = pair.mail.mailbox("bob").new.values()
    assert pair.header(notice, "From") == "alice"
    question = pair.mail.archive.find(one.id)
    assert question is not None
    assert (question.folder, question.reason) == ("expired", "cancelled by alice")


def test_cancelling_leaves_a_question_that_was_taken(pair: World) -> None:
    one = ask(pair)
    pair.recv("bob")
    pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    assert [each.seq for each in pair.mail.mailbox("bob").cur.values()] == [one.id]
    assert inbox(pair, "bob") == [("ask-cancelled", f"<{one.key}@here>")]


def test_dropping_a_closed_ask_tells_nobody(pair: World) -> None:
    one = ask(pair)
    reply(pair, one.id)
    before = pair.waiting("bob")
    pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    assert pair.waiting("bob") == before
    assert not pair.asks.of("alice")


def test_a_cancelled_question_in_the_same_tick_as_its_deadline_ends_once(pair: World) -> None:
    one = by_header(pair, "10s")
    pair.clock.advance(9.9)
    pair.asks.cancel(pair.principal("alice"), "alice", one.id)
    pair.clock.advance(1)
    pair.timers.run_due()
    assert one.state is CANCELLED
    assert inbox(pair, "alice") == []


# -- keeping ---------------------------------------------------------------------------------------


def test_closed_asks_are_swept_after_their_retention(pair: World) -> None:
    one, two = ask(pair), ask(pair)
    reply(pair, one.id)
    pair.clock.advance(599)
    assert pair.asks.tidy() == 0
    pair.clock.advance(86_400 - 599)
    assert pair.asks.tidy() == 1
    assert list(pair.asks.of("alice")) == [two.id]  # it expired later


def test_closed_asks_are_bounded(pair: World) -> None:
    pair.settings.replace("messages: {max_closed_asks: 3}")
    made = [ask(pair) for _ in range(6)]
    for one in made:
        reply(pair, one.id)
    pair.restart()
    assert list(pair.asks.of("alice")) == [one.id for one in made[3:]]


@pytest.mark.parametrize("event", [AskAnswered, AskCancelled, AskExpired, AskFailed, AskOpened])
def test_what_fails_in_the_middle_never_happened(pair: World, event: type) -> None:
    """The store refuses the commit of a change to an ask: memory is as it was."""
    pair.settings.replace("messages: {max_delivery_attempts: 1}")
    one = by_header(pair, "10s")
    pair.recv("bob")
    before, stored = pair.memory(), list(pair.store.records("ask"))

    def full() -> None:
        if event in map(type, pair.events._pending):
            raise KernelError(errno.ENOSPC, "no room")

    pair.store.before_commit.append(full)
    try:
        match event.__name__:
            case "AskAnswered":
                with pytest.raises(KernelError):
                    reply(pair, one.id)
            case "AskCancelled":
                with pytest.raises(KernelError):
                    pair.asks.cancel(OPERATOR, "alice", one.id)
            case "AskOpened":
                with pytest.raises(KernelError):
                    ask(pair)
            case "AskExpired":
                pair.clock.advance(10)
                pair.timers.run_due()
                pair.clock.advance(-10)
            case "AskFailed":
                with pytest.raises(KernelError), pair.store.transaction():
                    pair.asks.mailbox_removed("bob")
    finally:
        pair.store.before_commit.remove(full)
    assert pair.memory() == before
    assert list(pair.store.records("ask")) == stored
    assert list(pair.asks.open_asks["alice"]) == [one.id]
    assert pair.asks._table.of_message == {one.id: one}
    assert not pair.asks._table.closed
    reply(pair, one.id)
    assert one.state is ANSWERED


def test_after_many_questions_every_table_is_back_at_its_start_size(pair: World) -> None:
    for number in range(200):
        one = ask(pair) if number % 2 else by_header(pair)
        if number % 3:
            reply(pair, one.id)
        unsubscribe = pair.asks.on_end(one, lambda: None)
        pair.asks.cancel(pair.principal("alice"), "alice", one.id)
        unsubscribe()
    asks = pair.asks._table
    for table in (asks.by_number, asks.open, asks.closed, asks.of_message, pair.asks._watching):
        assert not table
    assert asks._due.entries <= 64
    assert AskDropped in map(type, pair.seen)


def test_a_task_answers_its_parent_and_nobody_else(pair: World) -> None:
    process = pair.table.by_name("alice")
    assert process is not None
    pair.process("job", process.pid, Role.TASK)
    one = ask(pair, "To: job\n\nhow?")
    reply(pair, one.id, sender="job")
    assert again(pair, one).state is ANSWERED
    other = ask(pair, "To: job\n\nhow?", agent="bob")
    with pytest.raises(KernelError) as refused:
        reply(pair, other.id, sender="job", receiver="bob")
    assert (refused.value.errno, refused.value.rule) == (
        errno.EACCES,
        "roles.yaml: task send",
    )


def test_many_that_are_due_at_once_end_in_batches_and_whoever_looks_sees_the_end(
    pair: World,
) -> None:
    pair.settings.replace("messages: {max_open_asks: 2000, max_closed_asks: 2000}")
    made = [ask(pair, "To: bob\nReply-By: 10s\n\nhow?") for _ in range(1000)]
    pair.clock.advance(10)
    assert again(pair, made[700]).state is EXPIRED
    late = reply(pair, made[701].id)
    assert (made[701].state, pair.header(late, "In-Reply-To")) == (EXPIRED, None)
    assert sum(one.open for one in made) >= 500  # the others are not held up by all of them
    while pair.timers.run_due() < 10:
        pair.clock.advance(0.02)
    assert {one.state for one in made} == {EXPIRED}
    pair.clock.advance(86_400)
    while pair.asks.tidy():
        pass
    assert not pair.asks.of("alice")
