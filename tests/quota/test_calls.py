"""Calls of models and tools: what is set aside, what is counted, what is refused, and what then."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process, State
from agentfs.process.events import ProcessChanged, ResourceExceeded
from agentfs.quota.commands import run_budget_command, serve_call
from agentfs.quota.events import ResourceRefused, ResourceStopped, ResourceWarning
from agentfs.quota.meter import Room, Use
from tests.process.world import OPERATOR, as_agent
from tests.quota.budget_world import World

NOBODY = Principal(Kind.STRANGER, None, "a stranger", 1, 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state")
    yield made
    made.close()


def lead(world: World, tokens: int = 5000, **spec: Any) -> Process:
    return world.child("lead", role="lead", tier="tactical", budget={"tactical": tokens}, **spec)


def refused(call: Any, *given: Any) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call(*given)
    assert caught.value.reason
    return caught.value


def ask(world: World, process: Process, line: str) -> str:
    return serve_call(world.calls, as_agent(process), process.pid, line).strip()


def control(world: World, process: Process, line: str) -> None:
    run_budget_command(world.calls, as_agent(process), process.pid, line)


@dataclass
class Counting:
    """A meter that lets a number of uses through, of so many tokens each."""

    most: int
    left: int | None = None
    stored_name = "Counting"
    held: list[Use] = field(default_factory=list)
    done: list[Use] = field(default_factory=list)

    def hold(self, process: Process, use: Use) -> None:
        if len(self.held) + len(self.done) >= self.most:
            raise KernelError(errno.EAGAIN, "that is enough", rule="counting")
        self.held.append(use)

    def grow(self, process: Process, held: Use, more: Use) -> None:
        pass

    def room(self, process: Process, use: Use, held: int = 0) -> Room:
        return Room(self.left)

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        self.held.remove(held)
        if actual is not None:
            self.done.append(actual)


def test_a_call_from_its_beginning_to_its_end(world: World) -> None:
    made, uses = lead(world), world.uses()
    number = ask(world, made, "llm sonnet 400")
    assert number.isdecimal()
    assert world.figures(made) == (5000, 0, 400, 4600)
    assert ask(world, made, f"settle {number} 100 50") == "settled"
    assert world.figures(made) == (5000, 150, 0, 4850)
    assert made.tokens == 150
    assert uses == [Use("llm", "sonnet", made.tier, 100, 50, 1050, made.pid)]
    assert ProcessChanged(made.pid, "lead") in world.heard
    assert refused(ask, world, made, f"settle {number}").errno == errno.ENOENT


def test_a_call_that_was_not_made_counts_for_nothing(world: World) -> None:
    made, uses = lead(world), world.uses()
    number = ask(world, made, "llm 400")
    assert ask(world, made, f"cancel {number}") == "cancelled"
    assert world.figures(made) == (5000, 0, 0, 5000)
    assert (uses, made.tokens) == ([], 0)


def test_who_does_not_say_what_it_took_is_charged_what_was_set_aside(world: World) -> None:
    made = lead(world)
    ask(world, made, f"settle {ask(world, made, 'llm sonnet 400')}")
    assert world.figures(made) == (5000, 400, 0, 4600)
    world.llm(made, 300)
    world.calls.program_ended(made, 1)
    assert world.figures(made) == (5000, 700, 0, 4300)
    assert world.calls.of(made.pid) == []


def test_a_call_without_a_maximum_sets_aside_what_the_model_takes_or_what_is_left(
    world: World,
) -> None:
    world.models.replace("models: {sonnet: {tier: tactical, context: 2000}}")
    made = lead(world)
    numbers = [world.llm(made, None) for _ in range(3)]
    assert [call.held.tokens for call in world.calls.of(made.pid)] == [2000, 2000, 1000]
    assert refused(world.llm, made, None).errno == errno.EDQUOT
    for number in numbers:
        world.settle(made, number, 1000, 1000)  # the last one takes more than was left
    assert world.figures(made) == (5000, 6000, 0, -1000)
    assert refused(world.llm, made, None).errno == errno.EDQUOT


def test_a_meter_that_has_little_left_does_not_make_others_set_aside_less(world: World) -> None:
    """Or many of its like could together use far more than the budget that they share."""
    made, nearly = lead(world), Counting(9, left=5)
    world.ask_first(nearly)
    number = world.llm(made, None)
    assert nearly.held[0].tokens == 5
    assert world.entry(made).held == 5000
    again = world.restarted()
    try:
        (call,) = again.calls.of(made.pid)
        assert (call.id, call.held.tokens, call.held_by(nearly)) == (number, 5000, nearly.held[0])
    finally:
        again.close()


def test_open_calls_name_their_meters_as_every_release_has(world: World) -> None:
    """Or a call that was begun under an earlier release would hold another amount."""
    made = lead(world, 5000, limits={"max_tokens_total": 700})
    world.groups.create(OPERATOR, "", "team")
    world.groups.set_limit(OPERATOR, "team", "tokens", 600)
    world.groups.move(OPERATOR, made.pid, "team")
    world.llm(made, None)
    ((_, record),) = world.store.records("call")
    assert (record["output"], record["parts"]) == (
        5000,
        {"Spending": [700, 10_500], "Groups": [600, 9000]},
    )


@pytest.mark.parametrize("most", [0, 1, 7])
def test_of_50_callers_exactly_as_many_get_through_as_there_are_tokens_for(
    world: World, most: int
) -> None:
    made = lead(world, most * 100)
    callers = [world.child(f"w{number}", made) for number in range(10)]
    open_calls = []
    for number in range(50):
        try:
            open_calls.append((callers[number % 10], world.llm(callers[number % 10], 100)))
        except KernelError as refusal:
            assert (refusal.errno, refusal.rule) == (errno.EDQUOT, "budget")
    assert len(open_calls) == most
    for caller, number in open_calls:
        world.settle(caller, number, 60, 40)
    assert world.figures(made) == (most * 100, most * 100, 0, 0)


def test_with_a_token_left_one_more_call_without_a_maximum_gets_through_and_no_second(
    world: World,
) -> None:
    made = lead(world, 3)
    for _ in range(3):
        world.settle(made, world.llm(made, None), 0, 1)
    assert refused(world.llm, made, None).errno == errno.EDQUOT
    assert world.figures(made) == (3, 3, 0, 0)


def test_a_call_that_takes_more_than_it_asked_for_is_counted_in_full(world: World) -> None:
    made = lead(world, 100)
    world.settle(made, world.llm(made, 60), 500, 0)
    assert world.figures(made) == (100, 500, 0, -400)
    assert [event.used for event in world.of(ResourceExceeded)] == [500]
    assert refused(world.llm, made, 1).errno == errno.EDQUOT


@pytest.mark.parametrize(("model", "most"), [("sonnet", 200_000), ("local", 10_000)])
def test_more_than_one_call_can_use_is_refused_and_counts_for_nobody(
    world: World, model: str, most: int
) -> None:
    made = world.child("made", tier="tactical")  # draws on the budget of all
    number = world.llm(made, model, 100)
    for figures in ((10**12, 10**12), (most, 1), (0, 10**18 - 1)):
        assert refused(world.settle, made, number, *figures).errno == errno.EMSGSIZE
    report = refused(control, world, made, f"report {most + 1} {model}")
    assert report.errno == errno.EMSGSIZE
    assert (world.figures(INIT), made.tokens) == ((10_000, 0, 100, 9900), 0)
    world.settle(made, number, most, 0)  # it is open still
    assert world.entry(world.table.get(INIT)).consumed == most
    assert refused(world.settle, made, number, 1, 1).errno == errno.ENOENT
    assert refused(world.calls.cancel, as_agent(made), made.pid, number).errno == errno.ENOENT


def test_many_small_calls_that_turn_out_large_overdraw_what_they_share_once(world: World) -> None:
    made, uses = lead(world, 1000), world.uses()
    numbers = [world.llm(made, "sonnet", 1) for _ in range(20)]
    for number in numbers:
        world.settle(made, number, 150_000, 0)
    assert world.figures(made) == (1000, 150_019, 0, -149_019)
    assert ([use.tokens for use in uses], made.tokens) == (
        [150_000] * 20,
        20 * 150_000,
    )  # its own account has it all


def test_the_operator_puts_a_budget_back(world: World) -> None:
    made = lead(world, 100)
    world.settle(made, world.llm(made, 60), 500, 0)
    assert refused(control, world, made, "refund 450").errno == errno.EACCES
    operator = (world.calls, OPERATOR, made.pid)
    assert refused(run_budget_command, *operator, "refund 501").errno == errno.EDQUOT
    assert refused(run_budget_command, *operator, "refund 1 strategic").errno == errno.EDQUOT
    for bad in ("0", "-1", "nan", "1e3", "9" * 19):
        assert refused(run_budget_command, *operator, f"refund {bad}").errno == errno.EINVAL
    run_budget_command(*operator, "refund 450")
    assert world.figures(made) == (100, 50, 0, 50)
    world.use(made, 50)


def test_what_is_malformed_changes_nothing(world: World) -> None:
    made = lead(world)
    number = ask(world, made, "tool search")
    before, events = world.figures(made), len(world.heard)
    for line in (
        "", "llm a b c", "llm a -1", "llm sonnet 0", "llm 0", "llm ../x", "tool", "tool a b",
        "settle", "settle x", f"settle {number} 5", f"settle {number} 5 5", "cancel", "cancel 1 2",
        "sudo", f"settle {'9' * 19}", "llm " + "x" * 129,
    ):  # fmt: skip
        assert refused(ask, world, made, line).errno == errno.EINVAL, line
    for line in ("allocate", "allocate 2", "allocate 2 x", "allocate 2 1 highest", "release x",
                 "report", "report 0", "report -5", "report 1 2 3"):  # fmt: skip
        assert refused(control, world, made, line).errno == errno.EINVAL, line
    assert world.figures(made) == before
    assert len(world.heard) == events
    ask(world, made, f"cancel {number}")


def test_a_call_is_the_process_s_own_and_the_operator_s(world: World) -> None:
    made = lead(world)
    other = world.child("other", made)
    number = world.llm(made, 100)
    calls = world.calls
    for who in (as_agent(other), NOBODY):
        for call, given in (
            (calls.llm, ("", 1)), (calls.tool, ("t",)), (calls.settle, (number,)),
            (calls.cancel, (number,)), (calls.report, (1,)),
        ):  # fmt: skip
            assert refused(call, who, made.pid, *given).errno == errno.EACCES
    assert refused(world.settle, other, number).errno == errno.ENOENT
    calls.cancel(OPERATOR, made.pid, number)
    world.end(made)
    assert refused(calls.llm, OPERATOR, made.pid).errno == errno.ESRCH


def test_a_model_above_ones_tier_is_refused(world: World) -> None:
    made = lead(world)
    refusal = refused(world.llm, made, "opus", 10)
    assert (refusal.errno, refusal.rule) == (errno.EPERM, "tier")
    world.use(made, 10, "mini")
    assert world.figures(INIT, "operational") == (100_000, 10, 0, 99_990)


def test_meters_are_asked_in_order_and_hold_all_or_none(world: World) -> None:
    made, counting = lead(world, 1000), Counting(2)
    world.ask_first(counting)
    number = world.llm(made, 600)
    assert refused(world.llm, made, 600).rule == "budget"
    assert len(counting.held) == 1  # what it had held for the second was let go
    ask(world, made, "tool search")
    assert refused(ask, world, made, "tool search").rule == "counting"
    assert world.figures(made) == (1000, 0, 600, 400)
    world.calls.cancel(as_agent(made), made.pid, number)
    assert len(counting.held) == 1


def test_no_process_can_have_more_calls_open_than_the_configuration_says(world: World) -> None:
    made = lead(world)
    world.settings.replace("budgets: {tactical: 10000, max_open_calls: 2}")
    for _ in range(2):
        ask(world, made, "tool search")
    refusal = refused(ask, world, made, "tool search")
    assert (refusal.errno, refusal.rule) == (errno.EAGAIN, "max_open_calls")


# -- report ----------------------------------------------------------------------------------------


def test_a_report_is_a_call_that_was_made_already(world: World) -> None:
    made, uses = lead(world), world.uses()
    control(world, made, "report 300")
    control(world, made, "report 30 mini")
    assert world.figures(made) == (5000, 300, 0, 4700)
    assert [(use.name, use.tokens, use.cost) for use in uses] == [
        ("sonnet", 300, 4500),
        ("mini", 30, 60),
    ]
    assert made.tokens == 330


def test_a_report_of_more_than_there_is_is_counted_once_and_then_no_more(world: World) -> None:
    made = lead(world, 100)
    assert refused(control, world, made, "report 300").errno == errno.EDQUOT
    assert world.figures(made) == (100, 300, 0, -200)
    assert refused(control, world, made, "report 300").errno == errno.EDQUOT
    assert world.figures(made) == (100, 300, 0, -200)
    assert made.tokens == 300
    assert world.alerts.of(made.pid).refused == 2
    assert len(world.of(ResourceExceeded)) == 1


# -- warnings, refusals, and what follows ----------------------------------------------------------


def test_there_is_one_warning_at_80_percent_and_one_when_it_is_over(world: World) -> None:
    made = lead(world, 100)
    world.use(made, 79)
    assert world.of(ResourceWarning) == []
    world.use(made, 1)
    world.use(made, 10)
    assert world.of(ResourceWarning) == [
        ResourceWarning(made.pid, "lead", "budget tactical", 80, 100)
    ]
    for _ in range(3):
        refused(world.llm, made, 11)
    assert world.of(ResourceExceeded) == [
        ResourceExceeded(made.pid, "lead", "budget tactical", 90, 100)
    ]
    assert len(world.of(ResourceRefused)) == 3
    counts = world.alerts.of(made.pid)
    assert (counts.warned, counts.refused) == (1, 3)


def test_with_more_to_use_there_can_be_another_warning(world: World) -> None:
    made = lead(world, 100)
    world.use(made, 80)
    world.budgets.allocate(OPERATOR, INIT, made.pid, 900)
    world.use(made, 1)
    world.use(made, 700)
    world.use(made, 30)
    assert [event.used for event in world.of(ResourceWarning)] == [80, 811]


def test_who_draws_on_another_one_s_budget_is_warned_and_so_is_the_other(world: World) -> None:
    made = lead(world, 100)
    worker = world.child("worker", made)
    world.use(worker, 90)
    assert {event.agent for event in world.of(ResourceWarning)} == {"lead", "worker"}


def test_on_limit_raise_is_an_error_and_nothing_else(world: World) -> None:
    made = lead(world, 10)
    refusal = refused(ask, world, made, "llm 11")
    assert refusal.errno == errno.EDQUOT
    assert "10 are left" in refusal.reason
    assert made.state is State.IDLE


def test_on_limit_skip_is_an_answer_and_no_error(world: World) -> None:
    made = lead(world, 10, on_limit="skip")
    assert ask(world, made, "llm 11") == "skipped budget"
    control(world, made, "report 11")
    assert ask(world, made, "llm 1") == "skipped budget"
    assert world.figures(made) == (10, 11, 0, -1)
    assert world.alerts.of(made.pid).refused == 3


def test_on_limit_stop_ends_the_process_for_good_and_says_why(world: World) -> None:
    made = lead(world, 10, on_limit="stop")
    worker = world.child("worker", made)
    number = world.llm(made, 5)
    assert refused(ask, world, worker, "llm 11").errno == errno.EDQUOT
    assert worker.state is State.IDLE  # it raises, and lead was not refused anything
    assert refused(ask, world, made, "llm 11").errno == errno.EDQUOT
    assert (made.state, made.stopping) == (State.BLOCKED, True)
    world.settle(made, number, 1, 1)  # it may put its things in order
    world.clock.advance(9)
    assert refused(ask, world, made, "llm 11").errno == errno.EDQUOT  # no second grace period
    world.clock.advance(1)
    world.timers.run_due()
    assert (made.state, made.output) == (State.DEAD, "limit: budget tactical\n")
    assert world.of(ResourceStopped) == [ResourceStopped(made.pid, "lead", "budget tactical")]


def test_a_process_that_was_let_go_on_is_not_said_to_have_ended_by_a_limit(world: World) -> None:
    made = lead(world, 10, on_limit="stop")
    refused(ask, world, made, "llm 11")
    world.processes.signal(OPERATOR, made.pid, "CONT")
    world.processes.signal(OPERATOR, made.pid, "TERM")
    world.processes.signal(OPERATOR, made.pid, "KILL")
    assert made.output == ""


def test_process_1_is_never_stopped(world: World) -> None:
    assert refused(world.calls.llm, OPERATOR, INIT, "", 10**6).errno == errno.EDQUOT
    assert world.table.get(INIT).state is State.RUNNING


def test_a_call_that_is_refused_is_counted_even_though_nothing_else_is_changed(
    world: World,
) -> None:
    made = lead(world, 10)
    before = [entry.record() for entry in world.entries]
    refused(world.llm, made, 11)
    assert [entry.record() for entry in world.entries] == before
    again = world.restarted()
    try:
        assert again.alerts.of(made.pid).refused == 1
    finally:
        again.close()
