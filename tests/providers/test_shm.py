"""Shared memory in the tree, driven as the mount does: second attempts, refusals, announcements."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from agentfs.base.errors import KernelError
from agentfs.providers.artifacts import ArtifactDraftFile
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Created, Moved, Removed
from agentfs.vfs.node import Attributes, Directory, File, Handle, LookUpAgain, Node
from tests.providers.world import OPERATOR, STRANGER, World, refused

TRUNCATING = os.O_WRONLY | os.O_TRUNC


def at(world: World, path: str, caller: Caller) -> str:
    """/dev/shm/PATH as Linux resolves it for `caller`."""
    first, _, rest = path.partition("/")
    if first in ("private", "subtree", "user"):
        first = world.target(f"/dev/shm/{first}", caller)
    return os.path.normpath(f"/dev/shm/{first}/{rest}")


def place(world: World, path: str, caller: Caller) -> tuple[Directory, str]:
    folder, _, name = at(world, path, caller).rpartition("/")
    return world.directory(folder), name


def reach(world: World, path: str, caller: Caller) -> Node:
    """Look a name up, as the mount does in gated directories."""
    directory, name = place(world, path, caller)
    assert directory.gated
    directory.admit(name, caller)
    return directory.reach(name, caller)


def opened(world: World, path: str, flags: int, caller: Caller) -> Handle:
    """open(2): the second attempt included."""
    for _ in range(2):
        node = reach(world, path, caller)
        assert isinstance(node, File)
        node.enter(caller)
        try:
            return node.open(flags, caller)
        except LookUpAgain:
            continue
    raise AssertionError("the second attempt was sent back too")


async def put(world: World, path: str, content: bytes, caller: Caller) -> None:
    """echo > path."""
    directory, name = place(world, path, caller)
    try:
        handle = opened(world, path, TRUNCATING, caller)
    except KernelError as missing:
        if missing.code != "ENOENT":
            raise
        handle = directory.create(name, 0o644, TRUNCATING | os.O_CREAT, caller)[1]
    try:
        await handle.write(0, content)
        await handle.flush()
    finally:
        handle.release()


async def get(world: World, path: str, caller: Caller) -> bytes:
    handle = opened(world, path, os.O_RDONLY, caller)
    try:
        return await handle.read(0, 1 << 20)
    finally:
        handle.release()


def ls(world: World, path: str, caller: Caller) -> list[str]:
    directory = world.directory(at(world, path, caller).rstrip("/"))
    directory.enter(caller)
    return [name for name, _ in directory.listing(caller)]


async def test_the_life_of_an_artifact(world: World) -> None:
    alice = world.as_agent("alice")
    for visibility in ("private", "user", "subtree", "global"):
        path = f"{visibility}/k.txt"
        with refused("ENOENT"):
            reach(world, path, alice)
        await put(world, path, b"one", alice)
        first = reach(world, path, alice)
        assert await get(world, path, alice) == b"one"
        assert ls(world, f"{visibility}/", alice) == ["k.txt"]
        await put(world, path, b"three", alice)
        second = reach(world, path, alice)
        assert first.key != second.key  # a version is an inode of its own
        assert (first.stat().size, second.stat().size) == (3, 5)
        assert second.getxattr("user.mime_type") == b"text/plain"
        assert second.getxattr("user.owner") == b"alice"
        assert second.getxattr("user.visibility") == visibility.encode()
        second.setxattr("user.mime_type", b"text/markdown", alice)
        assert reach(world, path, alice).getxattr("user.mime_type") == b"text/markdown"
        directory, name = place(world, path, alice)
        directory.rename(name, directory, "new", 0, alice)
        assert reach(world, f"{visibility}/new", alice).key == second.key
        directory.unlink("new", alice)
        assert ls(world, f"{visibility}/", alice) == []
    assert list(world.kernel.artifacts.table.folder.iterdir()) == []


async def test_a_version_is_not_written_through_its_own_inode(world: World) -> None:
    alice = world.as_agent("alice")
    await put(world, "private/k", b"old", alice)
    node = reach(world, "private/k", alice)
    assert isinstance(node, File)
    assert node.timeout == 0
    for flags in (os.O_WRONLY, os.O_RDWR, TRUNCATING, os.O_WRONLY | os.O_APPEND):
        with pytest.raises(LookUpAgain) as again:
            node.open(flags, alice)
        assert again.value.errno == 116  # ESTALE: Linux looks the name up once more
        writers = reach(world, "private/k", alice)
        assert isinstance(writers, ArtifactDraftFile)
        assert writers.apart
        # Twice, if Linux wants, and only for this thread.
        assert isinstance(reach(world, "private/k", alice), ArtifactDraftFile)
        assert not isinstance(reach(world, "private/k", replace(alice, tid=1)), ArtifactDraftFile)
        handle = writers.open(flags, alice)
        assert not isinstance(reach(world, "private/k", alice), ArtifactDraftFile)
        handle.release()
    with pytest.raises(LookUpAgain):
        node.chattr(alice, Attributes(size=1))
    reach(world, "private/k", alice).chattr(alice, Attributes(size=1))
    assert await get(world, "private/k", alice) == b"o"


async def test_a_version_that_is_replaced_between_look_up_and_open_is_no_missing_file(
    world: World,
) -> None:
    alice, bob = world.as_agent("alice"), replace(world.as_agent("bob"), tid=1)
    await put(world, "global/k", b"old", alice)
    node = reach(world, "global/k", bob)
    assert isinstance(node, File)
    await put(world, "global/k", b"new", alice)
    with pytest.raises(LookUpAgain):
        node.open(os.O_RDONLY, bob)
    second = reach(world, "global/k", bob)
    assert isinstance(second, ArtifactDraftFile)
    await put(world, "global/k", b"newest", alice)  # the second attempt never comes too late
    handle = second.open(os.O_RDONLY, bob)
    assert await handle.read(0, 10) == b"newest"
    assert second.stat().size == 6
    handle.release()
    world.unlink("/dev/shm/global/k", alice)
    with refused("ENOENT"):
        node.open(os.O_RDONLY, bob)


async def test_appending_goes_to_the_end_and_writing_begins_with_the_old(world: World) -> None:
    alice = world.as_agent("alice")
    await put(world, "private/k", b"old", alice)
    for flags, offset, data, expected in (
        (os.O_WRONLY | os.O_APPEND, 0, b"er", b"older"),
        (os.O_RDWR, 0, b"O", b"Older"),
        (os.O_RDWR, 6, b"!", b"Older\0!"),
    ):
        handle = opened(world, "private/k", flags, alice)
        await handle.write(offset, data)
        assert await handle.read(0, 100) == expected
        await handle.flush()
        handle.release()
        assert await get(world, "private/k", alice) == expected


async def test_a_large_old_content_is_copied_and_kept_while_it_is_changed(world: World) -> None:
    alice = world.as_agent("alice")
    await put(world, "private/k", b"x" * 3_000_000, alice)
    reader = opened(world, "private/k", os.O_RDONLY, alice)
    handle = opened(world, "private/k", os.O_RDWR, alice)
    await handle.write(2_999_999, b"yz")
    assert (await handle.read(2_999_998, 10)) == b"xyz"
    assert (await reader.read(2_999_998, 10)) == b"xx"
    await handle.flush()
    await handle.fsync()
    handle.release()
    reader.release()
    assert reach(world, "private/k", alice).stat().size == 3_000_001


async def test_opening_for_writing_without_writing_changes_nothing(world: World) -> None:
    alice = world.as_agent("alice")
    await put(world, "private/k", b"old", alice)
    key = reach(world, "private/k", alice).key
    handle = opened(world, "private/k", os.O_RDWR, alice)
    assert not handle.unflushed
    handle.release()
    assert reach(world, "private/k", alice).key == key


async def test_nobody_finds_anything_in_anothers_directories(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    await put(world, "private/k", b"1", alice)
    await put(world, "subtree/k", b"2", alice)
    for visibility in ("private", "subtree"):
        directory = world.directory(f"/agents/alice/shm/{visibility}")
        node = directory.lookup("k")
        assert isinstance(node, File)
        for caller in (bob, OPERATOR, STRANGER):
            assert list(directory.listing(caller)) == []
            for name in ("k", "nothing"):
                with refused("ENOENT"):
                    directory.reach(name, caller)
            with refused("ENOENT"):
                node.enter(caller)  # by a descriptor that somebody handed over
            with refused("ENOENT"):
                node.open(os.O_RDONLY, caller)
            with refused("EACCES"):
                directory.create("planted", 0o644, os.O_WRONLY, caller)
            with refused("EACCES"):
                directory.unlink("k", caller)
    with refused("ENOENT"):
        world.target("/dev/shm/private", STRANGER)


async def test_refusals_name_no_key_to_others(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    await put(world, "global/k", b"1", alice)
    with pytest.raises(KernelError) as caught:
        opened(world, "global/k", TRUNCATING, bob)
    assert caught.value.discreet
    world.kernel.refusals.record(bob.principal, "/dev/shm/global/secret", caught.value)
    assert "secret" in world.kernel.refusals.text(world.pid("bob"))
    assert not any(b"secret" in record.line() for record in world.kernel.events.since(1))


async def test_users_have_a_directory_each(world: World) -> None:
    alice = world.as_agent("alice")
    uid = alice.uid
    other = replace(alice, uid=uid + 1, principal=replace(alice.principal, uid=uid + 1))
    await put(world, "user/k", b"1", alice)
    assert world.target("/dev/shm/user", other) == f"users/{uid + 1}"
    assert ls(world, "user/", other) == []
    assert ls(world, f"users/{uid}", other) == []
    assert ls(world, "users", other) == [str(uid + 1)]
    with refused("ENOENT"):
        reach(world, f"users/{uid}/k", other)
    await put(world, "user/k", b"2", other)
    assert await get(world, "user/k", alice) == b"1"
    for wrong in ("x", "-1", "01", str(1 << 32)):
        with refused("ENOENT"):
            world.directory("/dev/shm/users").lookup(wrong)


async def test_an_unfinished_name_is_its_writers_alone(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    directory, name = place(world, "global/new", alice)
    handle = directory.create(name, 0o644, os.O_RDWR | os.O_CREAT, alice)[1]
    await handle.write(0, b"half")
    assert reach(world, "global/new", alice).stat().size == 4
    assert await get(world, "global/new", alice) == b"half"
    with refused("ENOENT"):
        reach(world, "global/new", bob)
    assert ls(world, "global", alice) == []
    await put(world, "global/new", b"bob's", bob)
    with refused("EACCES"):
        await handle.flush()
    handle.release()
    assert await get(world, "global/new", alice) == b"bob's"


# -- what is announced -----------------------------------------------------------------------------


def shm_changes(world: World) -> list[tuple[str, object, str]]:
    """What was announced since the last call: kind, directory, name."""
    found: list[tuple[str, object, str]] = []
    for change in world.changes:
        if isinstance(change, Created | Removed | Moved) and "shm" in str(change.directory):
            name = change.new_name if isinstance(change, Moved) else change.name
            found.append((type(change).__name__, change.directory, name))
    world.changes.clear()
    return found


def seen_by(world: World, *names: str) -> None:
    """Let the mount know these agents' directories."""
    for name in names:
        world.directory(f"/agents/{name}/shm/subtree")


async def test_nothing_is_announced_where_nobody_looked(world: World) -> None:
    alice = world.as_agent("alice")
    with world.kernel.store.transaction():
        draft = world.kernel.artifacts.draft(alice.principal, ("subtree", "alice"), "k")
        draft.changed = True
        world.kernel.artifacts.commit(draft)
    world.kernel.artifacts.finish(draft)
    assert shm_changes(world) == []


async def test_views_hear_of_what_they_see_and_of_nothing_else(world: World) -> None:
    alice = world.as_agent("alice")
    await world.spawn("kid", world.pid("alice"))
    kid = world.as_agent("kid")
    seen_by(world, "init", "alice", "bob", "kid")
    world.changes.clear()
    a, k = ("shm", "subtree", "alice"), ("shm", "subtree", "kid")

    await put(world, "subtree/plan", b"1", alice)
    assert shm_changes(world) == [("Created", a, "plan"), ("Created", k, "plan")]
    await put(world, "subtree/plan", b"kid's", kid)
    assert shm_changes(world) == [("Created", k, "plan")]
    await put(world, "subtree/plan", b"2", alice)  # the kid sees its own
    assert shm_changes(world) == [("Created", a, "plan")]
    world.unlink("/agents/kid/shm/subtree/plan", kid)  # and now its parent's again
    assert shm_changes(world) == [("Created", k, "plan")]
    await world.rename("/agents/alice/shm/subtree/plan", "/agents/alice/shm/subtree/new", alice)
    assert shm_changes(world) == [
        ("Moved", a, "new"),
        ("Created", k, "new"),
        ("Removed", k, "plan"),
    ]
    world.unlink("/agents/alice/shm/subtree/new", alice)
    assert shm_changes(world) == [("Removed", a, "new"), ("Removed", k, "new")]
    await put(world, "private/secret", b"1", alice)
    assert shm_changes(world) == [("Created", ("shm", "private", "alice"), "secret")]


async def test_an_inheritance_is_announced(world: World) -> None:
    lead = await world.spawn("lead", role="lead")
    await world.spawn("child", lead.pid)
    await world.spawn("other", lead.pid)
    child = world.as_agent("child")
    await put(world, "subtree/result", b"done", child)
    seen_by(world, "lead", "other")
    world.changes.clear()
    await world.write(f"/proc/{world.pid('child')}/ctl", "done 0 bye\n", child)
    assert shm_changes(world) == [
        ("Created", ("shm", "subtree", name), "result") for name in ("lead", "other")
    ]
    assert await get(world, "subtree/result", world.as_agent("other")) == b"done"
