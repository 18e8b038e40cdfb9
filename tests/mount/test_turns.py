"""Who takes the next request: calls that wait hold up nobody, however many there are."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from agentfs.mount.turns import Turns
from agentfs.vfs.waiting import driven
from tests.mount.conftest import Mounted

CROWD = 40  # far more than the tasks that wait for requests


async def test_calls_that_wait_hold_up_nobody(small: Mounted) -> None:
    """Again and again more calls wait than there are idle tasks, and end all at once: then most of
    the tasks that served them end, too."""
    path = small.path / "events"
    files = [await small.do(os.open, path, os.O_RDONLY) for _ in range(CROWD)]
    read: list[bytes] = []

    async def take(file: int) -> None:
        limiter = trio.CapacityLimiter(1)
        read.append(await trio.to_thread.run_sync(os.read, file, 100, limiter=limiter))

    with trio.fail_after(20):
        for number in range(5):
            async with trio.open_nursery() as nursery:
                for file in files:
                    nursery.start_soon(take, file)
                while len(small.mount.parking) < CROWD:  # noqa: ASYNC110  # threads act
                    await trio.sleep(0.001)
                assert await small.do(os.listdir, small.path)
                for stream in small.tree.streams:
                    stream.say(b"%d\n" % number)
            assert await small.do(os.listdir, small.path)
    assert len(read) == 5 * CROWD
    for file in files:
        await small.do(os.close, file)


async def test_the_turn_is_kept_until_its_task_waits() -> None:
    turns, said = Turns(), list[str]()

    async def serve(name: str, work: trio.Event) -> None:
        for number in range(3):
            async with turns:
                said.append(f"{name}{number}")
            await driven(work.wait(), turns.pass_on)

    busy = trio.Event()
    free = trio.Event()
    free.set()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, "a", free)
            nursery.start_soon(serve, "b", busy)
            await trio.testing.wait_all_tasks_blocked()
            assert [word for word in said if word[0] == "a"] == ["a0", "a1", "a2"]
            assert [word for word in said if word[0] == "b"] == ["b0"]
            busy.set()
    assert [word for word in said if word[0] == "b"] == ["b0", "b1", "b2"]


async def test_what_answers_at_once_wakes_nobody() -> None:
    waits: list[None] = []

    async def answer() -> int:
        return 7

    assert await driven(answer(), lambda: waits.append(None)) == 7
    assert not waits


async def test_a_cancelled_wait_is_cancelled_through_and_through() -> None:
    turns, ended = Turns(), list[str]()

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("work")

    async with trio.open_nursery() as nursery:
        await turns.__aenter__()

        async def stand_in_line() -> None:
            try:
                async with turns:
                    pytest.fail("it is not its turn")
            finally:
                ended.append("line")

        async def serve() -> None:
            await driven(wait(), lambda: None)

        nursery.start_soon(stand_in_line)
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(ended) == ["line", "work"]
    await turns.__aexit__(None, None, None)
    with trio.fail_after(1):
        async with turns:
            pass
