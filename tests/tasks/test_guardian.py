"""The guardian: who is asked about a task and its result, what counts as a yes, what survives."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.names import INIT_NAME
from agentfs.tasks.events import TaskJudged, TaskRejected, TaskValidated
from tests.tasks.office import Office, guardian_of
from tests.world import OPERATOR

APPROVE = "rules: [{name: ask, action: approve, by: [ann, bob], timeout: 1m}]\n"
PANEL = "rules: [{name: panel, action: consensus, voters: [ann, bob, cleo], timeout: 1m}]\n"
RESULT = "rules: [{name: check, when: result, action: approve, by: ann, timeout: 1m}]\n"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path / "state")
    for name in ("ann", "bob", "cleo"):
        made.process(name)
    yield made
    made.close()


def decide(office: Office, who: str, number: int, approve: bool, reason: str = "") -> None:
    principal = OPERATOR if who == "operator" else office.principal(who)
    office.kernel.approvals.decide(principal, number, approve=approve, reason=reason)


# -- rules -----------------------------------------------------------------------------------------


def test_a_rule_rejects_a_task_in_the_call_that_submits_it(office: Office) -> None:
    office.guardian("rules: [{name: quiet, match: task.priority > 7, action: reject}]\n")
    office.register("w1")
    loud, quiet = office.submit(priority=9), office.submit(priority=1)
    assert office.state_of(loud) == "rejected"
    assert office.verdict(loud) == (False, "quiet", "rule quiet rejects it")
    assert office.state_of(quiet) == "assigned"
    [event] = [each for each in office.seen if isinstance(each, TaskJudged)]
    assert (event.submitter, event.task, event.when) == ("init", loud, "submit")
    assert not event.passed
    kinds = [type(each) for each in office.seen]
    assert kinds.index(TaskJudged) < kinds.index(TaskRejected)


def test_a_task_that_no_rule_is_about_is_no_judgement(office: Office) -> None:
    number = office.submit()
    assert office.verdict(number) == (True, "default", "")
    assert office.judged() == []
    office.guardian("default: reject\n")
    assert office.state_of(office.submit()) == "rejected"
    assert office.judged() == [("submit", False, "default")]


def test_another_document_is_for_the_judgements_that_begin_after_it(office: Office) -> None:
    office.guardian(APPROVE)
    first = office.submit()
    office.guardian("rules: [{name: none, action: reject}]\n")
    assert office.state_of(first) == "pending"
    decide(office, "ann", 1, True)
    assert office.state_of(first) == "validated"
    assert office.state_of(office.submit()) == "rejected"


def test_a_document_with_faults_changes_nothing(office: Office) -> None:
    office.guardian(APPROVE)
    with pytest.raises(KernelError) as refused:
        office.guardian("rules: [{name: ask, action: aprove}]\n")
    assert refused.value.errno == errno.EINVAL
    assert office.kernel.guardian_rules.text == APPROVE


# -- approval --------------------------------------------------------------------------------------


def test_an_approver_is_asked_and_decides(office: Office) -> None:
    office.guardian(APPROVE)
    first = office.submit("count\nsubmitter: boss", input={"n": 1})
    second = office.submit()
    [request, _] = office.kernel.approvals
    assert (request.agent, request.path) == ("init", f"/dev/tasks/{first}")
    assert request.deciders == ["ann", "bob"]
    shown = request.content.decode()
    assert shown.startswith(f"May task {first} of init be done?\n\nid: {first}\npriority: 5\n")
    assert '\n> count\n> submitter: boss\ninput: {"n":1}\n' in shown
    assert len(office.waiting("ann")) == 2
    decide(office, "bob", 1, True)
    decide(office, "ann", 2, False, "too dear")
    assert office.verdict(first) == (True, "ask (bob)", "")
    assert office.verdict(second) == (False, "ask (ann)", "too dear")
    assert (office.state_of(first), office.state_of(second)) == ("validated", "rejected")
    assert office.judged() == [("submit", True, "ask (bob)"), ("submit", False, "ask (ann)")]
    assert [each.state.value for each in office.kernel.approvals] == ["used", "rejected"]


def test_nobody_decides_in_time_is_a_no(office: Office) -> None:
    office.guardian(APPROVE)
    number = office.submit()
    office.pass_time(59)
    assert office.state_of(number) == "pending"
    office.pass_time(2)
    assert office.verdict(number) == (False, "ask", "nobody decided request 000001 in time")


def test_nobody_approves_a_task_of_their_own(office: Office) -> None:
    office.guardian(APPROVE)
    number = office.submit(by=office.principal("ann"))
    [request] = office.kernel.approvals
    assert request.deciders == ["bob"]
    with pytest.raises(KernelError):
        decide(office, "ann", 1, True)
    assert office.state_of(number) == "pending"
    office.guardian("rules: [{name: own, action: approve, by: ann}]\n")
    office.submit(by=office.principal("ann"))
    assert [each.deciders for each in office.kernel.approvals][1] == ["operator"]


def test_a_submitter_who_waits_for_too_many_decisions_submits_nothing(office: Office) -> None:
    office.guardian(APPROVE)
    office.settings.replace("approvals:\n  max_pending: 1\n")
    office.submit(by=office.principal("cleo"))
    with pytest.raises(KernelError) as refused:
        office.submit(by=office.principal("cleo"))
    assert refused.value.errno == errno.EAGAIN
    assert len(office.kernel.tasks.table.open) == len(guardian_of(office.kernel)) == 1
    assert office.state_of(office.submit()) == "pending", "others are not kept from it"


def test_a_task_that_has_passed_cannot_become_one_that_would_not(office: Office) -> None:
    office.guardian(
        "rules:\n"
        "- {name: costly, match: task.priority > 7, action: approve}\n"
        "- {name: never, match: task.priority == 7, action: reject, reason: not seven}\n"
    )
    number = office.submit(by=office.principal("cleo"), priority=1)
    tasks = office.kernel.tasks
    for priority, words in ((9, "rule costly of /etc/guardian.yaml is about"), (7, "not seven")):
        with pytest.raises(KernelError) as refused:
            tasks.set_priority(office.principal("cleo"), number, priority)
        assert refused.value.errno == errno.EPERM
        assert refused.value.reason.startswith(words)
    tasks.set_priority(office.principal("cleo"), number, 6)
    tasks.set_priority(OPERATOR, number, 9)
    assert office.task(number).priority == 9
    office.guardian(APPROVE)
    number = office.submit(by=office.principal("cleo"), priority=5)
    decide(office, "ann", 1, True)
    tasks.set_priority(office.principal("cleo"), number, 4)
    with pytest.raises(KernelError):
        tasks.set_priority(office.principal("cleo"), number, 5)  # ann has agreed to no such task


def test_a_task_says_whom_its_judgement_waits_for(office: Office) -> None:
    office.guardian(APPROVE)
    reason = office.kernel.tasks.reason
    number = office.submit()
    assert reason(office.task(number)) == "rule ask: request 000001 of /dev/approvals"
    decide(office, "ann", 1, True)
    assert reason(office.task(number)) == "there is no worker"
    office.guardian(PANEL)
    number = office.submit()
    office.reply("ann", office.question("ann"), "yes")
    assert reason(office.task(number)) == "rule panel: the votes of bob, cleo"


# -- consensus -------------------------------------------------------------------------------------


def test_a_majority_passes_a_task_and_the_rest_is_not_waited_for(office: Office) -> None:
    office.guardian(PANEL)
    number = office.submit()
    office.reply("ann", office.question("ann"), "Yes, why not")
    assert office.state_of(number) == "pending"
    office.reply("cleo", office.question("cleo"), "yes")
    assert office.verdict(number) == (True, "panel (ann yes, cleo yes)", "")
    assert office.kernel.asks.waiting == 0, "bob need not answer"
    assert office.kernel.asks.of(INIT_NAME) == {}


def test_a_task_falls_as_soon_as_no_vote_can_save_it(office: Office) -> None:
    office.guardian(PANEL)
    number = office.submit()
    office.reply("ann", office.question("ann"), "no: it is dear")
    office.reply("bob", office.question("bob"), "I would say yes")  # a word that is no yes is a no
    passed, by, reason = office.verdict(number)
    assert (passed, by) == (False, "panel (ann no, bob no)")
    assert reason == "2 had to agree, and 0 did: ann: no it is dear; bob: no I would say yes"


@pytest.mark.parametrize(
    ("quorum", "yes", "passes"),
    [("1", 1, True), ("2", 1, False), ("majority", 2, True), ("all", 2, False), ("all", 3, True)],
)
def test_so_many_have_to_agree(office: Office, quorum: str, yes: int, passes: bool) -> None:
    office.guardian(PANEL.replace("timeout", f"quorum: {quorum}, timeout"))
    number = office.submit()
    for voter in ("ann", "bob", "cleo")[:yes]:
        office.reply(voter, office.question(voter), "yes")
    assert office.state_of(number) == ("validated" if passes else "pending")
    office.pass_time(61)
    assert office.verdict(number)[0] is passes
    assert len(guardian_of(office.kernel)) == 0


def test_one_submitter_cannot_fill_the_inboxes_of_the_voters(office: Office) -> None:
    office.guardian(PANEL)
    office.settings.replace("approvals:\n  max_pending: 2\n")
    for _ in range(2):
        office.submit(by=office.principal("cleo"))
    with pytest.raises(KernelError) as refused:
        office.submit(by=office.principal("cleo"))
    assert (refused.value.errno, refused.value.rule) == (errno.EAGAIN, "approvals.max_pending")
    assert len(office.waiting("ann")) == 2
    assert office.state_of(office.submit()) == "pending", "others are not kept from it"


def test_a_voter_whose_inbox_is_full_is_silent(office: Office) -> None:
    office.guardian(PANEL.replace("ann, bob, cleo", "ann, bob"))
    office.settings.replace("messages:\n  max_waiting: 1\n")
    office.send("cleo", "bob")
    passed, by, reason = office.verdict(office.submit())
    assert (passed, by) == (False, "panel (bob silent)")
    assert "the inbox of bob is full" in reason
    assert office.kernel.asks.waiting == 0


def test_silence_is_a_no(office: Office) -> None:
    office.guardian(PANEL)
    number = office.submit()
    office.reply("ann", office.question("ann"), "yes")
    office.pass_time(61)
    passed, by, reason = office.verdict(number)
    assert (passed, by) == (False, "panel (ann yes, bob silent, cleo silent)")
    assert reason == "2 had to agree, and 1 did: bob: silent; cleo: silent"


def test_nobody_votes_for_another_nor_twice_nor_for_themselves(office: Office) -> None:
    office.guardian(PANEL)
    number = office.submit(by=office.principal("ann"))
    assert office.waiting("ann") == []
    question = office.question("bob")
    for _ in range(2):
        office.reply("bob", question, "yes")
        office.reply("cleo", question, "yes")
    assert office.state_of(number) == "pending", "bob alone has voted, and once"
    office.reply("cleo", office.question("cleo"), "yes")
    assert office.verdict(number) == (True, "panel (bob yes, cleo yes)", "")


def test_a_quorum_that_cannot_come_about_is_a_no_at_once(office: Office) -> None:
    office.guardian(PANEL.replace("cleo", "nemo").replace("timeout", "quorum: all, timeout"))
    passed, by, reason = office.verdict(office.submit())
    assert (passed, by) == (False, "panel (nemo silent)")
    assert "there is no agent" in reason
    office.guardian("rules: [{name: self, action: consensus, voters: [ann]}]\n")
    passed, _, reason = office.verdict(office.submit(by=office.principal("ann")))
    assert not passed
    assert "but for ann there are 0" in reason
    assert office.kernel.asks.waiting == 0


def test_the_operator_may_withdraw_a_question_which_is_no_vote(office: Office) -> None:
    office.guardian("rules: [{name: one, action: consensus, voters: [ann]}]\n")
    number = office.submit()
    [question] = office.kernel.asks.of(INIT_NAME)
    office.kernel.asks.cancel(OPERATOR, INIT_NAME, question)
    assert office.verdict(number)[:2] == (False, "one (ann silent)")


def test_an_agent_that_is_removed_has_not_voted(office: Office) -> None:
    office.guardian("rules: [{name: one, action: consensus, voters: [cleo]}]\n")
    number = office.submit()
    process = office.table.by_name("cleo")
    assert process is not None
    office.end(process, 0)
    office.agents.remove(OPERATOR, "cleo")
    assert office.verdict(number)[:2] == (False, "one (cleo silent)")


# -- several rules, results ------------------------------------------------------------------------


def test_all_rules_that_match_have_to_agree_one_after_the_other(office: Office) -> None:
    office.guardian(
        "rules:\n"
        "- {name: ask, action: approve, by: ann}\n"
        "- {name: vote, action: consensus, voters: [bob]}\n"
    )
    first, second = office.submit(), office.submit()
    assert office.waiting("bob") == [], "he is asked once ann has agreed"
    decide(office, "ann", 1, True)
    decide(office, "ann", 2, False)
    assert (office.state_of(first), office.state_of(second)) == ("pending", "rejected")
    office.reply("bob", office.question("bob"), "yes")
    assert office.verdict(first) == (True, "ask (ann), vote (bob yes)", "")


def test_a_result_is_judged_too(office: Office) -> None:
    office.guardian(RESULT)
    office.register("w1")
    numbers = [office.submit(input=n) for n in range(3)]
    for number in numbers:
        office.claim("w1")
        office.finish(number, {"sum": number})
        assert office.state_of(number) == "running"
        assert office.kernel.tasks.result_of(office.task(number)) == "", "it is not out yet"
    shown = office.kernel.approvals.find(1).content.decode()  # type: ignore[union-attr]
    assert shown.startswith(f"Is the result of task {numbers[0]} right, which w1 gives?\n")
    assert f'result: {{"sum":{numbers[0]}}}' in shown
    decide(office, "ann", 1, True)
    decide(office, "ann", 2, False, "wrong sum")
    office.pass_time(61)
    assert [office.state_of(number) for number in numbers] == ["completed", "failed", "failed"]
    assert office.kernel.tasks.result_of(office.task(numbers[0])) == f'{{"sum":{numbers[0]}}}'
    assert office.kernel.tasks.result_of(office.task(numbers[1])) == ""
    assert office.task(numbers[1]).error.endswith("wrong sum")
    assert "nobody decided" in office.task(numbers[2]).error


def test_a_result_that_does_not_pass_can_mean_another_attempt(office: Office) -> None:
    office.guardian(
        "rules: [{name: sum, when: result, match: task.result != 3, action: reject, again: true}]\n"
    )
    office.register("w1")
    number = office.submit(max_attempts=2)
    office.claim("w1")
    office.finish(number, 4)
    assert (office.state_of(number), office.task(number).attempt) == ("assigned", 2)
    office.claim("w1")
    office.finish(number, 3)
    assert office.state_of(number) == "completed"


def test_a_worker_does_not_approve_its_own_result_and_its_submitter_may(office: Office) -> None:
    office.guardian("rules: [{name: c, when: result, action: approve, by: [ann, bob]}]\n")
    office.register("w1", by=office.principal("ann"), agent="ann")
    number = office.submit(by=office.principal("bob"))
    message = office.mail.receiving.claim_next(office.principal("ann"), "ann")
    assert message is not None
    office.kernel.tasks.complete(office.principal("ann"), number, 1)
    [request] = office.kernel.approvals
    assert (request.agent, request.deciders) == ("ann", ["bob"])
    with pytest.raises(KernelError):
        decide(office, "ann", 1, True)
    decide(office, "bob", 1, True)
    assert office.state_of(number) == "completed"


def test_who_cannot_be_asked_now_is_asked_later_as_long_as_there_is_time(office: Office) -> None:
    office.guardian(RESULT)
    office.register("w1")
    office.settings.replace("approvals:\n  max_pending: 1\n")
    first, second, third = office.submit(), office.submit(), office.submit()
    for number in (first, second, third):
        office.claim("w1")
        office.finish(number)
    decide(office, "ann", 1, True)
    office.pass_time(1.5)
    assert [each.path for each in office.kernel.approvals][1:] == [f"/dev/tasks/{second}"]
    office.pass_time(59)
    assert [office.state_of(n) for n in (first, second, third)] == [
        "completed",
        "running",
        "failed",
    ]
    assert "could not be asked" in office.task(third).error
    decide(office, "ann", 2, True)
    assert office.state_of(second) == "completed"


# -- what becomes of a judgement -------------------------------------------------------------------


@pytest.mark.parametrize("document", [APPROVE, PANEL])
def test_a_judgement_survives_kill_9_of_the_daemon(office: Office, document: str) -> None:
    office.guardian(document)
    first, second, third = office.submit(), office.submit(), office.submit()
    questions = [office.question("ann"), 0, 0] if document is PANEL else []
    office.restart()
    assert len(guardian_of(office.kernel)) == 3
    office.guardian("rules: []\n")  # they are judged by what was written when they began
    if document is APPROVE:
        decide(office, "ann", 1, True)
        decide(office, "bob", 2, False)
    else:
        office.reply("ann", questions[0], "yes")
        office.reply("bob", office.question("bob"), "yes")
        office.reply("bob", office.question("bob"), "no")
        office.reply("cleo", office.question("cleo"), "no")
        office.reply("cleo", office.question("cleo"), "no")
    assert (office.state_of(first), office.state_of(second)) == ("validated", "rejected")
    office.restart()
    office.pass_time(61)
    assert office.state_of(third) == "rejected"
    assert len(guardian_of(office.kernel)) == 0


@pytest.mark.parametrize("document", [APPROVE, PANEL])
def test_what_was_decided_before_the_daemon_could_say_so_is_found(
    office: Office, document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.guardian(document)
    number = office.submit()
    listeners = office.events._listeners
    deaf = guardian_of(office.kernel)
    for listener in [each for each in listeners if getattr(each, "__self__", None) is deaf]:
        office.events.unlisten(listener)  # it dies between the decision and what follows
    if document is APPROVE:
        decide(office, "ann", 1, True)
    else:
        for voter in ("ann", "bob"):
            office.reply(voter, office.question(voter), "yes")
    assert office.state_of(number) == "pending"
    office.restart()
    assert office.state_of(number) == "validated"
    assert [type(each) for each in office.seen if isinstance(each, TaskValidated)] == []


@pytest.mark.parametrize("document", [APPROVE, PANEL])
def test_nobody_is_asked_about_a_cancelled_task_any_more(office: Office, document: str) -> None:
    office.guardian(document)
    number = office.submit()
    office.kernel.tasks.cancel(OPERATOR, number)
    assert office.state_of(number) == "cancelled"
    assert len(guardian_of(office.kernel)) == office.kernel.asks.waiting == 0
    assert office.kernel.approvals.open == 0
    office.restart()
    assert len(guardian_of(office.kernel)) == 0


def test_a_task_that_is_cancelled_as_the_daemon_dies_is_asked_about_no_more(
    office: Office,
) -> None:
    office.guardian(APPROVE)
    number = office.submit()
    office.events.unlisten(guardian_of(office.kernel)._task_ended)
    office.kernel.tasks.cancel(OPERATOR, number)
    assert office.kernel.approvals.open == 1
    office.restart()
    assert office.kernel.approvals.open == len(guardian_of(office.kernel)) == 0


def test_the_end_of_its_submitter_ends_a_judgement(office: Office) -> None:
    office.guardian(APPROVE)
    number = office.submit(by=office.principal("cleo"))
    process = office.table.by_name("cleo")
    assert process is not None
    office.end(process, 0)
    office.agents.remove(OPERATOR, "cleo")
    assert office.state_of(number) == "cancelled"
    assert len(guardian_of(office.kernel)) == office.kernel.approvals.open == 0


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        (
            "DELETE FROM records WHERE kind = 'judgement'",
            "task 1: it waits for a judgement, and nobody makes one",
        ),
        (
            "UPDATE records SET record = '{}' WHERE kind = 'judgement'",
            "judgement of task 1: KeyError('task')",
        ),
        (
            "UPDATE records SET record = json_set(record, '$.votes.nemo', 'yes')"
            " WHERE kind = 'judgement'",
            "judgement of task 1: rule panel has votes of nobody who was asked",
        ),
    ],
)
def test_what_cannot_be_in_a_store_is_told(tmp_path: Path, sql: str, fault: str) -> None:
    office = Office(tmp_path / "state")
    office.process("ann")
    office.guardian(PANEL.replace("ann, bob, cleo", "ann"))
    office.submit()
    office.close()
    path = office.state / "store.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)
    assert fault in check(path)
