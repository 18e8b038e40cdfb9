"""Time, and the timers that hang on it."""

import pytest
import trio
import trio.testing

from agentfs.base.clock import (
    Clock,
    ManualClock,
    SystemClock,
    Timer,
    Timers,
    TrioClock,
    change_time,
    rfc3339,
)


def test_times_are_written_as_the_whole_tree_writes_them() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_800_000_000.1239) == "2027-01-15T08:00:00.123Z"


def test_a_change_is_after_the_one_before_whatever_the_clock_says() -> None:
    assert change_time(2.0, 1_000_000_000) == 2_000_000_000
    assert change_time(2.0, 2_000_000_000) == 2_000_000_001
    assert change_time(1.0, 2_000_000_001) == 2_000_000_002


def test_the_machines_clock_goes_forward() -> None:
    clock: Clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.now() > 1_700_000_000


async def test_trios_clock_is_moved_by_a_mock_clock(mock_clock: trio.testing.MockClock) -> None:
    clock: Clock = TrioClock(epoch=1000.0)
    start = clock.monotonic()
    assert clock.now() == 1000.0
    mock_clock.jump(5)
    assert (clock.now(), clock.monotonic() - start) == (1005.0, 5.0)


def test_a_manual_clock_goes_by_or_is_stepped() -> None:
    clock = ManualClock(epoch=100.0)
    clock.advance(5)
    assert (clock.now(), clock.monotonic()) == (105.0, 5.0)
    clock.step(-50)
    assert (clock.now(), clock.monotonic()) == (55.0, 5.0)


# -- timers --------------------------------------------------------------------------------------


def test_timers_fire_in_order_each_once() -> None:
    clock = ManualClock()
    timers = Timers(clock)
    fired: list[str] = []
    for delay, name in ((2, "b"), (1, "a"), (2, "c"), (-5, "at once")):
        timers.call_later(delay, lambda name=name: fired.append(name))
    assert len(timers) == 4
    assert timers.run_due() == 1
    clock.advance(1)
    assert timers.run_due() == 1
    clock.advance(10)
    assert timers.run_due() == float("inf")
    assert fired == ["at once", "a", "b", "c"]
    assert len(timers) == 0


def test_a_cancelled_timer_does_not_fire() -> None:
    clock = ManualClock()
    timers = Timers(clock)
    fired: list[int] = []
    timer = timers.call_later(1, lambda: fired.append(1))
    assert timer.active
    timer.cancel()
    timer.cancel()
    clock.advance(5)
    timers.run_due()
    assert (fired, timer.active, len(timers)) == ([], False, 0)


def test_a_timer_that_fired_is_not_active_and_may_start_another() -> None:
    clock = ManualClock()
    timers = Timers(clock)
    made: list[Timer] = []
    first = timers.call_later(1, lambda: made.append(timers.call_later(0, lambda: None)))
    clock.advance(1)
    timers.run_due()
    assert not first.active
    assert not made[0].active


def test_a_timer_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    timers = Timers(clock)
    fired: list[int] = []
    timers.call_later(1, lambda: 1 / 0)
    timers.call_later(1, lambda: fired.append(1))
    clock.advance(1)
    timers.run_due()
    assert fired == [1]
    assert "a timer failed" in caplog.text


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers(ManualClock())
    for _ in range(100):
        timers.call_later(60, lambda: None)
    for _ in range(10_000):
        timers.call_later(3600, lambda: None).cancel()
    assert len(timers) == 100
    assert len(timers._heap) <= 2 * 100 + 64


async def test_run_waits_for_the_next_and_notices_a_sooner_one(
    mock_clock: trio.testing.MockClock,
) -> None:
    timers = Timers(TrioClock())
    fired: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await trio.testing.wait_all_tasks_blocked()
        timers.call_later(10, lambda: fired.append("late"))
        await trio.testing.wait_all_tasks_blocked()
        timers.call_later(1, lambda: fired.append("soon"))
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        assert fired == ["soon"]
        mock_clock.jump(9)
        await trio.testing.wait_all_tasks_blocked()
        assert fired == ["soon", "late"]
        nursery.cancel_scope.cancel()
