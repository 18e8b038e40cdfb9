"""/dev: streams of events and of the log."""

from __future__ import annotations

import json
import logging

import trio

from agentfs.vfs.node import StreamHandle
from tests.providers.world import World, refused


def lines(stream: StreamHandle, size: int = 4096) -> list[dict[str, object]]:
    content = b""
    while chunk := stream.try_read(size):
        content += chunk
    assert content == b"" or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


async def test_events_are_those_from_now_on(world: World) -> None:
    stream = world.stream("/dev/events")
    woken: list[int] = []
    stream.on_wake(lambda: woken.append(1))
    assert stream.try_read(4096) is None
    assert not stream.ready()
    await world.mail("alice", "bob")
    assert woken
    assert stream.ready()
    records = lines(stream, size=7)
    assert "message_arrived" in [record["type"] for record in records]
    numbers = [record["seq"] for record in records]
    first = numbers[0]
    assert isinstance(first, int)
    assert numbers == list(range(first, world.kernel.events.last + 1))
    stream.release()
    stream_count = len(woken)
    await world.mail("alice", "bob")
    assert len(woken) == stream_count


async def test_events_all_begin_with_the_oldest_kept(world: World) -> None:
    stream = world.stream("/dev/events.all")
    records = lines(stream)
    assert records[0]["seq"] == 1
    assert [record["seq"] for record in records] == list(range(1, world.kernel.events.last + 1))
    stream.release()


async def test_what_a_slow_reader_misses_is_announced(world: World) -> None:
    stream = world.stream("/dev/events")
    begin = world.kernel.events.last
    capacity = world.kernel.events._kept.maxlen
    assert capacity is not None
    pid = world.pid("alice")
    while world.kernel.events.last <= begin + capacity + 5:
        await world.write(f"/proc/{pid}/ctl", "HUP\n")
    lost = world.kernel.events.oldest - begin - 1
    records = lines(stream)
    assert (records[0]["type"], records[0]["count"]) == ("lost", lost)
    assert records[0]["seq"] == begin + lost
    assert records[1]["seq"] == begin + lost + 1
    assert len(records) == capacity + 1
    stream.release()
    late = world.stream("/dev/events.all")
    assert lines(late)[0]["type"] == "lost"
    late.release()


async def test_kmsg_is_the_log(world: World) -> None:
    log = logging.getLogger("agentfs.test")
    log.warning("before")
    stream = world.stream("/dev/kmsg")
    content = b""
    while chunk := stream.try_read(4096):
        content += chunk
    assert b"WARNING agentfs.test: before\n" in content
    assert stream.try_read(10) is None
    woken = trio.Event()
    stream.on_wake(woken.set)
    log.warning("after")
    with trio.fail_after(5):
        await woken.wait()
    assert stream.ready()
    assert (stream.try_read(4096) or b"").endswith(b"WARNING agentfs.test: after\n")
    stream.release()


async def test_streams_cannot_be_written(world: World) -> None:
    for name in ("events", "events.all", "kmsg"):
        with refused("EACCES"):
            world.open(f"/dev/{name}", 1)
