"""/projects as files: what members and others may, wrong input, and the memory that is shared."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfs.base.clock import TrioClock
from agentfs.kernel import Kernel
from agentfs.vfs.changes import Modified
from tests.providers.world import OPERATOR, World, refused

FILES = ("spec.yaml", "members", "status", "memory", "seeds", "ctl")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """alice's project `bees`, with bob; eve is in none."""
    kernel = Kernel(tmp_path / "state", str(tmp_path / "mnt"), TrioClock())
    async with kernel.running():
        made = World(kernel)
        for name in ("alice", "bob", "eve"):
            await made.spawn(name)
        made.directory("/projects").mkdir("bees", 0o755, made.as_agent("alice"))
        await made.write("/projects/bees/ctl", "add bob", made.as_agent("alice"))
        yield made


async def test_a_project_as_files(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    assert world.list("/projects") == ["bees"]
    assert sorted(world.list("/projects/bees", bob)) == sorted(FILES)
    assert await world.text("/projects/bees/members", bob) == "alice\nbob\n"
    await world.write("/projects/bees/members", "bob\neve\n", alice)
    assert await world.text("/projects/bees/members") == "alice\nbob\neve\n"
    with refused("EPERM"):
        await world.write("/projects/bees/members", "bob\n", bob)
    with refused("ENOENT"):
        await world.write("/projects/bees/members", "bob\nnobody\n", alice)
    await world.write("/projects/bees/ctl", "remove eve", world.as_agent("eve"))
    assert await world.text("/projects/bees/members") == "alice\nbob\n"
    for wrong in ("", "add", "activate now", "hello"):
        with refused("EINVAL"):
            await world.write("/projects/bees/ctl", f"{wrong} ", alice)
    assert "Members:\t2\n" in await world.text("/projects/bees/status")


async def test_a_specification_is_its_owners_and_a_faulty_one_changes_nothing(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    before = await world.text("/projects/bees/spec.yaml", bob)
    with refused("EPERM"):
        await world.write("/projects/bees/spec.yaml", "description: x\n", bob)
    for wrong in ("phases: {execute: {programm: x}}", "threshold: high", "[", "\xff"):
        with refused("EINVAL"):
            await world.write("/projects/bees/spec.yaml", wrong, alice)
    with refused("EFBIG"):
        await world.write("/projects/bees/spec.yaml", f"description: x\n#{'x' * 16_384}", alice)
    assert await world.text("/projects/bees/spec.yaml") == before
    await world.write("/projects/bees/spec.yaml", "description: pages on bees\n", alice)
    directory = world.directory("/projects/bees")
    assert directory.getxattr("user.agentfs.description") == b"pages on bees"


async def test_the_memory_is_for_members_alone(world: World) -> None:
    alice, bob, eve = map(world.as_agent, ("alice", "bob", "eve"))
    await world.write("/projects/bees/memory/plan.md", "one page", alice, create=True)
    assert await world.text("/projects/bees/memory/plan.md", bob) == "one page"
    for mode in (0o755, 0o777):
        world.kernel.projects.chmod(OPERATOR.principal, "bees", mode)
        with refused("EACCES"):
            await world.text("/projects/bees/memory/plan.md", eve)
        with refused("EACCES"):
            world.list("/projects/bees/memory", eve)
        with refused("EACCES"):
            await world.write("/projects/bees/memory/mine.md", "x", eve, create=True)
        with refused("EACCES"):
            world.unlink("/projects/bees/memory/plan.md", eve)
        with refused("EACCES"):
            await world.rename("/projects/bees/memory/plan.md", "/shared/plan.md", eve)
    with refused("EXDEV"):
        await world.rename("/projects/bees/memory/plan.md", "/shared/plan.md", alice)
    await world.write("/projects/bees/ctl", "remove bob", alice)
    with refused("EACCES"):
        await world.text("/projects/bees/memory/plan.md", bob)


async def test_the_memory_of_a_removed_project_is_nobodys_any_more(world: World) -> None:
    alice = world.as_agent("alice")
    await world.write("/projects/bees/memory/plan.md", "one page", alice, create=True)
    node = world.find("/projects/bees/memory/plan.md")
    with refused("ENOTEMPTY"):
        world.directory("/projects").rmdir("bees", alice)
    with refused("EPERM"):
        await world.write("/projects/bees/ctl", "remove", world.as_agent("bob"))
    await world.write("/projects/bees/ctl", "remove", alice)
    with refused("ESTALE"):
        node.enter(alice)
    world.directory("/projects").mkdir("bees", 0o755, world.as_agent("eve"))
    assert world.list("/projects/bees/memory", world.as_agent("eve")) == []
    with refused("EACCES"):
        world.list("/projects/bees/memory", alice)


async def test_what_is_in_the_memory_counts_for_its_writer(world: World) -> None:
    alice = world.as_agent("alice")
    before = world.kernel.shares.pots["shared"].used
    await world.write("/projects/bees/memory/plan.md", "x" * 8192, alice, create=True)
    assert world.kernel.shares.pots["shared"].used >= before + 8192


async def test_an_agent_says_itself_what_it_works_on(world: World) -> None:
    bob, eve = world.as_agent("bob"), world.as_agent("eve")
    await world.write("/agents/bob/project", "bees\n", bob)
    assert await world.text("/agents/bob/project") == "bees\n"
    assert any(isinstance(each, Modified) for each in world.changes)
    with refused("EACCES"):
        await world.write("/agents/bob/project", "bees\n", eve)
    with refused("EACCES"):
        await world.write("/agents/eve/project", "bees\n", eve)
    with refused("ENOENT"):
        await world.write("/agents/bob/project", "ants\n", bob)
    await world.write("/projects/bees/ctl", "deactivate", bob)
    assert await world.text("/agents/bob/project") == ""
    await world.write("/projects/bees/ctl", "activate", bob)
    await world.write("/agents/bob/project", "\n", bob)
    assert await world.text("/agents/bob/project") == ""


async def ask(world: World, path: str, request: str, name: str) -> str:
    handle = world.open(path, os.O_RDWR, world.as_agent(name))
    try:
        await handle.write(0, request.encode())
        return (await handle.read(0, 4096)).decode()
    finally:
        handle.release()


async def test_a_seed_as_files(world: World) -> None:
    new, alice, bob = "/projects/bees/seeds/new", world.as_agent("alice"), world.as_agent("bob")
    assert await ask(world, new, "a page on bees\n", "alice") == "1\n"
    request = "goal: another page\ncriteria:\n- short\n- true to life\n"
    assert await ask(world, new, request, "alice") == "2\n"
    here = "/projects/bees/seeds"
    assert await world.text(f"{here}/2/criteria") == "short\ntrue to life\n"
    for wrong in ("", "goal: x\ngaol: y", "goal: [1]", "{"):
        with refused("EINVAL"):
            await ask(world, new, wrong, "alice")
    with refused("EACCES"):
        await ask(world, new, "mine", "eve")
    while world.kernel.seeds.run_due() < 0.1:
        pass
    seed = f"{here}/1"
    assert await world.text(f"{seed}/state", world.as_agent("eve")) == "waiting\n"
    waiter = world.stream(f"{seed}/wait")
    assert waiter.try_read(4096) is None
    with refused("EPERM"):
        await world.write(f"{seed}/goal", "x", alice)
    await world.write(f"{seed}/result", '{"path": "bees.md"}', alice)
    assert await world.text(f"{seed}/result") == '{"path": "bees.md"}\n'
    while world.kernel.seeds.run_due() < 0.1:
        pass
    for wrong in ("score", "score high", "score 2", "pass\x00", "no"):
        with refused("EINVAL"):
            await world.write(f"{seed}/ctl", wrong, bob)
    with refused("EPERM"):
        await world.write(f"{seed}/ctl", "pass", alice)
    await world.write(f"{seed}/ctl", "score 0.85 fine", bob)
    assert await world.text(f"{seed}/score") == "0.85\n"
    assert b'"state": "passed"' in (waiter.try_read(4096) or b"")
    waiter.release()
    for name in ("01", "9", "x", "-1"):
        with refused("ENOENT"):
            world.find(f"{here}/{name}")
