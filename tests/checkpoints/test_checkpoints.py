"""Checkpoints without a mount: what is in one, and what the way back makes of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.checkpoints import swap, verify
from agentfs.checkpoints.checkpoints import SystemCheckpoint
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
