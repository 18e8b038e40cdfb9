"""Readers that wait show as idle after a moment, and not with every message."""

from __future__ import annotations

import errno

from agentfs.base.clock import ManualClock, Timers
from agentfs.base.errors import KernelError
from agentfs.mail.idle_readers import MOMENT, IdleReaders
from agentfs.mail.readers import Reader


def made() -> tuple[ManualClock, Timers, IdleReaders, list[str]]:
    clock, idle = ManualClock(), list[str]()

    def tell(name: str, reader: Reader) -> None:
        idle.append(name)
        if name == "full":
            raise KernelError(errno.ENOSPC, "there is no room")

    timers = Timers(clock)
    return clock, timers, IdleReaders(timers, tell), idle


def test_who_goes_on_waiting_is_told_of_once() -> None:
    clock, timers, resting, idle = made()
    resting.begin("bob", Reader("bob"))
    clock.advance(MOMENT / 2)
    timers.run_due()
    assert idle == []
    clock.advance(MOMENT)
    timers.run_due()
    clock.advance(MOMENT)
    timers.run_due()
    assert idle == ["bob"]
    resting.begin("bob", Reader("bob"))
    clock.advance(MOMENT)
    timers.run_due()
    assert idle == ["bob", "bob"]


def test_who_got_a_message_meanwhile_is_not() -> None:
    clock, timers, resting, idle = made()
    one, two = Reader("one"), Reader("two")
    for _ in range(100):
        resting.begin("one", one)
        resting.end(one)
    resting.begin("two", two)
    assert len(timers) == 1
    clock.advance(MOMENT)
    timers.run_due()
    assert idle == ["two"]


def test_one_that_cannot_be_stored_keeps_nobody_else_from_it() -> None:
    clock, timers, resting, idle = made()
    resting.begin("full", Reader("full"))
    resting.begin("bob", Reader("bob"))
    clock.advance(MOMENT)
    timers.run_due()
    assert idle == ["full", "bob"]
