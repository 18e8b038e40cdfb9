"""Who is admitted to the pipes of a process, and when those who wait at them are let go."""

from __future__ import annotations

import stat as st

import pytest

from agentfs.vfs.changes import HungUp
from agentfs.vfs.node import Directory
from tests.providers.world import OPERATOR, STRANGER, World, refused


@pytest.fixture
async def pipes(world: World) -> Directory:
    """Those of dora, a child of alice."""
    process = await world.spawn("dora", parent=world.pid("alice"))
    return world.directory(f"/proc/{process.pid}/pipes")


async def test_the_process_and_its_parent_are_admitted_and_nobody_else(
    world: World, pipes: Directory
) -> None:
    assert pipes.gated
    for name in ("dora", "alice"):
        pipes.admit("up", world.as_agent(name))
        assert [each for each, _ in pipes.listing(world.as_agent(name))] == ["up", "down"]
    for caller in (world.as_agent("bob"), OPERATOR, STRANGER):
        with refused("EACCES"):
            pipes.admit("up", caller)
        assert list(pipes.listing(caller)) == []


async def test_a_pipe_is_a_fifo_that_linux_has_to_ask_for_every_time(pipes: Directory) -> None:
    for name in ("up", "down"):
        node = pipes.lookup(name)
        assert st.S_ISFIFO(node.stat().mode)
        assert node.timeout == 0


async def test_another_parent_is_admitted_instead(world: World, pipes: Directory) -> None:
    world.kernel.processes.reparent(OPERATOR.principal, world.pid("dora"), world.pid("bob"))
    pipes.admit("up", world.as_agent("bob"))
    with refused("EACCES"):
        pipes.admit("up", world.as_agent("alice"))


async def test_an_ended_process_has_none_and_who_waits_is_let_go(
    world: World, pipes: Directory
) -> None:
    dora, alice = world.pid("dora"), world.as_agent("alice")
    node = pipes.lookup("up")
    kept = node.stat()
    world.changes.clear()
    world.kernel.processes.done(OPERATOR.principal, dora, 0)
    hung_up = [change.key for change in world.changes if isinstance(change, HungUp)]
    assert hung_up == [(pipes.key, "up"), (pipes.key, "down")]
    with refused("ESTALE"):
        pipes.admit("up", alice)
    assert list(pipes.listing(alice)) == []
    world.kernel.processes.collect(alice.principal, dora)
    assert node.stat() == kept, "who has it open may still ask"
    with refused("ESTALE"):
        pipes.admit("up", alice)


async def test_process_1_has_no_pipes(world: World) -> None:
    with refused("ENOENT"):
        world.find("/proc/1/pipes")
