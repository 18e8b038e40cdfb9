"""Schedules: when they start what, over restarts, missed times and overlaps, on a clock that the
test moves."""

import errno
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.triggers.schedule_table import Scheduled, ScheduleState
from agentfs.triggers.schedules import MOST_WAITING
from agentfs.workflow.model import RunState
from tests.triggers.lab import Real
from tests.world import OPERATOR

STRICT = """\
kind: Pipeline
metadata: {name: strict}
spec:
  input_schema: {n: int}
  max_runs: 1
  max_queued: 0
  nodes: [{name: held, wait: go}]
"""
HOUR, DAY = 3600.0, 86_400.0


class World(Real):
    def _begin(self) -> None:
        super()._begin()
        self.clock, self.process = self.world.clock, self.world.process
        self.principal = self.world.principal

    def make(self, _who: str = "", **spec: Any) -> Scheduled:
        principal = self.principal(_who) if _who else OPERATOR
        if "in_" in spec:
            spec["in"] = spec.pop("in_")
        if not {"system", "pipeline"} & spec.keys():
            spec["pipeline"] = "report"
        return self.schedules.create(principal, json.dumps(spec))

    def control(self, schedule: Scheduled, command: str) -> None:
        self.schedules.control(OPERATOR, schedule.number, command)

    def turn(self) -> None:
        """Until nothing is due."""
        for _ in range(1000):
            if self.schedules.run_due() > 0.006:
                return
        raise AssertionError("it does not come to rest")

    def pass_(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.turn()

    def end_all(self, state: RunState = RunState.COMPLETED) -> int:
        """Every run ends, and what waits for that begins and ends, too; how many."""
        ended = 0
        while runs := self.open_runs():
            for run in runs:
                self.end(run, state)
                ended += 1
            self.turn()
        return ended

    def keys(self) -> list[str]:
        found = map(self.runs.find, self.open_runs())
        return [run.key.rpartition("/")[2] for run in found if run is not None]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.put_waiting("report")
    yield world
    world.close()


def refused(number: int, world: World, **spec: Any) -> str:
    before = len(world.schedules.table), world.kernel.events.last
    with pytest.raises(KernelError) as caught:
        world.make(**spec)
    assert caught.value.errno == number, caught.value
    assert (len(world.schedules.table), world.kernel.events.last) == before
    return caught.value.reason


# -- the life of one -----------------------------------------------------------------------------


def test_a_schedule_that_starts_once_and_how_it_ends(world: World) -> None:
    made = world.make(in_="10m", input={"a": 1})
    assert (made.state, made.next, made.number) == (ScheduleState.PENDING, made.made + 600, 1)
    world.pass_(599)
    assert not world.open_runs()
    world.pass_(1)
    (run,) = world.open_runs()
    found = world.runs.get(run)
    assert (found.starter, found.pipeline, found.ref) == ("init", "report", "schedule/1")
    assert world.runs.input_of(run) == '{"a":1}'
    assert (made.state, made.next, made.last, made.count) == (ScheduleState.ACTIVE, None, run, 1)
    world.end(run)
    assert (made.state, made.result) == (ScheduleState.DONE, "completed")


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED])
def test_one_whose_only_run_fails_is_failed_and_not_done(world: World, state: RunState) -> None:
    made = world.make(in_=5)
    world.pass_(5)
    world.end_all(state)
    assert (made.state, made.result) == (ScheduleState.FAILED, state.value)


def test_one_whose_only_start_is_refused_is_failed_and_says_why(world: World) -> None:
    world.put("pipelines", "strict", STRICT)
    made = world.make(in_=5, pipeline="strict", input={"n": "x"})
    world.pass_(5)
    assert made.state is ScheduleState.FAILED
    assert "EINVAL" in made.error
    assert "n" in made.error


def test_a_start_for_which_there_is_no_room_is_tried_again(world: World) -> None:
    world.put("pipelines", "strict", STRICT)
    first = world.make(in_=1, pipeline="strict", input={"n": 1})
    made = world.make(in_=5, missed="skip", pipeline="strict", input={"n": 2})
    world.pass_(5)
    assert first.open
    assert (made.state, made.due) == (ScheduleState.PENDING, world.clock.now() + 60)
    world.end_all()
    world.pass_(60)
    assert (made.state, made.error, len(world.open_runs())) == (ScheduleState.ACTIVE, "", 1)
    world.end_all()
    assert made.state is ScheduleState.DONE


def test_a_grid_stays_where_it_is_however_late_runs_are(world: World) -> None:
    made = world.make(every="10m", overlap="allow")
    start = made.made
    for late in (0.0, 7.0, 31.0):
        assert made.next is not None
        world.pass_(made.next + late - world.clock.now())
    assert made.next == start + 4 * 600
    assert (made.count, made.missed, made.state) == (3, 0, ScheduleState.ACTIVE)
    world.end_all()
    assert made.state is ScheduleState.PENDING


def test_it_fires_at_the_times_of_its_zone_on_both_days_of_change(world: World) -> None:
    start = datetime.fromisoformat("2027-03-27T12:00:00+00:00").timestamp()
    world.clock.advance(start - world.clock.now())
    made = world.make(cron="30 2 * * *", timezone="Europe/Berlin")
    seen = []
    for _ in range(4 * 48):
        world.pass_(HOUR / 2)
        seen += world.keys()
        world.end_all()
    assert seen == [
        "2027-03-28T01:00:00.000Z",
        "2027-03-29T00:30:00.000Z",
        "2027-03-30T00:30:00.000Z",
        "2027-03-31T00:30:00.000Z",
    ]
    autumn = datetime.fromisoformat("2027-10-30T12:00:00+00:00").timestamp()
    world.clock.advance(autumn - world.clock.now())
    world.turn()
    world.end_all()
    seen = []
    for step in range(2 * 48):
        world.pass_(HOUR / 2)
        seen += world.keys()
        world.end_all()
        if step % 7 == 0:
            world.restart()
    assert seen == ["2027-10-31T00:30:00.000Z", "2027-11-01T01:30:00.000Z"]
    assert made.number == 1


# -- missed times --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "overlap", "runs"),
    [
        ("one", "skip", 1),
        ("all", "skip", 10),
        ("all", "allow", 10),
        ("all", "queue", 10),
        ("skip", "skip", 0),
    ],
)
def test_a_daemon_that_was_down_for_ten_hours(
    world: World, missed: str, overlap: str, runs: int
) -> None:
    made = world.make(every="1h", missed=missed, overlap=overlap)
    world.clock.advance(10 * HOUR + 300)
    world.restart()
    schedule = world.schedules.get(made.number)
    world.turn()
    assert len(world.open_runs()) <= (10 if overlap == "allow" else 1)
    assert world.end_all() == runs
    assert schedule.count == runs
    assert schedule.next == made.made + 11 * HOUR
    assert schedule.missed == 10
    world.pass_(HOUR - 300)
    assert len(world.open_runs()) == 1


def test_a_time_that_is_only_just_over_is_not_missed(world: World) -> None:
    made = world.make(every="1h", missed="skip")
    world.clock.advance(3 * HOUR + 30)
    world.restart()
    world.turn()
    schedule = world.schedules.get(made.number)
    assert world.keys() == ["2027-01-15T11:00:00.000Z"]
    assert (schedule.count, schedule.missed) == (1, 2)


def test_no_thousands_start_at_once_after_a_long_time(world: World) -> None:
    made = world.make(every=1, missed="all", overlap="allow")
    world.clock.advance(30 * DAY)
    world.restart()
    world.turn()
    assert 90 < world.schedules.get(made.number).count <= 101
    world.end_all()


def test_a_single_time_that_was_missed_comes_late_or_fails(world: World) -> None:
    late, never = world.make(in_="1h"), world.make(in_="1h", missed="skip")
    world.clock.advance(DAY)
    world.restart()
    world.turn()
    assert len(world.open_runs()) == 1
    world.end_all()
    assert world.schedules.get(late.number).state is ScheduleState.DONE
    failed = world.schedules.get(never.number)
    assert (failed.state, failed.error) == (ScheduleState.FAILED, "its time was missed")


# -- overlap -------------------------------------------------------------------------------------


def test_skip_starts_nothing_while_one_is_under_way(world: World) -> None:
    made = world.make(every=60)
    world.pass_(60)
    world.pass_(60)
    world.pass_(60)
    assert (len(world.open_runs()), made.skipped) == (1, 2)
    world.restart()
    made = world.schedules.get(made.number)
    world.pass_(60)
    assert (len(world.open_runs()), made.skipped) == (1, 3)
    world.end_all(RunState.TIMED_OUT)
    world.pass_(60)
    assert (len(world.open_runs()), made.count) == (1, 2)


def test_queue_starts_them_one_after_another(world: World) -> None:
    made = world.make(every=60, overlap="queue")
    for _ in range(4):
        world.pass_(60)
    assert (len(world.open_runs()), made.waiting) == (1, 3)
    world.restart()
    made = world.schedules.get(made.number)
    (first,) = world.open_runs()
    world.end(first, RunState.TIMED_OUT)
    world.restart()  # between the end of one and the start of the next
    made = world.schedules.get(made.number)
    world.turn()
    assert (len(world.open_runs()), made.waiting, made.count) == (1, 2, 2)
    assert world.end_all() == 3
    assert made.count == 4


def test_what_waits_is_bounded(world: World) -> None:
    made = world.make(every=1, overlap="queue")
    for _ in range(MOST_WAITING + 20):
        world.pass_(1)
    assert (made.waiting, made.skipped) == (MOST_WAITING, 19)


def test_allow_lets_them_run_together(world: World) -> None:
    made = world.make(every=60, overlap="allow")
    for _ in range(3):
        world.pass_(60)
    assert (len(world.open_runs()), made.open) == (3, tuple(world.open_runs()))


def test_replace_cancels_the_one_and_starts_the_next_once_it_has_ended(world: World) -> None:
    made = world.make(every=60, overlap="replace")
    world.pass_(60)
    (first,) = world.open_runs()
    world.pass_(60)
    (second,) = world.open_runs()
    assert second != first
    assert (made.count, made.waiting, made.result) == (2, 0, "cancelled")


# -- bounds, and commands ------------------------------------------------------------------------


def test_max_runs_and_until_end_it(world: World) -> None:
    three = world.make(every=60, max_runs=3, overlap="queue")
    soon = world.make(every=60, until="150s")
    for _ in range(5):
        world.pass_(60)
    world.end_all()
    assert (three.count, three.state) == (3, ScheduleState.DONE)
    assert (soon.state, soon.next) == (ScheduleState.DONE, None)


def test_pause_and_resume(world: World) -> None:
    made = world.make(every=60, missed="all")
    world.control(made, "pause")
    world.pass_(300)
    assert (made.state, world.open_runs()) == (ScheduleState.PAUSED, [])
    world.restart()
    made = world.schedules.get(made.number)
    world.pass_(30)
    assert made.state is ScheduleState.PAUSED
    world.control(made, "resume")
    assert (made.state, made.next) == (ScheduleState.PENDING, made.made + 360)
    world.pass_(30)
    assert len(world.open_runs()) == 1


def test_a_single_time_that_passed_in_a_pause_comes_at_its_end(world: World) -> None:
    made = world.make(in_=60)
    world.control(made, "pause")
    world.pass_(600)
    world.control(made, "resume")
    world.turn()
    assert len(world.open_runs()) == 1


def test_cancel_stops_it_and_lets_what_is_under_way_end(world: World) -> None:
    made = world.make(every=60)
    world.pass_(60)
    world.control(made, "cancel")
    assert (made.state, made.next, len(world.open_runs())) == (ScheduleState.CANCELLED, None, 1)
    world.pass_(600)
    world.end_all()
    assert (made.state, made.count, made.result) == (ScheduleState.CANCELLED, 1, "completed")
    for command in ("cancel", "resume", "run-now"):
        with pytest.raises(KernelError) as caught:
            world.control(made, command)
        assert caught.value.errno == errno.EPERM
    assert made.state is ScheduleState.CANCELLED


def test_run_now(world: World) -> None:
    made = world.make(every="1h")
    world.control(made, "run-now")
    assert (len(world.open_runs()), made.next) == (1, made.made + HOUR)
    with pytest.raises(KernelError) as caught:
        world.control(made, "run-now")
    assert caught.value.errno == errno.EBUSY
    world.end_all()
    once = world.make(in_="1h")
    world.control(once, "run-now")
    world.end_all()
    assert (once.state, once.count) == (ScheduleState.DONE, 1)
    with pytest.raises(KernelError) as caught:
        world.control(made, "run-later")
    assert caught.value.errno == errno.EINVAL


def test_ended_ones_are_kept_for_a_while(world: World) -> None:
    made = world.make(in_=1)
    world.pass_(1)
    world.end_all()
    world.clock.advance(6 * DAY)
    world.schedules.tidy()
    assert world.schedules.get(made.number) is made
    world.clock.advance(2 * DAY)
    world.schedules.tidy()
    with pytest.raises(KernelError):
        world.schedules.get(made.number)
    assert world.make(in_=1).number == made.number + 1


def test_a_clock_that_was_ahead_keeps_nothing_waiting(world: World) -> None:
    world.clock.step(400 * DAY)
    grid, delay = world.make(every="1h"), world.make(in_="1h")
    world.turn()
    world.clock.step(-400 * DAY)
    world.turn()
    now = world.clock.now()
    assert grid.next is not None
    assert delay.next is not None
    assert now < grid.next <= now + HOUR
    assert now < delay.next <= now + HOUR


# -- who, and what is refused --------------------------------------------------------------------


def test_it_keeps_the_ceiling_of_its_maker_whose_process_has_ended(world: World) -> None:
    ann = world.process("ann", max_llm_calls=7)
    made = world.make("ann", every=60)
    world.world.end(ann, 0)
    world.restart()
    world.pass_(60)
    (run,) = world.open_runs()
    process = world.kernel.table.get(run)
    assert process.ceiling is not None
    assert "agent" in process.ceiling.roles
    assert world.kernel.ceilings.effective(process, "max_llm_calls") == 7
    maker = world.schedules.get(made.number).maker
    assert (maker.name, maker.limits["max_llm_calls"]) == ("ann", 7)


def test_rules_that_came_later_hold_for_it(world: World) -> None:
    ann = world.process("ann")
    made = world.make("ann", every=60)
    world.world.end(ann, 0)
    world.kernel.acl.replace(
        "rules: [{effect: deny, agent: ann, action: spawn, path: /etc/pipelines/report}]"
    )
    world.pass_(60)
    assert not world.open_runs()
    assert "EACCES" in made.error or "EPERM" in made.error
    with pytest.raises(KernelError) as caught:
        world.process("ann")
        world.make("ann", every=60)
    assert caught.value.errno in (errno.EPERM, errno.EACCES)


def test_others_may_not_control_it(world: World) -> None:
    world.process("ann")
    world.process("bob")
    made = world.make("ann", every=60)
    with pytest.raises(KernelError) as caught:
        world.schedules.control(world.principal("bob"), made.number, "cancel")
    assert caught.value.errno == errno.EPERM
    world.schedules.control(world.principal("ann"), made.number, "cancel")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"every": "1h", "pipeline": "a", "system": "b"}, "one of `pipeline` and `system`"),
        ({"pipeline": "a"}, "one of `every`, `cron`, `at` and `in`"),
        ({"every": "1h", "in": "5m"}, "one of `every`, `cron`, `at` and `in`"),
        ({"every": "0.2s"}, "from 1s"),
        ({"every": "soon"}, "every: a duration"),
        ({"cron": "30 2 * *"}, "five fields"),
        ({"cron": "30 2 * * *", "timezone": "Europe/Berln"}, "no time zone"),
        ({"cron": "0 0 31 2 *"}, "bad day-of-month"),
        ({"every": 60, "timezone": "UTC"}, "for `cron` only"),
        ({"at": "2020-01-01T00:00Z"}, "not in the future"),
        ({"in": "5m", "max_runs": 2}, "starts once"),
        ({"every": 60, "until": "30s"}, "the first time is"),
        ({"every": 60, "max_runs": 0}, "max_runs"),
        ({"every": 60, "overlap": "both"}, "overlap"),
        ({"evry": 60}, "evry: there is no such key"),
        ({"every": 60, "pipeline": "../x"}, "pipeline"),
        ({"every": 60, "caps": ["fly"]}, "no capability"),
        ({"every": 60, "limits": {"max_lmm_calls": 1}}, "max_lmm_calls"),
        ({"every": 60, "limits": {"max_llm_calls": -1}}, "limits.max_llm_calls"),
    ],
)
def test_a_wrong_request_changes_nothing(world: World, spec: dict[str, Any], words: str) -> None:
    assert words in refused(errno.EINVAL, world, **spec)


def test_a_request_that_is_no_json_object(world: World) -> None:
    for text in (
        "",
        "every: 1h",
        "[1]",
        '{"every": 60, "every": 61}',
        '{"every": NaN}',
        "[" * 9999,
    ):
        with pytest.raises(KernelError) as caught:
            world.schedules.create(OPERATOR, text)
        assert caught.value.errno == errno.EINVAL


def test_a_pipeline_that_there_is_not(world: World) -> None:
    refused(errno.ENOENT, world, pipeline="nosuch", every=60)


def test_a_commit_that_fails_leaves_everything_as_it_was(world: World) -> None:
    made = world.make(every=60)
    world.clock.advance(60)
    fail = [True]

    def full() -> None:
        if fail[0]:
            raise KernelError(errno.ENOSPC, "no space")

    world.world.store.prepare(full)
    with pytest.raises(KernelError):
        world.schedules.run_due()
    assert (made.count, made.open, made.due) == (0, (), made.next)
    fail[0] = False
    world.turn()
    assert (made.count, len(world.open_runs())) == (1, 1)
