"""Approvals in the kernel: who decides, for how long, and how often."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.approvals.events import ApprovalAsked, ApprovalDecided
from agentfs.approvals.request import ApprovalRequest, ApprovalState
from agentfs.base.errors import ApprovalError, KernelError
from agentfs.mail.message import Draft
from agentfs.model.process import State
from agentfs.rights.acl import Acl
from tests.world import OPERATOR, World

RULES = """
rules:
- {effect: allow, agent: alice, action: send, approval: {by: boss, timeout: 10m}}
- {effect: allow, agent: boss, action: send, approval: {by: boss}}
"""


class Office(World):
    """alice may write once boss agrees."""

    def _start(self) -> None:
        super()._start()
        self.gate.policy.use_acl(Acl.parse(RULES))
        self.approvals = self.kernel.approvals

    def told(self, who: str) -> list[str | None]:
        """The requests that have been put before an agent, by mail."""
        letters = self.mail.mailbox(who).new.values()
        return [self.header(letter, "Approval") for letter in letters]

    def write(self, sender: str = "alice", body: bytes = b"hi") -> None:
        self.mail.send(self.principal(sender), sender, Draft("bob", body))

    def asked(self, sender: str = "alice") -> ApprovalRequest:
        with pytest.raises(ApprovalError) as caught:
            self.write(sender)
        return self.approvals.file(caught.value)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    for name in ("alice", "bob", "boss"):
        made.process(name)
    yield made
    made.close()


def test_the_whole_life_of_a_request(office: Office) -> None:
    request = office.asked()
    assert office.told("boss") == [request.name]
    assert (request.agent, request.action, request.path) == ("alice", "send", "/agents/bob/inbox")
    assert not office.approvals.check(request)
    assert office.asked() is request, "the same question is asked once"
    office.approvals.decide(office.principal("boss"), request.id, approve=True)
    assert office.approvals.check(request)
    office.write()
    assert request.state is ApprovalState.USED
    second = office.asked()
    assert second is not request, "an approval is for one call"
    kinds = [
        type(event) for event in office.seen if type(event) in (ApprovalAsked, ApprovalDecided)
    ]
    assert kinds == [ApprovalAsked, ApprovalDecided, ApprovalDecided, ApprovalAsked]
    assert office.approvals.sizes() == {"requests": 2, "open": 1, "waiting": 0}


def test_a_look_does_not_use_the_approval_up(office: Office) -> None:
    request = office.asked()
    office.approvals.decide(OPERATOR, request.id, approve=True)
    office.mail.check(office.principal("alice"), "alice", "bob")
    assert request.state is ApprovalState.APPROVED
    office.write()


def test_a_call_that_fails_for_another_reason_keeps_its_approval(office: Office) -> None:
    request = office.asked()
    office.approvals.decide(OPERATOR, request.id, approve=True)
    with pytest.raises(KernelError) as caught:
        office.write(body=bytes(2_000_000))
    assert caught.value.errno == errno.EMSGSIZE
    assert request.state is ApprovalState.APPROVED
    office.write()


def test_the_deadline_rejects_and_an_approval_has_one_too(office: Office) -> None:
    request = office.asked()
    office.clock.advance(600)
    office.timers.run_due()
    assert request.state is ApprovalState.EXPIRED
    with pytest.raises(KernelError) as caught:
        office.approvals.check(request)
    assert caught.value.errno == errno.EACCES
    second = office.asked()
    office.approvals.decide(OPERATOR, second.id, approve=True)
    office.clock.advance(601)
    office.timers.run_due()
    with pytest.raises(ApprovalError):
        office.write()
    assert second.state is ApprovalState.EXPIRED


def test_nobody_decides_for_themselves_even_if_the_rule_names_them(office: Office) -> None:
    request = office.asked("boss")
    with pytest.raises(KernelError) as caught:
        office.approvals.decide(office.principal("boss"), request.id, approve=True)
    assert caught.value.errno == errno.EPERM
    office.approvals.decide(OPERATOR, request.id, approve=True)
    office.write("boss")


@pytest.mark.parametrize("rule", ["{by: operator, timeout: 10m}", "{timeout: 10m}"])
def test_an_agent_that_is_called_operator_decides_nothing(office: Office, rule: str) -> None:
    """A store of an earlier release may have one."""
    rules = f"rules:\n- {{effect: allow, agent: alice, action: send, approval: {rule}}}\n"
    office.gate.policy.use_acl(Acl.parse(rules))
    request = office.asked()
    child = office.process("operator")
    principal = office.principal("operator")
    assert principal.pid == child.pid
    assert not office.approvals.may_see(principal, request)
    with pytest.raises(KernelError):
        office.approvals.decide(principal, request.id, approve=True)
    assert request.state is ApprovalState.PENDING
    office.approvals.decide(OPERATOR, request.id, approve=True)


def test_the_operator_need_not_ask(office: Office) -> None:
    office.gate.policy.use_acl(Acl.parse("rules: [{effect: allow, approval: {by: boss}}]"))
    office.mail.send(OPERATOR, "init", Draft("bob", b"hi"))


def test_an_agent_does_not_ask_without_end(office: Office) -> None:
    office.settings.replace("approvals: {max_pending: 1}")
    office.asked()
    with pytest.raises(ApprovalError) as needed:
        office.mail.send(office.principal("alice"), "alice", Draft("boss", b"hi"))
    with pytest.raises(KernelError) as caught:
        office.approvals.file(needed.value)
    assert (caught.value.errno, caught.value.rule) == (errno.EAGAIN, "approvals.max_pending")


def test_closed_requests_go_after_a_while_and_numbers_are_not_used_twice(office: Office) -> None:
    first = office.asked()
    office.approvals.decide(OPERATOR, first.id, approve=False, reason="no")
    office.clock.advance(8 * 86_400)
    assert office.approvals.tidy() == 1
    assert office.approvals.find(first.id) is None
    assert office.asked().id == first.id + 1


def test_requests_and_decisions_survive_the_daemon(office: Office) -> None:
    request = office.asked()
    office.approvals.decide(OPERATOR, request.id, approve=True)
    office.restart()
    found = office.approvals.find(request.id)
    assert found is not None
    assert found.record() == request.record()
    office.write()
    assert found.state is ApprovalState.USED


def test_a_call_that_asks_twice_uses_one_approval_and_none_if_it_fails(office: Office) -> None:
    request = office.asked()
    with pytest.raises(ApprovalError) as needed:
        office.write()
    office.approvals.decide(OPERATOR, request.id, approve=True)
    with pytest.raises(ValueError), office.store.transaction():
        assert office.approvals.is_approved(needed.value)
        raise ValueError
    assert request.state is ApprovalState.APPROVED
    with office.store.transaction():
        assert office.approvals.is_approved(needed.value)
        assert office.approvals.is_approved(needed.value)
    assert request.state is ApprovalState.USED
    assert not office.approvals.is_approved(needed.value)


def test_what_a_removed_agent_asked_for_is_void_and_what_it_was_to_decide_is_the_operators(
    office: Office,
) -> None:
    asked, decided = office.asked(), office.asked("boss")
    for name in ("alice", "boss"):
        office.kernel.supervisor.finish(office.table.by_name(name), 0, State.ZOMBIE)
    office.agents.remove(OPERATOR, "boss")
    assert (asked.state, asked.by) == (ApprovalState.PENDING, "operator")
    assert decided.state is ApprovalState.WITHDRAWN
    assert office.told("init") == [asked.name]
    office.agents.remove(OPERATOR, "alice")
    assert asked.state is ApprovalState.WITHDRAWN
    assert office.approvals.open == 0
