"""Globs compared by meaning: what the algebra says is what trying every short name says."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfs.model.globs import Effort, TooMuchError, covers, matches, meet, reduced

PLENTY = 10**6
NAMES = ["".join(name) for length in range(6) for name in product("abx", repeat=length)]
"""Every name of up to five letters; no glob below says `x`, so it stands for all the others."""

globs = st.text("ab*", max_size=6)


def meant(*some: str) -> set[str]:
    return {name for name in NAMES if any(matches(glob, name) for glob in some)}


@given(globs, st.text("ab", max_size=8))
def test_a_wildcard_stands_for_any_text(glob: str, name: str) -> None:
    pattern = ".*".join(re.escape(part) for part in glob.split("*"))
    assert matches(glob, name) == bool(re.fullmatch(pattern, name))


@given(globs, globs)
def test_what_two_globs_have_in_common_means_what_both_mean(one: str, two: str) -> None:
    assert meant(*meet(one, two, Effort(PLENTY))) == meant(one) & meant(two)


@given(globs, globs)
def test_one_that_covers_another_means_all_that_it_means(one: str, two: str) -> None:
    if covers(one, two):
        assert meant(two) <= meant(one)
    elif len(two) <= 5:
        assert not matches(one, two.replace("*", "x"))


@given(st.lists(globs, max_size=5))
def test_the_fewest_globs_mean_the_same(some: list[str]) -> None:
    fewest = reduced(some)
    assert meant(*fewest) == meant(*some)
    assert not any(covers(one, two) for one in fewest for two in fewest if one is not two)


def test_the_common_part_reads_as_a_person_would_write_it() -> None:
    assert meet("*", "search", Effort(9)) == ["search"]
    assert meet("web_*", "web_get", Effort(9)) == ["web_get"]
    assert meet("web_*", "*_get", Effort(999)) == ["web_*_get", "web_get"]
    assert meet("web_*", "db_*", Effort(999)) == []


def test_what_takes_too_long_is_given_up_and_not_waited_for() -> None:
    with pytest.raises(TooMuchError):
        meet("*a*b*c*d*", "*e*f*g*h*", Effort(500))


def test_matching_a_name_never_takes_long() -> None:
    assert not matches("*a" * 30 + "b", "a" * 100_000)
