"""Token buckets on a clock that the test moves."""

import pytest

from agentfs.base.buckets import TokenBuckets
from agentfs.base.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_bucket_from_full_to_empty_and_full_again(clock: ManualClock) -> None:
    buckets = TokenBuckets(clock)
    assert (buckets.left("a", 3, 6), len(buckets)) == (3, 0)
    assert [buckets.take("a", 1, 3, 6) for _ in range(4)] == [0, 0, 0, 10]
    clock.advance(4)
    assert buckets.take("a", 1, 3, 6) == pytest.approx(6)
    clock.advance(6)
    assert buckets.take("a", 1, 3, 6) == 0
    clock.advance(29)
    buckets.drop_full(3, 6)
    assert len(buckets) == 1
    clock.advance(1)
    assert buckets.left("a", 3, 6) == 3
    buckets.drop_full(3, 6)
    assert len(buckets) == 0


def test_each_name_has_its_own(clock: ManualClock) -> None:
    buckets = TokenBuckets(clock)
    assert buckets.take("a", 3, 3, 6) == 0
    assert buckets.take("b", 3, 3, 6) == 0
    assert buckets.take("a", 2, 3, 6) == 20


def test_what_is_refused_takes_nothing_and_what_is_given_back_is_there(clock: ManualClock) -> None:
    buckets = TokenBuckets(clock)
    assert buckets.take("a", 4, 3, 6) == 10
    assert buckets.take("a", 3, 3, 6) == 0
    buckets.give_back("a", 3)
    assert buckets.left("a", 3, 6) == 3


def test_a_smaller_burst_holds_at_once(clock: ManualClock) -> None:
    buckets = TokenBuckets(clock)
    buckets.take("a", 1, 100, 60)
    assert buckets.left("a", 5, 60) == 5


def test_the_wall_clock_does_not_matter(clock: ManualClock) -> None:
    buckets = TokenBuckets(clock)
    buckets.take("a", 3, 3, 6)
    clock.step(1e6)
    assert buckets.left("a", 3, 6) == 0
