"""Accounting: one record for each use, and sums that agree whatever the view."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.process import Process, Tier
from agentfs.quota.accounting import dollars
from agentfs.quota.events import AccountClosed, AccountOpened, UseRecorded, UsesSwept
from agentfs.quota.meter import Use
from agentfs.quota.relay import Used, Wanted
from agentfs.quota.uses import Sums
from tests.process.world import OPERATOR, as_agent
from tests.quota.books_world import POOL, Books

DAY = 86_400.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "state", POOL)
    yield made
    made.close()


def owned(world: Books, name: str, user: str, node: str = "here") -> Process:
    """A process of another user or node: what it is at the moment of the use is what counts."""
    process = world.child(name)
    world.table.update(process, user=user, node=node)
    return process


def rows(world: Books) -> int:
    return int(world.store._db.execute("SELECT count(*) FROM uses").fetchone()[0])


def test_one_use_is_one_record_and_in_every_view(world: Books) -> None:
    alice = world.child("alice", tier="tactical")
    before = world.accounting.changed("agent", "alice")
    world.settle(alice, world.llm(alice, "sonnet", 2000), 1000, 200)
    assert before is None
    assert rows(world) == 1
    for view, key in (
        ("agent", "alice"),
        ("user", alice.user),
        ("node", alice.node),
        ("tier", "tactical"),
        ("total", ""),
    ):
        assert world.accounting.sums(view, key) == Sums(1000, 200, 1, 0, 6000)
        assert list(world.accounting.hours(view, key)) == [
            (world.hour(), world.accounting.sums(view, key))
        ]
        assert [day for day, _ in world.accounting.days(view, key)] == [world.hour()[:10]]
    assert world.of(AccountOpened)[0] == AccountOpened("agent", "alice")
    assert len(world.of(AccountOpened)) == 4
    (used,) = world.of(UseRecorded)
    assert (used.pid, used.agent, used.kind, used.used) == (alice.pid, "alice", "llm", "sonnet")


def test_a_use_moves_the_time_of_its_accounts_forward_and_of_no_others(world: Books) -> None:
    alice, bob = world.child("alice"), world.child("bob")
    world.book(alice, 1)
    world.book(bob, 1)
    before = {name: world.accounting.changed("agent", name) for name in ("alice", "bob")}
    world.book(alice, 1)
    assert before["alice"] is not None
    assert (world.accounting.changed("agent", "alice") or 0) > before["alice"]
    assert world.accounting.changed("agent", "bob") == before["bob"]


def test_a_call_that_is_cancelled_is_in_no_book(world: Books) -> None:
    alice = world.child("alice", tier="tactical")
    world.calls.cancel(as_agent(alice), alice.pid, world.llm(alice, "sonnet", 2000))
    assert rows(world) == 0
    assert world.accounting.changed("agent", "alice") is None


def test_a_call_that_its_process_never_settled_is_booked_as_it_was_held(world: Books) -> None:
    alice = world.child("alice", tier="tactical")
    world.llm(alice, "sonnet", 2000)
    world.end(alice)
    assert world.tokens("agent", "alice") == world.tokens("total") == 2000
    world.agree()


def test_tools_are_counted_apart_and_have_no_price(world: Books) -> None:
    alice = world.child("alice")
    number = world.calls.tool(as_agent(alice), alice.pid, "grep")
    assert isinstance(number, int)
    world.settle(alice, number)
    assert world.accounting.sums("agent", "alice") == Sums(tool_calls=1)


def test_a_model_without_a_price_is_marked_and_of_the_tier_of_its_process(world: Books) -> None:
    alice = world.child("alice", tier="operational")
    world.use(alice, 500, "home-made")
    assert world.accounting.sums("tier", "operational") == Sums(0, 500, 1, unpriced=1)


def test_prices_are_those_of_the_moment(world: Books) -> None:
    alice = world.child("alice", tier="tactical")
    world.use(alice, 1000, "sonnet")
    world.models.replace("models: {sonnet: {tier: tactical, output: 1}}")
    world.use(alice, 1000, "sonnet")
    assert dollars(world.accounting.sums("agent", "alice").cost) == "0.016"


def test_whom_and_where_a_use_is_booked_to_is_what_its_process_was_then(world: Books) -> None:
    alice = owned(world, "alice", "ann", "one")
    world.book(alice, 10)
    world.table.update(alice, user="ben", node="two")
    world.book(alice, 1)
    assert (world.tokens("user", "ann"), world.tokens("user", "ben")) == (10, 1)
    assert (world.tokens("node", "one"), world.tokens("node", "two")) == (10, 1)
    assert world.tokens("agent", "alice") == 11
    world.agree()


def test_a_refused_use_leaves_no_trace_in_the_books(world: Books) -> None:
    alice = world.child("alice")
    with pytest.raises(RuntimeError), world.store.transaction():
        world.accounting.record(alice, Use("llm", "sonnet", Tier.TACTICAL, output=5))
        raise RuntimeError
    assert rows(world) == 0
    assert world.accounting.changed("agent", "alice") is None
    assert world.of(UseRecorded) == []


def test_hours_and_days_are_utc_and_the_newest_is_last(world: Books) -> None:
    alice = world.child("alice")
    world.clock.advance(DAY - world.clock.now() % DAY - 0.0004)  # 0.4 ms before midnight
    world.book(alice, 1)
    world.clock.advance(0.0004)
    world.book(alice, 2)
    world.clock.advance(3600)
    world.book(alice, 4)
    hours = [(hour[11:], sums.output) for hour, sums in world.accounting.hours("agent", "alice")]
    assert hours == [("23", 1), ("00", 2), ("01", 4)]
    assert [sums.output for _, sums in world.accounting.days("agent", "alice")] == [1, 6]


def test_the_books_are_the_same_after_kill_9(tmp_path: Path) -> None:
    world = Books(tmp_path / "state", POOL)
    alice = world.child("alice", tier="tactical")
    world.use(alice, 500, "sonnet")
    before = world.accounting.sums("agent", "alice")
    again = world.restarted()
    assert again.accounting.sums("agent", "alice") == before
    assert list(again.accounting.keys("agent")) == ["alice"]
    again.use(again.table.get(alice.pid), 500, "sonnet")
    assert again.tokens("total") == 1000
    again.agree()
    again.close()


def test_who_says_a_use_was_beyond_all_bounds_cannot_spoil_the_sums(world: Books) -> None:
    alice = world.child("alice", tier="tactical")
    world.settings.replace(f"budgets: {{tactical: {10**15}}}")
    for _ in range(20):  # of a model whose context nobody knows: others are refused
        world.settle(alice, world.llm(alice, "local", 1), 5 * 10**14, 4 * 10**14)
        world.entries.change(world.entry(1), consumed=-world.entry(1).consumed)
    assert world.accounting.sums("agent", "alice").input == 20 * 10**12
    world.agree()


# -- who may read --------------------------------------------------------------------------------


def test_an_agent_reads_its_own_account_and_its_users_and_the_operator_all(world: Books) -> None:
    alice, bob = owned(world, "alice", "ann"), owned(world, "bob", "ben")
    world.book(alice, 1)
    world.book(bob, 1)
    may = world.accounting.require_reader
    for view, key in (("agent", "alice"), ("user", "ann")):
        may(as_agent(alice), view, key)
        may(OPERATOR, view, key)
    for view, key in (
        ("agent", "bob"),
        ("user", "ben"),
        ("node", alice.node),
        ("tier", "tactical"),
        ("total", ""),
        ("agent", ""),
        ("user", ""),
    ):
        may(OPERATOR, view, key)
        with pytest.raises(KernelError) as caught:
            may(as_agent(alice), view, key)
        assert (caught.value.code, caught.value.rule) == ("EACCES", "accounting")


# -- retention -----------------------------------------------------------------------------------


def sweep_all(world: Books) -> int:
    """All batches, with the time between them."""
    count = world.accounting.tidy()
    while len(world.timers):
        before = rows(world)
        world.clock.advance(1)
        world.timers.run_due()
        count += before - rows(world)
    return count


def test_records_go_after_the_retention_in_batches_and_totals_stay(world: Books) -> None:
    alice = world.child("alice")
    for _ in range(250):
        world.book(alice, 1)
    world.clock.advance(DAY)
    world.book(alice, 1000)
    world.clock.advance(89 * DAY)
    world.clock.advance(2 * DAY - world.clock.now() % DAY)
    assert world.accounting.tidy() == 100  # the first batch: 100 of them
    world.agree()  # in the middle of it, too
    assert [sums.calls for _, sums in world.accounting.hours("agent", "alice")] == [150, 1]
    assert sweep_all(world) == 151
    assert rows(world) == 0
    assert list(world.accounting.hours("agent", "alice")) == []
    assert list(world.accounting.days("total", "")) == []
    assert world.tokens("agent", "alice") == world.tokens("total") == 1250
    assert sum(event.count for event in world.of(UsesSwept)) == 251
    assert list(world.accounting.keys("agent")) == ["alice"]
    world.agree()


def test_what_is_not_old_enough_stays_whole_days_long(world: Books) -> None:
    alice = world.child("alice")
    world.book(alice, 1)
    world.clock.advance(90 * DAY)
    commits = world.store.commits
    assert sweep_all(world) == 0
    assert world.store.commits == commits
    world.clock.advance(DAY)
    assert sweep_all(world) == 1


def test_the_retention_is_configured_and_in_effect_at_once(world: Books) -> None:
    alice = world.child("alice")
    world.book(alice, 1)
    world.clock.advance(3 * DAY)
    world.settings.replace("accounting: {retention: 1d}")
    assert sweep_all(world) == 1


def test_the_account_of_an_agent_that_is_gone_stays_until_its_records_are_swept(
    world: Books,
) -> None:
    alice, bob = world.child("alice"), world.child("bob")
    world.book(alice, 7)
    world.book(bob, 1)
    world.end(alice)
    world.agents.remove(OPERATOR, "alice")
    assert world.tokens("agent", "alice") == 7
    world.clock.advance(92 * DAY)
    sweep_all(world)
    assert list(world.accounting.keys("agent")) == ["bob"]  # bob is idle, and there
    assert world.accounting.changed("agent", "alice") is None
    assert world.accounting.changed("agent", "") is None
    assert world.of(AccountClosed) == [AccountClosed("agent", "alice")]
    assert world.tokens("total") == 8
    world.agree()
    world.end(bob)
    world.agents.remove(OPERATOR, "bob")
    assert list(world.accounting.keys("agent")) == []
    world.agree()


# -- what HiveKernel's tests of its accountant assert --------------------------------------------


@pytest.fixture
def anchors(world: Books) -> Books:
    """Its two users on two machines."""
    alice = owned(world, "alice", "alice", "vps1")
    bob = owned(world, "bob", "bob", "vps2")
    world.book(alice, 1000, "sonnet")
    world.book(alice, 300, "opus", Tier.STRATEGIC)
    world.table.update(alice, node="vps2")
    world.book(alice, 400, "mini", Tier.OPERATIONAL)
    world.book(bob, 1600, "sonnet")
    return world


def test_accountant_record(anchors: Books) -> None:
    assert rows(anchors) == 4
    assert anchors.accounting.sums("agent", "alice").calls == 3


def test_accountant_user_usage(world: Books) -> None:
    alice, bob = owned(world, "alice", "alice"), owned(world, "bob", "bob")
    world.book(alice, 1000, "sonnet")
    world.book(alice, 500, "opus", Tier.STRATEGIC)
    world.book(bob, 2000, "sonnet")
    assert (world.tokens("user", "alice"), world.tokens("user", "bob")) == (1500, 2000)


def test_accountant_vps_usage(anchors: Books) -> None:
    assert (anchors.tokens("node", "vps1"), anchors.tokens("node", "vps2")) == (1300, 2000)


def test_accountant_process_usage(anchors: Books) -> None:
    assert anchors.tokens("agent", "alice") == 1700


def test_accountant_total_usage(world: Books) -> None:
    alice = world.child("alice")
    for tokens, model, tier in (
        (100, "opus", Tier.STRATEGIC),
        (1000, "sonnet", Tier.TACTICAL),
        (5000, "mini", Tier.OPERATIONAL),
    ):
        world.book(alice, tokens, model, tier)
    assert world.tokens("total") == 6100
    assert [world.tokens("tier", tier.value) for tier in Tier] == [100, 1000, 5000]
    world.agree()


# -- the consistency check -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("UPDATE uses SET output = 8", "usage of agent alice, total"),
        ("UPDATE uses SET agent = 'bob'", "usage of agent bob"),
        ("DELETE FROM uses", "usage of tier tactical"),
        (
            "UPDATE usage SET cost = 0 WHERE view = 'user' AND span = 'total'",
            "usage by user, total",
        ),
        ("DELETE FROM usage WHERE view = 'node' AND length(span) = 13", "usage by node"),
        (
            "INSERT INTO usage VALUES ('agent', 'eve', 'total', 5, 0, 1, 0, 0, 0, 0, 0, 0)",
            "agent eve, total",
        ),
        (
            "INSERT INTO usage VALUES ('agent', 'eve', 'swept', 5, 0, 1, 0, 0, 0, 0, 0, 0)",
            "agent eve, total",
        ),
        (
            "INSERT INTO usage VALUES ('tier', 'x', '2026-01-01', 0, 0, 0, 0, 0, 0, 0, 0, 0)",
            "no record of it",
        ),
    ],
)
def test_damaged_books_are_found(tmp_path: Path, damage: str, fault: str) -> None:
    world = Books(tmp_path / "state", POOL)
    world.book(world.child("alice"), 7)
    world.close()
    path = tmp_path / "state" / "store.db"
    with closing(sqlite3.connect(path)) as store, store:
        store.execute(damage)
    assert any(fault in each for each in check(path)), check(path)


def test_money_is_written_in_decimal() -> None:
    assert [dollars(micros) for micros in (0, 1, 210_000, 1_000_000, 12_345_678)] == [
        "0",
        "0.000001",
        "0.21",
        "1",
        "12.345678",
    ]


def test_the_newest_uses_say_who_answered_and_whether_it_is_an_estimate(world: Books) -> None:
    alice, bob = world.child("alice"), world.child("bob")
    world.use(alice, 5)
    gateway = world.calls.relayed
    world.models.replace(
        "providers: {here: {url: http://127.0.0.1:9, speaks: [chat]}}\n"
        "models: {sonnet: {tier: tactical, provider: here, input: 1}}"
    )
    for used in (Used(1, 2, 3, 4), None):
        begun = gateway.begin(bob, Wanted("sonnet", 10, 20))
        gateway.settle(begun.id, used)
    rows = world.accounting.recent("agent", "bob")
    figures = [
        (row.provider, row.input, row.output, row.cache_read, row.cache_write) for row in rows
    ]
    assert figures == [("here", 1, 2, 3, 4), ("here", 10, 0, 0, 0)]
    assert [row.estimated for row in rows] == [False, True]
    assert [row.agent for row in world.accounting.recent("total", "")] == ["alice", "bob", "bob"]
    assert world.accounting.sums("agent", "bob") == Sums(11, 2, 2, 0, 18, 0, 3, 4, 1)
    for _ in range(120):
        world.use(alice, 1)
    assert len(world.accounting.recent("agent", "alice")) == 100
    world.agree()
