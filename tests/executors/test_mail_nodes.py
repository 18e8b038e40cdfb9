"""Nodes that send mail, and nodes that an agent does: once each, whoever dies when."""

from __future__ import annotations

import errno

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.executors.starters import of_run
from agentfs.mail.message import Draft
from agentfs.manifests.plan import Retry
from agentfs.workflow.model import Run
from tests.executors.office import Office
from tests.workflow.lab import node
from tests.world import OPERATOR


def ask(office: Office, **spec: object) -> Run:
    """A run whose one node bob is to do."""
    fields = {"output_schema": spec.pop("output_schema", None), "retry": spec.pop("retry", Retry())}
    return office.begin("agent", {"agent": "bob", "prompt": "Go."} | spec, **fields)


def message(office: Office, **spec: object) -> Run:
    return office.begin("message", {"to": "bob", "body": "hello"} | spec)


# -- messages --------------------------------------------------------------------------------------


def test_a_message_comes_from_the_starter_and_names_the_run(office: Office) -> None:
    run = message(office, subject="News", type="report", headers={"Topic": ["a", 1]})
    [letter] = office.letters("bob")
    head, _, body = letter.partition("\n\n")
    assert body == "hello\n"
    for line in ("From: ann", "To: bob", "Subject: News", "Type: report", 'Topic: ["a", 1]'):
        assert line in head.splitlines()
    assert f"Run: {run.id}\nNode: n\nAttempt: 1" in head
    output = office.output(run, "n")
    assert output["to"] == "bob"
    assert office.world.mail.archive.find(int(output["message"])) is not None
    assert office.state(run) == "completed"


def test_it_is_sent_once_whenever_the_daemon_dies(office: Office) -> None:
    """It is in the commit in which the node ends: there is no moment between the two."""
    office.pipeline(
        node("a", "message", spec={"to": "bob", "body": "one"}),
        node("b", "program", "a"),
        node("c", "message", "b", spec={"to": "bob", "body": "two"}),
    )
    run = office.begin_plan()
    office.restart()
    office.restart()
    assert [letter.rpartition("\n\n")[2] for letter in office.letters("bob")] == ["one\n"]
    office.done("b")
    office.restart()
    assert len(office.letters("bob")) == 2
    assert office.state(run) == "completed"


def test_several_get_it_or_none_does(office: Office) -> None:
    run = message(office, to=["bob", "init"])
    assert [each["to"] for each in office.output(run, "n")["messages"]] == ["bob", "init"]
    assert len(office.letters("bob")) == len(office.letters("init")) == 1
    run = message(office, to=["bob", "nobody"])
    assert office.error(run, "n").startswith("ENOENT: ")
    assert len(office.letters("bob")) == 1


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"to": "nobody"}, "ENOENT"),
        ({"to": "bob, ann"}, "EINVAL"),
        ({"type": "step"}, "EINVAL"),
        ({"headers": {"Reply-By": "yesterday"}}, "EINVAL"),
        ({"headers": {"a b": "c"}}, "EINVAL"),
        ({"body": "x" * 2_000_000}, "EMSGSIZE"),
    ],
)
def test_what_cannot_be_sent_sends_nothing_and_says_why(
    office: Office, spec: dict[str, object], code: str
) -> None:
    run = message(office, **spec)
    assert office.error(run, "n").startswith(f"{code}: ")
    assert office.state(run) == "failed"
    assert office.letters("bob") == []


def test_a_value_brings_no_header_of_its_own(office: Office) -> None:
    message(office, subject="a\nPriority: critical\r\nTo: ann", headers={"X": "1\n\nbody"})
    [letter] = office.letters("bob")
    assert "\nPriority: normal\n" in letter
    assert letter.endswith("\n\nhello\n")


def test_nobody_but_the_kernel_says_which_run_a_message_comes_from(office: Office) -> None:
    office.world.send("bob", "ann", "Subject: x\nRun: 7\nStep-Key: 7/n\n\nhello")
    [letter] = office.letters("ann")
    assert "\nRun:" not in letter.partition("\n\n")[0]
    now = office.world.clock.now()
    draft = Draft.parse(b"To: bob\nRun: 7\nStep-Key: 7/n\n\nhello", now=now)
    assert draft.headers == []
    with pytest.raises(KernelError, match="the kernel's word"):
        office.world.send("bob", "ann", "Type: step\n\nhello")


def test_mail_that_somebody_has_to_approve_fails_the_node_instead_of_waiting_for_ever(
    office: Office,
) -> None:
    rule = "{effect: allow, agent: ann, action: send, approval: {by: operator}}"
    office.world.kernel.acl.replace(f"rules:\n- {rule}\n")
    for run in (message(office), ask(office)):
        assert office.state(run) == "failed"
        assert "cannot ask for that" in office.error(run, "n")
    assert office.letters("bob") == []


def test_a_starter_that_is_no_more_sends_nothing(office: Office) -> None:
    office.pipeline(node("a"), node("n", "message", "a", spec={"to": "bob", "body": "x"}))
    run = office.begin_plan()
    ann = office.world.table.by_name("ann")
    assert ann is not None
    office.world.end(ann, 0)
    office.world.kernel.supervisor.reap(ann)
    office.world.kernel.agents.remove(OPERATOR, "ann")
    office.done("a")
    assert office.error(run, "n").startswith("EHOSTUNREACH: ann, who started p@")
    assert office.letters("bob") == []


def test_a_starter_that_has_ended_still_speaks(office: Office) -> None:
    office.pipeline(node("a"), node("n", "message", "a", spec={"to": "bob", "body": "x"}))
    office.begin_plan()
    ann = office.world.table.by_name("ann")
    assert ann is not None
    office.world.end(ann, 0)
    office.done("a")
    assert "\nFrom: ann\n" in office.letters("bob")[0]


# -- agents ----------------------------------------------------------------------------------------


def test_the_reply_of_the_agent_is_the_output(office: Office) -> None:
    run = ask(office, prompt="Add 1 and 2.", patience="1h")
    [letter] = office.letters("bob")
    head, _, body = letter.partition("\n\n")
    assert body == "Add 1 and 2.\n"
    assert "From: ann\nTo: bob\n" in head
    assert f"Type: step\nRun: {run.id}\nNode: n\nAttempt: 1\nStep-Key: {run.id}/n" in head
    assert "\nReply-By: " in head
    assert office.state(run, "n") == "waiting"
    assert office.state(run) == "suspended"
    office.reply("3\n")
    assert office.output(run, "n") == "3"
    assert office.state(run) == "completed"
    assert office.letters("ann") == [], "the answer is the output, and no mail"


def test_an_object_is_a_value(office: Office) -> None:
    run = ask(office)
    office.reply('{"sum": 3}\n')
    assert office.output(run, "n") == {"sum": 3}


def test_nobody_else_answers(office: Office) -> None:
    run = ask(office)
    [question] = office.world.mail.mailbox("bob").new.values()
    office.world.send("carol", "ann", f"In-Reply-To: {question.seq}\n\nmine")
    office.settle()
    assert office.state(run, "n") == "waiting"
    office.reply("bob's")
    assert office.output(run, "n") == "bob's"


def test_a_second_answer_changes_nothing(office: Office) -> None:
    run = ask(office)
    [question] = office.world.mail.mailbox("bob").new.values()
    office.reply("one")
    office.world.send("bob", "ann", f"In-Reply-To: {question.seq}\n\ntwo")
    office.settle()
    assert office.output(run, "n") == "one"


def test_an_answer_after_the_cancel_changes_nothing_and_the_agent_is_told(office: Office) -> None:
    run = ask(office)
    [question] = office.world.mail.mailbox("bob").new.values()
    office.runs.cancel(office.world.principal("ann"), run.id)
    office.settle()
    [notice] = office.letters("bob")
    assert "Type: ask-cancelled" in notice
    office.world.send("bob", "ann", f"In-Reply-To: {question.seq}\n\nlate")
    office.settle()
    assert (office.state(run), office.state(run, "n")) == ("cancelled", "cancelled")
    assert office.world.asks.waiting == 0


def test_the_claim_of_a_dead_program_comes_back_and_the_next_one_answers(office: Office) -> None:
    run, world = ask(office), office.world
    bob = world.table.by_name("bob")
    assert bob is not None
    assert world.recv("bob") == "Go.\n"
    world.end(bob, 1, restart=True)
    office.settle()
    assert office.state(run, "n") == "waiting"
    office.reply("done")
    assert office.output(run, "n") == "done"


def test_an_agent_that_ends_for_good_is_no_longer_waited_for(office: Office) -> None:
    run, world = ask(office, retry=Retry(2, 5.0)), office.world
    bob = world.table.by_name("bob")
    assert bob is not None
    world.end(bob, 1)
    office.settle()
    assert office.row(run).error == "EHOSTUNREACH: bob has ended, and nobody works for it"
    assert office.state(run, "n") == "backoff"
    assert world.asks.waiting == 0
    world.process("bob")
    office.advance(5)
    office.reply("back")
    assert office.output(run, "n") == "back"


@pytest.mark.parametrize("name", ["nobody", "idle"])
def test_an_agent_that_nobody_works_for(office: Office, name: str) -> None:
    office.world.agent("idle")
    run = ask(office, agent=name)
    assert office.error(run, "n") == f"EHOSTUNREACH: nobody works for agent '{name}'"
    assert office.state(run) == "failed"


def test_nobody_answers_in_time(office: Office) -> None:
    run = ask(office, patience="10s")
    office.advance(11)
    row = office.row(run)
    assert row.error.startswith("ETIMEDOUT: ")
    assert (row.kind, office.state(run)) == ("timeout", "failed")


@pytest.mark.parametrize("text", ["soon", True, "-1"])
def test_a_patience_that_is_none(office: Office, text: object) -> None:
    assert office.error(ask(office, patience=text), "n").startswith("EINVAL: patience: ")


def test_the_timeout_of_the_node_is_that_of_the_question(office: Office) -> None:
    run = office.begin("agent", {"agent": "bob", "patience": "1h"}, timeout=5.0)
    [question] = office.world.asks.of("ann").values()
    assert question.deadline == office.world.clock.now() + 5
    office.advance(5)
    assert office.state(run) == "failed"
    assert office.world.asks.waiting == 0


@pytest.mark.parametrize("ending", ["answered", "expired", "cancelled"])
def test_an_end_between_two_daemons_is_found(
    office: Office, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question has ended, and the daemon died before the step had."""
    run, world = ask(office, patience="10s"), office.world
    with monkeypatch.context() as dying:
        dying.setattr("agentfs.executors.agents.AgentNodes._over", lambda self, number: None)
        if ending == "answered":
            office.reply("there")
        elif ending == "expired":
            office.advance(11)
        else:
            [question] = world.asks.of("ann").values()
            world.asks.cancel(world.principal("ann"), "ann", question.id)
    assert office.state(run, "n") == "waiting"
    office.restart()
    if ending == "answered":
        assert office.output(run, "n") == "there"
    else:
        code = "ETIMEDOUT" if ending == "expired" else "ECANCELED"
        assert office.error(run, "n").startswith(code)


def test_a_question_survives_the_daemon_and_is_put_once(office: Office) -> None:
    run = ask(office)
    office.restart()
    office.restart()
    assert len(office.letters("bob")) == 1
    office.reply("there")
    assert office.output(run, "n") == "there"


def test_too_many_open_questions_leave_it_pending_until_one_is_answered(office: Office) -> None:
    office.world.settings.replace("messages: {max_open_asks: 1}\n")
    first = ask(office)
    second = ask(office)
    assert office.state(second, "n") in ("none", "pending")
    office.reply("one")
    office.advance(1)
    assert office.output(first, "n") == "one"
    office.reply("two")
    assert office.output(second, "n") == "two"


def test_two_agents_answer_apart(office: Office) -> None:
    office.pipeline(
        node("left", "agent", spec={"agent": "bob", "prompt": "l"}),
        node("right", "agent", spec={"agent": "carol", "prompt": "r"}),
        node("after", "data", "left right", spec={"output": 1}),
    )
    run = office.begin_plan()
    office.reply("from bob")
    assert office.output(run, "left") == "from bob"
    assert office.state(run, "right") == "waiting"
    [question] = office.world.mail.mailbox("carol").new.values()
    office.world.send("carol", "ann", f"In-Reply-To: {question.seq}\n\nfrom carol")
    office.settle()
    assert office.output(run, "right") == "from carol"
    assert office.state(run) == "completed"


# -- answers that have to fit ----------------------------------------------------------------------

SUM = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text", ['{"sum": 3}', 'Sure:\n```json\n{"sum": 3}\n```\nAnything else?', ' {"sum":3}\n\n']
)
def test_an_answer_that_fits(office: Office, text: str) -> None:
    run = ask(office, output_schema=SUM)
    assert "fits this JSON Schema" in office.letters("bob")[0]
    office.reply(text)
    assert office.output(run, "n") == {"sum": 3}


def test_an_answer_that_does_not_fit_is_sent_back_with_words(office: Office) -> None:
    run = ask(office, output_schema=SUM)
    office.reply('{"sum": "three"}')
    assert office.state(run, "n") == "waiting"
    [letter] = office.letters("bob")
    for part in ("Type: step", "Repair: 1", "In-Reply-To: ", "That does not fit: $.sum: "):
        assert part in letter
    office.restart()  # the daemon dies while the agent thinks again
    office.reply('{"sum": 3}')
    assert office.output(run, "n") == {"sum": 3}


def test_twice_and_no_more(office: Office) -> None:
    run = ask(office, output_schema=SUM, retry=Retry(3))
    for answer in ("three", "[3]", '{"total": 3}'):
        assert office.state(run, "n") == "waiting"
        office.reply(answer)
    row = office.row(run)
    assert row.error.startswith("bob answered 3 times what does not fit: $")
    assert (row.kind, row.attempt) == ("schema", 1), "no other attempt follows"
    assert office.letters("bob") == []
    assert office.world.asks.waiting == 0


def test_the_time_for_all_answers_is_one(office: Office) -> None:
    run = ask(office, output_schema=SUM)
    [first] = office.world.asks.of("ann").values()
    office.reply("three")
    [second] = [each for each in office.world.asks.of("ann").values() if each.open]
    assert second.deadline == first.deadline
    office.advance(601)
    assert office.error(run, "n").startswith("ETIMEDOUT")


def test_a_cancel_while_it_is_repaired_withdraws_the_second_question(office: Office) -> None:
    run = ask(office, output_schema=SUM)
    office.reply("three")
    office.runs.cancel(office.world.principal("ann"), run.id)
    office.settle()
    assert office.world.asks.waiting == 0
    assert [letter.count("ask-cancelled") for letter in office.letters("bob")] == [1]


def test_a_step_has_no_mail_of_its_own(office: Office) -> None:
    office.pipeline(node("a"))
    run = office.begin_plan()
    process = office.world.table.get(run.id)
    with pytest.raises(KernelError) as refusal:
        draft = Draft.parse(b"hello", now=office.world.clock.now(), to="bob")
        office.world.mail.send(of_run(process), "ann", draft)
    assert refusal.value.errno == errno.EPERM


def test_faults_of_what_steps_wait_for_are_found(office: Office) -> None:
    ask(office)
    store, path = office.world.store, office.world.state / "store.db"
    assert check(path) == []
    planted = {"step_ask": "9", "step_approval": "8", "wake": "7"}
    with store.transaction():
        for kind, key in planted.items():
            store.put_record(kind, key, {"odd": 1})
    found = check(path)
    assert len(found) == 3
    assert all("its record cannot be read" in fault for fault in found)
    with store.transaction():
        for kind, key in planted.items():
            store.delete_record(kind, key)
