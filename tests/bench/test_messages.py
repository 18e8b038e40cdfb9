"""The side `messages`: the ways that need nothing but Python run, and what is computed is right.

Redis and litequeue are installed by `./run bench` only; what needs them is left out without them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench import messages, waking
from bench.alternatives.crew import crew
from bench.alternatives.servers import interpreter, on_ext4, redis_server
from bench.alternatives.ways import FLOOR, families
from bench.announced import by_mask
from bench.setting import Setting, file_system


def alternatives() -> str | None:
    """The Python that has the alternatives' libraries, if they and the server are installed."""
    try:
        return interpreter() if shutil.which("redis-server") else None
    except SystemExit:
        return None


def test_a_delay_is_from_the_moment_of_the_same_number() -> None:
    found = waking.delay([0, 1_000, 2_000], [5_000, 3_000, 102_000])
    assert found == waking.Delay(p50=5.0, p99=100.0)


def test_a_lost_wake_is_no_delay() -> None:
    with pytest.raises(ValueError, match="shorter"):
        waking.delay([0, 1], [1])


def test_a_rate_is_of_the_intervals_between_sends() -> None:
    timing = waking.Timing([0, 500_000, 1_000_000], [0] * 3, [0] * 3)
    assert timing.rate == pytest.approx(2000)


@pytest.mark.mount
def test_every_way_of_ours_passes_messages(setting: Setting) -> None:
    with setting.tree() as tree, messages.empty_mail(setting.folder) as empty:
        queue = "jobs"
        (tree / f"dev/queues/{queue}").mkdir()
        ways = [
            way
            for family in families(tree, setting.folder, queue, empty, None, None)
            for way in family.ways
        ]
        with crew(setting.folder, tree, sys.executable) as hired:
            couples = hired.couples([(way, f"pair{number}") for number, way in enumerate(ways)])
            for way, couple in zip(ways, couples, strict=True):
                result = messages.race(way, [couple], 3)
                assert result.rate > 0, way.name
                assert result.cpu > 0, way.name
            couples[0].sender.tell("drain")  # which no sender does
            with pytest.raises(SystemExit, match="has no attribute 'drain'"):
                couples[0].sender.hear()


@pytest.mark.mount
def test_rates_and_wakes_are_beside_the_floor_where_there_is_nothing_else(
    setting: Setting,
) -> None:
    with setting.tree() as tree, messages.empty_mail(setting.folder) as empty:
        found = [*messages.rates(setting, setting.folder, tree, empty, sys.executable)]
        with crew(setting.folder, tree, sys.executable) as hired:
            found += waking.latencies(setting, hired, tree, empty, None)
    rows = {row.what: row for row in found if row.beside == FLOOR}
    for what in ("1 to 1, send and recv: processor of all", "wake by parked read, every 1 ms, p50"):
        assert rows[what].ours > 0
        assert rows[what].theirs


@pytest.mark.mount
def test_watchers_see_what_is_sent_and_all_of_it_is_announced(setting: Setting) -> None:
    with setting.tree() as tree, crew(setting.folder, tree, sys.executable) as hired:
        lost, _, p99 = waking.watching(setting, hired, tree)
        assert lost.ours == 0
        assert p99.ours > 0
        requests, processor = by_mask(setting, hired, tree)
        assert 2 <= requests.ours <= 4
        assert requests.counts["watched for everything"] >= requests.ours
        assert processor.ours > 0
        known, watched = waking.announcing(setting, hired, tree)
        assert known.counts["announcements a message"] == 0
        assert watched.counts["announcements a message"] > 2


@pytest.mark.mount
@pytest.mark.skipif(alternatives() is None, reason="what ./run bench installs is not there")
def test_the_alternatives_pass_messages(setting: Setting) -> None:
    python = alternatives()
    assert python is not None
    with (
        setting.tree() as tree,
        messages.empty_mail(setting.folder) as empty,
        redis_server(setting.folder, "everysec") as redis,
        crew(setting.folder, tree, python) as hired,
    ):
        offered = {
            way.name: way
            for family in families(tree, setting.folder, "jobs", empty, redis, redis)
            for way in family.ways
        }
        ways = [offered[name] for name in ("Redis Streams, everysec", "litequeue (SQLite)")]
        couples = hired.couples([(way, f"pair{number}") for number, way in enumerate(ways)])
        for way, couple in zip(ways, couples, strict=True):
            assert messages.race(way, [couple], 3).rate > 0, way.name


def test_a_folder_on_ext4_is_used_as_it_is(tmp_path: Path) -> None:
    if file_system(tmp_path) != "ext4":
        pytest.skip("the temporary folder is not on ext4")
    with on_ext4(tmp_path) as folder:
        assert folder == tmp_path
