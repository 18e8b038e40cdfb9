"""Exactly one notice for a restart, and a message to the parent when a process is given up."""

from __future__ import annotations

import pytest

from agentfs.model.process import Process
from tests.world import World


@pytest.fixture
def bob(world: World) -> Process:
    return world.process("bob")


def restart(world: World, process: Process, reason: str = "it ended with code 9") -> None:
    """Up to the start of the program."""
    with world.store.transaction():
        world.tell_restart(process, reason)


def test_a_notice_says_why_and_comes_from_the_system(world: World, bob: Process) -> None:
    restart(world, bob)
    (message,) = world.mail.mailbox("bob").new.values()
    assert world.body(message) == (
        "Your program is started again: it ended with code 9. This is restart 1.\n"
    )
    headers = ("From", "Type", "Restarts", "Relation", "Priority")
    assert [world.header(message, name) for name in headers] == [
        "init",
        "restart-notice",
        "1",
        "system",
        "high",
    ]


def test_an_unread_notice_is_replaced_and_other_mail_stays(world: World, bob: Process) -> None:
    world.send("init", "bob", "Subject: Type: restart-notice\n\nType: restart-notice")
    restart(world, bob, "first")
    world.send("init", "bob", "hello")
    for reason in ("second", "third"):
        restart(world, bob, reason)
    assert [body for body in world.waiting("bob") if body.startswith("Your")] == [
        "Your program is started again: third. This is restart 1.\n"
    ]
    assert {"Type: restart-notice", "hello"} < set(world.waiting("bob"))
    assert len(world.waiting("bob")) == 3


def test_a_notice_that_was_read_is_not_the_next_ones_business(world: World, bob: Process) -> None:
    restart(world, bob, "first")
    assert "first" in (world.recv("bob") or "")
    restart(world, bob, "second")
    assert "second" in (world.recv("bob") or "")
    assert world.recv("bob") is None


def test_one_that_was_claimed_and_lost_with_its_program_is_replaced(
    world: World, bob: Process
) -> None:
    restart(world, bob, "first")
    assert "first" in (world.recv("bob") or "")
    world.end(bob, 9, restart=True)
    restart(world, bob, "second")
    assert len(world.waiting("bob")) == 1


def test_kill_9_gives_neither_none_nor_two(world: World, bob: Process) -> None:
    restart(world, bob, "first")
    world.restart()
    bob = world.table.get(bob.pid)
    assert len(world.waiting("bob")) == 1
    with pytest.raises(ZeroDivisionError), world.store.transaction():
        world.tell_restart(bob, "second")
        raise ZeroDivisionError
    assert "first" in world.waiting("bob")[0]
    restart(world, bob, "third")
    world.restart()
    assert ["third" in body for body in world.waiting("bob")] == [True]


def test_a_full_inbox_gets_no_notice_and_the_restart_goes_on(
    world: World, bob: Process, caplog: pytest.LogCaptureFixture
) -> None:
    world.settings.replace("messages: {max_waiting: 2}")
    world.send("init", "bob", "one")
    world.send("init", "bob", "two")
    restart(world, bob)
    assert world.waiting("bob") == ["one", "two"]
    assert "bob is full" in caplog.text


def test_the_parent_of_one_that_is_given_up_gets_an_escalation(world: World, bob: Process) -> None:
    child = world.process("child", bob.pid)
    with world.store.transaction():
        world.tell_given_up(child, bob, "gave up after 5 restarts within 300 s")
    (message,) = world.mail.mailbox("bob").new.values()
    assert world.header(message, "Type") == "escalation"
    assert world.header(message, "Severity") == "error"
    assert world.body(message) == (
        f"child, process {child.pid}: gave up after 5 restarts within 300 s.\n"
    )


def test_a_notice_waits_behind_the_work(world: World, bob: Process) -> None:
    world.send("init", "bob", "Priority: low\n\nwork")
    restart(world, bob)
    assert world.recv("bob") == "work"
    assert (world.recv("bob") or "").startswith("Your program")


def test_one_on_which_its_program_fails_is_the_next_attempt_and_then_a_dead_letter(
    world: World, bob: Process
) -> None:
    for attempt in (1, 2):
        restart(world, bob, f"number {attempt}")
        (notice,) = world.mail.mailbox("bob").new.values()
        assert notice.attempt == attempt
        assert f"number {attempt}" in (world.recv("bob") or "")
        world.end(bob, 1, restart=True)
    for _ in range(3):
        restart(world, bob, "again")
        assert world.waiting("bob") == []
    (dead,) = world.mail.mailbox("bob").dead.values()
    assert "failed on it 2 times" in dead.reason


def test_they_can_be_switched_off(world: World, bob: Process) -> None:
    with world.store.transaction():
        world.table.update(bob, restart_notice=False)
    restart(world, bob)
    assert world.waiting("bob") == []
