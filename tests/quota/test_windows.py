"""Sliding windows: what counts, and for how long."""

from __future__ import annotations

from agentfs.base.windows import HOUR, MINUTE, MOST_ENTRIES, Window


def test_the_life_of_a_window() -> None:
    window = Window(MINUTE)
    assert window.sum(0.0) == 0
    assert window.wait(0.0) == 0.0
    window.add(10.0, 3)
    window.add(40.0, 2)
    assert window.sum(69.9) == 5
    assert window.wait(69.5) == 0.5
    assert window.sum(70.0) == 2  # the first is exactly 60 s old: it counts no more
    assert window.sum(100.0) == 0
    assert len(window) == 0


def test_what_is_taken_back_was_never_there() -> None:
    window = Window(MINUTE)
    window.add(1.0, 5)
    window.add(2.0, 7)
    window.take_back(7)
    assert window.entries(2.0) == [(1.0, 5)]
    window.add(1.0, 2)  # at the same moment: one entry
    assert len(window) == 1
    window.take_back(2)
    assert window.entries(2.0) == [(1.0, 5)]
    window.take_back(5)
    assert window.sum(2.0) == 0
    assert len(window) == 0


def test_a_window_has_a_bounded_number_of_entries_and_forgets_none_of_the_amounts_early() -> None:
    window = Window(HOUR)
    times = [number * 0.1 for number in range(30_000)]
    for time in times:
        window.add(time)
    assert len(window) <= MOST_ENTRIES
    assert window.sum(times[-1]) == 30_000
    left = window.sum(3600.0 + times[15_000])
    assert 14_999 <= left <= 14_999 + 32  # those that were put together count as the latest of them


def test_a_grain_puts_together_what_is_of_the_same_minute() -> None:
    window = Window(HOUR, MINUTE)
    for second in range(0, 600, 7):
        window.add(float(second))
    assert len(window) == 10
    assert window.sum(599.0) == len(range(0, 600, 7))
