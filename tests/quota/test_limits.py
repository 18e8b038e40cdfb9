"""Limits: who may set them, which of them holds, and that each stops what it is about."""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.mail.message import Draft
from agentfs.mail.readers import Reader
from agentfs.model.process import Process
from agentfs.process.ceilings import NAMES
from agentfs.process.events import ResourceExceeded
from agentfs.process.settings import ProcessSettings
from agentfs.quota.events import LimitChanged, ResourceWarning, TaskTimedOut
from agentfs.quota.meter import LimitError
from agentfs.store.part import Part
from tests.process.world import OPERATOR, as_agent
from tests.quota.limits_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state", None)
    yield world
    world.close()


@contextmanager
def refused(code: int, rule: str = "") -> Iterator[None]:
    with pytest.raises(KernelError) as caught:
        yield
    assert caught.value.errno == code, str(caught.value)
    assert not rule or caught.value.rule == rule, str(caught.value)


# -- setting ---------------------------------------------------------------------------------------


def test_a_process_lowers_its_limits_and_only_parent_and_operator_raise_them(world: World) -> None:
    parent = world.child("parent", role="lead")
    child = world.child("child", parent)
    other = world.child("other")
    grandchild = world.child("grandchild", child)
    world.limit(child, "max_llm_calls", 10, by=child)
    world.limit(child, "max_llm_calls", 10, by=child)  # as it is: nothing happens
    world.limit(child, "max_llm_calls", 5, by=child)
    for raised in ("6", "max"):
        with refused(errno.EPERM, "limits"):
            world.limit(child, "max_llm_calls", raised, by=child)
    for stranger in (other, grandchild):
        for text in ("4", "6"):
            with refused(errno.EPERM, "limits"):
                world.limit(child, "max_llm_calls", text, by=stranger)
    assert child.limits.max_llm_calls == 5
    world.limit(child, "max_llm_calls", 6, by=parent)
    world.limit(child, "max_llm_calls", 3, by=parent)
    world.limit(child, "max_llm_calls", "max")
    assert child.limits.max_llm_calls is None
    changes = [(event.limit, event.value) for event in world.of(LimitChanged)]
    assert changes == [("max_llm_calls", value) for value in (10, 5, 6, 3, None)]


def test_a_grandparent_does_not_raise(world: World) -> None:
    top = world.child("top", role="lead")
    middle = world.child("middle", top)
    below = world.child("below", middle, limits={"max_tool_calls": 1})
    with refused(errno.EPERM, "limits"):
        world.limit(below, "max_tool_calls", 2, by=top)


def test_a_bad_limit_is_einval_and_changes_nothing(world: World) -> None:
    process = world.child("a")
    before = process.record()
    for name in NAMES:
        for text in ("", "-1", "1e3", "5 6", "many", "MAX", "0x10", "1" * 20, "nan"):
            with refused(errno.EINVAL):
                world.limit(process, name, text)
    assert process.record() == before


def test_only_money_has_a_fraction(world: World) -> None:
    process = world.child("a")
    world.limit(process, "max_cost_usd", "0.25")
    assert process.limits.max_cost_usd == 0.25
    with refused(errno.EINVAL):
        world.limit(process, "max_children", "2.5")


def test_process_1_and_what_has_ended_have_no_limits_to_set(world: World) -> None:
    init = world.table.get(1)
    for name in ("max_children", "max_llm_calls"):
        with refused(errno.EPERM, "limits"):
            world.limit(init, name, 5)
    ended = world.child("ended")
    world.processes.signal(OPERATOR, ended.pid, "KILL")
    with refused(errno.ESRCH):
        world.limit(ended, "max_children", 5)
    with refused(errno.ESRCH):
        world.limits.set(OPERATOR, 999, "max_children", "5")


def test_a_limit_below_what_is_used_lets_nothing_more_through(world: World) -> None:
    parent = world.child("parent", role="lead")
    for name in ("a", "b", "c"):
        world.child(name, parent)
    world.limit(parent, "max_children", 1)
    assert world.limits.used(parent, "max_children") == 3
    with refused(errno.EAGAIN, "max_children"):
        world.child("d", parent)
    assert len(world.table.live_children(parent.pid)) == 3


def test_limits_survive_a_restart_of_the_daemon(world: World) -> None:
    process = world.child("a")
    world.limit(process, "timeout_seconds", 17)
    again = world.restarted()
    assert again.table.get(process.pid).limits.timeout_seconds == 17
    again.close()


# -- which holds -----------------------------------------------------------------------------------


def test_l_5_the_least_of_configuration_ancestors_and_own_holds(world: World) -> None:
    top = world.child("top", role="lead", limits={"max_llm_calls": 8})
    middle = world.child("middle", top, role="lead")
    low = world.child("low", middle, limits={"max_llm_calls": 20})

    def decisive(process: Process, name: str) -> tuple[int | float, str] | None:
        return world.ceilings.decisive(process, (name,)).get(name)

    assert decisive(low, "max_llm_calls") == (8, "top")
    world.limit(middle, "max_llm_calls", 5)
    assert decisive(low, "max_llm_calls") == (5, "middle")
    world.configure_limits(max_llm_calls=3)
    assert decisive(low, "max_llm_calls") == (3, "limits.max_llm_calls")
    world.limit(low, "max_llm_calls", 3)
    assert decisive(low, "max_llm_calls") == (3, "own")
    world.configure_limits()
    world.processes.reparent(OPERATOR, low.pid, 1)
    world.limit(low, "max_llm_calls", "max")
    assert decisive(low, "max_llm_calls") is None
    for process in (top, middle, low):
        for name in NAMES:
            found = decisive(process, name)
            assert world.ceilings.effective(process, name) == (found and found[0])
    assert world.ceilings.effective(world.table.get(1), "max_llm_calls") is None


def test_max_children_is_of_the_process_alone(world: World) -> None:
    top = world.child("top", role="lead", limits={"max_children": 1})
    below = world.child("below", top, role="lead", limits={"max_children": 3})
    assert world.ceilings.effective(below, "max_children") == 3
    world.configure_limits(max_children=2)
    world.child("a", below)
    world.child("b", below)
    with refused(errno.EAGAIN, "max_children"):
        world.child("c", below)
    world.processes.reparent(OPERATOR, world.child("far").pid, 1)
    with refused(errno.EAGAIN, "max_children"):
        world.processes.reparent(OPERATOR, world.table.by_name("far").pid, below.pid)  # type: ignore[union-attr]
    assert world.ceilings.effective(world.table.get(1), "max_children") == 100


def test_status_says_what_is_used_and_whose_limit_holds(world: World) -> None:
    top = world.child("top", role="lead", limits={"max_tool_calls": 4})
    low = world.child("low", top)
    world.use(low, 1200)
    lines = dict(line.split(" ", 1) for line in world.limits.status(low).splitlines())
    assert list(lines) == list(NAMES)
    assert lines["max_tool_calls"] == "0 4 top"
    assert lines["max_tokens_total"] == "1200 1000000 own"
    assert lines["max_cpu_seconds"] == "0 max -"


# -- calls: tokens, calls, cost --------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 1, 5])
def test_l_1_a_limit_of_n_allows_exactly_n_calls_and_0_none(world: World, most: int) -> None:
    process = world.child("a", limits={"max_llm_calls": most, "max_tool_calls": most})
    for _ in range(most):
        world.use(process, 10)
        world.calls.settle(
            as_agent(process),
            process.pid,
            int(world.calls.tool(as_agent(process), process.pid, "search")),
        )
    with refused(errno.EDQUOT, "max_llm_calls"):
        world.llm(process, 10)
    with refused(errno.EDQUOT, "max_tool_calls"):
        world.calls.tool(as_agent(process), process.pid, "search")
    assert world.limits.used(process, "max_llm_calls") == most
    assert world.limits.used(process, "max_tool_calls") == most


def test_fifty_callers_at_once_get_exactly_n_calls(world: World) -> None:
    process = world.child("a", limits={"max_llm_calls": 20})
    begun = []
    for _ in range(50):
        try:
            begun.append(world.llm(process, 100))
        except LimitError as full:
            assert (full.resource, full.used, full.limit) == ("max_llm_calls", 20, 20)
    assert len(begun) == 20
    for number in begun[:5]:  # they were not made after all
        world.calls.cancel(as_agent(process), process.pid, number)
    assert world.limits.used(process, "max_llm_calls") == 15
    world.llm(process, 100)


def test_l_1_tokens_are_set_aside_before_a_call_and_counted_after_it(world: World) -> None:
    process = world.child("a", limits={"max_tokens_total": 1000})
    number = world.llm(process, 900)
    assert world.limits.used(process, "max_tokens_total") == 900
    with refused(errno.EDQUOT, "max_tokens_total"):
        world.llm(process, 101)
    world.settle(process, number, 100, 200)
    assert world.limits.used(process, "max_tokens_total") == process.tokens == 300
    world.use(process, 700)
    with refused(errno.EDQUOT, "max_tokens_total"):
        world.llm(process, 1)
    with refused(errno.EDQUOT, "max_tokens_total"):
        world.llm(process, None)  # without a maximum: nothing is left


def test_a_call_without_a_maximum_gets_what_is_left(world: World) -> None:
    process = world.child("a", limits={"max_tokens_total": 1000, "max_tokens_per_hour": 600})
    number = world.llm(process, None)
    assert world.limits.used(process, "max_tokens_per_hour") == 600
    world.settle(process, number, 0, 50)
    assert world.limits.used(process, "max_tokens_per_hour") == 50


def test_tokens_of_an_hour_ago_count_no_more(world: World) -> None:
    process = world.child("a", limits={"max_tokens_per_hour": 1000})
    world.use(process, 600)
    world.later(1800)
    world.use(process, 400)
    with refused(errno.EDQUOT, "max_tokens_per_hour"):
        world.llm(process, 1)
    world.later(1799.5)
    with refused(errno.EDQUOT, "max_tokens_per_hour"):
        world.llm(process, 1)
    world.later(0.5)  # the first use is exactly an hour old
    assert world.limits.used(process, "max_tokens_per_hour") == 400
    world.use(process, 600)
    with refused(errno.EDQUOT, "max_tokens_per_hour"):
        world.llm(process, 1)
    assert world.limits.used(process, "max_tokens_total") == 1600


def test_what_was_used_survives_a_restart_of_the_daemon(world: World) -> None:
    process = world.child("a", limits={"max_tokens_per_hour": 1000, "max_llm_calls": 3})
    world.use(process, 300)
    world.later(600)
    world.use(process, 300)
    held = world.llm(process, 200)
    again = world.restarted()
    same = again.table.get(process.pid)
    used = {name: again.limits.used(same, name) for name in NAMES}
    assert (used["max_tokens_per_hour"], used["max_tokens_total"]) == (800, 800)
    assert used["max_llm_calls"] == 3
    with refused(errno.EDQUOT):
        again.llm(same, 1)
    again.settle(same, held, 0, 150)
    again.later(3001)
    assert again.limits.used(same, "max_tokens_per_hour") == 450
    again.close()


def test_cost_is_bounded_and_what_has_no_price_is_free(world: World) -> None:
    process = world.child("a", limits={"max_cost_usd": 0.01})
    price = world.models.cost("sonnet", 0, 1000)
    most = 10_000 // price * 1000
    world.use(process, most, "sonnet")
    assert world.limits.used(process, "max_cost_usd") <= 0.01
    with refused(errno.EDQUOT, "max_cost_usd"):
        world.llm(process, "sonnet", 1000)
    world.use(process, 1000, "some-model-of-mine")
    free = world.child("free", limits={"max_cost_usd": 0.0})
    world.use(free, 1000, "some-model-of-mine")
    with refused(errno.EDQUOT, "max_cost_usd"):
        world.llm(free, "sonnet", 1)


def test_limits_of_a_child_are_its_own_count(world: World) -> None:
    parent = world.child("parent", role="lead", limits={"max_llm_calls": 2})
    child = world.child("child", parent)
    world.use(child, 10)
    world.use(child, 10)
    with refused(errno.EDQUOT, "max_llm_calls"):  # the parent's limit holds for it
        world.llm(child, 10)
    world.use(parent, 10)  # and the parent has used nothing yet
    assert world.limits.used(parent, "max_llm_calls") == 1


def test_l_3_a_warning_once_at_80_percent_and_exceeded_once(world: World) -> None:
    process = world.child("a", limits={"max_llm_calls": 5})
    for _ in range(5):
        world.use(process, 10)
    for _ in range(3):
        with refused(errno.EDQUOT, "max_llm_calls"):
            world.llm(process, 10)
    warned = [(event.resource, event.used, event.limit) for event in world.of(ResourceWarning)]
    assert warned == [("max_llm_calls", 4, 5)]
    over = [(event.resource, event.used, event.limit) for event in world.of(ResourceExceeded)]
    assert over == [("max_llm_calls", 5, 5)]


def test_l_2_the_first_limit_in_the_order_of_the_list_decides(world: World) -> None:
    limits = {"max_context_tokens": 50, "max_tokens_total": 10, "max_llm_calls": 0}
    process = world.child("a", limits=limits, deny=["llm"])
    with refused(errno.EPERM, "capability llm"):
        world.llm(process, 100)
    process = world.child("b", limits=limits)
    with refused(errno.EMSGSIZE, "max_context_tokens"):
        world.llm(process, 100)
    with refused(errno.EDQUOT, "max_tokens_total"):
        world.llm(process, 50)
    with refused(errno.EDQUOT, "max_llm_calls"):
        world.llm(process, 10)


@pytest.mark.parametrize(("on_limit", "lives"), [("raise", True), ("stop", False)])
def test_l_4_what_follows_is_on_limit(world: World, on_limit: str, lives: bool) -> None:
    process = world.child("a", limits={"max_llm_calls": 0}, on_limit=on_limit)
    with refused(errno.EDQUOT, "max_llm_calls"):
        world.llm(process, 10)
    world.later(world.settings.of(ProcessSettings).grace_period)
    assert process.state.alive is lives


def test_l_4_skip_answers_with_the_rule_and_no_error(world: World) -> None:
    process = world.child("a", limits={"max_tool_calls": 0}, on_limit="skip")
    assert world.calls.tool(as_agent(process), process.pid, "search") == "max_tool_calls"


def test_a_call_without_usage_counts_as_a_call(world: World) -> None:
    process = world.child("a")
    world.settle(process, world.llm(process, 10), 0, 0)
    assert world.limits.used(process, "max_llm_calls") == 1
    assert world.limits.used(process, "max_tokens_total") == 0


# -- HiveKernel's tests, by name -------------------------------------------------------------------


def test_limit_checker_spawn(world: World) -> None:
    """TestLimitCheckerSpawn: 2 of 2 children, and the next is refused."""
    parent = world.child("parent", role="lead", limits={"max_children": 2})
    world.child("a", parent)
    world.child("b", parent)
    with refused(errno.EAGAIN, "max_children"):
        world.child("c", parent)


def test_limit_checker_context_window(world: World) -> None:
    """TestLimitCheckerContextWindow: 50k fit into 128k, 200k do not; equal is fine."""
    process = world.child("a")
    for fits in (50_000, 128_000 - 78_000):
        world.settle(process, world.llm(process, fits), 0, 1)
    with refused(errno.EMSGSIZE, "max_context_tokens"):
        world.llm(process, 200_000)
    world.limit(process, "max_tokens_per_hour", "max")
    world.use(process, 128_000)
    assert world.limits.used(process, "max_context_tokens") == 128_000
    with refused(errno.EMSGSIZE, "max_context_tokens"):
        world.llm(process, 128_001)


def test_limit_checker_timeout(world: World) -> None:
    """TestLimitCheckerTimeout: what was just begun has not timed out."""
    process = world.child("a")
    world.tell("a")
    message = world.claim(process)
    world.later(299.9)
    world.acknowledge(process, message)


def test_fault_b6_all_six_limits_are_enforced(world: World) -> None:
    """B6: hourly tokens, context size, concurrency, timeout and rate were never enforced."""
    limits = {
        "max_tokens_per_hour": 100,
        "max_tokens_total": 150,
        "max_context_tokens": 90,
        "max_concurrent_tasks": 1,
        "timeout_seconds": 10,
        "messages_per_minute": 1,
    }
    process = world.child("a", limits=limits)
    with refused(errno.EMSGSIZE, "max_context_tokens"):
        world.llm(process, 91)
    world.use(process, 60)
    with refused(errno.EDQUOT, "max_tokens_per_hour"):
        world.llm(process, 41)
    world.use(process, 40)
    world.later(3600)
    with refused(errno.EDQUOT, "max_tokens_total"):
        world.llm(process, 51)
    world.send(process, "init")
    with refused(errno.EAGAIN, "messages_per_minute"):
        world.send(process, "init")
    world.tell("a", 2)
    message = world.claim(process)
    with refused(errno.EAGAIN, "max_concurrent_tasks"):
        world.claim(process)
    world.later(10)
    with refused(errno.ENOENT):
        world.acknowledge(process, message)


# -- queues ----------------------------------------------------------------------------------------


def test_claims_from_queues_count_for_who_took_them_and_time_out(world: World) -> None:
    limits = {"max_concurrent_tasks": 2, "timeout_seconds": 30}
    worker = world.child("worker", limits=limits)
    other = world.child("other", limits=limits)
    queue = world.queues.create(OPERATOR, "work", 0o777)
    for number in range(6):
        world.queues.send(OPERATOR, queue, Draft("work", f"{number}".encode()))
    world.tell("worker")
    claimed = [world.claim(worker), world.claim(worker, "queues/work")]
    for mailbox in ("worker", "queues/work"):
        reader = Reader(mailbox)
        assert world.mail.receiving.claim_next(as_agent(worker), mailbox, reader) is None
    with refused(errno.EAGAIN, "max_concurrent_tasks"):
        world.claim(worker, "queues/work")
    assert (
        world.mail.receiving.claim_next(as_agent(other), "queues/work", Reader("queues/work"))
        is not None
    )
    world.mail.receiving.claim_next(OPERATOR, "queues/work", Reader("queues/work"))
    world.later(30)
    for message in claimed:
        with refused(errno.ENOENT):
            world.acknowledge(worker, message)
    assert world.waiting("queues/work") == 5  # process 1 keeps what it took
    assert [event.agent for event in world.of(TaskTimedOut)] == ["worker", "worker", "other"]


def test_whoever_is_held_up_at_a_queue_does_not_keep_the_others_from_it(world: World) -> None:
    busy = world.child("busy", limits={"max_concurrent_tasks": 1})
    free = world.child("free")
    queue = world.queues.create(OPERATOR, "work", 0o777)
    world.tell("busy")
    task = world.claim(busy)
    woken: list[str] = []
    readers = {process.name: Reader("queues/work") for process in (busy, free)}
    calls = {name: functools.partial(woken.append, name) for name in readers}

    def wait(process: Process) -> None:
        name = process.name
        world.mail.receiving.wait(as_agent(process), "queues/work", readers[name], calls[name])

    wait(busy)  # first in the line, if it could take anything
    wait(free)
    world.queues.send(OPERATOR, queue, Draft("work", b"1"))
    assert woken == ["free"]
    assert (
        world.mail.receiving.claim_next(as_agent(free), "queues/work", readers["free"]) is not None
    )
    world.queues.send(OPERATOR, queue, Draft("work", b"2"))
    world.acknowledge(busy, task)
    assert woken == ["free", "busy"]
    assert (
        world.mail.receiving.claim_next(as_agent(busy), "queues/work", readers["busy"]) is not None
    )
    assert world.mail.delivery.tasks.sizes()["held up"] == 0


# -- the end ---------------------------------------------------------------------------------------


def _use_everything(world: World, process: Process) -> None:
    world.use(process, 100)
    world.llm(process, 100)
    world.send(process, "init")
    world.tell(process.name, 2)
    world.claim(process)


def test_fault_b7_what_a_process_had_goes_at_its_end(world: World) -> None:
    before, rows = world.sizes(), _rows(world)
    for number in range(20):
        process = world.child(f"a{number}", limits={"messages_per_minute": 9, "max_llm_calls": 9})
        _use_everything(world, process)
        world.end(process)
        world.agents.remove(OPERATOR, process.name)
    world.later(600)
    assert world.sizes() == before
    assert _rows(world) == rows


def test_a_restart_of_its_program_keeps_what_was_used(world: World) -> None:
    process = world.child("a", limits={"max_llm_calls": 2})
    world.use(process, 10)
    with world.store.transaction():
        world.ground.parts.tell(Part.program_ended, process, 1)
    world.use(process, 10)
    with refused(errno.EDQUOT, "max_llm_calls"):
        world.llm(process, 10)


def test_a_use_that_is_rolled_back_was_never_counted(world: World) -> None:
    process = world.child("a")
    world.use(process, 50)
    before = world.limits.status(process)
    with pytest.raises(RuntimeError), world.store.transaction():
        _use_everything(world, process)
        raise RuntimeError
    assert world.limits.status(process) == before


def _rows(world: World) -> int:
    return sum(1 for _ in world.store.records("spent"))


def test_doctor_finds_what_is_left_of_a_process_that_is_no_more(world: World) -> None:
    with world.store.transaction():
        world.store.put_record("spent", "77", {"llm_calls": -1, "hour": [[5.0, 1], [4.0, 0]]})
    faults = "\n".join(check(world.state_dir / "store.db"))
    for words in ("no such living process", "llm_calls is -1", "not in order", "of no tokens"):
        assert words in faults
    with world.store.transaction():
        world.store.delete_record("spent", "77")
