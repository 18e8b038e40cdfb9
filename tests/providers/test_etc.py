"""/etc: the configuration, written in every way that editors have."""

from __future__ import annotations

import os

from agentfs.mail.settings import MessageSettings
from agentfs.providers.etc import EtcDirectory
from agentfs.store.defaults import without_defaults
from agentfs.vfs.changes import Modified
from agentfs.vfs.node import Attributes
from tests.providers.world import OPERATOR, World, refused

CONFIG = "/etc/agentfs.yaml"
NEW = "messages:\n  max_waiting: 7\n"


def limit(world: World) -> int:
    return world.kernel.settings.of(MessageSettings).max_waiting


def scratch(world: World) -> list[str]:
    """What is there beside the documents."""
    return [name for name in world.list("/etc") if name not in EtcDirectory.TABLE]


async def written(world: World) -> str:
    """What somebody wrote of the configuration; it shows the rest as comments."""
    return without_defaults(await world.text(CONFIG))


async def test_a_valid_write_takes_effect_and_an_invalid_one_changes_nothing(
    world: World,
) -> None:
    assert "max_waiting: 10000" in await world.text(CONFIG)
    before = world.find(CONFIG).stat().mtime
    await world.write(CONFIG, NEW)
    assert (await written(world), limit(world)) == (NEW, 7)
    assert world.find(CONFIG).stat().size == len(await world.text(CONFIG))
    assert world.find(CONFIG).stat().mtime > before
    assert Modified((("etc",), "agentfs.yaml")) in world.changes
    for bad in ("messages:\n  max_waiting: many\n", "colour: blue\n", "a: [", b"\xff"):
        with refused("EINVAL"):
            await world.write(CONFIG, bad)
    assert (await written(world), limit(world)) == (NEW, 7)


async def test_only_the_operator_changes_it(world: World) -> None:
    alice = world.as_agent("alice")
    assert await world.read(CONFIG, alice)
    with refused("EACCES"):
        world.open(CONFIG, os.O_WRONLY, alice)
    with refused("EACCES"):
        world.create("/etc/sedabc", alice)
    with refused("EACCES"):
        await world.rename(CONFIG, "/etc/x", alice)
    with refused("EACCES"):
        world.unlink(CONFIG, alice)


async def test_sed_i_writes_a_new_file_and_renames_it(world: World) -> None:
    handle = world.create("/etc/sedAbCdEf", mode=0o600)
    node = world.find("/etc/sedAbCdEf")
    await handle.write(0, NEW.encode())
    node.chattr(OPERATOR, Attributes(mode=0o644, uid=os.geteuid(), gid=os.getegid()))
    await handle.flush()
    handle.release()
    await world.rename("/etc/sedAbCdEf", CONFIG)
    assert (await written(world), limit(world)) == (NEW, 7)
    assert scratch(world) == []


async def test_an_invalid_file_is_not_renamed_onto_it(world: World) -> None:
    await world.write("/etc/sedAbCdEf", "colour: blue\n", create=True)
    with refused("EINVAL"):
        await world.rename("/etc/sedAbCdEf", CONFIG)
    assert limit(world) == 10_000
    assert scratch(world) == ["sedAbCdEf"]


async def test_vim_keeps_a_swap_file_and_renames_the_old_one_away(world: World) -> None:
    old = await world.text(CONFIG)
    time = world.find(CONFIG).stat().mtime
    world.create("/etc/4913").release()
    world.find("/etc/4913").chattr(OPERATOR, Attributes(mode=0o644))
    world.unlink("/etc/4913")
    assert world.find(CONFIG).stat().mtime == time  # or vim thinks that somebody changed it
    swap = world.create("/etc/.agentfs.yaml.swp", mode=0o600)
    await swap.write(8192, b"x" * 4096)
    assert await swap.read(8192, 4) == b"xxxx"
    assert await swap.read(0, 4) == bytes(4)
    await swap.fsync()
    await world.rename(CONFIG, "/etc/agentfs.yaml~")
    assert await world.text("/etc/agentfs.yaml~") == old
    await world.write(CONFIG, NEW, create=True)
    world.unlink("/etc/agentfs.yaml~")
    world.unlink("/etc/.agentfs.yaml.swp")
    assert await swap.read(8192, 4) == b"xxxx"  # open, though removed
    swap.release()
    assert (scratch(world), limit(world)) == ([], 7)


async def test_scratch_files_are_bounded(world: World) -> None:
    for number in range(64):
        world.create(f"/etc/{number}").release()
    with refused("ENOSPC"):
        world.create("/etc/more")
    with refused("EEXIST"):
        world.directory("/etc").create("1", 0o644, os.O_WRONLY, OPERATOR)
    with refused("EFBIG"):
        await world.write("/etc/1", bytes(1 << 21))
    with refused("EXDEV"):
        await world.rename("/etc/1", "/shared/1")
    with refused("EEXIST"):
        await world.rename("/etc/1", "/etc/2", flags=1)
    await world.rename("/etc/1", "/etc/2")
    assert len(scratch(world)) == 63
