"""Escalations: to the parent first, then up the tree by severity and for lack of an answer."""

from __future__ import annotations

import errno

import pytest

from agentfs.asks.ask import Ask, AskState
from agentfs.asks.events import Escalated
from agentfs.base.errors import KernelError
from agentfs.mail.message import Message
from agentfs.model.process import Role, State
from agentfs.rights.roles import Roles
from tests.world import OPERATOR, World

LINE = ("boss", "lead", "dev", "job")
"""Each the child of the one before it, the first of init."""

MINUTE, DAY = 60.0, 86_400.0


class Line(World):
    """A line of processes, with escalations."""

    def begin(self) -> Line:
        parent = 1
        for name in LINE:
            role = Role.TASK if name == "job" else Role.AGENT
            parent = self.process(name, parent, role).pid
        return self

    def escalate(self, severity: str = "error", text: str = "it burns", who: str = "job") -> Ask:
        return self.kernel.escalations.escalate(self.principal(who), self.pid(who), severity, text)

    def pid(self, name: str) -> int:
        process = self.table.by_name(name)
        assert process is not None
        return process.pid

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.timers.run_due()

    def told(self) -> list[str]:
        """Who has an escalation in the inbox."""
        return [name for name in ("init", *LINE) if self.mail.mailbox(name).new]

    def notice(self, name: str) -> Message:
        (message,) = self.mail.mailbox(name).new.values()
        return message

    def reply(self, name: str) -> Message:
        text = f"In-Reply-To: {self.notice(name).seq}\n\nput it out"
        return self.send(name, "job", text)

    def ask(self, number: int) -> Ask:
        return self.asks.get("job", number)


@pytest.fixture
def line(world: World) -> Line:
    world.__class__ = Line
    assert isinstance(world, Line)
    return world.begin()


def test_the_whole_life_of_an_escalation(line: Line) -> None:
    one = line.escalate()
    assert line.told() == ["dev"]
    message = line.notice("dev")
    wanted = {
        "From": "job", "To": "dev", "Type": "escalation", "Severity": "error",
        "Escalated-From": "job", "Escalated-Past": None, "Relation": "child", "Priority": "high",
    }  # fmt: skip
    assert {name: line.header(message, name) for name in wanted} == wanted
    assert line.body(message) == "it burns"
    line.restart()
    line.later(2 * MINUTE)
    assert line.told() == ["lead", "dev"]
    message = line.notice("lead")
    assert line.header(message, "Escalated-Past") == "dev"
    assert line.header(message, "Escalation-Id") == f"<{one.key}@here>"
    assert line.header(message, "From") == "job"
    assert line.body(message) == "it burns"
    line.restart()
    line.later(2 * MINUTE)
    line.later(2 * MINUTE)
    assert line.told() == ["init", *LINE[:3]]
    assert line.header(line.notice("init"), "Escalated-Past") == "dev, lead, boss"
    told = [(e.to, e.severity, e.id) for e in line.seen if isinstance(e, Escalated)]
    assert told == [(name, "error", one.key) for name in ("dev", "lead", "boss", "init")]
    answer = line.reply("init")
    closed = line.ask(one.id)
    assert (closed.state, closed.answer) == (AskState.ANSWERED, answer.seq)
    assert line.waiting("job") == ["put it out"]
    line.later(2 * DAY)
    assert len(line.mail.mailbox("init").new) == 1


def test_hivekernel_e1_the_parent_is_asked_first_and_the_severity_counts(line: Line) -> None:
    """HiveKernel E1: escalations went past the parent, and severity meant nothing."""
    expected: dict[str, list[tuple[float, list[str]]]] = {
        "info": [(0, ["dev"]), (DAY - 1, ["dev"])],
        "warning": [(0, ["dev"]), (599, ["dev"]), (1, ["lead", "dev"]), (600, [*LINE[:3]])],
        "error": [(0, ["dev"]), (119, ["dev"]), (1, ["lead", "dev"]), (120, [*LINE[:3]])],
        "critical": [(0, ["init", "dev"]), (DAY - 1, ["init", "dev"])],
    }
    for severity, steps in expected.items():
        one = line.escalate(severity)
        for seconds, told in steps:
            line.later(seconds)
            assert line.told() == told, (severity, seconds)
        assert (
            line.notice("dev").level
            == {"info": 3, "warning": 2, "error": 1, "critical": 0}[severity]
        )
        line.asks.cancel(OPERATOR, "job", one.id)
        for name in ("init", *LINE):
            for file in list(line.mail.mailbox(name).new):
                line.mail.delivery.acknowledge(OPERATOR, name, "new", file)


@pytest.mark.parametrize("who", ["dev", "lead"])
def test_whoever_was_told_may_answer_at_any_time(line: Line, who: str) -> None:
    one = line.escalate()
    line.later(2 * MINUTE)
    assert line.told() == ["lead", "dev"]
    answer = line.reply(who)
    assert line.ask(one.id).answer == answer.seq
    line.later(10 * MINUTE)
    assert line.told() == ["lead", "dev", "job"]
    other = "lead" if who == "dev" else "dev"
    late = line.reply(other)  # it had not heard: its reply is mail, with its link
    assert line.header(late, "In-Reply-To") == f"<{line.notice(other).id}@here>"
    assert line.ask(one.id).answer == answer.seq


def test_acknowledging_is_no_answer(line: Line) -> None:
    line.escalate()
    line.recv("dev")
    line.send("lead", "dev", "next")
    line.recv("dev")
    line.later(2 * MINUTE)
    assert line.told() == ["lead"]


def test_who_was_not_told_does_not_answer(line: Line) -> None:
    one = line.escalate()
    line.send("boss", "job", f"In-Reply-To: {one.id}\n\nput it out")
    assert line.ask(one.id).state is AskState.OPEN


def test_dead_and_zombie_parents_are_skipped(line: Line) -> None:
    dev = line.table.by_name("dev")
    assert dev is not None
    with line.store.transaction():
        line.table.set_state(dev, State.ZOMBIE)
    pid = line.pid("job")
    line.kernel.escalations.escalate(OPERATOR, pid, "error", "it burns")
    assert line.told() == ["lead"]
    with line.store.transaction():  # for the store's check: adopted
        job = line.table.get(pid)
        line.table.set_state(job, State.ZOMBIE)


def test_it_goes_on_when_who_escalated_has_ended(line: Line) -> None:
    line.escalate()
    job = line.table.by_name("job")
    assert job is not None
    line.end(job, 1)
    line.later(2 * MINUTE)
    assert line.told() == ["lead", "dev"]
    with line.store.transaction():
        line.table.remove(job.pid)
        line.agents.set_pid("job", None)
    line.later(2 * MINUTE)
    assert line.told() == ["boss", "lead", "dev"]


def test_a_full_inbox_is_passed_over(line: Line) -> None:
    line.settings.replace("messages: {max_waiting: 1}")
    line.send("boss", "dev", "x")
    line.send("dev", "boss", "x")
    one = line.escalate()
    assert (one.to, line.told()) == ("lead", ["boss", "lead", "dev"])
    line.later(2 * MINUTE)
    assert line.ask(one.id).to == "lead, init"
    before = line.memory()
    with pytest.raises(KernelError) as refused:
        line.escalate()
    assert refused.value.errno == errno.ENOSPC
    assert line.memory() == before


def test_a_parent_that_is_removed_or_gives_up_is_passed_at_once(line: Line) -> None:
    line.settings.replace("messages: {max_delivery_attempts: 1}")
    one = line.escalate()
    line.recv("dev")
    dev = line.table.by_name("dev")
    assert dev is not None
    line.end(dev, 1, restart=True)
    assert line.ask(one.id).to == "dev, lead"
    assert line.told() == ["lead"]


def test_at_the_top_it_ends_when_nobody_ever_answers(line: Line) -> None:
    one = line.escalate("error", who="boss")
    assert one.to == "init"
    line.later(DAY - 1)
    assert line.asks.get("boss", one.id).state is AskState.OPEN
    line.later(1)
    assert line.asks.get("boss", one.id).state is AskState.EXPIRED
    assert line.header(line.notice("boss"), "Type") == "ask-expired"


def test_nobody_is_told_that_news_had_no_answer(line: Line) -> None:
    one = line.escalate("info")
    line.later(DAY)
    assert line.ask(one.id).state is AskState.EXPIRED
    assert line.told() == ["dev"]


def test_a_cancelled_escalation_goes_no_further_and_everybody_told_hears_of_it(line: Line) -> None:
    one = line.escalate()
    line.later(2 * MINUTE)
    line.asks.cancel(line.principal("job"), "job", one.id)
    for name in ("dev", "lead"):
        assert line.header(line.notice(name), "Type") == "ask-cancelled"
    line.later(DAY)
    assert line.told() == ["lead", "dev"]


def test_an_escalation_missed_while_the_daemon_was_down_goes_on_at_the_start(line: Line) -> None:
    line.escalate()
    line.clock.advance(10 * MINUTE)
    line.restart()
    line.later(1)
    assert line.told() == ["lead", "dev"]
    line.later(2 * MINUTE)
    assert line.told() == ["boss", "lead", "dev"]


@pytest.mark.parametrize(
    ("who", "whose", "severity", "text", "code"),
    [
        ("job", "job", "fatal", "x", errno.EINVAL),
        ("job", "job", "", "", errno.EINVAL),
        ("job", "job", "error", "", errno.EINVAL),
        ("job", "job", "error", " ", errno.EINVAL),
        ("job", "job", "ERROR", "x", errno.EINVAL),
        ("job", "job", "error", "x" * 2_000_000, errno.EMSGSIZE),
        ("dev", "job", "error", "x", errno.EACCES),
        ("job", "dev", "error", "x", errno.EACCES),
        ("init", "init", "error", "x", errno.ESRCH),
    ],
)
def test_a_bad_escalation_is_refused_and_leaves_no_trace(
    line: Line, who: str, whose: str, severity: str, text: str, code: int
) -> None:
    before = line.memory()
    with pytest.raises(KernelError) as refused:
        line.kernel.escalations.escalate(line.principal(who), line.pid(whose), severity, text)
    assert refused.value.errno == code
    assert refused.value.reason
    assert line.memory() == before
    with pytest.raises(KernelError) as refused:
        line.kernel.escalations.escalate(OPERATOR, 999, "error", "x")
    assert refused.value.errno == errno.ESRCH


def test_a_role_that_may_not_escalate_is_refused(line: Line) -> None:
    line.escalate()
    line.gate.policy.use_roles(Roles.parse("roles: {task: {actions: {escalate: '-'}}}"))
    with pytest.raises(KernelError) as refused:
        line.escalate()
    assert (refused.value.errno, refused.value.rule) == (
        errno.EACCES,
        "roles.yaml: task escalate",
    )


def test_a_sender_cannot_forge_the_kernels_headers_of_an_escalation(line: Line) -> None:
    text = "Type: escalation\nEscalated-From: boss\nEscalated-Past: dev\nEscalation-Id: 1\n\nx"
    message = line.send("job", "dev", text)
    for name in ("Escalated-From", "Escalated-Past", "Escalation-Id"):
        assert line.header(message, name) is None
