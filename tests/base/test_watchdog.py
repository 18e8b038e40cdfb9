"""What holds the event loop is measured, and told of with bounds."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from agentfs.base.watchdog import BOUNDS, LoopHold, Watchdog


def work(seconds: float) -> None:
    """At work for so long, by this thread's own clock."""
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


@pytest.fixture
def told() -> list[LoopHold]:
    return []


async def hold(dog: Watchdog, *steps: object) -> None:
    """Let each of `steps` run in a task of its own beside the watchdog."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dog.run)
        await trio.testing.wait_all_tasks_blocked()
        for step in steps:
            nursery.start_soon(step)  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_step_at_work_and_a_step_that_is_blocked_are_told(told: list[LoopHold]) -> None:
    async def busy() -> None:
        work(0.08)

    async def blocked() -> None:
        time.sleep(0.08)  # noqa: ASYNC251

    for step, least, most in ((busy, 0.06, 9.0), (blocked, 0.0, 0.06)):
        dog = Watchdog(told.append)
        await hold(dog, step)
        (one,) = told
        told.clear()
        assert step.__name__ in one.kind
        assert one.seconds >= 0.05
        assert least <= one.busy <= most
        assert sum(dog.rows[one.kind].counts[BOUNDS.index(0.05) + 1 :]) == 1


async def test_of_many_holds_the_longest_is_told_and_how_many(told: list[LoopHold]) -> None:
    async def short() -> None:
        work(0.06)

    async def long() -> None:
        work(0.15)

    await hold(Watchdog(told.append), short, long, short)
    assert sum(1 + one.others for one in told) == 3
    assert len(told) <= 2
    assert any("long" in one.kind for one in told)


async def test_what_gives_up_its_turn_holds_nothing(told: list[LoopHold]) -> None:
    async def patient() -> None:
        for _ in range(20):
            work(0.005)
            await trio.lowlevel.checkpoint()

    dog = Watchdog(told.append)
    await hold(dog, patient)
    assert told == []


async def test_a_request_is_counted_for_itself_and_not_for_its_step(told: list[LoopHold]) -> None:
    dog = Watchdog(told.append)

    async def serve() -> None:
        began = time.monotonic()
        work(0.08)
        dog.took("read", "read of /x by alice", began)

    await hold(dog, serve)
    assert [(one.kind, one.work) for one in told] == [("read", "read of /x by alice")]
    assert dog.rows["read"].counts[0] == 0
    (step,) = [kind for kind in dog.rows if "serve" in kind]
    assert dog.rows[step].seconds < 0.05


async def test_the_time_in_which_others_have_the_processor_is_not_counted(
    told: list[LoopHold], monkeypatch: pytest.MonkeyPatch
) -> None:
    dog = Watchdog(told.append)
    delay = 0.0

    def look(now: float) -> None:
        dog._delay, dog._busy = delay, time.thread_time()

    monkeypatch.setattr(dog, "_look", look)

    async def held_up() -> None:
        nonlocal delay
        time.sleep(0.2)  # noqa: ASYNC251
        delay = 0.19

    await hold(dog, held_up)
    assert told == []
