"""Who may use what agents share."""

from __future__ import annotations

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process, Restart, Role, Tier
from agentfs.rights.ownership import Access, Ownership

OPERATOR = Principal(Kind.OPERATOR, INIT, "init", 0, 0)
ALICE = Principal(Kind.AGENT, 2, "alice", 1000, 100)
BOB = Principal(Kind.AGENT, 3, "bob", 1000, 100)  # the same user as alice
CAROL = Principal(Kind.AGENT, 4, "carol", 1000, 200)
USER = Principal(Kind.USER, None, "user 1001", 1001, 100)
STRANGER = Principal(Kind.STRANGER, None, "a stranger", 1000, 100)

EVERYTHING = frozenset(Access)
READING = frozenset({Access.READ, Access.TAKE})


def allowed(mode: int, principal: Principal) -> frozenset[Access]:
    owned = Ownership("alice", 1000, 100, mode)
    return frozenset(access for access in Access if owned.permits(principal, access))


def process(name: str, pid: int, ppid: int, role: Role) -> Process:
    return Process(
        pid=pid,
        ppid=ppid,
        name=name,
        role=role,
        tier=Tier.OPERATIONAL,
        model="mini",
        uid=1000,
        gid=100,
        user="me",
        node="here",
        restart=Restart.NEVER,
        started=0.0,
    )


def test_what_an_agent_makes_is_its_own() -> None:
    made = Ownership.of(ALICE, 0o100640)
    assert made == Ownership("alice", 1000, 100, 0o640)
    assert made.owned_by(ALICE)
    assert made.owned_by(OPERATOR)
    assert not made.owned_by(BOB)
    assert Ownership.of(OPERATOR, 0o666).owner == "init"


def test_the_record_gives_it_back() -> None:
    made = Ownership("alice", 1000, 100, 0o640)
    assert Ownership.from_record(made.record() | {"last": 7}) == made


def test_the_owner_has_the_owners_bits_and_no_others() -> None:
    assert allowed(0o600, ALICE) == EVERYTHING
    assert allowed(0o400, ALICE) == READING
    assert allowed(0o200, ALICE) == {Access.SEND}
    assert allowed(0o066, ALICE) == frozenset()


def test_mode_700_keeps_another_agent_of_the_same_user_and_group_out() -> None:
    assert allowed(0o700, BOB) == frozenset()
    with pytest.raises(KernelError) as caught:
        Ownership("alice", 1000, 100, 0o700).require(BOB, Access.READ, "topic news")
    assert (caught.value.code, caught.value.rule) == ("EACCES", "mode")
    assert caught.value.reason == (
        "bob may not read topic news, which belongs to alice and has mode 0700"
    )


def test_an_agent_with_the_objects_gid_has_the_groups_bits() -> None:
    assert allowed(0o620, BOB) == {Access.SEND}
    assert allowed(0o620, CAROL) == frozenset()
    assert allowed(0o604, BOB) == frozenset()
    assert allowed(0o604, CAROL) == READING


def test_the_operator_may_everything() -> None:
    assert allowed(0o000, OPERATOR) == EVERYTHING


@pytest.mark.parametrize("principal", [USER, STRANGER])
def test_who_acts_for_no_process_may_only_read(principal: Principal) -> None:
    assert allowed(0o666, principal) == {Access.READ}
    assert allowed(0o600, principal) == frozenset()


def test_a_stranger_is_in_no_group() -> None:
    assert allowed(0o640, USER) == {Access.READ}
    assert allowed(0o640, STRANGER) == frozenset()


@pytest.mark.parametrize("principal", [BOB, CAROL, USER, STRANGER])
def test_only_the_owner_and_the_operator_change_the_mode(principal: Principal) -> None:
    owned = Ownership("alice", 1000, 100, 0o666)
    with pytest.raises(KernelError) as caught:
        owned.with_mode(principal, 0o777, "topic news")
    assert (caught.value.code, caught.value.rule) == ("EPERM", "owner")
    for allowed_to in (ALICE, OPERATOR):
        assert owned.with_mode(allowed_to, 0o100600, "topic news").mode == 0o600
    assert owned.mode == 0o666
