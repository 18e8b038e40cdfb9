"""/dev/topics, as the mount uses it."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import stat as st

import pytest

from agentfs.providers.topics import tell_of_publications
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.node import Attributes, Handle, StreamHandle
from tests.providers.world import OPERATOR, STRANGER, World, refused

DATA = b"\xff\x00 no text"


def subscribe(world: World, name: str, flags: int = os.O_RDONLY) -> StreamHandle:
    handle = world.open(f"/dev/topics/{name}", flags)
    assert isinstance(handle, StreamHandle)
    return handle


def records(stream: StreamHandle, size: int = 65536) -> list[dict[str, object]]:
    """Everything until it would wait, or the end of the file."""
    content = b""
    while chunk := stream.try_read(size):
        content += chunk
    assert content == b"" or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def data(stream: StreamHandle) -> list[object]:
    return [record["data"] for record in records(stream)]


def touch(world: World, name: str, mode: int = 0o666) -> None:
    world.create(f"/dev/topics/{name}", mode=mode).release()


async def publish(world: World, name: str, *texts: str) -> None:
    for text in texts:
        await world.write(f"/dev/topics/{name}", text)


def config(world: World, **numbers: int) -> None:
    world.kernel.settings.replace(f"topics: {numbers}")


async def test_a_subscriber_gets_what_is_published_after_it_opened(world: World) -> None:
    touch(world, "news")
    await publish(world, "news", "before")
    stream = subscribe(world, "news")
    assert stream.try_read(4096) is None
    assert not stream.ready()
    await world.write("/dev/topics/news", "hello\n", world.as_agent("alice"))
    assert stream.ready()
    (record,) = records(stream)
    assert list(record) == ["seq", "time", "from", "data"]
    assert (record["seq"], record["from"], record["data"]) == (2, "alice", "hello")
    assert str(record["time"]).endswith("Z")
    stream.release()


async def test_one_write_is_one_record_without_its_last_newline(world: World) -> None:
    touch(world, "news")
    stream = subscribe(world, "news")
    handle = world.open("/dev/topics/news", os.O_WRONLY)
    for text in (b"one\ntwo\n", b"three", b"\n\n", b"  four  \n"):
        assert await handle.write(0, text) == len(text)
    assert data(stream) == ["one\ntwo", "three", "\n", "  four  "]
    for empty in (b"", b"\n"):
        with refused("EINVAL"):
            await handle.write(0, empty)
    with refused("EMSGSIZE"):
        await handle.write(0, b"x" * 65_538)
    await handle.fsync()
    assert data(stream) == []
    stream.release()


async def test_what_is_no_utf8_comes_as_base64(world: World) -> None:
    touch(world, "news")
    stream = subscribe(world, "news")
    await world.write("/dev/topics/news", DATA)
    await world.write("/dev/topics/news", "grüß dich")
    first, second = records(stream)
    assert "data" not in first
    assert base64.b64decode(str(first["data_base64"])) == DATA
    assert second["data"] == "grüß dich"
    stream.release()


async def test_small_reads_give_every_record_whole(world: World) -> None:
    touch(world, "news")
    stream = subscribe(world, "news")
    await publish(world, "news", *map(str, range(50)))
    assert [record["seq"] for record in records(stream, size=7)] == list(range(1, 51))
    stream.release()


async def test_since_gives_what_came_after_a_number(world: World) -> None:
    touch(world, "news")
    await publish(world, "news", *"abcde")
    stream = subscribe(world, "news", os.O_RDWR)
    assert stream.try_read(4096) is None
    woken: list[int] = []
    stream.on_wake(lambda: woken.append(1))
    assert stream.try_write(b"since 3\n") == 8
    assert woken == [1]
    assert data(stream) == ["d", "e"]
    stream.try_write(b"since 0")
    assert data(stream) == ["a", "b", "c", "d", "e"]
    stream.try_write(b"since 5")
    assert data(stream) == []
    await publish(world, "news", "f")
    assert data(stream) == ["f"]
    stream.release()


async def test_since_forgets_the_rest_of_a_record_that_was_read_in_part(world: World) -> None:
    touch(world, "news")
    await publish(world, "news", "a", "b")
    stream = subscribe(world, "news", os.O_RDWR)
    stream.try_write(b"since 0")
    assert stream.try_read(10) == b'{"seq": 1,'
    stream.try_write(b"since 1")
    assert data(stream) == ["b"]
    stream.release()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"since 3", "ERANGE"),
        (b"since 99999999999999999999", "EINVAL"),
        (b"since -1", "EINVAL"),
        (b"since", "EINVAL"),
        (b"since 1 2", "EINVAL"),
        (b"hello", "EINVAL"),
        (b"\xff", "EINVAL"),
        ("since ٣".encode(), "EINVAL"),
    ],
)
async def test_a_wrong_command_is_refused_and_changes_nothing(
    world: World, command: bytes, code: str
) -> None:
    touch(world, "news")
    await publish(world, "news", "a", "b")
    stream = subscribe(world, "news", os.O_RDWR)
    with refused(code):
        stream.try_write(command)
    await publish(world, "news", "c")
    assert data(stream) == ["c"]
    stream.release()


async def test_what_fell_out_is_announced_with_its_count(world: World) -> None:
    config(world, max_records=3)
    touch(world, "news")
    stream = subscribe(world, "news", os.O_RDWR)
    await publish(world, "news", *"abcde")
    lost, *others = records(stream)
    assert (lost["type"], lost["count"], lost["seq"]) == ("lost", 2, 2)
    assert [record["data"] for record in others] == ["c", "d", "e"]
    stream.try_write(b"since 1")
    assert records(stream)[0]["count"] == 1
    stream.try_write(b"since 2")
    assert data(stream) == ["c", "d", "e"]
    stream.release()


async def test_a_reader_that_never_reads_slows_nobody_and_keeps_nothing(world: World) -> None:
    touch(world, "news")
    slow, quick = subscribe(world, "news"), subscribe(world, "news")
    seen: list[object] = []
    for number in range(5000):
        await publish(world, "news", str(number))
        if number % 100 == 99:
            seen += data(quick)
    assert seen == [str(number) for number in range(5000)]
    lost, *others = records(slow)
    assert lost["count"] == 4000
    assert [record["seq"] for record in others] == list(range(4001, 5001))
    topic = world.kernel.topics.get("news")
    assert len(topic.sizes) == 1000
    slow.release()
    quick.release()
    assert topic.readers == set()


async def test_only_the_readers_of_a_topic_are_woken(world: World) -> None:
    woken: list[str] = []
    streams = []
    for name in ("a", "b"):
        touch(world, name)
        streams.append(subscribe(world, name))
        streams[-1].on_wake(lambda name=name: woken.append(name))  # type: ignore[misc]
    await publish(world, "a", "hello")
    assert woken == ["a"]
    assert not streams[1].ready()
    streams[0].release()
    await publish(world, "a", "hello")
    assert woken == ["a"]
    streams[1].release()


async def test_removal_tells_how_much_was_missed_and_ends_the_file(world: World) -> None:
    touch(world, "news")
    behind, done = subscribe(world, "news", os.O_RDWR), subscribe(world, "news")
    publisher = world.open("/dev/topics/news", os.O_WRONLY)
    await publish(world, "news", "a", "b")
    assert data(done) == ["a", "b"]
    woken: list[int] = []
    done.on_wake(lambda: woken.append(1))
    world.unlink("/dev/topics/news")
    assert woken == [1]
    assert done.ready()
    assert done.try_read(100) == b""
    (lost,) = records(behind)
    assert (lost["type"], lost["count"], lost["seq"]) == ("lost", 2, 2)
    assert behind.try_read(100) == b""
    with refused("ESTALE"):
        await publisher.write(0, b"x")
    touch(world, "news")
    await publish(world, "news", "new")
    assert behind.try_read(100) == b""
    with refused("ENOENT"):
        world.find("/dev/topics/other")
    behind.release()
    done.release()


async def test_the_listing_is_sorted_and_says_mode_size_and_time(world: World) -> None:
    for name in ("zebra", "apple", "Mango"):
        touch(world, name, 0o640)
    assert world.list("/dev/topics") == ["Mango", "apple", "zebra"]
    stat = world.find("/dev/topics/apple").stat()
    assert st.S_ISREG(stat.mode)
    assert st.S_IMODE(stat.mode) == 0o640
    assert stat.size == 0
    await publish(world, "apple", "hello")
    after = world.find("/dev/topics/apple").stat()
    assert after.mtime > stat.mtime
    assert after.size == 0
    assert st.S_IMODE(world.find("/dev/topics").stat().mode) == 0o1777


@pytest.mark.parametrize(
    ("given", "umask", "mode"),
    [
        (0o644, 0o022, 0o666),  # a plain touch
        (0o755, 0o022, 0o777),  # os.open without a mode
        (0o640, 0o027, 0o660),
        (0o600, 0o077, 0o600),
        (0o600, 0o022, 0o600),  # asked for
        (0o640, 0o022, 0o640),
        (0o666, 0o000, 0o666),
    ],
)
async def test_a_umask_against_writing_does_not_keep_others_from_publishing(
    world: World, given: int, umask: int, mode: int
) -> None:
    caller = dataclasses.replace(OPERATOR, umask=umask)
    world.create("/dev/topics/news", caller, given).release()
    assert st.S_IMODE(world.find("/dev/topics/news").stat().mode) == mode


async def test_opening_for_reading_may_make_the_topic_too(world: World) -> None:
    directory = world.directory("/dev/topics")
    node, handle = directory.create("news", 0o666, os.O_RDONLY | os.O_CREAT, OPERATOR)
    assert isinstance(handle, StreamHandle)
    _, again = directory.create("news", 0o666, os.O_WRONLY | os.O_CREAT, OPERATOR)
    await again.write(0, b"hello")
    assert data(handle) == ["hello"]
    with refused("EEXIST"):
        directory.create("news", 0o666, os.O_CREAT | os.O_EXCL, OPERATOR)
    assert world.find("/dev/topics/news").key == node.key
    handle.release()


async def test_what_exists_is_opened_by_create_only_for_whom_it_may(world: World) -> None:
    touch(world, "news", 0o600)
    with refused("EACCES"):
        world.directory("/dev/topics").create(
            "news", 0o666, os.O_WRONLY | os.O_CREAT, world.as_agent("alice")
        )


async def test_mode_700_keeps_another_agent_of_the_same_user_out(world: World) -> None:
    alice, bob = world.as_agent("alice"), world.as_agent("bob")
    handle: Handle = world.create("/dev/topics/news", alice, 0o666)
    node = world.find("/dev/topics/news")
    node.chattr(alice, Attributes(mode=0o700))
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with refused("EACCES"):
            world.open("/dev/topics/news", flags, bob)
        world.open("/dev/topics/news", flags, alice).release()
    with refused("EPERM"):
        node.chattr(bob, Attributes(mode=0o777))
    with refused("EPERM"):
        world.unlink("/dev/topics/news", bob)
    with refused("EPERM"):
        node.chattr(alice, Attributes(uid=12345))
    node.chattr(alice, Attributes(uid=alice.uid, gid=alice.gid, size=0, times=(1, 1)))
    handle.release()


async def test_a_stranger_may_read_what_everybody_may_and_write_nothing(world: World) -> None:
    touch(world, "news", 0o666)
    world.open("/dev/topics/news", os.O_RDONLY, STRANGER).release()
    for flags in (os.O_WRONLY,):
        with refused("EACCES"):
            world.open("/dev/topics/news", flags, STRANGER)
    with refused("EACCES"):
        world.create("/dev/topics/other", STRANGER)


async def test_changes_are_announced_and_publications_without_an_event(world: World) -> None:
    told: list[Change] = []
    tell_of_publications(world.kernel, told.append)
    world.changes.clear()
    touch(world, "news")
    (created,) = world.changes
    assert isinstance(created, Created)
    assert (created.directory, created.name) == (("topics",), "news")
    await publish(world, "news", "hello")
    assert told == [Modified(("topics", "news"))]
    world.find("/dev/topics/news").chattr(OPERATOR, Attributes(mode=0o600))
    world.unlink("/dev/topics/news")
    assert world.changes[1:] == [
        Modified(("topics", "news")),
        Removed(("topics",), "news", ("topics", "news")),
    ]
