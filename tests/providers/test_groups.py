"""/sys/cgroup: Linux's names and formats."""

from __future__ import annotations

import os

import pytest

from agentfs.model.process import Process
from agentfs.vfs.changes import Created, Modified, Removed
from agentfs.vfs.node import Attributes, Directory, Node
from tests.providers.world import OPERATOR, STRANGER, World, refused

TEAM = "/sys/cgroup/team"


@pytest.fixture
async def team(world: World) -> World:
    mkdir(world, TEAM)
    return world


def mkdir(world: World, path: str, caller: object = OPERATOR) -> Node:
    folder, _, name = path.rpartition("/")
    return world.directory(folder).mkdir(name, 0o755, caller)  # type: ignore[arg-type]


def rmdir(world: World, path: str) -> None:
    folder, _, name = path.rpartition("/")
    world.directory(folder).rmdir(name, OPERATOR)


async def spawn_daemon(world: World, name: str, **fields: object) -> Process:
    return await world.spawn(name, role="daemon", **fields)


async def test_a_new_group_has_these_files_and_bounds_nothing(team: World) -> None:
    assert team.list(TEAM) == [
        "cgroup.procs",
        "tokens.max",
        "tokens.current",
        "tokens.remaining",
        "tokens.percent",
        "tokens.events",
        "pids.max",
        "pids.current",
        "pids.remaining",
        "pids.percent",
        "pids.events",
        "rate.max",
        "rate.current",
    ]
    content = [await team.text(f"{TEAM}/{name}") for name in team.list(TEAM)]
    kind = ["max\n", "0\n", "max\n", "0.0\n", "max 0\n"]
    assert content == ["", *kind, *kind, "", ""]
    assert team.list("/sys/cgroup") == ["cgroup.procs", "team"]
    assert await team.text("/sys/cgroup/cgroup.procs") == "1\n2\n3\n4\n"


async def test_what_is_written_has_the_format_of_what_is_read(team: World) -> None:
    for name in ("tokens.max", "pids.max"):
        for text in ("1000\n", "0\n", "max\n", "7"):
            before = team.find(f"{TEAM}/{name}").stat().mtime
            await team.write(f"{TEAM}/{name}", text)
            assert await team.text(f"{TEAM}/{name}") == text.strip() + "\n"
            assert team.find(f"{TEAM}/{name}").stat().mtime > before
        for bad in ("", "-1", "many", "1.5", "1e3", "0x10", "1 2", "٣", f"{10**15 + 1}", b"\xff"):
            with refused("EINVAL"):
                await team.write(f"{TEAM}/{name}", bad)
        assert await team.text(f"{TEAM}/{name}") == "7\n"
        assert Modified((("cgroup", "team"), name)) in team.changes


async def test_a_pid_is_moved_by_writing_it(team: World) -> None:
    alice = team.pid("alice")
    await team.write(f"{TEAM}/cgroup.procs", f"{alice}\n")
    assert await team.text(f"{TEAM}/cgroup.procs") == f"{alice}\n"
    assert await team.text(f"/proc/{alice}/cgroup") == "0::/team\n"
    assert Modified((("proc", alice), "cgroup")) in team.changes
    assert str(alice) not in (await team.text("/sys/cgroup/cgroup.procs")).split()
    assert await team.text(f"{TEAM}/pids.current") == "1\n"
    for bad, code in (("alice", "EINVAL"), ("", "EINVAL"), ("-2", "EINVAL"), ("99", "ESRCH")):
        with refused(code):
            await team.write(f"{TEAM}/cgroup.procs", bad)
    with refused("EPERM"):
        await team.write(f"{TEAM}/cgroup.procs", "1")
    await team.write("/sys/cgroup/cgroup.procs", str(alice))
    assert await team.text(f"{TEAM}/cgroup.procs") == ""


async def test_zero_is_oneself(team: World) -> None:
    daemon = await spawn_daemon(team, "daemon")
    await team.write(f"{TEAM}/cgroup.procs", "0", team.as_agent("daemon"))
    assert await team.text(f"{TEAM}/cgroup.procs") == f"{daemon.pid}\n"


async def test_only_who_manages_the_tree_writes_and_everybody_reads(team: World) -> None:
    alice = team.as_agent("alice")
    for caller in (alice, STRANGER):
        assert await team.text(f"{TEAM}/tokens.max", caller) == "max\n"
        with refused("EACCES"):
            await team.write(f"{TEAM}/tokens.max", "5", caller)
        with refused("EACCES"):
            await team.write(f"{TEAM}/cgroup.procs", str(team.pid("alice")), caller)
        with refused("EACCES"):
            mkdir(team, f"{TEAM}/mine", caller)


async def test_groups_come_and_go_with_their_directories(team: World) -> None:
    inner = mkdir(team, f"{TEAM}/inner")
    assert isinstance(inner, Directory)
    assert [change for change in team.changes if isinstance(change, Created)][-1].name == "inner"
    await team.write(f"{TEAM}/inner/cgroup.procs", str(team.pid("bob")))
    assert await team.text(f"{TEAM}/pids.current") == "1\n"
    assert await team.text(f"{TEAM}/cgroup.procs") == ""
    for path in (TEAM, f"{TEAM}/inner"):
        with refused("EBUSY"):
            rmdir(team, path)
    await team.write("/sys/cgroup/cgroup.procs", str(team.pid("bob")))
    handle = team.open(f"{TEAM}/inner/tokens.max", os.O_WRONLY)
    rmdir(team, f"{TEAM}/inner")
    assert isinstance(team.changes[-1], Removed) or Removed in map(type, team.changes)
    for stale in (inner.stat, lambda: inner.lookup("tokens.max").stat()):
        with refused("ESTALE"):
            stale()
    with refused("ESTALE"):
        await handle.write(0, b"5")
    with refused("ENOENT"):
        rmdir(team, f"{TEAM}/inner")
    with refused("EEXIST"):
        mkdir(team, f"{TEAM}/pids.max")
    with refused("EPERM"):
        await team.rename(TEAM, "/sys/cgroup/other")
    with refused("EPERM"):
        team.find(TEAM).chattr(OPERATOR, Attributes(mode=0o700))


async def test_a_refusal_is_counted_and_announced_in_the_group_and_above(team: World) -> None:
    mkdir(team, f"{TEAM}/inner")
    await team.write(f"{TEAM}/inner/pids.max", "0")
    with refused("EAGAIN"):
        await team.spawn("dora", group="team/inner")
    for path in (TEAM, f"{TEAM}/inner"):
        assert await team.text(f"{path}/pids.events") == "max 1\n"
        key = ("cgroup", path.removeprefix("/sys/cgroup/"))
        assert Modified((key, "pids.events")) in team.changes
    assert await team.text(f"{TEAM}/tokens.events") == "max 0\n"


async def test_calls_of_models_are_charged_and_refused(team: World) -> None:
    await team.write(f"{TEAM}/tokens.max", "100")
    dora = await team.spawn("dora", group="team", tier="operational")
    as_dora = team.as_agent("dora")
    handle = team.open(f"/proc/{dora.pid}/call", os.O_RDWR, as_dora)
    await handle.write(0, b"llm mini 60")
    number = (await handle.read(0, 100)).decode().strip()
    assert await team.text(f"{TEAM}/tokens.current") == "60\n"
    with refused("EDQUOT"):
        await handle.write(0, b"llm mini 60")
    await handle.write(0, f"settle {number} 10 20".encode())
    assert await team.text(f"{TEAM}/tokens.current") == "30\n"
    assert await team.text(f"{TEAM}/tokens.events") == "max 1\n"


async def test_who_is_full_of_moved_processes_shows_it(team: World) -> None:
    await team.write(f"{TEAM}/pids.max", "1")
    for name in ("alice", "bob"):
        await team.write(f"{TEAM}/cgroup.procs", str(team.pid(name)))
    assert await team.text(f"{TEAM}/pids.current") == "2\n"
