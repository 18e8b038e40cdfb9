"""Tasks: how many messages a process may have claimed, and for how long."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from agentfs.base.errors import KernelError
from agentfs.mail.message import Message
from agentfs.mail.readers import Reader
from agentfs.model.process import State
from agentfs.quota.events import TaskTimedOut
from tests.world import OPERATOR, World


def tell(world: World, name: str, count: int) -> None:
    for number in range(count):
        world.send("init", name, f"{number}")


def claim(world: World, name: str, mailbox: str = "") -> Message:
    """Rename the first file of new/ into cur/."""
    box = world.mail.mailbox(mailbox or name)
    file = min(box.new)
    message = box.new[file]
    world.mail.delivery.claim(world.principal(name), box.name, file, f"{file}:2,")
    return message


def acknowledge(world: World, name: str, message: Message) -> None:
    world.mail.delivery.acknowledge(world.principal(name), message.mailbox, "cur", message.file)


def timed_out(world: World) -> list[TaskTimedOut]:
    return [event for event in world.seen if isinstance(event, TaskTimedOut)]


def later(world: World, seconds: float) -> None:
    world.clock.advance(seconds)
    world.timers.run_due()


# -- how many --------------------------------------------------------------------------------------


def test_one_claim_more_than_a_process_may_have_is_eagain(world: World) -> None:
    world.process("alice", max_concurrent_tasks=2)
    tell(world, "alice", 4)
    first = claim(world, "alice")
    claim(world, "alice")
    with pytest.raises(KernelError) as refused:
        claim(world, "alice")
    assert (refused.value.errno, refused.value.rule) == (errno.EAGAIN, "max_concurrent_tasks")
    assert world.mail.mailbox("alice").waiting == 2
    acknowledge(world, "alice", first)
    claim(world, "alice")


def test_a_limit_that_was_taken_back_does_not_hold(world: World) -> None:
    world.process("alice", max_concurrent_tasks=2)
    alice = world.table.by_name("alice")
    assert alice is not None
    with pytest.raises(RuntimeError), world.store.transaction():
        world.table.update(alice, limits=replace(alice.limits, max_concurrent_tasks=1))
        tell(world, "alice", 2)
        claim(world, "alice")
        with pytest.raises(KernelError):
            claim(world, "alice")
        raise RuntimeError
    tell(world, "alice", 2)
    claim(world, "alice")
    claim(world, "alice")


@pytest.mark.parametrize("limit", ["max_concurrent_tasks", "timeout_seconds"])
def test_with_a_limit_of_0_nothing_can_be_claimed(world: World, limit: str) -> None:
    world.process("alice", **{limit: 0})
    tell(world, "alice", 1)
    with pytest.raises(KernelError) as refused:
        claim(world, "alice")
    assert (refused.value.errno, refused.value.rule) == (errno.EAGAIN, limit)
    assert world.recv("alice") is None
    assert world.waiting("alice") == ["0"]


def test_a_loop_of_recv_needs_one_task_only(world: World) -> None:
    world.process("alice", max_concurrent_tasks=1)
    tell(world, "alice", 5)
    assert [world.recv("alice") for _ in range(6)] == ["0", "1", "2", "3", "4", None]
    assert not world.mail.mailbox("alice").cur


def test_recv_gives_nothing_while_the_process_has_all_its_tasks(world: World) -> None:
    world.process("alice", max_concurrent_tasks=2)
    tell(world, "alice", 3)
    alice = world.principal("alice")
    loops = [Reader("alice") for _ in range(3)]
    claimed = [world.mail.receiving.claim_next(alice, "alice", loop) for loop in loops]
    assert [message is None for message in claimed] == [False, False, True]
    woken: list[str] = []

    def wake() -> None:
        woken.append("third")

    assert not world.mail.receiving.poll(alice, "alice", loops[2], wake)
    world.mail.receiving.wait(alice, "alice", loops[2], wake)
    tell(world, "alice", 1)
    assert woken == []  # more mail is no help
    world.mail.receiving.settle(alice, "alice", "done", reader=loops[0])
    assert woken == ["third"]
    assert world.mail.receiving.claim_next(alice, "alice", loops[2]) is not None


def test_who_is_held_up_leaves_the_mail_to_the_next_in_the_line(world: World) -> None:
    """Two agents read one queue's worth of mail: the one that may not take it is not called for
    every message, and the other is."""
    world.process("alice", max_concurrent_tasks=1)
    tell(world, "alice", 1)
    alice = world.principal("alice")
    world.mail.receiving.claim_next(alice, "alice", Reader("alice"))
    calls: list[str] = []
    held_up, free = Reader("alice"), Reader("alice")
    world.mail.receiving.wait(alice, "alice", held_up, lambda: calls.append("held up"))
    world.mail.receiving.wait(OPERATOR, "alice", free, lambda: calls.append("free"))
    tell(world, "alice", 1)
    assert calls == ["free"]


def test_a_batch_has_no_more_than_the_process_may_have(world: World) -> None:
    world.process("alice", max_concurrent_tasks=4)
    tell(world, "alice", 10)
    alice = world.principal("alice")
    claim(world, "alice")
    sizes = [len(world.mail.receiving.claim_batch(alice, "alice", 10)) for _ in range(4)]
    assert sizes == [3, 3, 3, 0]  # each batch acknowledges the one before it
    assert len(world.mail.mailbox("alice").cur) == 1  # an empty one acknowledges, too


def test_the_operator_may_claim_any_number(world: World) -> None:
    world.process("alice", max_concurrent_tasks=1)
    tell(world, "alice", 3)
    for file in sorted(world.mail.mailbox("alice").new):
        world.mail.delivery.claim(OPERATOR, "alice", file, file)
    tell(world, "init", 50)
    while world.mail.receiving.claim_next(OPERATOR, "init", Reader("init")) is not None:
        pass
    assert world.mail.mailbox("init").waiting == 0


def test_agents_without_a_process_have_no_limit(world: World) -> None:
    world.agent("nobody")
    tell(world, "nobody", 20)
    for file in sorted(world.mail.mailbox("nobody").new):
        world.mail.delivery.claim(OPERATOR, "nobody", file, file)


def test_the_least_of_ancestors_and_configuration_holds_for_tasks(world: World) -> None:
    top = world.process("top", max_concurrent_tasks=1)
    world.process("low", top.pid)
    tell(world, "low", 3)
    claim(world, "low")
    with pytest.raises(KernelError):
        claim(world, "low")
    world.process("other")
    tell(world, "other", 3)
    claim(world, "other")
    world.settings.replace("limits: {max_concurrent_tasks: 1}")
    with pytest.raises(KernelError):
        claim(world, "other")


def test_more_tasks_wake_those_who_wait_for_one(world: World) -> None:
    world.process("alice")
    world.settings.replace("limits: {max_concurrent_tasks: 1}")
    tell(world, "alice", 2)
    claim(world, "alice")
    woken: list[int] = []
    reader, alice = Reader("alice"), world.principal("alice")
    world.mail.receiving.wait(alice, "alice", reader, lambda: woken.append(1))
    assert world.mail.delivery.tasks.sizes()["held up"] == 1
    world.settings.replace("limits: {max_concurrent_tasks: 2}")
    assert woken == [1]
    assert world.mail.receiving.claim_next(alice, "alice", reader) is not None
    assert world.mail.delivery.tasks.sizes()["held up"] == 0


# -- how long --------------------------------------------------------------------------------------


def test_a_task_that_takes_too_long_goes_back_and_cannot_be_acknowledged(world: World) -> None:
    alice = world.process("alice", timeout_seconds=30)
    tell(world, "alice", 1)
    message = claim(world, "alice")
    file = message.file
    later(world, 29.999)
    assert world.waiting("alice") == []
    assert alice.state is State.RUNNING
    later(world, 0.001)
    assert world.waiting("alice") == ["0"]
    assert world.header(message, "Delivery-Attempt") == "2"
    assert alice.state is State.IDLE
    assert timed_out(world) == [TaskTimedOut(alice.pid, "alice", "alice", message.id, 30)]
    with pytest.raises(KernelError) as refused:
        world.mail.delivery.acknowledge(world.principal("alice"), "alice", "cur", file)
    assert refused.value.errno == errno.ENOENT


def test_it_does_not_depend_on_when_the_timer_runs(world: World) -> None:
    world.process("alice", timeout_seconds=30)
    tell(world, "alice", 3)
    messages = [claim(world, "alice") for _ in range(2)]
    alice = world.principal("alice")
    read = world.mail.receiving.claim_next(alice, "alice")
    assert read is not None
    files = [message.file for message in messages]
    world.clock.advance(30)
    late = [
        lambda: world.mail.delivery.acknowledge(alice, "alice", "cur", files[0]),
        lambda: world.mail.delivery.put_back(alice, "alice", files[1], "back"),
        lambda: world.mail.receiving.settle(alice, "alice", "done"),
    ]
    for call in late:
        with pytest.raises(KernelError) as refused:
            call()
        assert refused.value.errno == errno.ENOENT
    assert len(timed_out(world)) == 3


def test_what_was_read_through_recv_times_out_too_and_the_loop_goes_on(world: World) -> None:
    world.process("alice", timeout_seconds=30)
    tell(world, "alice", 2)
    loop, alice = Reader("alice"), world.principal("alice")
    first = world.mail.receiving.claim_next(alice, "alice", loop)
    assert first is not None
    later(world, 31)
    again = world.mail.receiving.claim_next(alice, "alice", loop)
    assert again is first
    assert first.attempt == 2
    assert world.waiting("alice") == ["1"]


def test_after_the_last_attempt_it_is_a_dead_letter(world: World) -> None:
    world.process("alice", timeout_seconds=10)
    world.settings.replace("messages: {max_delivery_attempts: 2}")
    tell(world, "alice", 1)
    message = claim(world, "alice")
    later(world, 10)
    claim(world, "alice")
    later(world, 10)
    assert message.folder == "dead"
    assert "alice had it for 10 s (timeout_seconds)" in message.reason


def test_what_has_expired_meanwhile_does_not_come_back(world: World) -> None:
    world.process("alice", timeout_seconds=10)
    world.send("init", "alice", "now", expires=world.clock.now() + 5)
    claim(world, "alice")
    later(world, 10)
    assert world.waiting("alice") == []
    assert not world.mail.mailbox("alice").cur


def test_one_alarm_is_enough_for_any_number_of_tasks(world: World) -> None:
    world.process("alice", timeout_seconds=100)
    tell(world, "alice", 50)
    before = len(world.timers)
    for _ in range(50):
        claim(world, "alice")
        world.clock.advance(1)
    assert len(world.timers) == before + 1
    later(world, 60)
    assert len(timed_out(world)) == 11
    for _ in range(50):
        later(world, 1)
    assert len(timed_out(world)) == 50
    assert world.mail.delivery.tasks.sizes() == {"claimants": 0, "deadlines": 0, "held up": 0}


def test_a_changed_limit_holds_for_tasks_that_are_under_way(world: World) -> None:
    world.process("alice", timeout_seconds=100)
    tell(world, "alice", 1)
    claim(world, "alice")
    later(world, 50)
    world.settings.replace("limits: {timeout_seconds: 60}")
    later(world, 9)
    assert timed_out(world) == []
    world.settings.replace("")
    later(world, 40)
    assert timed_out(world) == []
    world.settings.replace("limits: {timeout_seconds: 60}")
    assert len(timed_out(world)) == 1


def test_the_time_goes_on_while_the_daemon_is_down(world: World) -> None:
    world.process("alice", timeout_seconds=100)
    tell(world, "alice", 2)
    claim(world, "alice")
    later(world, 50)
    claim(world, "alice")
    world.restart()
    later(world, 50)
    assert len(timed_out(world)) == 1
    later(world, 50)
    assert len(timed_out(world)) == 2


def test_what_no_process_has_times_out_after_claim_timeout_only(world: World) -> None:
    world.settings.replace("limits: {timeout_seconds: 10}\nmessages: {claim_timeout: 100}")
    world.agent("nobody")
    for name in ("nobody", "init"):
        tell(world, name, 1)
        file = min(world.mail.mailbox(name).new)
        world.mail.delivery.claim(OPERATOR, name, file, file)
    later(world, 60)
    assert world.release_stale() == 0
    assert timed_out(world) == []
    later(world, 60)
    assert world.release_stale() == 1
    assert world.waiting("nobody") == ["0"]


def test_a_claim_of_the_operator_for_an_agent_has_the_agents_time(world: World) -> None:
    world.process("alice", timeout_seconds=10)
    tell(world, "alice", 1)
    file = min(world.mail.mailbox("alice").new)
    world.mail.delivery.claim(OPERATOR, "alice", file, file)
    later(world, 10)
    assert world.waiting("alice") == ["0"]


def test_what_was_acknowledged_in_time_never_times_out(world: World) -> None:
    world.process("alice", timeout_seconds=10)
    tell(world, "alice", 3)
    acknowledge(world, "alice", claim(world, "alice"))
    world.recv("alice")
    world.recv("alice")
    alice = world.table.by_name("alice")
    assert alice is not None
    world.end(alice, 0)
    later(world, 100)
    assert timed_out(world) == []
    assert world.waiting("alice") == []
    assert world.mail.delivery.tasks.sizes() == {"claimants": 0, "deadlines": 0, "held up": 0}


def test_a_claim_that_was_rolled_back_has_no_deadline(world: World) -> None:
    world.process("alice", timeout_seconds=10)
    tell(world, "alice", 1)
    with pytest.raises(RuntimeError), world.store.transaction():
        claim(world, "alice")
        raise RuntimeError
    assert world.mail.delivery.tasks.sizes() == {"claimants": 0, "deadlines": 0, "held up": 0}
    assert world.waiting("alice") == ["0"]
    later(world, 20)
    assert timed_out(world) == []


@pytest.mark.parametrize("step", [86400.0, -86400.0, 365 * 86400.0])
def test_a_step_of_the_clock_takes_no_task_from_anybody(world: World, step: float) -> None:
    """Nor does it count as an attempt; and a task that takes too long still ends in time."""
    alice = world.process("alice", timeout_seconds=300)
    tell(world, "alice", 2)
    message = world.mail.receiving.claim_next(world.principal("alice"), "alice")
    assert message is not None
    world.clock.advance(100)
    world.clock.step(step)
    world.timers.run_due()
    world.release_stale()
    assert (message.folder, message.attempt) == ("cur", 1)
    assert world.mail.delivery.tasks.oldest(alice.pid) == 100
    world.clock.advance(201)
    world.timers.run_due()
    assert (message.folder, message.attempt) == ("new", 2)


def test_a_claim_of_nobody_is_returned_in_its_own_time_whatever_the_clock_says(
    world: World,
) -> None:
    world.agent("ghost")
    tell(world, "ghost", 1)
    message = world.mail.receiving.claim_next(OPERATOR, "ghost")
    assert message is not None
    for _ in range(5):
        world.clock.step(7200)
        assert world.release_stale() == 0
    world.clock.advance(3601)
    assert world.release_stale() == 1
    assert message.attempt == 2


def test_after_a_start_of_the_machine_a_task_has_all_of_its_time_again(world: World) -> None:
    world.process("alice", timeout_seconds=300)
    tell(world, "alice", 1)
    claim(world, "alice")
    world.clock.advance(299)
    with world.store.transaction():
        world.store.set_meta("boot_id", "another")
    world.restart()
    world.clock.advance(299)
    world.timers.run_due()
    assert len(world.mail.mailbox("alice").cur) == 1
    world.clock.advance(2)
    world.timers.run_due()
    assert len(world.mail.mailbox("alice").new) == 1
