"""Rows: their ratio, whether they hold, and how they are printed and written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.table import (
    AT_LEAST,
    Row,
    as_markdown,
    as_text,
    beside,
    heading,
    percentile,
    write_json,
)


def test_a_time_holds_up_to_its_target_and_a_rate_from_it_on() -> None:
    assert Row("side", "stat", 4.0, "µs", "tmpfs", 2.0, 2.0).holds is True
    assert Row("side", "stat", 4.1, "µs", "tmpfs", 2.0, 2.0).holds is False
    assert Row("side", "send", 300.0, "/s", "Maildir", 100.0, 3.0, AT_LEAST).holds is True
    assert Row("side", "send", 299.0, "/s", "Maildir", 100.0, 3.0, AT_LEAST).holds is False
    assert Row("side", "stat", 4.0, "µs", "tmpfs", 2.0).holds is None


def test_without_anything_beside_the_target_bounds_the_figure_itself() -> None:
    assert Row("scale", "start", 4.9, "s", target=5.0).holds is True
    assert Row("scale", "start", 5.1, "s", target=5.0).holds is False


def test_of_rounds_the_median_of_their_ratios_counts_and_all_are_told() -> None:
    row = beside(
        "side", "send", [10.0, 30.0, 20.0], "/s", "Redis", [20.0, 20.0, 10.0], 1.5, AT_LEAST
    )
    assert (row.ours, row.theirs, row.ratio) == (20.0, 20.0, 1.5)
    assert row.holds is True
    assert as_text(row).splitlines()[1].strip() == "rounds 0.5 to 2"


def test_rounds_without_a_figure_of_theirs_hold_nothing() -> None:
    assert beside("side", "send", [1.0], "/s", "Redis", [0.0], 2.0).holds is False


def test_what_has_no_ratio_holds_nothing() -> None:
    row = Row("side", "stat", 4.0, "µs", "nothing", 0.0, 2.0)
    assert row.ratio is not None
    assert math.isnan(row.ratio)
    assert row.holds is False


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.25, 1), (0.5, 2), (0.51, 3), (0.99, 4), (1.0, 4)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    assert percentile([4, 2, 1, 3], share) == expected


def test_of_a_thousand_values_ten_are_above_the_99th_percentile() -> None:
    values = list(range(1000))
    assert sum(value > percentile(values, 0.99) for value in values) == 10


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_a_row_is_a_line_and_its_counts_another() -> None:
    row = Row("side", "stat", 2.345, "µs", "tmpfs", 1.0, 2.0, counts={"calls": 3.0}, note="so")
    first, second = as_text(row).splitlines()
    assert first.split() == ["stat", "2.35", "µs", "tmpfs", "1", "µs", "2.35", "≤", "2", "MISSED"]
    assert second.strip() == "3 calls; so"
    assert heading("side").startswith("side ")


def test_the_columns_of_the_page_are_those_of_the_heading() -> None:
    rows = [Row("a", "stat", 123456.0, "µs"), Row("b", "idle", 0.5, "%", target=1.0)]
    lines = as_markdown(rows).splitlines()
    assert lines[0] == "### a"
    assert "| stat | 123,000 µs |  |  |  |  |" in lines
    assert "| idle | 0.5 % |  |  |  | ≤ 1 % ok |" in lines


def test_json_has_the_machine_and_no_number_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    rows = [
        Row("a", "stat", 1 / 3, "µs", "tmpfs", 0.0, 2.0, counts={"n": 2.0}, rounds=(0.5, math.nan))
    ]
    write_json(file, rows, {"cores": 2})
    read = json.loads(file.read_text())
    assert read["machine"] == {"cores": 2}
    (row,) = read["rows"]
    assert row["ours"] == 0.333333
    assert row["ratio"] is None
    assert row["holds"] is False
    assert row["counts"] == {"n": 2.0}
    assert row["rounds"] == [0.5, None]
