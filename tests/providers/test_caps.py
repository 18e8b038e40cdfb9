"""Capabilities in the tree: /proc/PID/caps, /sys/caps, and where each is asked for."""

from __future__ import annotations

import os

from agentfs.model.capability import VOCABULARY
from agentfs.model.process import Role
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Modified
from tests.providers.test_shm import put
from tests.providers.world import OPERATOR, World, refused

WRITING = os.O_WRONLY | os.O_TRUNC


async def caps(world: World, name: str, file: str = "effective") -> list[str]:
    return (await world.text(f"/proc/{world.pid(name)}/caps/{file}")).split("\n")[:-1]


async def drop(world: World, name: str, *dropped: str, by: Caller | None = None) -> None:
    commands = "".join(f"-{each}\n" for each in dropped)
    path = f"/proc/{world.pid(name)}/caps/ctl"
    await world.write(path, commands, world.as_agent(name) if by is None else by)


async def test_the_whole_life_of_a_set(world: World) -> None:
    await world.spawn("lead", role="lead", deny=["secret"])
    await world.spawn(
        "dora", world.pid("lead"), caps=["llm", "tool:web_*", "broadcast"], deny=["tool:web_rm"]
    )
    assert await caps(world, "lead", "allowed") == ["*"]
    assert await caps(world, "dora", "allowed") == ["llm", "tool:web_*", "broadcast"]
    assert await caps(world, "dora", "denied") == ["secret", "tool:web_rm"]
    assert await caps(world, "dora") == ["llm", "tool:web_*", "-tool:web_rm"]
    await world.spawn("bare", caps=[])
    assert await caps(world, "bare", "allowed") == await caps(world, "bare") == []
    assert await world.text("/proc/1/caps/effective") == await world.text(
        "/sys/caps/profiles/kernel"
    )

    folder = (("proc", world.pid("dora")), "caps")
    before = world.find(f"/proc/{world.pid('dora')}/caps/effective").stat()
    world.changes.clear()
    await drop(world, "dora", "llm", "tool:web_*")
    for name in ("denied", "effective"):
        assert world.changes.count(Modified((folder, name))) == 2
    assert await caps(world, "dora") == []
    assert await caps(world, "dora", "denied") == ["llm", "secret", "tool:web_*", "tool:web_rm"]
    assert world.find(f"/proc/{world.pid('dora')}/caps/effective").stat().mtime > before.mtime


async def test_ctl_drops_and_never_gives(world: World) -> None:
    path = f"/proc/{world.pid('alice')}/caps/ctl"
    for who in (OPERATOR, world.as_agent("alice")):
        with refused("EPERM"):
            await world.write(path, "+broadcast\n", who)
    with refused("EACCES"):
        await world.write(path, "-llm\n", world.as_agent("bob"))
    for line in ("llm", "-", "-fly", "drop llm", "--llm"):
        with refused("EINVAL"):
            await world.write(path, f"{line}\n", world.as_agent("alice"))
    with refused("EPERM"):
        await world.write("/proc/1/caps/ctl", "-llm\n")
    assert await caps(world, "alice", "denied") == []
    await drop(world, "alice", "llm", by=OPERATOR)
    assert await caps(world, "alice", "denied") == ["llm"]


async def test_roles_yaml_changes_what_running_processes_may_at_once(world: World) -> None:
    assert "broadcast" not in await caps(world, "alice")
    path = f"/proc/{world.pid('alice')}/caps/effective"
    before = world.find(path).stat().mtime
    world.changes.clear()
    await world.write("/etc/roles.yaml", "roles: {agent: {capabilities: [broadcast, memory]}}\n")
    assert await caps(world, "alice") == ["broadcast", "memory"]
    assert await world.text("/sys/caps/profiles/agent") == "broadcast\nmemory\n"
    for key in (((("proc", world.pid("alice")), "caps"), "effective"),
                ((("sys", "caps"), "profiles"), "agent")):  # fmt: skip
        assert Modified(key) in world.changes
    assert world.find(path).stat().mtime > before
    await world.write("/agents/alice/send", "To: *\n\nall\n", world.as_agent("alice"))
    await world.write("/etc/roles.yaml", "")
    with refused("EACCES"):
        await world.write("/agents/alice/send", "To: *\n\nall\n", world.as_agent("alice"))


async def test_the_names_and_the_profiles_can_be_read(world: World) -> None:
    rows = (await world.text("/sys/caps/taxonomy")).splitlines()
    assert [row.split("\t")[0] for row in rows] == list(VOCABULARY)
    assert world.list("/sys/caps/profiles") == [role.value for role in Role]
    assert "broadcast\n" in await world.text("/sys/caps/profiles/daemon")
    with refused("ENOENT"):
        world.find("/sys/caps/profiles/boss")


# -- where each is asked for -----------------------------------------------------------------------


async def test_broadcast(world: World) -> None:
    alice = world.as_agent("alice")
    for path, text in (("/agents/alice/send", "To: *\n\nall\n"), ("/dev/broadcast", "all")):
        with refused("EACCES"):
            await world.write(path, text, alice)
    assert world.list("/agents/bob/inbox/new") == []
    await world.spawn("herald", role="daemon")
    await world.write("/dev/broadcast", "all", world.as_agent("herald"))
    assert len(world.list("/agents/bob/inbox/new")) == 1


async def test_escalate(world: World) -> None:
    await drop(world, "alice", "escalate")
    with refused("EPERM"):
        path = f"/proc/{world.pid('alice')}/escalate"
        await world.write(path, "error it burns", world.as_agent("alice"))


async def test_memory(world: World) -> None:
    alice, path = world.as_agent("alice"), "/agents/alice/memory/notes"
    handle = world.create(path, alice)
    await drop(world, "alice", "memory")
    with refused("EPERM"):
        world.open(path, os.O_RDONLY, alice)
    for attempt in (
        lambda: world.list("/agents/alice/memory", alice),
        lambda: world.create("/agents/alice/memory/more", alice),
        lambda: world.unlink(path, alice),
    ):
        with refused("EPERM"):
            attempt()
    assert await world.read(path) == b""  # the operator
    handle.release()


async def test_files_of_shared(world: World) -> None:
    alice, path = world.as_agent("alice"), "/shared/plan"
    world.create(path, alice).release()
    await drop(world, "alice", "file_write")
    world.open(path, os.O_RDONLY, alice).release()
    for attempt in (
        lambda: world.open(path, WRITING, alice),
        lambda: world.create("/shared/more", alice),
        lambda: world.directory("/shared").symlink("link", "plan", alice),
        lambda: world.directory("/shared").mkdir("folder", 0o755, alice),
        lambda: world.find(path).setxattr("user.x", b"1", alice),
        lambda: world.unlink(path, alice),
    ):
        with refused("EPERM"):
            attempt()
    with refused("EPERM"):
        await world.rename(path, "/shared/other", alice)
    await drop(world, "alice", "file_read")
    with refused("EPERM"):
        world.open(path, os.O_RDONLY, alice)
    with refused("EPERM"):
        world.list("/shared", alice)
    for caller in (OPERATOR, world.as_agent("bob")):
        world.open(path, os.O_RDONLY, caller).release()
    await world.spawn("errand", role="task")
    world.open(path, os.O_RDONLY, world.as_agent("errand")).release()
    with refused("EACCES"):
        world.open(path, WRITING, world.as_agent("errand"))


async def test_datastore(world: World) -> None:
    alice = world.as_agent("alice")
    await put(world, "global/plan", b"1", alice)
    await put(world, "private/own", b"1", alice)
    await drop(world, "alice", "datastore.write")
    for name in ("global/plan", "global/new", "private/own"):
        with refused("EPERM"):
            await put(world, name, b"2", alice)
    with refused("EPERM"):
        world.unlink("/dev/shm/global/plan", alice)
    assert await world.read("/dev/shm/global/plan", alice) == b"1"
    await drop(world, "alice", "datastore.read")
    with refused("EPERM"):
        await world.read("/dev/shm/global/plan", alice)
    assert await world.read("/dev/shm/global/plan", world.as_agent("bob")) == b"1"


async def test_secret(world: World) -> None:
    path = f"/proc/{world.pid('alice')}/environ"
    assert await world.read(path, world.as_agent("alice")) == b""  # there is no program
    await drop(world, "alice", "secret")
    with refused("EPERM"):
        await world.read(path, world.as_agent("alice"))
    assert await world.read(path) == b""
    await world.spawn("errand", role="task")
    with refused("EACCES"):
        await world.read(f"/proc/{world.pid('errand')}/environ", world.as_agent("errand"))
