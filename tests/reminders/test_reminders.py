"""Reminders: set, delivered once, cancelled, limited, counted; on a clock that the test moves."""

import errno
import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.mail.message import Message
from agentfs.reminders.counts import Delivered
from agentfs.reminders.events import (
    ReminderCancelled,
    ReminderDelayed,
    ReminderFired,
    ReminderSet,
    ReminderTallyChanged,
)
from agentfs.reminders.reminders import BATCH, LONGEST_WAIT, PAUSE
from agentfs.store.event import Event
from tests import world as worlds
from tests.storage import without_log
from tests.world import OPERATOR

DAY = 86_400.0


class World(worlds.World):
    """One kernel's mail and reminders."""

    def _start(self) -> None:
        super()._start()
        self.reminders = self.kernel.reminders

    def configure(self, **limits: object) -> None:
        lines = "".join(f"  {name}: {value}\n" for name, value in limits.items())
        self.settings.replace(f"reminders:\n{lines}")

    def remind(self, agent: str, request: str) -> list[str]:
        """The ids."""
        made = self.reminders.set(self.principal(agent), agent, request)
        return [reminder.id for reminder in made]

    def refuse(self, number: int, agent: str, request: str) -> KernelError:
        """Be refused, and see that nothing changed."""
        before = self.kept(), self.events.last, self.reminders.left(agent)
        with pytest.raises(KernelError) as caught:
            self.remind(agent, request)
        assert caught.value.errno == number
        assert (self.kept(), self.events.last, self.reminders.left(agent)) == before
        return caught.value

    def deliver(self) -> int:
        """Turns of the scheduler until nothing is due; how many there were with something to do."""
        turns = 0
        while True:
            before = self.events.last
            wait = self.reminders.run_due()
            if self.events.last == before:
                return turns
            turns += 1
            assert wait >= PAUSE

    def kept(self) -> list[tuple[str, object]]:
        """What the store has of reminders; memory says the same."""
        stored = list(self.store.records("reminder"))
        assert stored == sorted(
            (reminder.id, reminder.record())
            for name in self.agents
            for reminder in self.reminders.table.of(name)
        )
        assert len(stored) == len(self.reminders.table)
        return stored

    def recount(self, agent: str) -> Delivered:
        """The figures by SQL over what the store keeps."""
        after = int(self.clock.now() // 60) - 24 * 60
        query = """
            SELECT coalesce(sum(successes) FILTER (WHERE minute > ?), 0),
                   coalesce(sum(attempts), 0), coalesce(sum(successes), 0)
            FROM (SELECT json_extract(record, '$.agent') AS agent,
                         json_extract(record, '$.minute') AS minute,
                         json_extract(record, '$.attempts') AS attempts,
                         json_extract(record, '$.successes') AS successes
                  FROM records WHERE kind = 'reminder-count')
            WHERE agent = ?
        """
        self.store.fold()
        with closing(sqlite3.connect(self.state / "store.db")) as connection:
            return Delivered(*connection.execute(query, (after, agent)).fetchone())

    def read(self, *agents: str) -> list[str]:
        """Receive and acknowledge everything that waits: the bodies."""
        found = []
        for name in agents:
            while body := self.recv(name):
                found.append(body)
                self.mail.receiving.settle(self.principal(name), name, "done", "")
        return found

    def mails(self, agent: str) -> list[Message]:
        return [message for _, message in sorted(self.mail.mailbox(agent).new.items())]

    def happened(self) -> list[Event]:
        """The events about reminders since the last call."""
        found = [event for event in self.seen if event.type.startswith("reminder")]
        self.seen.clear()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    for name in ("alice", "bob"):
        made.process(name)
    yield made
    made.close()


# -- the whole life ------------------------------------------------------------------------------


def test_a_reminder_from_setting_to_delivery(world: World) -> None:
    world.happened()
    (name,) = world.remind("alice", "in 10m call bob")
    set_at = world.clock.now()
    assert world.happened() == [ReminderSet("alice", name, set_at + 600)]
    assert (len(name), world.reminders.table.pending("alice")) == (12, 1)
    assert world.reminders.table.find("alice", name) is world.reminders.table.of("alice")[0]
    assert world.reminders.run_due() == LONGEST_WAIT
    world.clock.advance(599)
    assert world.reminders.run_due() == pytest.approx(1)
    assert world.waiting("alice") == []
    world.clock.advance(1)
    assert world.reminders.run_due() == math.inf
    (message,) = world.mails("alice")
    assert world.happened() == [ReminderFired("alice", name, message.id, None)]
    assert world.body(message) == "call bob\n"
    headers = {key: world.header(message, key) for key in ("From", "To", "Type", "Reminder")}
    assert headers == {"From": "alice", "To": "alice", "Type": "reminder", "Reminder": name}
    assert world.header(message, "Scheduled") == rfc3339(set_at + 600)
    assert world.header(message, "Missed") is None
    assert world.header(message, "Priority") == "normal"
    assert (world.kept(), world.reminders.table.find("alice", name)) == ([], None)
    assert world.mail.archive.sent("alice") == {}


def test_ids_sort_by_when_they_were_set_and_are_never_used_again(world: World) -> None:
    names = [world.remind("alice", f"in {number}h x")[0] for number in (3, 1, 2)]
    world.reminders.cancel(OPERATOR, "alice", names[-1])
    world.restart()
    names += world.remind("bob", "in 1h x")
    assert names == sorted(set(names))


def test_several_lines_are_several_reminders_all_or_none(world: World) -> None:
    names = world.remind("alice", "in 1h one\n\nin 2h two\ncron 0 9 * * 1 three\n")
    assert [reminder.text for reminder in world.reminders.table.of("alice")] == [
        "one",
        "two",
        "three",
    ]
    assert [reminder.id for reminder in world.reminders.table.of("alice")] == names
    for wrong in (
        "in 1h one\nin two",
        "in 1h x\ncron 0 0 30 2 * y",
        "at 2001-01-01T00:00Z x",
        "\n",
    ):
        world.refuse(errno.EINVAL, "alice", wrong)


def test_the_first_that_is_due_is_delivered_first(world: World) -> None:
    for when in ("3m", "1m", "2m"):
        world.remind("alice", f"in {when} {when}")
    world.clock.advance(200)
    world.deliver()
    assert world.waiting("alice") == ["1m\n", "2m\n", "3m\n"]


def test_an_agent_without_a_process_is_reminded_all_the_same(world: World) -> None:
    world.agent("ghost")
    world.reminders.set(OPERATOR, "ghost", "in 1m boo")
    world.clock.advance(60)
    world.deliver()
    assert world.waiting("ghost") == ["boo\n"]


def test_removing_an_agent_removes_its_reminders(world: World) -> None:
    world.agent("ghost")
    world.reminders.set(OPERATOR, "ghost", "in 1m boo\nin 2m boo")
    world.remind("alice", "in 1m mine")
    world.clock.advance(60)
    world.deliver()
    world.agents.remove(OPERATOR, "ghost")
    assert world.reminders.table.of("ghost") == []
    assert world.kept() == []
    assert {row["agent"] for _, row in world.store.records("reminder-count")} == {"alice"}
    world.clock.advance(DAY)
    world.deliver()
    world.agent("ghost")
    assert world.waiting("ghost") == []
    assert world.reminders.counts("ghost") == (0, 0, 0)


# -- K1: what cron missed there ------------------------------------------------------------------


def test_k1_a_second_that_was_missed_is_no_run_that_was_missed(world: World) -> None:
    world.remind("alice", "cron * * * * * tick")  # 08:00:00 now
    world.clock.advance(61.7)
    world.deliver()
    (message,) = world.mails("alice")
    assert world.header(message, "Scheduled") == "2027-01-15T08:01:00.000Z"
    assert world.header(message, "Missed") is None


def test_k1_cron_fires_again_and_again_and_never_twice_for_one_time(world: World) -> None:
    (name,) = world.remind("alice", 'cron "*/10 * * * *" tick')
    times = []
    for _ in range(40):
        world.clock.advance(60)
        world.deliver()
        assert world.deliver() == 0
        times += [world.header(message, "Scheduled") for message in world.mails("alice")]
        world.read("alice")
    assert times == [f"2027-01-15T08:{minute}:00.000Z" for minute in (10, 20, 30, 40)]
    (reminder,) = world.reminders.table.of("alice")
    assert (reminder.id, reminder.fired) == (name, 4)
    assert rfc3339(reminder.next) == "2027-01-15T08:50:00.000Z"


def test_k1_what_was_missed_in_a_downtime_fires_once_and_then_at_its_next_time(
    world: World,
) -> None:
    world.remind("alice", "cron 0 9 * * * daily\nin 1h once\nat 2027-01-16T10:00Z point")
    world.clock.advance(3 * DAY)
    world.restart()
    world.deliver()
    assert sorted(world.waiting("alice")) == ["daily\n", "once\n", "point\n"]
    missed = {world.body(mail): world.header(mail, "Missed") for mail in world.mails("alice")}
    assert missed == {"daily\n": "3", "once\n": "1", "point\n": "1"}
    (reminder,) = world.reminders.table.of("alice")
    assert rfc3339(reminder.next) == "2027-01-18T09:00:00.000Z"
    world.restart()
    assert world.deliver() == 0


def test_k1_a_reminder_does_not_overlap_with_itself(world: World) -> None:
    world.remind("alice", 'cron "*/10 * * * *" tick\ncron "*/10 * * * *" tock')
    for _ in range(180):
        world.clock.advance(60)
        world.deliver()
    assert world.waiting("alice") == ["tick\n", "tock\n"]
    assert world.reminders.counts("alice") == (2, 2, 2)
    world.read("alice")
    world.restart()
    world.deliver()
    (tick, _) = world.mails("alice")
    assert world.header(tick, "Scheduled") == "2027-01-15T08:20:00.000Z"
    assert world.header(tick, "Missed") == "17"
    assert world.recv("alice") == "tick\n"  # at work on it: the next one may wait
    world.clock.advance(600)
    world.deliver()
    assert sorted(world.waiting("alice")) == ["tick\n", "tock\n"]


def test_k1_a_reminder_has_an_owner_and_goes_with_it(world: World) -> None:
    (name,) = world.remind("alice", "cron * * * * * tick")
    bob = world.principal("bob")
    for call in (
        lambda: world.reminders.cancel(bob, "alice", name),
        lambda: world.reminders.cancel(bob, "alice", "000000009999"),
        lambda: world.reminders.set(bob, "alice", "in 1m x"),
    ):
        with pytest.raises(KernelError) as caught:
            call()
        assert (caught.value.errno, caught.value.rule) == (errno.EACCES, "private")
    with pytest.raises(KernelError) as caught:
        world.reminders.cancel(bob, "bob", name)
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(KernelError) as caught:
        world.reminders.set(OPERATOR, "nobody", "in 1m x")
    assert caught.value.errno == errno.ENOENT


# -- H15: listing and cancelling -----------------------------------------------------------------


def test_h15_a_reminder_is_cancelled_once(world: World) -> None:
    (name,) = world.remind("alice", "in 1m x")
    world.happened()
    world.reminders.cancel(world.principal("alice"), "alice", name)
    assert world.happened() == [ReminderCancelled("alice", name)]
    for wrong in (name, "", "x", "1", "٠" * 12, "000000000999"):
        with pytest.raises(KernelError) as caught:
            world.reminders.cancel(OPERATOR, "alice", wrong)
        assert caught.value.errno == errno.ENOENT
    assert world.kept() == []


def test_h15_a_cancelled_reminder_never_fires_even_when_it_is_due_in_the_same_tick(
    world: World,
) -> None:
    names = world.remind("alice", "in 1m no\nin 1m yes\ncron * * * * * no")
    world.clock.advance(60)
    for name in (names[0], names[2]):
        world.reminders.cancel(world.principal("alice"), "alice", name)
    world.deliver()
    assert world.waiting("alice") == ["yes\n"]
    world.restart()
    world.clock.advance(DAY)
    world.deliver()
    assert world.waiting("alice") == ["yes\n"]


# -- H8: limits ----------------------------------------------------------------------------------


def test_h8_beyond_the_burst_it_is_eagain_and_refills_at_the_stated_rate(world: World) -> None:
    for _ in range(20):
        world.remind("alice", "in 1h x")
    refusal = world.refuse(errno.EAGAIN, "alice", "in 1h x")
    assert "try again in 6.0 s" in refusal.reason
    assert refusal.rule == "reminders.per_minute"
    world.remind("bob", "in 1h x")
    world.clock.advance(5.9)
    world.refuse(errno.EAGAIN, "alice", "in 1h x")
    world.clock.advance(0.1)
    world.remind("alice", "in 1h x")
    world.refuse(errno.EAGAIN, "alice", "in 1h x")
    world.clock.advance(60)
    for _ in range(10):
        world.remind("alice", "in 1h x")
    world.refuse(errno.EAGAIN, "alice", "in 1h x")
    world.clock.advance(3600)
    assert world.reminders.left("alice") == 20


def test_h8_stepping_the_wall_clock_refills_nothing(world: World) -> None:
    for _ in range(20):
        world.remind("alice", "in 1h x")
    world.clock.step(DAY)
    world.refuse(errno.EAGAIN, "alice", "in 1h x")


def test_h8_what_the_operator_sets_for_an_agent_counts_for_the_agent(world: World) -> None:
    for _ in range(20):
        world.reminders.set(OPERATOR, "alice", "in 1h x")
    world.refuse(errno.EAGAIN, "alice", "in 1h x")
    assert world.reminders.left("init") == 20


def test_h8_only_so_many_may_be_pending(world: World) -> None:
    world.configure(max_pending=3)
    names = world.remind("alice", "in 1h x\nin 1h x")
    refusal = world.refuse(errno.EDQUOT, "alice", "in 1h x\nin 1h x")
    assert "2 reminders pending, 3 are allowed" in refusal.reason
    world.remind("alice", "cron 0 9 * * * x")
    world.refuse(errno.EDQUOT, "alice", "in 1h x")
    world.reminders.cancel(OPERATOR, "alice", names[0])
    world.remind("alice", "in 1h x")
    world.clock.advance(3600)
    world.deliver()
    assert world.reminders.table.pending("alice") == 1


def test_h8_the_limits_can_be_set_and_hold_at_once(world: World) -> None:
    world.configure(burst=2, per_minute=60, max_text=64)
    world.remind("alice", "in 1h x\nin 1h x")
    world.refuse(errno.EAGAIN, "alice", "in 1h x")
    assert "at most 2" in world.refuse(errno.EINVAL, "alice", "in 1h x\n" * 3).reason
    world.clock.advance(1)
    refusal = world.refuse(errno.EMSGSIZE, "alice", f"in 1h {'é' * 33}")
    assert "66 bytes, 64 are allowed" in refusal.reason
    world.remind("alice", f"in 1h {'é' * 32}")


def test_full_buckets_are_dropped(world: World) -> None:
    for name in ("alice", "bob"):
        world.remind(name, "in 1h x")
        assert world.reminders.left(name) == 19
    assert len(world.reminders._buckets) == 2
    world.reminders.tidy()
    assert len(world.reminders._buckets) == 2
    world.clock.advance(6)
    world.reminders.tidy()
    assert len(world.reminders._buckets) == 0


# -- the inbox is full ---------------------------------------------------------------------------


def test_a_full_inbox_delays_a_reminder_and_loses_none(world: World) -> None:
    world.settings.replace("messages: {max_waiting: 1}\nreminders: {retry: 60s}\n")
    world.send("bob", "alice", "in the way")
    (name,) = world.remind("alice", "in 1m x")
    world.happened()
    world.clock.advance(60)
    assert world.reminders.run_due() == LONGEST_WAIT
    again = world.clock.now() + 60
    reason = "the inbox of alice is full"
    assert world.happened() == [ReminderDelayed("alice", name, reason, again)]
    assert world.deliver() == 0
    world.clock.advance(59)
    assert world.deliver() == 0
    world.recv("alice")
    world.clock.advance(1)
    world.deliver()
    assert world.waiting("alice") == ["x\n"]
    assert world.header(world.mails("alice")[0], "Missed") == "1"
    assert world.reminders.counts("alice") == (1, 2, 1) == world.recount("alice")


def test_a_full_inbox_at_a_crash_is_tried_again_at_the_next_start(world: World) -> None:
    world.settings.replace("messages: {max_waiting: 1}")
    world.send("bob", "alice", "in the way")
    world.remind("alice", "in 1m x")
    world.clock.advance(60)
    world.deliver()
    world.recv("alice")
    world.restart()
    world.deliver()
    assert world.waiting("alice") == ["x\n"]


# -- clocks --------------------------------------------------------------------------------------


def test_a_step_forwards_fires_what_it_passed_over(world: World) -> None:
    world.remind("alice", "in 1h x\ncron 0 * * * * y")
    assert world.reminders.run_due() == LONGEST_WAIT  # so it is noticed that soon
    world.clock.step(7200)
    world.deliver()
    assert sorted(world.waiting("alice")) == ["x\n", "y\n"]


def test_a_step_backwards_fires_nothing_twice(world: World) -> None:
    world.remind("alice", "cron 0 * * * * y")
    world.clock.advance(3600)
    world.deliver()
    assert world.read("alice") == ["y\n"]
    world.clock.step(-7200)
    world.deliver()
    world.clock.advance(7199)
    world.deliver()
    assert world.waiting("alice") == []
    world.clock.advance(3601)
    world.deliver()
    assert world.waiting("alice") == ["y\n"]


YEAR = 365 * DAY


def set_back(world: World, restart: bool) -> None:
    """The clock was a year ahead, and is right again; the daemon may be another one by then."""
    world.clock.step(-YEAR)
    if restart:
        world.restart()
    while world.reminders.run_due() == PAUSE:
        pass


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_found_while_the_clock_was_a_year_ahead_is_found_again(
    world: World, restart: bool
) -> None:
    world.remind("alice", "cron 0 9 * * * fired ahead")
    kept = world.remind("alice", "at 2031-01-01T00:00Z kept")
    world.clock.step(YEAR)
    world.deliver()
    assert world.read("alice") == ["fired ahead\n"]
    world.remind("alice", "in 10m set ahead\ncron 30 * * * * set ahead, too")
    set_back(world, restart)
    now = world.clock.now()
    for reminder in world.reminders.table.of("alice"):
        limit = {"cron": DAY, "in": 600, "at": 10 * YEAR}[reminder.schedule.kind]
        assert now < reminder.next == reminder.due <= now + limit
    assert world.kept(), "and so it is in the store"
    assert world.reminders.table.find("alice", kept[0]).next > now + 3 * YEAR
    world.clock.advance(3600)
    world.deliver()
    wanted = ["fired ahead\n", "set ahead\n", "set ahead, too\n"]
    assert sorted(world.read("alice")) == wanted, "within an hour, as it is 8 o'clock"
    assert check(world.store.path) == []


def test_a_clock_that_is_set_back_changes_no_time_that_it_will_reach(world: World) -> None:
    world.remind("alice", "cron 0 9 * * * daily\nin 3h once\nat 2031-01-01T00:00Z fixed")
    before = world.kept()
    world.clock.step(-2 * 3600)
    world.clock.step(2 * 3600 + 5)
    world.reminders.run_due()
    world.clock.step(-3)
    while world.reminders.run_due() == PAUSE:
        pass
    assert world.kept() == before


def test_what_waits_for_room_in_an_inbox_is_tried_again_after_a_step_back(world: World) -> None:
    world.clock.step(YEAR)
    world.settings.replace("messages: {max_waiting: 1}\nreminders: {retry: 60s}\n")
    world.send("bob", "alice", "in the way")
    world.remind("alice", "in 1m x")
    world.clock.advance(60)
    world.deliver()
    (waits,) = world.reminders.table.of("alice")
    set_back(world, restart=False)
    assert waits.due <= world.clock.now() + 60


def test_ten_thousand_are_looked_at_in_batches_after_a_step_back(world: World) -> None:
    world.configure(max_pending=1000, burst=1000, per_minute=100000)
    world.remind("alice", "\n".join(f"cron {n % 60} 9 * * * {n}" for n in range(500)))
    world.clock.step(YEAR)
    world.deliver()
    world.clock.step(-YEAR)
    commits = world.store.commits
    turns = 1
    while world.reminders.run_due() == PAUSE:
        turns += 1
    assert turns >= 500 // BATCH
    assert world.store.commits - commits <= 500 // BATCH + 2


# -- H10: many at once ---------------------------------------------------------------------------


async def test_h10_10_000_due_at_once_take_fewer_than_200_transactions_and_hold_nobody_up(
    world: World,
) -> None:
    world.configure(burst=100_000, max_pending=100_000)
    names = [world.agent(f"a{number}") for number in range(10)]
    for name in names:
        world.reminders.set(OPERATOR, name, "in 1m x\n" * 1000)
    world.clock.advance(60)
    before, left = world.store.commits, [len(world.reminders.table)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.reminders.run)
        while left[-1]:
            world.send("bob", "alice", "something else")
            left.append(len(world.reminders.table))
            await trio.sleep(PAUSE / 4)
        nursery.cancel_scope.cancel()
    sent = len(left) - 1
    assert world.store.commits - before - sent < 200
    # Whoever is ready to run does so after a batch; one that was late for it, after the next.
    assert max(more - less for more, less in pairwise(left)) <= 2 * BATCH
    assert all(world.mail.mailbox(name).waiting == 1000 for name in names)
    assert world.mail.mailbox("alice").waiting == sent
    assert world.recount("a0") == (1000, 1000, 1000)


def test_h10_the_heap_stays_as_large_as_what_is_pending(world: World) -> None:
    world.configure(burst=1000, max_pending=1000)
    world.remind("alice", "cron * * * * * x\n" * 50)
    for _ in range(50):
        world.clock.advance(60)
        world.deliver()
        assert len(world.read("alice")) == 50
    assert world.reminders.table._queue.entries <= 2 * 50 + 64


def test_one_that_comes_sooner_wakes_the_scheduler(world: World) -> None:
    world.remind("alice", "in 1h x")
    sooner = world.reminders.table.watch()
    world.remind("alice", "in 2h y")
    assert not sooner.is_set()
    world.remind("alice", "in 1m z")
    assert sooner.is_set()


# -- H9: the scheduler is a task -----------------------------------------------------------------


async def test_h9_the_scheduler_ends_with_its_nursery_and_leaves_no_timer(world: World) -> None:
    world.configure(burst=10_000, max_pending=10_000)
    world.remind("alice", "in 1m x\n" * 5000)
    world.clock.advance(60)
    turns = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.reminders.run)
        while world.mail.mailbox("alice").waiting < 500:
            await trio.lowlevel.checkpoint()
            turns += 1
        nursery.cancel_scope.cancel()
    assert turns >= 4  # it let others run between its batches
    waiting = {timer._call.__self__ for *_, timer in world.timers._heap if timer.active}
    assert waiting <= {world.kernel.why}
    delivered, pending = world.mail.mailbox("alice").waiting, len(world.reminders.table)
    assert delivered + pending == 5000
    assert pending > 0
    world.restart()
    assert len(world.reminders.table) == pending
    world.deliver()
    assert world.mail.mailbox("alice").waiting == 5000


async def test_h9_a_store_that_cannot_be_written_delays_and_stops_nothing(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.remind("alice", "in 1m x\ncron * * * * * y")
    kept = world.kept()
    world.clock.advance(60)
    without_log(world.store)._db.execute("PRAGMA query_only = ON")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.reminders.run)
        await trio.sleep(5)
        assert (world.waiting("alice"), world.kept()) == ([], kept)
        assert world.reminders.counts("alice") == (0, 0, 0)
        world.store._db.execute("PRAGMA query_only = OFF")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert sorted(world.waiting("alice")) == ["x\n", "y\n"]
    assert world.recount("alice") == (2, 2, 2)


async def test_h9_a_full_store_is_tried_once_a_second_and_logged_once(
    world: World,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.remind("alice", "in 1m x\nin 1m y")
    world.clock.advance(60)
    tries = 0

    def full() -> None:
        nonlocal tries
        tries += 1
        raise KernelError(errno.ENOSPC, "the store cannot be written: database or disk is full")

    world.store.before_commit.append(full)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.reminders.run)
        await trio.sleep(20.5)
        assert tries <= 21
        assert len(caplog.records) == 1
        assert "full" in caplog.records[0].getMessage()
        assert caplog.records[0].exc_info is None
        world.store.before_commit.remove(full)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert sorted(world.waiting("alice")) == ["x\n", "y\n"]


# -- kill -9 -------------------------------------------------------------------------------------


def test_a_delivery_and_its_removal_are_one_transaction(world: World) -> None:
    world.configure(burst=1000, max_pending=1000)
    world.remind("alice", "in 1m x\n" * 250)
    world.clock.advance(60)
    total = 0
    while total < 250:
        world.reminders.run_due()
        world.restart()
        waiting = world.mail.mailbox("alice").waiting
        assert waiting + len(world.reminders.table) == 250
        assert waiting > total
        total = waiting
    seen = {world.header(message, "Reminder") for message in world.mails("alice")}
    assert len(seen) == 250


def test_a_rolled_back_call_leaves_nothing(world: World) -> None:
    (name,) = world.remind("alice", "cron * * * * * x")
    world.clock.advance(60)
    world.deliver()
    before = world.kept(), world.reminders.counts("alice"), world.reminders.left("alice")
    for call in (
        lambda: world.remind("alice", "in 1m x\nin 2m y"),
        lambda: world.reminders.cancel(OPERATOR, "alice", name),
        lambda: world.reminders.agent_removed("alice"),
    ):
        without_log(world.store)._db.execute("PRAGMA query_only = ON")
        with pytest.raises(KernelError) as caught:
            call()
        world.store._db.execute("PRAGMA query_only = OFF")
        assert caught.value.errno == errno.EIO
        after = world.kept(), world.reminders.counts("alice"), world.reminders.left("alice")
        assert after == before
    assert world.reminders.table.find("alice", name) is not None


# -- H11: figures --------------------------------------------------------------------------------


def test_h11_the_figures_equal_a_recount_by_sql(world: World) -> None:
    world.remind("alice", "cron */7 * * * * x\ncron 5 * * * * y")
    world.remind("bob", "cron 0 */3 * * * z")
    for hour in range(60):
        for _ in range(4):
            world.clock.advance(900)
            world.deliver()
            world.read("alice", "bob")
            world.reminders.tidy()
            for name in ("alice", "bob"):
                assert world.reminders.counts(name) == world.recount(name)
        if hour % 20 == 7:
            world.restart()
    delivered, attempts, successes = world.reminders.counts("bob")
    assert (delivered, attempts, successes) == (8, 20, 20)
    assert world.reminders.counts("alice").delivered < world.reminders.counts("alice").successes


def test_h11_what_is_kept_of_a_day_is_bounded(world: World) -> None:
    world.remind("alice", "cron * * * * * x")
    for minute in range(26 * 60):
        world.clock.advance(60)
        world.deliver()
        assert world.recv("alice") == "x\n"
        if minute % 100 == 0:
            world.reminders.tidy()
    world.reminders.tidy()
    assert len(list(world.store.records("reminder-count"))) == 24 * 60 + 1
    assert world.reminders.counts("alice") == (1440, 1560, 1560) == world.recount("alice")


def test_h11_what_falls_out_of_the_day_is_told(world: World) -> None:
    world.remind("alice", "in 1m x")
    world.clock.advance(60)
    world.deliver()
    world.reminders.tidy()
    world.happened()
    before = world.reminders.table.changed("alice")
    world.clock.advance(DAY)
    world.reminders.tidy()
    assert world.happened() == [ReminderTallyChanged("alice")]
    assert world.reminders.table.changed("alice") > before
    assert world.reminders.counts("alice") == (0, 1, 1) == world.recount("alice")
    world.reminders.tidy()
    assert world.happened() == []


def test_h11_figures_stamped_by_a_clock_that_was_wrong_do_not_stay_in_the_day(
    world: World,
) -> None:
    world.remind("alice", "in 1m x\nin 2m y")
    world.clock.step(300 * DAY)
    world.deliver()
    world.clock.step(-300 * DAY)
    world.reminders.tidy()
    assert world.reminders.counts("alice") == (0, 2, 2)


# -- the consistency check -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "fault"),
    [
        ("reminder", {"agent": "eve"}, "there is no agent eve"),
        ("reminder", {"next": 1.0}, "it is for a time before it was set"),
        ("reminder", {"next": 1e18}, "its record cannot be read"),
        ("reminder", {"next": None}, "its record cannot be read"),
        ("reminder", {"kind": "when"}, "a reminder is in 10m"),
        ("reminder", {"expression": "99 * * * *"}, "bad minute"),
        ("reminder", {"fired": -1}, "it has fired -1 times"),
        ("reminder", {"message": None}, "its last message is None, having fired 1 times"),
        ("reminder", {"text": " "}, "what is to be said is missing"),
        ("reminder-count", {"agent": "eve"}, "there is no agent eve"),
        ("reminder-count", {"successes": 9}, "9 of 1 succeeded"),
        ("reminder-count", {"minute": None}, "the record cannot be read"),
    ],
)
def test_the_check_finds_what_is_wrong(
    world: World, kind: str, change: dict[str, object], fault: str
) -> None:
    world.remind("alice", "cron * * * * * x")
    world.clock.advance(60)
    world.deliver()
    path = world.state / "store.db"
    assert check(path) == []
    ((key, record),) = world.store.records(kind)
    with closing(sqlite3.connect(path)) as connection, connection:
        text = json.dumps(record | change)
        connection.execute("UPDATE records SET record = ? WHERE key = ?", (text, key))
    assert [line for line in check(path) if fault in line], check(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM records")


def test_the_check_finds_a_number_that_cannot_be(world: World) -> None:
    path = world.state / "store.db"
    (name,) = world.remind("alice", "in 1m x")
    world.store.fold()
    for key in ("x", "000000000999"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE records SET key = ?", (key,))
        assert len(check(path)) == 1
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE records SET key = ?", (name,))
