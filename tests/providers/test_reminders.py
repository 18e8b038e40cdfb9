"""/agents/NAME/reminders: reminders as files."""

from __future__ import annotations

import os

import pytest
import trio

from agentfs.base.errors import KernelError
from agentfs.reminders.events import ReminderFired
from agentfs.reminders.reminders import Reminders
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.files import Value
from agentfs.vfs.node import Stat
from tests.providers.world import OPERATOR, STRANGER, World, refused

FOLDER = "/agents/alice/reminders"
KEY = (("agents", "alice"), "reminders")
STAT = Modified((KEY, "stat"))


async def remind(world: World, line: str) -> list[str]:
    """Write to `new` and read the reply on the same handle, as alice: the ids."""
    handle = world.open(f"{FOLDER}/new", os.O_RDWR, world.as_agent("alice"))
    try:
        await handle.write(0, line.encode())
        return (await handle.read(len(line), 4096)).decode().split()
    finally:
        handle.release()


def announced(world: World) -> list[Change]:
    """What was announced about reminders since the last call."""
    found = [
        change
        for change in world.changes
        if KEY in (getattr(change, "directory", None), getattr(change, "key", (None,))[0])
    ]
    world.changes.clear()
    return found


def reminders(world: World) -> Reminders:
    return world.kernel.reminders


async def test_h15_a_reminder_is_a_file_to_list_read_and_remove(world: World) -> None:
    alice = world.as_agent("alice")
    (name,) = await remind(world, 'cron "0 9 * * MON-FRI" stand up\n')
    assert world.list(FOLDER, alice) == ["new", "stat", "limits", name]
    node = world.find(f"{FOLDER}/{name}")
    assert isinstance(node, Value)
    assert (node.stat().mode & 0o7777, node.stat().uid) == (0o400, os.geteuid())
    content = await world.text(f"{FOLDER}/{name}", alice)
    lines = dict(line.split(":\t", 1) for line in content.splitlines())
    assert list(lines) == ["Id", "Set", "When", "Next", "Fired", "Text"]
    assert (lines["Id"], lines["When"]) == (name, 'cron "0 9 * * MON-FRI"')
    assert lines["Next"].endswith("T09:00:00.000Z")
    assert (lines["Fired"], lines["Text"]) == ("0", "stand up")
    assert "Pending:\t1\n" in await world.text(f"{FOLDER}/stat", alice)
    world.unlink(f"{FOLDER}/{name}", alice)
    with refused("ENOENT"):
        world.unlink(f"{FOLDER}/{name}", alice)
    with refused("ENOENT"):
        node.stat()
    with refused("ENOENT"):
        node.open(os.O_RDONLY, alice)
    assert world.list(FOLDER, alice) == ["new", "stat", "limits"]


async def test_h15_reminders_are_private(world: World) -> None:
    (name,) = await remind(world, "in 10m x")
    for caller in (world.as_agent("bob"), STRANGER):
        with refused("EACCES"):
            world.list(FOLDER, caller)
        for file in ("new", "stat", "limits", name):
            with refused("EACCES"):
                world.open(f"{FOLDER}/{file}", os.O_RDONLY, caller)
        with refused("EACCES"):
            world.unlink(f"{FOLDER}/{name}", caller)
        with refused("EACCES"):
            reminders(world).cancel(caller.principal, "alice", name)
    world.unlink(f"{FOLDER}/{name}", OPERATOR)


async def test_nothing_else_can_be_done_in_there(world: World) -> None:
    (name,) = await remind(world, "in 10m x")
    for file in ("new", "stat", "limits"):
        with refused("EPERM"):
            world.unlink(f"{FOLDER}/{file}")
    for file in ("x", "12", "000000000000"):
        with refused("ENOENT"):
            world.unlink(f"{FOLDER}/{file}")
        with refused("ENOENT"):
            world.find(f"{FOLDER}/{file}")
    with refused("EPERM"):
        world.create(f"{FOLDER}/mine")
    with refused("EPERM"):
        await world.rename(f"{FOLDER}/{name}", f"{FOLDER}/other")
    with refused("EACCES"):
        world.open(f"{FOLDER}/{name}", os.O_WRONLY)


async def test_echo_sets_one_too(world: World) -> None:
    await world.write(f"{FOLDER}/new", "in 10m one\nin 20m two\n", world.as_agent("alice"))
    assert [reminder.text for reminder in reminders(world).table.of("alice")] == ["one", "two"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\xff in 10m x", "EINVAL"),
        (b"in 10m x\nnever", "EINVAL"),
        (b"in 10m " + b"x" * 5000, "EMSGSIZE"),
        (b"in 10m " + b"x" * 70_000, "EMSGSIZE"),
    ],
)
async def test_a_refused_request_sets_nothing(world: World, request_: bytes, code: str) -> None:
    with refused(code):
        await world.write(f"{FOLDER}/new", request_, world.as_agent("alice"))
    assert reminders(world).table.of("alice") == []


async def test_h8_the_limits_can_be_read_and_set(world: World) -> None:
    limits = "Left:\t20\nBurst:\t20\nPer-Minute:\t10\nMax-Pending:\t100\nMax-Text:\t4096\n"
    assert await world.text(f"{FOLDER}/limits") == limits
    await world.write("/etc/agentfs.yaml", "reminders: {burst: 3, per_minute: 1, max_pending: 2}\n")
    await remind(world, "in 10m x\nin 10m y")
    assert (await world.text(f"{FOLDER}/limits")).startswith("Left:\t0\nBurst:\t3\n")
    with refused("EDQUOT"):
        await remind(world, "in 10m z")
    for reminder in reminders(world).table.of("alice"):
        world.unlink(f"{FOLDER}/{reminder.id}")
    assert (await world.text(f"{FOLDER}/limits")).startswith("Left:\t1\n")
    await remind(world, "in 10m z")
    with refused("EAGAIN"):
        await remind(world, "in 10m z")


async def test_h11_stat_says_what_was_delivered(world: World) -> None:
    fired = trio.Event()
    world.kernel.events.listen(
        lambda record: fired.set() if isinstance(record.event, ReminderFired) else None
    )
    await remind(world, "in 10ms x\nin 10m y")
    with trio.fail_after(10):
        await fired.wait()
    figures = "Pending:\t1\nDelivered-24h:\t1\nAttempts:\t1\nSuccesses:\t1\n"
    assert await world.text(f"{FOLDER}/stat") == figures
    assert len(world.list("/agents/alice/inbox/new")) == 1


async def test_what_changes_is_announced_where_somebody_looked(world: World) -> None:
    await world.write("/agents/bob/spec.yaml", "role: worker\n")
    reminders(world).set(OPERATOR.principal, "alice", "in 10m before")
    assert announced(world) == []
    (name,) = await remind(world, 'cron "0 9 * * *" x')
    created, changed = announced(world)
    assert isinstance(created, Created)
    assert (created.directory, created.name, created.node.key) == (KEY, name, (KEY, name))
    assert changed == STAT
    before = stat(world, name), stat(world, "stat")
    reminder = reminders(world).table.find("alice", name)
    assert reminder is not None
    with world.kernel.store.transaction():
        reminders(world)._deliver(reminder, reminder.next)
    assert announced(world) == [Modified((KEY, name)), STAT]
    assert stat(world, name).mtime > before[0].mtime
    assert created.node.stat() == stat(world, name)
    assert stat(world, "stat").mtime > before[1].mtime
    world.unlink(f"{FOLDER}/{name}")
    assert announced(world) == [Removed(KEY, name, (KEY, name)), STAT]
    assert created.node.stat().size > 0, "who hears of it late still learns what came"
    (last,) = reminders(world).table.of("alice")
    with world.kernel.store.transaction():
        reminders(world)._deliver(last, last.next)
    assert announced(world) == [Removed(KEY, last.id, (KEY, last.id)), STAT]


def stat(world: World, name: str) -> Stat:
    return world.find(f"{FOLDER}/{name}").stat()


async def test_reminders_are_gone_with_their_agent(world: World) -> None:
    agents = world.directory("/agents")
    agents.mkdir("dora", 0o755, OPERATOR)
    await world.write("/agents/dora/reminders/new", "in 10m x")
    folder = world.directory("/agents/dora/reminders")
    world.changes.clear()
    await world.write("/agents/dora/reminders/new", "in 10m y")
    (created,) = [change for change in world.changes if isinstance(change, Created)]
    agents.rmdir("dora", OPERATOR)
    assert created.node.stat().size > 0, "who hears of it late still learns what came"
    with pytest.raises(KernelError):
        folder.stat()
    agents.mkdir("dora", 0o755, OPERATOR)
    assert world.list("/agents/dora/reminders") == ["new", "stat", "limits"]
