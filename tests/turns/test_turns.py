"""Turns: begun, ended, counted by the day, swept; on a clock that the test moves."""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.model.process import Process, State, Tier
from agentfs.quota.meter import Use
from agentfs.turns.events import TurnBegun, TurnDaysSwept, TurnEnded
from agentfs.turns.turns import TOP
from tests import world as worlds
from tests.world import OPERATOR

DAY = 86_400.0


class World(worlds.World):
    """One kernel's turns."""

    def begin(self, name: str, *ids: str) -> int:
        principal = self.principal(name)
        assert principal.pid is not None
        return self.kernel.turns.begin(principal, principal.pid, ids)

    def finish(self, name: str, reason: str = "", *, ok: bool = True) -> None:
        principal = self.principal(name)
        assert principal.pid is not None
        self.kernel.turns.end(principal, principal.pid, ok=ok, reason=reason)

    def use(self, process: Process, kind: str, name: str, read: int = 0, written: int = 0) -> None:
        with self.store.transaction():
            self.kernel.accounting.record(
                process, Use(kind, name, Tier.TACTICAL, read, written, 0, None)
            )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def refused(number: int, call: object, *args: str) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.errno == number
    return caught.value


def test_the_whole_life_of_a_turn(world: World) -> None:
    bob = world.process("bob")
    world.process("alice")
    world.send("alice", "bob", "work")
    world.recv("bob")
    [message] = world.mail.boxes.claimed.of(bob.pid)
    world.use(bob, "llm", "sonnet", 1000, 50)  # before it: not of the turn, but of the day
    assert world.begin("bob", message.id) == 1
    assert world.seen[-1] == TurnBegun(bob.pid, "bob", 1, 1)
    world.use(bob, "llm", "sonnet", 20, 3)
    world.use(bob, "tool", "grep")
    [turn] = world.kernel.turns.of(bob)
    assert (turn.messages, turn.ended) == ([message.id], None)
    assert world.kernel.turns.used(turn)[:4] == (20, 3, 1, 1)
    world.clock.advance(4)
    world.finish("bob")
    assert world.seen[-1] == TurnEnded(bob.pid, "bob", 1, True, 4.0)
    world.use(bob, "llm", "sonnet", 7, 7)  # after it
    [turn] = world.kernel.turns.of(bob)
    assert (turn.ok, turn.input, turn.output, turn.calls, turn.tool_calls) == (True, 20, 3, 1, 1)
    [today] = world.kernel.turns.days("bob")
    assert (today.turns.turns, today.turns.failed, today.turns.mean) == (1, 0, 4.0)
    assert (today.used.input, today.used.output, today.tools) == (1027, 60, [("grep", 1)])
    assert world.begin("bob") == 2


def test_two_turns_of_one_process_never_overlap(world: World) -> None:
    world.process("bob")
    world.begin("bob")
    assert "turn 1" in refused(errno.EBUSY, world.begin, "bob").reason
    world.finish("bob")
    refused(errno.ENOENT, world.finish, "bob")
    world.begin("bob")


def test_a_turn_is_for_messages_that_were_claimed(world: World) -> None:
    world.process("bob")
    world.process("alice")
    world.send("alice", "bob", "work")
    [waiting] = world.mail.mailbox("bob").new.values()
    refused(errno.ENOENT, world.begin, "bob", waiting.id)
    assert world.seen[-1].type == "message_arrived"
    assert world.begin("bob") == 1


def test_nobody_begins_or_ends_the_turns_of_another(world: World) -> None:
    bob = world.process("bob")
    world.process("alice")
    world.begin("bob")
    with pytest.raises(KernelError) as caught:
        world.kernel.turns.end(world.principal("alice"), bob.pid, ok=True)
    assert caught.value.errno == errno.EACCES
    world.kernel.turns.end(OPERATOR, bob.pid, ok=False, reason="enough")


def test_a_turn_fails_with_its_program_and_outlives_the_daemon(world: World) -> None:
    bob = world.process("bob")
    world.begin("bob")
    world.restart()
    bob = world.table.get(bob.pid)
    refused(errno.EBUSY, world.begin, "bob")
    with world.store.transaction():
        world.kernel.supervisor.tell_end(bob, 137)
    [turn] = world.kernel.turns.of(bob)
    assert (turn.ok, turn.reason) == (False, "its program ended with code 137")
    world.begin("bob")
    world.kernel.supervisor.finish(bob, 0, State.ZOMBIE)
    assert [each.ok for each in world.kernel.turns.of(bob)] == [False, False]
    [today] = world.kernel.turns.days("bob")
    assert (today.turns.turns, today.turns.failed) == (2, 2)


def test_the_figures_of_a_thousand_turns_are_those_of_a_recount(world: World) -> None:
    chance = random.Random(13)
    bob, counted = world.process("bob"), []
    tools = [f"tool-{number}" for number in range(9)]
    for _ in range(1000):
        world.begin("bob")
        used = chance.choices(tools, k=chance.randrange(3))
        for name in used:
            world.use(bob, "tool", name)
        if chance.random() < 0.3:
            world.use(bob, "llm", "sonnet", chance.randrange(100), chance.randrange(100))
        seconds = chance.randrange(2000)
        world.clock.advance(seconds)
        failed = chance.random() < 0.1
        # The tools are counted on the day of the call, the turn on that of its end.
        began = world.kernel.turns.today()
        world.finish("bob", ok=not failed)
        counted.append((world.kernel.turns.today(), seconds, failed, began, used))
        assert began == counted[-1][0]
    days = world.kernel.turns.days("bob")
    assert len(days) > 10
    for day in days:
        mine = [each for each in counted if each[0] == day.turns.day]
        assert day.turns.turns == len(mine)
        assert day.turns.failed == sum(each[2] for each in mine)
        assert day.turns.seconds == pytest.approx(sum(each[1] for each in mine))
        assert len(day.tools) <= TOP
    calls = Counter(name for each in counted for name in each[4])
    stored = world.store.read("SELECT tool, sum(calls) FROM tool_days GROUP BY tool").fetchall()
    assert dict(stored) == calls
    assert len(world.kernel.turns.of(bob)) == 100  # turns.kept
    assert sum(day.used.tool_calls for day in days) == calls.total()


def test_a_day_ends_at_midnight_and_goes_after_its_time(world: World) -> None:
    bob = world.process("bob")
    world.begin("bob")
    world.use(bob, "tool", "grep")
    world.finish("bob")
    first = world.kernel.turns.today()
    world.clock.advance(DAY)
    [today, before] = world.kernel.turns.days("bob")
    assert (today.turns.turns, before.turns.turns, before.turns.day) == (0, 1, first)
    world.clock.advance(88 * DAY)
    world.kernel.turns.tidy()
    assert world.kernel.turns.days("bob")[-1].turns.day == first
    world.clock.advance(2 * DAY)
    world.kernel.turns.tidy()
    assert world.seen[-1] == TurnDaysSwept(2)
    assert [day.turns.day for day in world.kernel.turns.days("bob")] == [world.kernel.turns.today()]
    assert world.begin("bob") == 2  # its number is not used again


def test_a_sweep_goes_in_batches(world: World) -> None:
    world.process("bob")
    with world.store.transaction():
        for number in range(250):
            world.store.write(
                "INSERT INTO turn_days VALUES ('bob', ?, 1, 0, 1.0)", (f"1999-01-{number:03d}",)
            )
    left = []
    for _ in range(4):
        world.kernel.turns.tidy()
        left += world.store.read("SELECT count(*) FROM turn_days").fetchone()
    assert left == [150, 50, 0, 0]


def test_nothing_is_left_of_an_agent_that_is_removed(world: World) -> None:
    bob = world.process("bob")
    world.begin("bob")
    world.use(bob, "tool", "grep")
    world.kernel.supervisor.finish(bob, 0, State.ZOMBIE)
    with world.store.transaction():
        world.kernel.turns.agent_removed("bob")
    for table in ("turn_days", "tool_days"):
        assert world.store.read(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert not list(world.store.records("turn"))


def test_the_check_finds_what_does_not_hold_together(tmp_path: Path) -> None:
    world = World(tmp_path)
    bob = world.process("bob")
    world.begin("bob")
    with world.store.transaction():
        record = next(world.store.records("turn"))[1]
        world.store.put_record("turn", "bob/000000000002", record | {"number": 2, "input": -1})
        world.store.put_record("turn", "bob/000000000003", record | {"ended": 1.0, "agent": "x"})
        world.store.put_record("turn", "bob/000000000004", record | {"number": 4, "pid": 99})
        world.store.write("INSERT INTO turn_days VALUES (?, ?, ?, ?, ?)", ("bob", "d", 1, 2, 0.0))
        world.store.write("INSERT INTO tool_days VALUES (?, ?, ?, ?)", ("gone", "d", "grep", 1))
    world.store.close()
    world.kernel.programs.close()
    found = "\n".join(check(tmp_path / "store.db"))
    for words in (
        "used less than nothing",
        f"process {bob.pid} is in another one",
        "there is no agent x",
        "ended before it began",
        "process 99 is not alive",
        "2 of 1 failed",
        "gone called grep 1 times",
    ):
        assert words in found
