"""Checkpoints without a mount: what is in one, and what the way back makes of it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.checkpoints import copies, making, swap, verify
from agentfs.checkpoints.checkpoints import SystemCheckpoint
from tests.storage import copy_store
from tests.world import OPERATOR, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state")
    yield world
    world.close()


async def made(world: World, name: str = "one") -> SystemCheckpoint:
    return await world.kernel.checkpoints.create(OPERATOR, name)


def memory(world: World, agent: str) -> Path:
    return world.agents.memory_dir(agent)


def rewind(world: World) -> None:
    """What the daemon does with what was decided: end the kernel, and begin another."""
    world._stop()
    swap.finish(world.state)
    world._start()


async def test_the_whole_life_of_a_checkpoint(world: World) -> None:
    world.agent("bob")
    world.send("init", "bob", "before")
    note = memory(world, "bob") / "note"
    note.write_text("then")
    os.utime(note, ns=(1, 1))
    found = await made(world)
    assert list(world.kernel.checkpoints) == ["one"]
    assert (found.files, found.bytes, found.by) == (1, 4, "init")
    assert list(verify.faults(world.state / "checkpoints/one")) == []
    world.send("init", "bob", "after")
    note.write_text("now")
    (memory(world, "bob") / "new").touch()
    last = world.events.last
    await world.kernel.checkpoints.rollback(OPERATOR, "one")
    rewind(world)
    assert note.read_text() == "then"
    assert os.listdir(note.parent) == ["note"]
    assert note.stat().st_mtime_ns == 1
    before, told = world.waiting("bob")
    assert before == "before"
    assert told.startswith("The system is again what it was at checkpoint one, made at ")
    assert world.events.last > last
    await world.kernel.checkpoints.remove(OPERATOR, "one")
    assert len(world.kernel.checkpoints) == 0
    assert [name for name in os.listdir(world.state / "checkpoints") if name[0] != "."] == []
    with pytest.raises(KernelError) as gone:
        await world.kernel.checkpoints.rollback(OPERATOR, "one")
    assert gone.value.errno == errno.ENOENT


async def test_a_daemon_that_is_killed_before_the_way_back_was_gone_loses_no_number(
    world: World, tmp_path: Path
) -> None:
    world.agent("bob")
    world.send("init", "bob", "before")
    await made(world)
    await world.kernel.checkpoints.rollback(OPERATOR, "one")
    world.store.fold()
    late = world.send("init", "bob", "after").seq
    last = world.events.last
    with closing(sqlite3.connect(world.state / "store.db")) as database:
        assert (late,) not in database.execute("SELECT seq FROM messages"), "it is in the log alone"
    left = tmp_path / "left"
    left.mkdir()
    copy_store(world.state, left)
    world._stop()
    copy_store(left, world.state)  # as it is after kill -9
    swap.finish(world.state)
    world._start()
    before, _ = world.waiting("bob")
    assert before == "before"
    assert world.events.last > last
    assert world.send("init", "bob", "next").seq > late
    assert str(await world.kernel.audit.verify()).startswith("ok ")


async def test_what_was_used_stays_used_and_no_number_comes_twice(world: World) -> None:
    alice = world.process("alice")
    with world.store.transaction():
        world.kernel.budgets.allocate(OPERATOR, 1, alice.pid, 1000, alice.tier)
    await made(world)
    calls, principal = world.kernel.calls, world.principal("alice")
    call = calls.llm(principal, alice.pid, "sonnet", 500)
    assert isinstance(call, int)
    calls.settle(principal, alice.pid, call, (100, 50))
    entry = world.kernel.budgets.find(alice.pid, alice.tier)
    assert entry is not None
    assert entry.consumed == 150
    late, last = world.process("late").pid, world.send("init", "alice", "late").seq
    audited = world.kernel.audit.seq
    await world.kernel.checkpoints.rollback(OPERATOR, "one")
    rewind(world)
    entry = world.kernel.budgets.find(alice.pid, alice.tier)
    assert entry is not None
    assert (entry.consumed, entry.held) == (150, 0)
    assert world.table.find(late) is None
    assert world.process("next").pid > late
    assert world.send("init", "alice", "next").seq > last
    assert world.kernel.audit.seq > audited
    assert str(await world.kernel.audit.verify()).startswith("ok ")
    uses = world.store.read("SELECT sum(input), sum(output) FROM uses").fetchone()
    assert uses == (100, 50)
    assert check(world.state / "store.db") == []


async def test_unchanged_files_are_shared_and_a_living_one_never_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.agent("bob")
    note, other = memory(world, "bob") / "note", memory(world, "bob") / "other"
    note.write_text("one")
    other.write_text("same")
    os.link(other, memory(world, "bob") / "again")
    monkeypatch.setattr(making, "YOUNG", 0)  # nothing of it changes again
    first = await made(world, "first")
    with note.open("r+") as file:  # in place
        file.write("TWO")
    second = await made(world, "second")
    assert (first.bytes, first.copied) == (7, 7)
    assert (second.bytes, second.copied) == (7, 3)

    def lies(name: str, file: str) -> Path:
        return world.state / "checkpoints" / name / "files/agents/bob/memory" / file

    assert lies("first", "note").read_text() == "one"
    assert lies("second", "note").read_text() == "TWO"
    kept = "again" if lies("first", "again").exists() else "other"
    assert lies("first", kept).samefile(lies("second", kept))
    assert not lies("first", kept).samefile(other)
    await world.kernel.checkpoints.remove(OPERATOR, "first")
    assert list(verify.faults(world.state / "checkpoints/second")) == []
    await world.kernel.checkpoints.rollback(OPERATOR, "second")
    rewind(world)
    assert note.read_text() == "TWO"
    assert other.samefile(memory(world, "bob") / "again")
    assert not other.samefile(lies("second", kept))


async def test_only_the_operator_and_nothing_half_on_a_full_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.process("alice")
    memory(world, "alice").joinpath("note").write_text("x" * 1000)
    checkpoints, alice = world.kernel.checkpoints, world.principal("alice")
    for call in (
        lambda: checkpoints.create(alice, "one"),
        lambda: checkpoints.rollback(alice, "one"),
        lambda: checkpoints.remove(alice, "one"),
    ):
        with pytest.raises(KernelError) as refused:
            await call()
        assert refused.value.errno == errno.EACCES
    for name in ("", ".x", "a/b", "é", "x" * 65):
        with pytest.raises(KernelError) as bad:
            await made(world, name)
        assert bad.value.errno == errno.EINVAL
    with monkeypatch.context() as full:
        full.setattr(copies, "LEFT", 1 << 60)
        with pytest.raises(KernelError) as refused:
            await made(world)
        assert refused.value.errno == errno.ENOSPC
        assert os.listdir(world.state / "checkpoints") == []
    await made(world)
    with monkeypatch.context() as full:
        full.setattr(copies, "LEFT", 1 << 60)
        with pytest.raises(KernelError) as refused:
            await checkpoints.rollback(OPERATOR, "one")
        assert refused.value.errno == errno.ENOSPC
        assert not (world.state / "rollback").exists()
    place = world.state / "checkpoints/one/files/agents/alice/memory/note"
    place.write_text("y" * 1000)
    with pytest.raises(KernelError, match="not what was copied") as damaged:
        await checkpoints.rollback(OPERATOR, "one")
    assert damaged.value.errno == errno.EIO


def dying(moment: int, work: Callable[[], object]) -> bool:
    """Do it in a process that is killed at its so-many-th change of the disk. Whether it was."""
    child = os.fork()
    if child == 0:
        left = moment

        def armed(call: Callable[..., object]) -> Callable[..., object]:
            def hit(*args: object, **kwargs: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return hit

        for name in ("mkdir", "link", "rename", "unlink", "symlink", "fsync", "open", "utime"):
            setattr(os, name, armed(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("step", ["copy", "swap"])
async def test_a_death_on_the_way_back_leaves_it_done_or_undone(tmp_path: Path, step: str) -> None:
    world = World(tmp_path / "state")
    world.agent("bob")
    (memory(world, "bob") / "note").write_text("then")
    world.send("init", "bob", "before")
    await made(world)
    world.send("init", "bob", "after")
    (memory(world, "bob") / "note").write_text("now")
    world._stop()
    place, plan = world.state / "checkpoints/one", {"name": "one", "created": 0.0, "by": "init"}

    def way_back(state: Path) -> None:
        swap.begin(state, place)
        swap.decide(state, plan)

    done, moment = set(), 0
    while True:
        moment += 1
        state = tmp_path / f"{moment}"
        shutil.copytree(world.state, state)
        if step == "copy":
            died = dying(moment, partial(way_back, state))
        else:
            way_back(state)
            died = dying(moment, partial(swap.finish, state))
        swap.finish(state)  # the next start
        assert check(state / "store.db") == [], moment
        note = (state / "agents/bob/memory/note").read_text()
        with closing(sqlite3.connect(state / "store.db")) as store:
            (mails,) = store.execute("SELECT count(*) FROM messages").fetchone()
        assert (note, mails) in (("then", 1), ("now", 2)), moment
        assert not (state / "rollback").exists()
        done.add(note)
        shutil.rmtree(state)
        if not died:
            break
    assert done == ({"then", "now"} if step == "copy" else {"then"})
    assert moment > 10
