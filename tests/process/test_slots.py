"""Slots for launches: what one process's hold up, and what not."""

from __future__ import annotations

import threading
from typing import cast

import trio

from agentfs.machine.slots import Slots
from agentfs.model.principal import INIT


async def _launch(slots: Slots, parent: int, done: threading.Event) -> None:
    turn = cast(trio.CapacityLimiter, slots.turn(parent))
    await trio.to_thread.run_sync(done.wait, limiter=turn, abandon_on_cancel=True)


async def test_launches_that_hang_leave_slots_to_others_and_to_the_operator(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slots, hung, at_once = Slots(trio.CapacityLimiter(16), 4), threading.Event(), threading.Event()
    at_once.set()
    try:
        async with trio.open_nursery() as nursery:
            for parent in (2, 3):
                for _ in range(10):
                    nursery.start_soon(_launch, slots, parent, hung)
            await trio.sleep(1)
            await _launch(slots, 4, at_once)  # another agent
            with trio.move_on_after(1) as waiting:
                await _launch(slots, 2, at_once)
            assert waiting.cancelled_caught  # the same one waits for its own
            for parent in (4, 5, 6):
                for _ in range(10):
                    nursery.start_soon(_launch, slots, parent, hung)
            await trio.sleep(1)
            with trio.move_on_after(1) as waiting:
                await _launch(slots, 7, at_once)
            assert waiting.cancelled_caught  # agents have all that is theirs
            await _launch(slots, INIT, at_once)
            nursery.cancel_scope.cancel()
    finally:
        hung.set()


async def test_slots_are_given_back_and_a_cancelled_turn_takes_none() -> None:
    slots, at_once = Slots(trio.CapacityLimiter(2), 1), threading.Event()
    at_once.set()
    with trio.move_on_after(30) as scope:
        for _ in range(5):
            await _launch(slots, 2, at_once)
        turn = slots.turn(2)
        await turn.acquire_on_behalf_of("one")
        other = slots.turn(2)
        with trio.move_on_after(0.01):
            await other.acquire_on_behalf_of("two")
        turn.release_on_behalf_of("one")
        await other.acquire_on_behalf_of("two")
        other.release_on_behalf_of("two")
    assert not scope.cancelled_caught
