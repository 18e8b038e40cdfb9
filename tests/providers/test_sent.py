"""What an agent sent and what was given up, as nodes; which of them an event changes."""

from __future__ import annotations

import os

from agentfs.vfs.changes import Change, Created, Modified, Moved, Removed
from tests.providers.world import OPERATOR, World, refused


def about_sent(world: World) -> list[Change]:
    """The changes in anybody's `sent` since the last call."""
    found = [
        change
        for change in world.changes
        if (isinstance(change, Modified) and "sent" in str(change.key))
        or (isinstance(change, Created | Removed) and "sent" in str(change.directory))
    ]
    world.changes.clear()
    return found


async def test_where_nobody_ever_looked_nothing_is_announced(world: World) -> None:
    await world.mail("alice", "bob")
    await world.text("/agents/bob/recv", world.as_agent("bob"))
    assert about_sent(world) == []
    world.find("/agents/carol/sent")
    await world.mail("alice", "bob")
    assert about_sent(world) == []
    await world.mail("carol", "bob")
    [made] = about_sent(world)
    assert isinstance(made, Created)
    assert made.directory == world.find("/agents/carol/sent").key
    assert [made.name] == world.list("/agents/carol/sent")


async def test_the_life_of_a_sent_message_is_announced(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    directory = world.find("/agents/alice/sent")
    await world.mail("alice", "bob", "hello")
    [number] = world.list("/agents/alice/sent", alice)
    path = f"/agents/alice/sent/{number}"
    node = world.find(path)
    [made] = about_sent(world)
    assert isinstance(made, Created)
    assert (made.directory, made.name, made.node.key) == (directory.key, number, node.key)
    [file] = world.list("/agents/bob/inbox/new", bob)
    await world.rename(f"/agents/bob/inbox/new/{file}", f"/agents/bob/inbox/cur/{file}", bob)
    assert about_sent(world) == [Modified(node.key)]
    assert (await world.text(path, alice)).startswith("State: claimed\n")
    world.unlink(f"/agents/bob/inbox/cur/{file}", bob)
    assert about_sent(world) == [Modified(node.key)]
    world.unlink(path, alice)
    assert about_sent(world) == [Removed(directory.key, number, node.key)]
    with refused("ENOENT"):
        node.stat()
    # Made to be announced it says something, even when it is gone by then.
    assert made.node.stat().mode & 0o777 == 0o400


async def test_the_size_is_that_of_the_content(world: World) -> None:
    for body in ("short", "x" * 100_000):
        await world.mail("alice", "bob", body)
    for number in world.list("/agents/alice/sent"):
        path = f"/agents/alice/sent/{number}"
        stat = world.find(path).stat()
        assert stat.size == len(await world.read(path))
        assert (stat.content is None) == (stat.size > 65536)


async def test_others_may_not_look(world: World) -> None:
    await world.mail("alice", "bob")
    [number] = world.list("/agents/alice/sent")
    bob = world.as_agent("bob")
    for path in ("/agents/alice/sent", "/agents/alice/dead"):
        with refused("EACCES"):
            world.list(path, bob)
    with refused("EACCES"):
        await world.read(f"/agents/alice/sent/{number}", bob)
    with refused("EACCES"):
        world.unlink(f"/agents/alice/sent/{number}", bob)
    with refused("EACCES"):
        world.open(f"/agents/alice/sent/{number}", os.O_WRONLY)
    for name in ("1", "000000000000", "99", "x", "٠٠٠٠٠٠٠٠٠٠٠١"):
        with refused("ENOENT"):
            world.find(f"/agents/alice/sent/{name}")


async def test_a_dead_letter_is_the_same_node_on_its_way(world: World) -> None:
    world.kernel.settings.replace("messages: {max_delivery_attempts: 1}")
    bob = world.as_agent("bob")
    await world.mail("alice", "bob", "poison")
    new, dead = world.find("/agents/bob/inbox/new"), world.find("/agents/bob/dead")
    [file] = world.list("/agents/bob/inbox/new")
    key = world.find(f"/agents/bob/inbox/new/{file}").key
    handle = world.stream("/agents/bob/recv", bob)
    assert handle.try_read(65536)
    world.changes.clear()
    assert handle.try_write(b"failed why not")
    handle.release()
    [moved] = [change for change in world.changes if isinstance(change, Moved)]
    [number] = world.list("/agents/bob/dead")
    assert (moved.target, moved.new_name, moved.node.key) == (dead.key, number, key)
    node = world.find(f"/agents/bob/dead/{number}")
    text = await world.text(f"/agents/bob/dead/{number}", bob)
    assert text.startswith("Reason: ")
    assert node.stat().size == len(text)
    with refused("EACCES"):
        world.open(f"/agents/bob/dead/{number}", os.O_WRONLY)
    for target in ("/agents/bob/inbox/cur/x", "/agents/alice/inbox/new/x", "/agents/bob/dead/x"):
        with refused("EPERM"):
            await world.rename(f"/agents/bob/dead/{number}", target)
    world.changes.clear()
    await world.rename(f"/agents/bob/dead/{number}", "/agents/bob/inbox/new/again", bob)
    [moved] = [change for change in world.changes if isinstance(change, Moved)]
    assert (moved.directory, moved.target, moved.new_name) == (dead.key, new.key, "again")
    assert world.find("/agents/bob/inbox/new/again").key == key
    with refused("ENOENT"):
        node.stat()
    assert world.list("/agents/bob/dead", OPERATOR) == []


async def test_a_batch_is_read_from_one_handle(world: World) -> None:
    for number in range(3):
        await world.mail("alice", "bob", f"{number}")
    handle = world.stream("/agents/bob/recv.batch", world.as_agent("bob"))
    try:
        assert handle.ready()
        assert handle.try_write(b"2\n") == 2
        with refused("EINVAL"):
            handle.try_write(b"0")
        for wrong in ("²", "-1", "1 2", "many", "1000000000", ""):
            with refused("EINVAL"):
                handle.try_write(wrong.encode())
        content = handle.try_read(65536)
        assert content is not None
        assert content.count(b"\nMessages-Waiting: 1\n") == 2
        assert handle.try_read(65536) == b""
        rest = handle.try_read(100)
        assert rest is not None
        assert rest.startswith(b"From alice ")
        while handle.try_read(100):
            pass
        assert handle.try_read(100) is None
        assert not handle.ready()
    finally:
        handle.release()
