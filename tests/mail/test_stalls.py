"""Agents at work that leave their mail alone, and those that end with mail left."""

from __future__ import annotations

import pytest

from agentfs.mail.stalls import Stalls
from agentfs.model.process import Process, State
from agentfs.process.events import AgentResumed, AgentStalled, ConsumerEnded
from tests.world import World

AFTER = 300.0


@pytest.fixture
def stalls(world: World) -> Stalls:
    return world.kernel.stalls


@pytest.fixture
def bob(world: World, stalls: Stalls) -> Process:
    """One whose program stands still: so a start of the daemon leaves it as it is."""
    process = world.process("bob")
    world.table.update(process, exec=("sleep", "1000"), state=State.SLEEPING)
    return process


def later(world: World, stalls: Stalls, seconds: float) -> None:
    world.clock.advance(seconds)
    stalls.tidy()


def told(world: World) -> list[object]:
    kinds = (AgentStalled, AgentResumed, ConsumerEnded)
    found = [event for event in world.seen if isinstance(event, kinds)]
    world.seen.clear()
    return list(found)


def test_one_that_takes_no_mail_for_five_minutes_is_stalled_once(
    world: World, stalls: Stalls, bob: Process
) -> None:
    later(world, stalls, 1000)
    assert told(world) == []
    world.send("init", "bob", "one")
    later(world, stalls, 200)
    world.send("init", "bob", "two")
    later(world, stalls, 99)
    assert not stalls.is_stalled(bob.pid)
    later(world, stalls, 1)
    assert stalls.is_stalled(bob.pid)
    later(world, stalls, 1000)
    assert told(world) == [AgentStalled(bob.pid, "bob", 2, 300)]


def test_the_next_claim_ends_a_stall_and_begins_the_time_anew(
    world: World, stalls: Stalls, bob: Process
) -> None:
    for text in ("one", "two", "three"):
        world.send("init", "bob", text)
    later(world, stalls, AFTER)
    assert world.recv("bob") == "one"
    assert not stalls.is_stalled(bob.pid)
    later(world, stalls, AFTER - 1)
    assert [type(event) for event in told(world)] == [AgentStalled, AgentResumed]
    later(world, stalls, 1)
    assert told(world) == [AgentStalled(bob.pid, "bob", 2, 300)]


def test_finishing_a_message_counts_as_well_as_claiming_one(
    world: World, stalls: Stalls, bob: Process
) -> None:
    world.send("init", "bob", "one")
    world.send("init", "bob", "two")
    principal = world.principal("bob")
    (first, *_) = sorted(world.mail.mailbox("bob").new)
    world.mail.delivery.claim(principal, "bob", first, first)
    world.clock.advance(AFTER - 1)
    world.mail.delivery.acknowledge(principal, "bob", "cur", first)
    later(world, stalls, AFTER - 1)
    assert told(world) == []


def test_who_has_no_mail_or_no_program_does_not_stall(
    world: World, stalls: Stalls, bob: Process
) -> None:
    world.process("person")
    for name in ("person", "init", world.agent("nobody")):
        world.send("init", name, "hello")
    world.send("init", "bob", "hello")
    assert world.recv("bob") == "hello"  # and works on it, for hours
    later(world, stalls, 100 * AFTER)
    assert told(world) == []


def test_mail_that_is_gone_ends_a_stall(world: World, stalls: Stalls, bob: Process) -> None:
    world.send("init", "bob", "short-lived", expires=world.clock.now() + AFTER + 1)
    later(world, stalls, AFTER)
    assert stalls.is_stalled(bob.pid)
    later(world, stalls, 2)
    assert not stalls.is_stalled(bob.pid)
    assert isinstance(told(world)[-1], AgentResumed)


def test_the_time_begins_anew_when_the_daemon_starts(world: World, bob: Process) -> None:
    world.send("init", "bob", "one")
    world.clock.advance(AFTER)
    world.restart()
    stalls = world.kernel.stalls
    later(world, stalls, AFTER - 1)
    assert not stalls.is_stalled(bob.pid)
    later(world, stalls, 1)
    assert stalls.is_stalled(bob.pid)


def test_one_that_ends_with_mail_left_to_it_is_an_event(
    world: World, stalls: Stalls, bob: Process
) -> None:
    world.end(bob, 9, restart=True)
    assert told(world) == []
    for text in ("one", "two"):
        world.send("init", "bob", text)
    assert world.recv("bob") == "one"
    world.end(bob, 9, restart=True)
    assert told(world) == [ConsumerEnded(bob.pid, "bob", 9, 2)]


def test_nothing_is_kept_of_one_that_has_ended(world: World, stalls: Stalls, bob: Process) -> None:
    world.send("init", "bob", "one")
    later(world, stalls, AFTER)
    assert stalls.sizes() == {"neglected": 1, "stalled": 1}
    world.end(bob, 0)
    assert stalls.sizes() == {"neglected": 0, "stalled": 0}
