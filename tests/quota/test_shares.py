"""Shares: who may hold how much of a pot, what goes back, and what is told of it."""

from __future__ import annotations

import errno
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfs.base.clock import ManualClock
from agentfs.base.errors import ShareError
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Agent
from agentfs.quota.events import ShareRefused
from agentfs.quota.pots import PotKind
from agentfs.quota.settings import ShareSettings
from agentfs.quota.shares import Charge, Holder, Pot, Shares
from agentfs.sections import SECTIONS
from agentfs.store.event import Event
from agentfs.store.ground import Ground
from agentfs.store.settings import Settings

OPERATOR = Holder("operator", 0, operator=True)


def pot(size: int = 1000, terms: ShareSettings | None = None, **more: int) -> Pot:
    kind = PotKind("things", "things", "some.setting", **more)
    return Pot(kind, lambda: size, lambda: terms or ShareSettings())


def agent(name: str, uid: int = 1000) -> Holder:
    return Holder(name, uid, agent=True)


def fill(pot: Pot, holder: Holder, step: int = 1) -> int:
    """Take until it is refused; how much that was."""
    before = pot.held(holder)
    while True:
        try:
            pot.check(holder, step)
        except ShareError:
            return pot.held(holder) - before
        pot.add(holder, step)


# -- who may hold how much -------------------------------------------------------------------------


def test_an_agent_holds_as_much_as_it_leaves_to_others_and_the_operator_has_a_reserve() -> None:
    things = pot()
    alice, bob, carol = agent("alice"), agent("bob"), agent("carol", 1001)
    assert fill(things, alice) == 450  # half of 900: 100 are the operator's
    assert fill(things, bob) == 225
    assert fill(things, carol) == 112
    assert fill(things, OPERATOR) == 1000 - 450 - 225 - 112
    assert things.used == 1000


def test_all_programs_of_a_user_have_one_share_together() -> None:
    things = pot()
    for number in range(20):
        fill(things, agent(f"a{number}"))
    assert things.used == 675  # three quarters of 900
    with pytest.raises(ShareError, match="all programs of user 1000 together hold 675 things"):
        things.check(agent("late"))
    assert fill(things, agent("other", 1001)) == 112


def test_a_user_who_is_no_agent_has_the_users_share() -> None:
    things = pot()
    assert fill(things, Holder("user 1001", 1001)) == 675
    assert fill(things, agent("bob")) == 112


def test_where_an_agent_or_a_user_holds_no_more_than_the_floor_no_share_is_asked_for() -> None:
    things = pot(100)
    made = [agent(f"a{number}", uid=number) for number in range(6)]
    assert [fill(things, each) for each in made] == [45, 22, 16, 7, 0, 0]
    with pytest.raises(ShareError) as caught:
        things.check(made[5])
    assert caught.value.errno == errno.ENOSPC
    assert "none of 90 things are left to agents and users" in caught.value.reason
    assert fill(things, OPERATOR) == 10


@pytest.mark.parametrize(("size", "others"), [(1, 1), (2, 1), (3, 2), (10, 9), (17, 16), (30, 16)])
def test_small_pots_work(size: int, others: int) -> None:
    things = pot(size)
    assert fill(things, agent("alice")) == others
    assert fill(things, OPERATOR) == size - others


def test_what_the_operator_holds_comes_out_of_the_reserve_first() -> None:
    things = pot()
    things.add(OPERATOR, 100)
    assert fill(things, agent("alice")) == 450
    things.give(OPERATOR, 100)
    things.give(next(iter(holder for holder, _ in things.largest())), 450)
    things.add(OPERATOR, 500)
    assert fill(things, agent("bob")) == 250


def test_the_errno_says_whether_it_is_the_share_or_all() -> None:
    things = pot(1000, scarce=errno.ENFILE, excess=errno.EMFILE)
    alice = agent("alice")
    fill(things, alice)
    with pytest.raises(ShareError) as caught:
        things.check(alice)
    refusal = caught.value
    assert (refusal.errno, refusal.pot, refusal.rule) == (errno.EMFILE, "things", "shares.things")
    assert (refusal.held, refusal.left) == (450, 450)
    for word in ("alice holds 450 things", "shares.agent is 0.5", "operator", "some.setting"):
        assert word in refusal.reason
    things.add(OPERATOR, 550)
    with pytest.raises(ShareError) as caught:
        things.check(agent("bob"))
    assert caught.value.errno == errno.ENFILE


def test_with_a_share_of_one_and_no_reserve_the_first_takes_all() -> None:
    things = pot(terms=ShareSettings(agent=1, user=1, reserve=0))
    assert fill(things, agent("alice")) == 1000


@given(
    size=st.integers(0, 3000),
    floor=st.integers(0, 40),
    terms=st.builds(
        ShareSettings,
        agent=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
        user=st.sampled_from([0.5, 0.75, 1.0]),
        reserve=st.sampled_from([0.0, 0.1, 0.5]),
    ),
    takes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 700)), max_size=30),
)
def test_what_is_said_to_be_room_is_what_may_be_taken(
    size: int, floor: int, terms: ShareSettings, takes: list[tuple[int, int]]
) -> None:
    things = pot(size, terms, floor=floor)
    holders = [OPERATOR, Holder("user 7", 7), *(agent(f"a{n}", 7 + n // 2) for n in range(4))]
    for number, amount in takes:
        holder = holders[number]
        room = things.room(holder)
        try:
            things.check(holder, amount)
        except ShareError:
            assert amount > room
        else:
            assert amount <= room
            things.add(holder, amount)
        assert things.used <= size
        reserve = things.bounds()[1]
        assert things.used - things.held(OPERATOR) <= size - reserve


# -- what goes back --------------------------------------------------------------------------------


def test_a_charge_is_held_until_it_is_released_and_its_end_releases_it() -> None:
    things, alice = pot(), agent("alice")
    charge = things.take(alice, 10)
    charge.resize(40)
    assert (things.held(alice), things.used, len(things)) == (40, 40, 1)
    charge.resize(30)
    with pytest.raises(ShareError):
        charge.resize(500)
    assert things.held(alice) == 30
    charge.release()
    charge.release()
    assert (things.held(alice), things.used, len(things)) == (0, 0, 0)
    charge = things.take(alice)
    del charge
    gc.collect()
    assert things.used == 0


def test_a_charge_is_given_back_by_who_holds_it_after_a_failure() -> None:
    things, alice = pot(), agent("alice")

    def work() -> None:
        charge = Charge(things, alice, 5)
        raise ZeroDivisionError(charge.amount)

    with pytest.raises(ZeroDivisionError):
        work()
    gc.collect()
    assert things.used == 0


def test_it_is_quick() -> None:
    things, alice = pot(10**9), agent("alice")
    for each in range(5000):
        things.add(agent(f"other {each}"))
    started = time.process_time()
    for _ in range(10_000):
        things.take(alice).release()
    assert time.process_time() - started < 1.0  # 100 µs each; measured: 2


# -- all of them -----------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world(tmp_path: Path, clock: ManualClock) -> Iterator[tuple[Shares, list[Event], Settings]]:
    ground = Ground.open(tmp_path, SECTIONS, clock)
    told: list[Event] = []
    ground.events.listen(lambda record: told.append(record.event), ShareRefused)
    agents = {name: Agent(name, 1000, 1000, "init") for name in ("alice", "bob")}
    shares = Shares(ground, SimpleNamespace(find=agents.get))  # type: ignore[arg-type]
    yield shares, told, ground.settings
    ground.store.close()


def put(shares: Shares, size: int, unit: str = "things") -> Pot:
    """One more pot, which is shown last."""
    things = Pot(PotKind("things", unit, "some.setting"), lambda: size, shares.terms)
    shares.put(things)
    return things


def principal(kind: Kind, name: str, uid: int = 1000, pid: int | None = 7) -> Principal:
    return Principal(kind, pid, name, uid, uid)


def test_a_holder_is_that_very_agent_whatever_uid_its_program_has(
    world: tuple[Shares, list[Event], Settings],
) -> None:
    shares, _, _ = world
    alice = shares.holder(principal(Kind.AGENT, "alice"))
    assert shares.holder(principal(Kind.AGENT, "alice", uid=0)) is alice is shares.agent("alice")
    assert alice.uid == 1000
    assert shares.holder(principal(Kind.OPERATOR, "init")) is shares.operator
    assert shares.agent("init") is shares.operator
    stranger = shares.holder(principal(Kind.STRANGER, "a stranger", pid=None))
    assert stranger is shares.holder(principal(Kind.USER, "user 1000", pid=None))
    assert (stranger.name, stranger.uid) == ("user 1000", 1000)
    shares.agent_removed("alice")
    assert shares.agent("alice") is not alice


def test_the_table_says_who_holds_most_and_each_what_it_may_have(
    world: tuple[Shares, list[Event], Settings],
) -> None:
    shares, _, settings = world
    things = put(shares, 1000, "big things")
    alice, bob = shares.agent("alice"), shares.agent("bob")
    things.add(alice, 20)
    things.add(bob, 30)
    things.add(shares.operator, 1)
    head, *_, row = (line.split() for line in shares.table().splitlines())
    assert head == ["POT", "SIZE", "RESERVED", "USED", "HOLDERS", "UNIT", "LARGEST"]
    assert row == ["things", "1000", "100", "51", "3", "big", "things"] + [
        *("bob", "30,", "alice", "20,", "operator", "1")
    ]
    assert shares.of(alice).splitlines()[-1].split() == ["things", "20", "415", "big", "things"]
    settings.replace("shares: {agent: 0.1, reserve: 0.5}")
    assert shares.of(alice).splitlines()[-1].split() == ["things", "20", "27", "big", "things"]


def test_a_refusal_is_told_once_a_minute_for_each_who_is_refused(
    world: tuple[Shares, list[Event], Settings], clock: ManualClock
) -> None:
    shares, told, _ = world
    things = put(shares, 100)
    alice = principal(Kind.AGENT, "alice", pid=7)

    def refuse(who: Principal) -> None:
        with pytest.raises(ShareError) as caught:
            things.take(shares.holder(who), 60)
        shares.refused(who, caught.value)

    for _ in range(3):
        refuse(alice)
    assert told == [ShareRefused(7, "alice", "things", 0, 90)]
    refuse(principal(Kind.AGENT, "bob", pid=8))
    things.add(shares.operator, 50)
    refuse(principal(Kind.USER, "user 1001", 1001, None))
    assert told[1:] == [
        ShareRefused(8, "bob", "things", 0, 90),
        ShareRefused(None, "", "things", 0, 50),
    ]
    clock.advance(60)
    refuse(alice)
    assert len(told) == 4
