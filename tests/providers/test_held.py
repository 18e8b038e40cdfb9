"""A message that is accepted while it may still be written, and an audit that is full by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfs.kernel import Kernel
from agentfs.mail.held import KIND
from tests.providers.world import World, refused

TO_BOB = "/agents/alice/outbox/bob"
NEW = "/agents/bob/inbox/new"


async def fill(world: World) -> None:
    """From now on everybody but the operator has to stop."""
    await world.write("/etc/agentfs.yaml", "audit: {max_records: 1, when_full: stop}")
    assert world.kernel.audit.pruning.stops


def held(world: World) -> int:
    return len(list(world.kernel.store.records(KIND)))


async def bodies(world: World) -> list[str]:
    return [(await world.text(f"{NEW}/{name}")).partition("\n\n")[2] for name in world.list(NEW)]


@pytest.mark.parametrize("path", [TO_BOB, f"{NEW}/x"])
async def test_what_is_not_accepted_yet_is_refused_when_it_would_be(
    world: World, path: str
) -> None:
    alice = world.as_agent("alice")
    await fill(world)
    for take in ("hold", "flush"):
        handle = world.create(path, alice)
        await handle.write(0, b"hello\n")
        with refused("ENOSPC"):
            await getattr(handle, take)()
        handle.release()
        assert (held(world), await bodies(world)) == (0, [])


@pytest.mark.parametrize("path", [TO_BOB, f"{NEW}/x"])
@pytest.mark.parametrize("more", [b"", b"and more\n"])
@pytest.mark.parametrize("end", ["", "hold", "flush"])
async def test_what_was_accepted_before_is_delivered_all_the_same(
    world: World, path: str, more: bytes, end: str
) -> None:
    """With all that a later close said yes to."""
    handle = world.create(path, world.as_agent("alice"))
    await handle.write(0, b"hello\n")
    await handle.hold()
    assert held(world) == 1
    await fill(world)
    if more:
        await handle.write(6, more)
    if end:
        await getattr(handle, end)()
    handle.release()
    assert held(world) == 0
    assert await bodies(world) == ["hello\n" + (more.decode() if end else "")]
    with refused("ENOSPC"):
        await world.write(TO_BOB, "another", world.as_agent("alice"), create=True)


async def test_what_was_accepted_is_delivered_at_the_next_start_too(tmp_path: Path) -> None:
    first = Kernel(tmp_path / "state", "/run/agents")
    async with first.running():
        world = World(first)
        for name in ("alice", "bob"):
            await world.spawn(name)
        handle = world.create(TO_BOB, world.as_agent("alice"))
        await handle.write(0, b"hello\n")
        await handle.hold()
        await fill(world)
    second = Kernel(tmp_path / "state", "/run/agents")
    async with second.running():
        world = World(second)
        assert second.audit.pruning.stops
        assert (held(world), await bodies(world)) == (0, ["hello\n"])
