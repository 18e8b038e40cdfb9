"""/agents: definitions, control, logs, memory."""

from __future__ import annotations

import os

import trio
import trio.testing

from agentfs.providers.log import LogWatcher
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.node import Attributes, Directory
from tests.providers.world import OPERATOR, World, refused


async def test_the_whole_life_of_an_agent(world: World) -> None:
    agents = world.directory("/agents")
    world.changes.clear()
    made = agents.mkdir("dora", 0o755, OPERATOR)
    assert made.key == world.find("/agents/dora").key == ("agents", "dora")
    assert isinstance(made, Directory)
    assert [name for name, _ in made.entries()] == [
        "spec.yaml",
        "ctl",
        "pid",
        "state",
        "prompt",
        "exit",
        "result",
        "inbox",
        "outbox",
        "send",
        "recv",
        "recv.batch",
        "sent",
        "dead",
        "overheard",
        "asks",
        "reminders",
        "chats",
        "shm",
        "log",
        "memory",
        "remember",
        "recall",
        "project",
    ]
    with refused("EEXIST"):
        agents.mkdir("dora", 0o755, OPERATOR)
    for name in ("self", "a b", "x" * 65):
        with refused("EINVAL"):
            agents.mkdir(name, 0o755, OPERATOR)
    assert (await world.text("/agents/dora/pid"), await world.text("/agents/dora/state")) == (
        "",
        "",
    )
    await world.write("/agents/dora/spec.yaml", "role: worker\nexec: [sleep, '1000']\n")
    assert await world.text("/agents/dora/spec.yaml") == "role: worker\nexec: [sleep, '1000']\n"
    with refused("EINVAL"):
        await world.write("/agents/dora/spec.yaml", "role: king\n")
    with refused("EACCES"):
        await world.write("/agents/dora/spec.yaml", "role: lead\n", world.as_agent("alice"))
    await world.write("/agents/dora/ctl", "start\n")
    pid = int(await world.text("/agents/dora/pid"))
    assert pid == world.pid("dora")
    with refused("EBUSY"):
        agents.rmdir("dora", OPERATOR)
    with refused("EINVAL"):
        await world.write("/agents/dora/ctl", "dance\n")
    wait = world.stream(f"/proc/{pid}/wait")
    woken = trio.Event()
    wait.on_wake(woken.set)
    await world.write("/agents/dora/ctl", "stop\n")
    with trio.fail_after(15):
        while wait.try_read(100) is None:
            await woken.wait()
            woken = trio.Event()
    wait.release()
    agents.rmdir("dora", OPERATOR)
    with refused("ENOENT"):
        world.find("/agents/dora")
    assert any(
        isinstance(change, Created) and (change.directory, change.name) == (("agents",), "dora")
        for change in world.changes
    )
    assert Removed(("agents",), "dora", ("agents", "dora"), True) in world.changes
    with refused("EPERM"):
        agents.rmdir("init", OPERATOR)
    with refused("EPERM"):
        agents.unlink("alice", OPERATOR)


async def test_memory_is_a_real_directory_for_the_agent_alone(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    memory = world.directory("/agents/alice/memory")
    assert memory.stat().mode & 0o7777 == 0o700
    await world.write("/agents/alice/memory/note", "remember", alice, create=True)
    real = world.kernel.agents.memory_dir("alice") / "note"
    assert real.read_text() == "remember"
    with refused("EACCES"):
        world.list("/agents/alice/memory", bob)
    with refused("EACCES"):
        world.open("/agents/alice/memory/note", os.O_RDONLY, bob)
    with refused("EACCES"):
        world.unlink("/agents/alice/memory/note", bob)
    with refused("EXDEV"):
        await world.rename("/agents/alice/memory/note", "/shared/note", alice)
    world.unlink("/agents/alice/memory/note", alice)
    with refused("EPERM"):
        world.directory("/agents/alice").rmdir("memory", alice)


async def test_memory_is_gone_with_its_agent(world: World) -> None:
    agents = world.directory("/agents")
    for _ in range(2):
        agents.mkdir("dora", 0o755, OPERATOR)
        assert world.list("/agents/dora/memory") == []
        await world.write("/agents/dora/memory/note", "x", create=True)
        agents.rmdir("dora", OPERATOR)


async def test_shared_docs_is_read_only_for_agents(world: World) -> None:
    alice = world.as_agent("alice")
    await world.write("/shared/plain", "x", alice, create=True)
    await world.write("/shared/docs/guide", "read me", create=True)
    assert await world.read("/shared/docs/guide", alice) == b"read me"
    with refused("EACCES"):
        world.open("/shared/docs/guide", os.O_WRONLY, alice)
    with refused("EACCES"):
        world.create("/shared/docs/mine", alice)
    with refused("EACCES"):
        world.unlink("/shared/docs/guide", alice)
    with refused("EACCES"):
        await world.rename("/shared/docs", "/shared/other", alice)
    with refused("EACCES"):
        await world.rename("/shared/plain", "/shared/docs/plain", alice)
    with refused("EACCES"):
        await world.rename("/shared/docs/guide", "/shared/plain", alice)
    with refused("EACCES"):
        world.directory("/shared").link(world.find("/shared/docs/guide"), "guide", alice)
    with refused("EACCES"):
        world.find("/shared/docs/guide").chattr(alice, Attributes(mode=0o777))
    with refused("EACCES"):
        world.find("/shared/docs/guide").setxattr("user.a", b"", alice)
    await world.write("/shared/docs/guide", "read you", OPERATOR)


async def test_the_log_follows_what_the_programs_write(world: World) -> None:
    assert await world.read("/agents/alice/log") == b""
    path = world.kernel.agents.log_path("alice")
    handle = world.open("/agents/alice/log")
    assert await handle.read(0, 100) == b""
    changes: list[Change] = []
    async with trio.open_nursery() as nursery:
        send, seen = trio.open_memory_channel[Change](10)
        nursery.start_soon(LogWatcher(world.kernel).run, send.send_nowait)
        await trio.testing.wait_all_tasks_blocked()
        path.write_bytes(b"hello\n")
        with trio.fail_after(5):
            changes.append(await seen.receive())
        nursery.cancel_scope.cancel()
    assert changes == [Modified((("agents", "alice"), "log"))]
    assert world.find("/agents/alice/log").stat().size == 6
    assert await handle.read(0, 100) == b"hello\n"
    handle.release()
    with refused("EACCES"):
        world.open("/agents/alice/log", os.O_WRONLY)


async def test_a_memory_that_a_person_removed_is_not_there(world: World) -> None:
    memory = world.kernel.agents.memory_dir("alice")
    memory.rename(memory.with_name("elsewhere"))
    assert "memory" not in world.list("/agents/alice")
    with refused("ENOENT"):
        world.find("/agents/alice/memory")
    memory.with_name("elsewhere").rename(memory)
    assert "memory" in world.list("/agents/alice")
    assert world.list("/agents/alice/memory") == []
