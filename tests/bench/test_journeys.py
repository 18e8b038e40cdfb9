"""How long the ways through the code are. Each number is the most that there may be: lower it when
there are fewer calls, and never raise it."""

from __future__ import annotations

import pytest

from bench.journeys import JOURNEYS, take

MOST = {"message": 132, "check_of_a_budget": 199}


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.__name__)
async def test_a_journey_goes_through_no_more_functions_than_before(journey) -> None:
    taken = await take(journey)
    assert len(taken.calls) <= MOST[journey.__name__], taken.calls
