"""Budgets: handed down the tree, used, given back; every token is somewhere."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT
from agentfs.model.process import Process, State, Tier
from agentfs.quota.events import BudgetChanged
from tests.process.world import OPERATOR, as_agent
from tests.quota.budget_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state")
    yield made
    made.close()


def refused(call: Any, *given: Any, **named: Any) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call(*given, **named)
    assert caught.value.reason
    return caught.value


def lead(world: World, tokens: int = 5000, **spec: Any) -> Process:
    return world.child("lead", role="lead", tier="tactical", budget={"tactical": tokens}, **spec)


def test_process_1_has_what_the_configuration_says_at_every_tier(world: World) -> None:
    assert world.figures(INIT, "strategic") == (1000, 0, 0, 1000)
    assert world.figures(INIT, "tactical") == (10_000, 0, 0, 10_000)
    assert world.figures(INIT, "operational") == (100_000, 0, 0, 100_000)
    world.set_pool(strategic=1500, tactical=10_000)
    assert world.figures(INIT, "strategic") == (1500, 0, 0, 1500)
    assert world.figures(INIT, "operational")[0] == 100_000_000
    assert {event.tier for event in world.of(BudgetChanged)} == {"strategic", "operational"}


def test_a_budget_of_a_spec_is_reserved_from_the_parent_at_the_spawn(world: World) -> None:
    made = lead(world)
    assert world.figures(INIT) == (10_000, 0, 5000, 5000)
    assert world.figures(made) == (5000, 0, 0, 5000)
    worker = world.child("worker", made, tier="operational", budget={})
    assert world.budgets.find(worker.pid, Tier.TACTICAL) is None
    assert world.budgets.source(worker, Tier.TACTICAL).pid == made.pid
    assert world.budgets.source(worker, Tier.OPERATIONAL).pid == INIT


def test_what_is_not_there_cannot_be_given_and_the_refusal_leaves_no_trace(world: World) -> None:
    made = lead(world)
    before, changed = world.sizes(), len(world.of(BudgetChanged))
    refusal = refused(world.child, "w", made, budget={"tactical": 5001})
    assert (refusal.errno, refusal.rule) == (errno.EDQUOT, "budget")
    refusal = refused(world.child, "w", made, tier="operational", budget={"operational": 1})
    assert (refusal.errno, refusal.rule) == (errno.EDQUOT, "budget")
    assert "no operational budget of its own" in refusal.reason
    refusal = refused(world.child, "w", made, tier="operational", budget={"tactical": 1})
    assert (refusal.errno, refusal.rule) == (errno.EPERM, "tier")
    assert world.sizes() == before
    assert len(world.of(BudgetChanged)) == changed
    world.child("w", made, budget={"tactical": 5000})
    assert world.entry(made).remaining == 0


def test_who_has_no_entry_draws_on_the_nearest_above_that_has_one(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made)
    helper = world.child("helper", worker)
    number = world.llm(helper, 300)
    assert world.figures(made) == (5000, 0, 300, 4700)
    world.settle(helper, number, 100, 50)
    assert world.figures(made) == (5000, 150, 0, 4850)
    assert world.figures(INIT) == (10_000, 0, 5000, 5000)
    world.processes.reparent(OPERATOR, worker.pid, INIT)
    world.use(helper, 10)
    assert world.figures(INIT) == (10_000, 10, 5000, 4990)


def test_allocate_adds_to_what_a_process_below_has(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made)
    allocate = world.budgets.allocate
    allocate(as_agent(made), made.pid, worker.pid, 1000)
    world.use(worker, 400)
    allocate(as_agent(made), made.pid, worker.pid, 500, Tier.TACTICAL)
    assert world.figures(worker) == (1500, 400, 0, 1100)
    assert world.figures(made) == (5000, 0, 1500, 3500)
    deep = world.child("deep", worker)
    allocate(OPERATOR, made.pid, deep.pid, 100)
    assert world.entry(deep).grantor == made.pid


def test_allocate_is_refused_where_it_is_not_ones_own_to_give(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made, budget={"tactical": 10})
    other = world.child("other", tier="operational")
    allocate = world.budgets.allocate
    me = as_agent(made)
    assert refused(allocate, me, made.pid, worker.pid, 5000).errno == errno.EDQUOT
    assert refused(allocate, me, made.pid, other.pid, 1).errno == errno.EPERM
    assert refused(allocate, me, made.pid, made.pid, 1).errno == errno.EPERM
    assert refused(allocate, me, made.pid, INIT, 1).errno == errno.EPERM
    assert refused(allocate, me, made.pid, 99, 1).errno == errno.ESRCH
    assert refused(allocate, me, INIT, worker.pid, 1).errno == errno.EACCES
    assert refused(allocate, as_agent(worker), made.pid, worker.pid, 1).errno == errno.EACCES
    assert refused(allocate, me, made.pid, worker.pid, 1, Tier.OPERATIONAL).errno == errno.EDQUOT
    assert refused(allocate, OPERATOR, INIT, other.pid, 1, Tier.TACTICAL).errno == errno.EPERM
    refusal = refused(allocate, OPERATOR, INIT, worker.pid, 1)
    assert refusal.errno == errno.EPERM
    assert "lead, which alone" in refusal.reason
    assert world.figures(made) == (5000, 0, 10, 4990)


def test_release_gives_back_what_is_left_and_nothing_more(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made, budget={"tactical": 1000})
    world.use(worker, 200)
    number = world.llm(worker, 300)
    assert refused(world.budgets.release, as_agent(worker), made.pid).errno == errno.EACCES
    world.budgets.release(as_agent(made), worker.pid, Tier.TACTICAL)
    assert world.figures(worker) == (500, 200, 300, 0)
    assert world.figures(made) == (5000, 0, 500, 4500)
    world.settle(worker, number, 0, 100)
    world.budgets.release(as_agent(worker), worker.pid)
    assert world.figures(worker) == (300, 300, 0, 0)
    assert refused(world.llm, worker, 1).errno == errno.EDQUOT  # it does not draw on lead's now
    assert refused(world.budgets.release, OPERATOR, INIT).errno == errno.EPERM


def test_an_end_gives_back_what_is_unused_and_charges_what_was_used(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made, budget={"tactical": 1000})
    helper = world.child("helper", worker, budget={"tactical": 400})
    world.use(worker, 150)
    world.use(helper, 70)
    world.end(worker)
    assert world.figures(made) == (5000, 150, 400, 4450)
    assert world.entry(helper).grantor == made.pid
    world.end(helper)
    assert world.figures(made) == (5000, 220, 0, 4780)
    world.end(made)
    assert world.figures(INIT) == (10_000, 220, 0, 9780)
    assert world.sizes() == world.base


def test_open_calls_of_others_go_on_when_what_they_draw_on_is_gone(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made)
    number = world.llm(worker, 300)
    world.end(made)
    assert world.figures(INIT) == (10_000, 0, 300, 9700)
    assert [call.held.source for call in world.calls.of(worker.pid)] == [INIT]
    world.settle(worker, number, 100, 100)
    assert world.figures(INIT) == (10_000, 200, 0, 9800)


def test_a_call_draws_to_its_end_on_what_it_began_with(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made)
    number = world.llm(worker, 300)
    world.budgets.allocate(as_agent(made), made.pid, worker.pid, 1000)
    world.settle(worker, number, 200, 0)
    assert world.figures(worker) == (1000, 0, 0, 1000)
    assert world.figures(made) == (5000, 200, 1000, 3800)


def test_a_pool_is_lowered_to_what_is_handed_out_and_then_lets_nothing_through(
    world: World,
) -> None:
    made = lead(world)
    direct = world.child("direct", tier="tactical")
    world.use(direct, 1000)
    assert refused(world.set_pool, tactical=5999).errno == errno.EINVAL
    assert world.figures(INIT) == (10_000, 1000, 5000, 4000)
    world.set_pool(tactical=6000)
    assert world.figures(INIT) == (6000, 1000, 5000, 0)
    assert refused(world.llm, direct, 1).errno == errno.EDQUOT
    assert refused(world.child, "x", tier="tactical", budget={"tactical": 1}).errno == errno.EDQUOT
    world.use(made, 5000)  # what it was given is its own
    world.set_pool(tactical=10_000)
    assert world.figures(INIT) == (10_000, 1000, 5000, 4000)
    world.use(direct, 4000)


def test_budgets_and_open_calls_are_the_same_after_kill_9(world: World) -> None:
    made = lead(world)
    worker = world.child("worker", made, budget={"tactical": 1000})
    world.use(worker, 850)
    number = world.llm(worker, 50)
    before = {e.key: e.record() for e in world.entries}, world.calls.of(worker.pid)
    again = world.restarted()
    try:
        assert ({e.key: e.record() for e in again.entries}, again.calls.of(worker.pid)) == before
        found = again.table.get(worker.pid)
        assert found.tokens == 850
        again.settle(found, number, 0, 40)
        assert again.llm(found, 10) > number
        assert again.alerts.of(worker.pid).warned == 1
    finally:
        world.store, world.state_dir = again.store, again.state_dir


# -- reference/hivekernel.md, 8.3: the names of its tests ------------------------------------------


def test_budget_set_and_get(world: World) -> None:
    assert world.figures(lead(world, 5000)) == (5000, 0, 0, 5000)


def test_budget_allocate_to_child(world: World) -> None:
    made = lead(world, 10_000)
    world.child("c", made, budget={"tactical": 5000})
    assert world.figures(made) == (10_000, 0, 5000, 5000)


def test_budget_allocate_insufficient_funds(world: World) -> None:
    made = lead(world, 1000)
    assert refused(world.child, "c", made, budget={"tactical": 2000}).errno == errno.EDQUOT


def test_budget_consume(world: World) -> None:
    made = lead(world, 5000)
    world.calls.report(as_agent(made), made.pid, 1000)
    assert world.entry(made).remaining == 4000


def test_budget_consume_exceeded(world: World) -> None:
    made = lead(world, 100)
    assert refused(world.llm, made, 101).errno == errno.EDQUOT
    assert world.figures(made) == (100, 0, 0, 100)


def test_budget_release(world: World) -> None:
    made = lead(world, 10_000)
    child = world.child("c", made, budget={"tactical": 5000})
    world.use(child, 1000)
    world.end(child)
    assert world.figures(made) == (10_000, 1000, 0, 9000)  # and not 10,000 again


def test_budget_branch_usage(world: World) -> None:
    made = lead(world, 10_000)
    child = world.child("c", made, budget={"tactical": 4000})
    world.use(made, 500)
    world.use(child, 300)
    assert world.entry(made).consumed + world.entry(child).consumed == 800


def test_budget_tier_from_cog(world: World) -> None:
    boss = world.child("boss", tier="strategic")
    for model, tier in (("opus", "strategic"), ("sonnet", "tactical"), ("mini", "operational")):
        world.use(boss, 100, model)
        assert world.entry(INIT, tier).consumed == 100
    world.use(boss, 100, "unheard-of")
    assert world.entry(INIT, "strategic").consumed == 200


# -- its faults, 9.2: shown not to exist -----------------------------------------------------------


def test_fault_b1_a_pool_of_100_serves_100_however_many_children_come_and_go(world: World) -> None:
    made = lead(world, 100)
    served = 0
    for round_ in range(10):
        try:
            child = world.child(f"c{round_}", made, budget={"tactical": 50})
        except KernelError as refusal:
            assert refusal.errno == errno.EDQUOT
            break
        world.use(child, 50)
        served += 50
        world.end(child)
    assert served == 100
    assert world.figures(made) == (100, 100, 0, 0)


def test_fault_b2_a_child_of_a_lower_tier_mints_nothing(world: World) -> None:
    made = lead(world, 100)
    refusal = refused(world.child, "w", made, tier="operational", budget={"operational": 50})
    assert refusal.errno == errno.EDQUOT
    worker = world.child("w", made, tier="operational")
    world.use(worker, 30)
    assert world.figures(INIT, "operational") == (100_000, 30, 0, 99_970)


def test_fault_b3_a_second_allocation_adds_and_leaks_nothing(world: World) -> None:
    made = lead(world, 1000)
    worker = world.child("w", made, budget={"tactical": 300})
    world.use(worker, 100)
    world.budgets.allocate(as_agent(made), made.pid, worker.pid, 300)
    assert world.figures(worker) == (600, 100, 0, 500)
    world.end(worker)
    assert world.figures(made) == (1000, 100, 0, 900)


def test_fault_b4_an_allocation_under_its_reservation_wraps_nowhere(world: World) -> None:
    made = lead(world, 500)
    world.child("w", made, budget={"tactical": 400})
    world.budgets.release(OPERATOR, made.pid)
    assert world.figures(made) == (400, 0, 400, 0)
    assert refused(world.llm, made, 10**9).errno == errno.EDQUOT
    world.set_pool(tactical=400)
    direct = world.child("direct", tier="tactical")
    assert refused(world.llm, direct, 1).errno == errno.EDQUOT
    assert refused(world.calls.report, as_agent(direct), direct.pid, 1).errno == errno.EDQUOT
    assert world.figures(INIT) == (400, 0, 400, 0)


def test_fault_b5_who_exceeds_a_budget_is_refused_and_then_stopped(world: World) -> None:
    made = lead(world, 100, on_limit="stop")
    world.use(made, 100)
    assert refused(world.llm, made, 1).errno == errno.EDQUOT
    assert (made.state, made.stopping) == (State.BLOCKED, True)
    world.clock.advance(10)
    world.timers.run_due()
    assert (made.state, made.output) == (State.DEAD, "limit: budget tactical\n")


def test_fault_b7_after_100_lives_and_deaths_every_table_is_as_it_was(world: World) -> None:
    for round_ in range(100):
        made = world.child(f"lead{round_}", role="lead", tier="tactical", budget={"tactical": 100})
        worker = world.child(f"worker{round_}", made, budget={"tactical": 50})
        world.llm(worker, 20)
        refused(world.llm, worker, 40)
        world.end(worker)
        world.end(made)
        refused(world.child, f"lead{round_}", tier="tactical", budget={"tactical": 10**6})
    assert world.sizes() == world.base
    assert [kind for kind in ("budget", "call", "marks") for _ in world.store.records(kind)] == [
        "budget"
    ]  # that of process 1
    assert world.figures(INIT) == (10_000, 2000, 0, 8000)
