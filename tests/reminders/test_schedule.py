"""When a reminder is due: what can be written, what is refused, and which times come out."""

import errno
import string
import time
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfs.base.errors import KernelError
from agentfs.reminders.schedule import MOST_MISSED, Schedule, parse

NOW = datetime(2026, 11, 21, 12, 30, 15, 500_000, tzinfo=UTC).timestamp()  # a Saturday


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def text_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%a %Y-%m-%d %H:%M")


def cron(expression: str, count: int = 1) -> list[str]:
    """The next times, as text."""
    schedule = parse(f'cron "{expression}" x')[0]
    times = [schedule.first(NOW)]
    while len(times) < count:
        following = schedule.after(times[-1])
        assert following is not None
        times.append(following)
    return [text_of(time) for time in times]


def refusal(line: str) -> KernelError:
    with pytest.raises(KernelError) as caught:
        parse(line)[0].first(NOW)
    assert caught.value.errno == errno.EINVAL
    return caught.value


# -- in and at -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "after"),
    [("in 90s x", 90), ("in 10m x", 600), ("in 2h x", 7200), ("in 7d x", 604_800), ("in 5 x", 5)],
)
def test_in_is_a_duration_from_now(line: str, after: int) -> None:
    schedule, text = parse(line)
    assert (schedule.first(NOW), text) == (NOW + after, "x")
    assert schedule.after(NOW + after) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-12-01T09:00Z", "2026-12-01T09:00"),
        ("2026-12-01T09:00", "2026-12-01T09:00"),
        ("2026-12-01T09:00:30.5Z", "2026-12-01T09:00:30.500"),
        ("2026-12-01T09:00+02:00", "2026-12-01T07:00"),
    ],
)
def test_at_is_a_time_and_without_a_zone_it_is_utc(written: str, meant: str) -> None:
    schedule, _ = parse(f"at {written} x")
    assert schedule.first(NOW) == moment(meant)
    assert schedule.after(moment(meant)) is None


def test_the_text_is_the_rest_of_the_line() -> None:
    for line in ("in 10m  call  bob ", "in\t10m\tcall  bob", " in 10m call  bob\r"):
        assert parse(line) == (Schedule("in", "10m"), "call  bob")
    assert parse("cron '0 9 * * 1' plan")[1] == "plan"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "in",
        "in 10m",
        "in ten minutes",
        "in -5s x",
        "in 0s x",
        "in 1.2.3s x",
        "in 999999999d x",
        "at 2026-12-01 09:00 x",
        "at 2026-12-01T09:00Z",
        "at 2026-02-30T09:00Z x",
        "at 2026-11-21T12:30Z x",
        "at 99999-01-01T00:00Z x",
        "at noon x",
        "at 10m x",
        "tomorrow at nine x",
        "In 10m x",
        "\x00",
    ],
)
def test_what_is_no_time_ahead_is_refused_with_words(line: str) -> None:
    assert refusal(line).reason


# -- cron: every fault of K1 that is about the grammar -------------------------------------------


def test_k1_cron_knows_ranges_steps_lists_and_names() -> None:
    assert cron("0 9 * * MON-FRI", 6) == [
        "Mon 2026-11-23 09:00",
        "Tue 2026-11-24 09:00",
        "Wed 2026-11-25 09:00",
        "Thu 2026-11-26 09:00",
        "Fri 2026-11-27 09:00",
        "Mon 2026-11-30 09:00",
    ]
    assert cron("*/20 13-14 * * *", 4) == [
        "Sat 2026-11-21 13:00",
        "Sat 2026-11-21 13:20",
        "Sat 2026-11-21 13:40",
        "Sat 2026-11-21 14:00",
    ]
    assert cron("0 0 1 jan,Jul *", 2) == ["Fri 2027-01-01 00:00", "Thu 2027-07-01 00:00"]
    assert cron("5,10-20/5,59 13 * * *", 5)[1:] == [
        "Sat 2026-11-21 13:10",
        "Sat 2026-11-21 13:15",
        "Sat 2026-11-21 13:20",
        "Sat 2026-11-21 13:59",
    ]


def test_k1_a_step_counts_from_the_start_of_its_range() -> None:
    assert cron("0 0 */10 12 *", 4) == [
        "Tue 2026-12-01 00:00",
        "Fri 2026-12-11 00:00",
        "Mon 2026-12-21 00:00",
        "Thu 2026-12-31 00:00",
    ]


def test_k1_day_of_month_or_day_of_week_where_both_are_restricted() -> None:
    assert cron("0 9 1,15 * 5", 4) == [
        "Fri 2026-11-27 09:00",
        "Tue 2026-12-01 09:00",
        "Fri 2026-12-04 09:00",
        "Fri 2026-12-11 09:00",
    ]


def test_a_field_that_begins_with_a_star_is_not_restricted() -> None:
    assert cron("0 9 1-7 * */7", 2) == ["Sun 2026-12-06 09:00", "Sun 2027-01-03 09:00"]


def test_sunday_is_0_and_7() -> None:
    sunday = ["Sun 2026-11-22 00:00"]
    assert cron("0 0 * * 0") == cron("0 0 * * 7") == cron("0 0 * * sun") == sunday
    assert cron("0 0 * * 6-7", 2) == ["Sun 2026-11-22 00:00", "Sat 2026-11-28 00:00"]


def test_k1_the_next_time_is_known_however_far_away() -> None:
    assert cron("0 0 29 2 *", 2) == ["Tue 2028-02-29 00:00", "Sun 2032-02-29 00:00"]
    assert cron("30 12 22 11 *") == ["Sun 2026-11-22 12:30"]


def test_the_next_time_is_after_now_even_in_the_same_minute() -> None:
    schedule, _ = parse("cron * * * * * x")
    nine = moment("2026-12-01T09:00")
    assert schedule.after(nine) == nine + 60
    assert schedule.after(nine - 0.001) == nine
    assert schedule.after(nine + 0.001) == nine + 60


@pytest.mark.parametrize(
    "expression",
    [
        "99 * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 0 *",
        "* * * 13 *",
        "* * * * 8",
        "-1 * * * *",
        "5-1 * * * *",
        "*/0 * * * *",
        "1,,2 * * * *",
        "* * * MON *",
        "* * * * JAN",
        "x * * * *",
        "٣ * * * *",
        "* * * *",
        "* * * * * *",
        "",
        "@hourly",
        "@reboot",
        "0 0 L * *",
        "0 0 * * 1#5",
        "0 0 * * 5L",
        "0 0 ? * *",
        "1" * 5000 + " * * * *",
    ],
)
def test_k1_every_field_is_checked_against_its_range(expression: str) -> None:
    assert refusal(f'cron "{expression}" x').reason


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 31 FEB */2"])
def test_a_date_that_never_comes_is_refused_at_once(expression: str) -> None:
    started = time.process_time()
    assert "day-of-month" in refusal(f'cron "{expression}" x').reason
    assert time.process_time() - started < 1


def test_a_date_that_never_comes_beside_a_weekday_that_does_is_fine() -> None:
    assert cron("0 0 30 2 1") == ["Mon 2027-02-01 00:00"]


def test_quotes_that_the_shell_took_away_are_not_needed() -> None:
    wanted = Schedule("cron", "0 9 * * 1"), "plan the week"
    for line in (
        'cron "0 9 * * 1" plan the week',
        "cron '0  9 * * 1' plan the week",
        "cron 0 9 * * 1 plan the week",
    ):
        assert parse(line) == wanted
    assert str(wanted[0]) == 'cron "0 9 * * 1"'
    assert str(Schedule("in", "10m")) == "in 10m"


@pytest.mark.parametrize("line", ['cron "0 9 * * 1 x', "cron 0 9 * * 1", 'cron "0 9 * * 1"'])
def test_a_cron_line_that_is_not_whole_is_refused(line: str) -> None:
    assert refusal(line).reason


# -- what was missed -----------------------------------------------------------------------------


def test_missed_times_are_counted_up_to_a_limit() -> None:
    hourly, _ = parse("cron 0 * * * * x")
    nine = moment("2026-12-01T09:00")
    assert hourly.missed(nine, nine) == 1
    assert hourly.missed(nine, nine + 3599) == 1
    assert hourly.missed(nine, nine + 3600) == 2
    assert hourly.missed(nine, nine + 365 * 86_400) == MOST_MISSED
    assert parse("in 10m x")[0].missed(nine, nine + 86_400) == 1


# -- whatever is written -------------------------------------------------------------------------

FIELDS = st.lists(
    st.text(alphabet=string.digits + "*,/-JANFEBMONSUNWL#?@", min_size=1, max_size=8),
    min_size=5,
    max_size=5,
)


@given(FIELDS)
def test_any_five_fields_give_rising_times_or_einval(fields: list[str]) -> None:
    try:
        schedule, _ = parse(f'cron "{" ".join(fields)}" x')
        times = [schedule.first(NOW)]
    except KernelError as refused:
        assert refused.errno == errno.EINVAL
        return
    for _ in range(3):
        following = schedule.after(times[-1])
        assert following is not None
        times.append(following)
    assert all(earlier < later for earlier, later in pairwise([NOW, *times]))


@given(st.text(max_size=60))
def test_any_line_is_a_time_and_a_text_or_einval(line: str) -> None:
    for prefix in ("", "in ", "at ", "at 2026-12-01T", "cron "):
        try:
            schedule, text = parse(prefix + line)
            assert schedule.first(NOW) > NOW
            assert text
        except KernelError as refused:
            assert refused.errno == errno.EINVAL


# -- time zones ----------------------------------------------------------------------------------


def in_zone(zone: str, fields: str, since: str, count: int) -> list[str]:
    """The next times after `since`, an ISO time with its offset, as UTC."""
    schedule = parse(f'cron "CRON_TZ={zone} {fields}" x')[0]
    found = []
    at: float | None = datetime.fromisoformat(since).timestamp()
    for _ in range(count):
        at = schedule.after(at or 0)
        assert at is not None
        found.append(datetime.fromtimestamp(at, UTC).strftime("%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("zone", "fields", "since", "times"),
    [
        # Half past two is left out on that day: once, right after the gap.
        (
            "Europe/Berlin",
            "30 2 * * *",
            "2026-03-28T12:00+01:00",
            ["03-29 01:00", "03-30 00:30", "03-31 00:30"],
        ),
        # Half past two comes twice on that day: once, the first time.
        (
            "Europe/Berlin",
            "30 2 * * *",
            "2026-10-24T12:00+02:00",
            ["10-25 00:30", "10-26 01:30", "10-27 01:30"],
        ),
        # A look from within the hour that comes again does not find the one that was.
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T02:10+01:00", ["10-26 01:30"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T02:30+02:00", ["10-26 01:30"]),
        # Wildcards go by real time.
        (
            "Europe/Berlin",
            "*/30 * * * *",
            "2026-10-25T01:45+02:00",
            ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"],
        ),
        (
            "Europe/Berlin",
            "*/30 * * * *",
            "2026-03-29T01:15+01:00",
            ["03-29 00:30", "03-29 01:00", "03-29 01:30"],
        ),
        # Lord Howe sets its clocks by half an hour.
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03T12:00+10:30",
            ["10-03 15:30", "10-04 15:15"],
        ),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2026-04-04T12:00+11:00",
            ["04-04 14:45", "04-05 15:15"],
        ),
        (
            "Australia/Lord_Howe",
            "*/30 * * * *",
            "2026-04-05T01:15+11:00",
            ["04-04 14:30", "04-04 15:00", "04-04 15:30"],
        ),
    ],
)
def test_times_of_a_zone_come_once_where_its_clocks_are_set(
    zone: str, fields: str, since: str, times: list[str]
) -> None:
    assert in_zone(zone, fields, since, len(times)) == times


def test_every_start_within_a_day_of_change_gives_each_time_once() -> None:
    for day, first in (("2026-03-28T22:00Z", 1.0), ("2026-10-24T22:00Z", 0.5)):
        midnight = datetime.fromisoformat(day).timestamp()
        schedule = parse('cron "CRON_TZ=Europe/Berlin 30 2 * * *" x')[0]
        first = datetime.fromisoformat(f"{day[:8]}{int(day[8:10]) + 1}T00:00Z").timestamp() + (
            first * 3600
        )
        for minute in range(0, 26 * 60, 7):
            found = schedule.after(midnight + minute * 60)
            assert found is not None
            assert found > midnight + minute * 60
            assert found == first or found > first + 20 * 3600


def test_a_zone_can_stand_before_fields_without_quotes() -> None:
    line = "cron CRON_TZ=Asia/Tokyo 0 9 * * 1 plan the week"
    schedule, text = parse(line)
    assert (str(schedule), text) == ('cron "CRON_TZ=Asia/Tokyo 0 9 * * 1"', "plan the week")
    assert parse(f"{schedule} x")[0] == schedule


@pytest.mark.parametrize(
    "zone", ["Europe/Berln", "../../etc/passwd", "/etc/passwd", "Europe", "x" * 300, "Mars/\0"]
)
def test_a_zone_that_there_is_not_is_refused(zone: str) -> None:
    refused = refusal(f'cron "CRON_TZ={zone} 0 9 * * 1" x')
    assert "zone" in refused.reason or "bytes" in refused.reason
