"""Nodes that send mail, and nodes that an agent does: once each, whoever dies when."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.executors.agents import AgentNodes
from agentfs.executors.messages import MessageNodes
from agentfs.mail.message import Draft
from agentfs.workflow.model import Step, StepRef
from tests.executors.desk import Desk, Steps
from tests.world import World


class MailWorld(World):
    """A world with the agents ann, who has started a run, and bob, who works for it."""

    steps: Steps | None = None
    desk: Desk

    def _start(self) -> None:
        super()._start()
        kernel, before = self.kernel, getattr(self, "desk", None)
        self.desk = Desk(self.store)
        if before is not None:  # the journal survives
            self.desk.open, self.desk.waiting = before.open, before.waiting
        agents = kernel.agents
        add = kernel.ground.parts.add
        self.messages = add(MessageNodes(kernel.ground, self.desk, kernel.mail, agents))
        self.nodes = add(
            AgentNodes(kernel.ground, self.desk, kernel.table, kernel.mail, kernel.asks, agents)
        )
        for part in (self.messages, self.nodes):
            part.load()
        for part in (self.messages, self.nodes):
            part.take_up()

    def made(self) -> Steps:
        assert self.steps is not None
        return self.steps

    def ask(self, attempt: int = 1, **spec: object) -> StepRef:
        step = self.made().make("agent", {"agent": "bob", "prompt": "Go."} | spec, attempt)
        self.desk.do(self.nodes, step)
        return step.ref

    def reply(self, text: str, to: str = "ann") -> None:
        """bob takes what waits and answers the newest."""
        taken = 0
        while message := self.mail.receiving.claim_next(self.principal("bob"), "bob"):
            taken = message.seq
        self.send("bob", to, f"In-Reply-To: {taken}\n\n{text}")

    def letters(self, name: str) -> list[str]:
        box = self.mail.mailbox(name)
        return [self.mail.content(m).decode() for _, m in sorted(box.new.items())]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MailWorld]:
    world = MailWorld(tmp_path)
    world.process("ann")
    world.process("bob")
    world.steps = Steps(world, "ann")
    yield world
    world.close()


# -- messages --------------------------------------------------------------------------------------


def _message(world: MailWorld, attempt: int = 1, **spec: object) -> Step:
    return world.made().make("message", {"to": "bob", "body": "hello"} | spec, attempt)


def test_a_message_comes_from_the_starter_and_names_the_run(world: MailWorld) -> None:
    step = _message(world, subject="News", type="report", headers={"Topic": ["a", 1]})
    world.desk.do(world.messages, step)
    [letter] = world.letters("bob")
    head, _, body = letter.partition("\n\n")
    assert body == "hello\n"
    for line in ("From: ann", "To: bob", "Subject: News", "Type: report", 'Topic: ["a", 1]'):
        assert line in head.splitlines()
    assert f"Run: {step.ref.run}\nNode: n\nAttempt: 1" in head
    [output] = world.desk.over.values()
    assert output["to"] == "bob"
    assert world.mail.archive.find(int(output["message"])) is not None


@pytest.mark.parametrize("when", ["before the commit", "after it", "after the end"])
def test_it_is_sent_once_whenever_the_daemon_dies(world: MailWorld, when: str) -> None:
    step = _message(world)
    if when == "before the commit":
        with pytest.raises(ZeroDivisionError), world.store.transaction():
            world.desk.begin(world.messages, step)
            raise ZeroDivisionError
        world.desk.begin(world.messages, step)
    else:
        world.desk.begin(world.messages, step)
        if when == "after the end":
            world.messages.start(step, again=False)
    world.restart()
    world.messages.start(step, again=True)  # of the end the engine knows, and does not ask
    assert len(world.letters("bob")) == 1
    assert list(world.desk.over) == ([] if when == "after the end" else [step.ref])


def test_several_get_it_or_none_does(world: MailWorld) -> None:
    world.desk.do(world.messages, _message(world, to=["bob", "init"]))
    [output] = world.desk.over.values()
    assert [each["to"] for each in output["messages"]] == ["bob", "init"]
    assert len(world.letters("bob")) == len(world.letters("init")) == 1
    with pytest.raises(KernelError) as refusal:
        world.desk.begin(world.messages, _message(world, 2, to=["bob", "nobody"]))
    assert refusal.value.errno == errno.ENOENT
    assert len(world.letters("bob")) == 1


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"to": "nobody"}, errno.ENOENT),
        ({"to": "bob, ann"}, errno.EINVAL),
        ({"type": "step"}, errno.EINVAL),
        ({"headers": {"Reply-By": "yesterday"}}, errno.EINVAL),
        ({"headers": {"a b": "c"}}, errno.EINVAL),
        ({"body": "x" * 2_000_000}, errno.EMSGSIZE),
    ],
)
def test_what_cannot_be_sent_sends_nothing(
    world: MailWorld, spec: dict[str, object], code: int
) -> None:
    with pytest.raises(KernelError) as refusal:
        world.desk.begin(world.messages, _message(world, **spec))
    assert refusal.value.errno == code
    assert world.letters("bob") == []


def test_a_value_brings_no_header_of_its_own(world: MailWorld) -> None:
    step = _message(world, subject="a\nPriority: critical\r\nTo: ann", headers={"X": "1\n\nbody"})
    world.desk.do(world.messages, step)
    [letter] = world.letters("bob")
    assert "\nPriority: normal\n" in letter
    assert letter.endswith("\n\nhello\n")


def test_nobody_but_the_kernel_says_which_run_a_message_comes_from(world: MailWorld) -> None:
    world.send("bob", "ann", "Subject: x\nRun: 7\nStep-Key: 7/n\n\nhello")
    [letter] = world.letters("ann")
    assert "\nRun:" not in letter.partition("\n\n")[0]
    draft = Draft.parse(b"To: bob\nRun: 7\nStep-Key: 7/n\n\nhello", now=world.clock.now())
    assert draft.headers == []
    with pytest.raises(KernelError, match="the kernel's word"):
        world.send("bob", "ann", "Type: step\n\nhello")


def test_a_starter_that_is_no_more_sends_nothing(world: MailWorld) -> None:
    world.made().process.behalf = "gone"
    with pytest.raises(KernelError) as refusal:
        world.desk.begin(world.messages, _message(world))
    assert refusal.value.errno == errno.EHOSTUNREACH


# -- agents ----------------------------------------------------------------------------------------


def test_the_reply_of_the_agent_is_the_output(world: MailWorld) -> None:
    ref = world.ask(prompt="Add 1 and 2.", patience="1h")
    [letter] = world.letters("bob")
    head, _, body = letter.partition("\n\n")
    assert body == "Add 1 and 2.\n"
    assert "From: ann\nTo: bob\n" in head
    assert f"Type: step\nRun: {ref.run}\nNode: n\nAttempt: 1\nStep-Key: {ref.run}/n" in head
    assert "\nReply-By: " in head
    assert ref in world.desk.waiting
    world.reply("3\n")
    assert world.desk.over == {ref: "3"}
    assert world.letters("ann") == [], "the answer is the output, and no mail"


def test_an_object_is_a_value(world: MailWorld) -> None:
    ref = world.ask()
    world.reply('{"sum": 3}\n')
    assert world.desk.over == {ref: {"sum": 3}}


def test_nobody_else_answers(world: MailWorld) -> None:
    world.process("eve")
    ref = world.ask()
    [message] = world.mail.mailbox("bob").new.values()
    world.send("eve", "ann", f"In-Reply-To: {message.seq}\n\nmine")
    assert ref not in world.desk.over
    world.reply("bob's")
    assert world.desk.over == {ref: "bob's"}


def test_a_second_answer_changes_nothing(world: MailWorld) -> None:
    ref = world.ask()
    [message] = world.mail.mailbox("bob").new.values()
    world.reply("one")
    world.send("bob", "ann", f"In-Reply-To: {message.seq}\n\ntwo")
    assert world.desk.over == {ref: "one"}


def test_an_answer_after_the_cancel_changes_nothing_and_the_agent_is_told(
    world: MailWorld,
) -> None:
    ref = world.ask()
    [message] = world.mail.mailbox("bob").new.values()
    world.desk.cancel(world.nodes, ref)
    [notice] = world.letters("bob")
    assert "Type: ask-cancelled" in notice
    world.send("bob", "ann", f"In-Reply-To: {message.seq}\n\nlate")
    assert not world.desk.over
    assert not world.desk.failed
    assert world.asks.waiting == 0


def test_the_claim_of_a_dead_program_comes_back_and_the_next_one_answers(world: MailWorld) -> None:
    ref = world.ask()
    bob = world.table.by_name("bob")
    assert bob is not None
    assert world.recv("bob") == "Go.\n"
    world.end(bob, 1, restart=True)
    assert ref not in world.desk.failed
    world.reply("done")
    assert world.desk.over == {ref: "done"}


def test_an_agent_that_ends_for_good_is_no_longer_waited_for(world: MailWorld) -> None:
    ref = world.ask()
    bob = world.table.by_name("bob")
    assert bob is not None
    world.end(bob, 1)
    error, again, _ = world.desk.failed[ref]
    assert error.startswith("EHOSTUNREACH: bob has ended")
    assert again, "the next attempt may find it at work"
    assert world.asks.waiting == 0


@pytest.mark.parametrize("name", ["nobody", "idle"])
def test_an_agent_that_nobody_works_for(world: MailWorld, name: str) -> None:
    world.agent("idle")
    with pytest.raises(KernelError) as refusal:
        world.ask(agent=name)
    assert refusal.value.errno == errno.EHOSTUNREACH


def test_nobody_answers_in_time(world: MailWorld) -> None:
    ref = world.ask(patience="10s")
    world.clock.advance(11)
    world.asks.expire_due()
    error, again, kind = world.desk.failed[ref]
    assert error.startswith("ETIMEDOUT")
    assert (again, kind) == (True, "timeout")


@pytest.mark.parametrize("text", ["soon", True, "-1"])
def test_a_patience_that_is_none(world: MailWorld, text: object) -> None:
    with pytest.raises(KernelError) as refusal:
        world.ask(patience=text)
    assert refusal.value.errno == errno.EINVAL


def test_the_deadline_of_the_step_is_that_of_the_question(world: MailWorld) -> None:
    now = world.clock.now()
    step = world.made().make("agent", {"agent": "bob", "patience": "1h"}, deadline=now + 5, input=1)
    world.desk.do(world.nodes, step)
    [ask] = world.asks.of("ann").values()
    assert ask.deadline == now + 5


@pytest.mark.parametrize("ending", ["answered", "expired", "cancelled"])
def test_an_end_between_two_daemons_is_found(world: MailWorld, ending: str) -> None:
    """The question has ended, and the daemon died before the step had."""
    ref = world.ask(patience="10s")
    world.nodes._over = lambda number: None  # type: ignore[method-assign]  # it dies here
    if ending == "answered":
        world.reply("there")
    elif ending == "expired":
        world.clock.advance(11)
        world.asks.expire_due()
    else:
        [ask] = world.asks.of("ann").values()
        world.asks.cancel(world.principal("ann"), "ann", ask.id)
    world.restart()
    if ending == "answered":
        assert world.desk.over == {ref: "there"}
    else:
        assert world.desk.failed[ref][0].startswith(
            "ETIMEDOUT" if ending == "expired" else "ECANCELED"
        )


def test_a_question_survives_the_daemon_and_is_put_once(world: MailWorld) -> None:
    ref = world.ask()
    world.restart()
    world.nodes.start(world.desk.open[ref], again=True)
    assert len(world.letters("bob")) == 1
    world.reply("there")
    assert world.desk.over == {ref: "there"}


def test_too_many_open_questions_leave_it_pending(world: MailWorld) -> None:
    world.settings.replace("messages: {max_open_asks: 1}\n")
    world.ask()
    with pytest.raises(KernelError) as refusal:
        world.ask(2)
    assert refusal.value.errno == errno.EAGAIN


# -- answers that have to fit ----------------------------------------------------------------------

SUM = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}


def _fitting(world: MailWorld) -> StepRef:
    step = world.made().make(
        "agent", {"agent": "bob", "prompt": "1 + 2?"}, path="add", output_schema=SUM
    )
    world.desk.do(world.nodes, step)
    return step.ref


@pytest.mark.parametrize(
    "text", ['{"sum": 3}', 'Sure:\n```json\n{"sum": 3}\n```\nAnything else?', ' {"sum":3}\n\n']
)
def test_an_answer_that_fits(world: MailWorld, text: str) -> None:
    ref = _fitting(world)
    assert "fits this JSON Schema" in world.letters("bob")[0]
    world.reply(text)
    assert world.desk.over == {ref: {"sum": 3}}


def test_an_answer_that_does_not_fit_is_sent_back_with_words(world: MailWorld) -> None:
    ref = _fitting(world)
    world.reply('{"sum": "three"}')
    assert not world.desk.over
    assert ref not in world.desk.failed
    [letter] = world.letters("bob")
    assert "Type: step" in letter
    assert "Repair: 1" in letter
    assert "In-Reply-To: " in letter
    assert "That does not fit: $.sum" in letter or '"three"' in letter
    world.restart()  # the daemon dies while the agent thinks again
    world.reply('{"sum": 3}')
    assert world.desk.over == {ref: {"sum": 3}}


def test_twice_and_no_more(world: MailWorld) -> None:
    ref = _fitting(world)
    for answer in ("three", "[3]", '{"total": 3}'):
        assert ref not in world.desk.failed
        world.reply(answer)
    error, again, kind = world.desk.failed[ref]
    assert error.startswith("bob answered 3 times what does not fit: $")
    assert (again, kind) == (False, "schema")
    assert world.letters("bob") == []
    assert world.asks.waiting == 0


def test_the_time_for_all_answers_is_one(world: MailWorld) -> None:
    ref = _fitting(world)
    [first] = world.asks.of("ann").values()
    world.reply("three")
    [second] = [ask for ask in world.asks.of("ann").values() if ask.open]
    assert second.deadline == first.deadline
    world.clock.advance(601)
    world.asks.expire_due()
    assert world.desk.failed[ref][0].startswith("ETIMEDOUT")


def test_a_cancel_while_it_is_repaired_withdraws_the_second_question(world: MailWorld) -> None:
    ref = _fitting(world)
    world.reply("three")
    world.desk.cancel(world.nodes, ref)
    assert world.asks.waiting == 0
    assert [letter.count("ask-cancelled") for letter in world.letters("bob")] == [1]
