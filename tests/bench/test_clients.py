"""What many clients did together."""

from __future__ import annotations

import pytest

from bench.clients import Outcome


def test_calls_are_added_up_over_kinds_and_clients() -> None:
    took = [{"stat": [1, 2, 3], "send": [10]}, {"stat": [4], "send": [20]}]
    outcome = Outcome(took, 2.0, 0.006)
    assert outcome.done == [4, 2]
    assert outcome.rate == 3.0
    assert outcome.fairness == pytest.approx(2 / 3)
    assert sorted(outcome.took("stat")) == [1, 2, 3, 4]
    assert outcome.took("send") == [10, 20]
