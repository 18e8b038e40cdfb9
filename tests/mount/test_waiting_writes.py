"""Writes that wait for room: what they can rely on, and what ends them."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import inotify_simple
import pytest
import trio

from agentfs.vfs.changes import Modified
from tests.mount.conftest import Mounted

pytestmark = pytest.mark.mount

ENDS_WITHIN = 0.3  # seconds after a signal

Writer = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
async def writer(small: Mounted) -> AsyncIterator[Writer]:
    """Starts shells that have the file open as descriptor 3, for appending."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                ["sh", "-c", f"exec 3>>'{small.path / 'room'}'; {script}"], stderr=subprocess.PIPE
            )
        )
        return started[-1]

    yield start
    for program in started:
        program.kill()
        assert program.stderr is not None
        program.stderr.close()
        await small.do(program.wait)


async def waiting(small: Mounted, count: int) -> None:
    """Wait until so many calls are parked."""
    with trio.fail_after(10):
        while len(small.mount.parking) != count:  # noqa: ASYNC110  # programs of their own
            await trio.sleep(0.005)


async def test_a_write_waits_until_there_is_room(small: Mounted, writer: Writer) -> None:
    program = writer("echo one >&3; echo two >&3")
    await waiting(small, 1)
    assert small.tree.taken == []
    small.tree.make_room(1)
    with trio.fail_after(10):
        while small.tree.taken != [b"one\n"]:  # noqa: ASYNC110  # a program of its own
            await trio.sleep(0.005)
    await waiting(small, 1)
    small.tree.make_room(1)
    assert await small.do(program.wait) == 0
    assert small.tree.taken == [b"one\n", b"two\n"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_waiting_write_ends_within_300_ms_of_a_signal(
    small: Mounted, writer: Writer, number: signal.Signals
) -> None:
    program = writer("echo one >&3")
    await waiting(small, 1)
    sent = time.monotonic()
    program.send_signal(number)
    await small.do(program.wait)
    assert time.monotonic() - sent < ENDS_WITHIN
    assert program.returncode == -number
    await waiting(small, 0)
    small.tree.make_room(1)
    assert small.tree.taken == []


async def test_nothing_is_taken_from_a_writer_that_is_being_killed(
    small: Mounted, writer: Writer
) -> None:
    for _ in range(20):
        program = writer("echo one >&3")
        await waiting(small, 1)
        program.kill()
        small.tree.make_room(1)
        await small.do(program.wait)
        await waiting(small, 0)
        assert small.tree.taken == []
        small.tree.slots = 0


async def test_a_signal_ends_a_write_on_an_inherited_descriptor(
    small: Mounted, writer: Writer
) -> None:
    shell = writer("sh -c 'echo $$ >&2; exec /bin/echo one >&3' ; exit $?")
    await waiting(small, 1)
    assert shell.stderr is not None
    child = int(await small.do(shell.stderr.readline))
    sent = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert await small.do(shell.wait) == 128 + signal.SIGTERM
    assert time.monotonic() - sent < ENDS_WITHIN


async def test_every_one_of_many_waiting_writers_can_be_ended(
    small: Mounted, writer: Writer
) -> None:
    """Linux lets one write at a time into an inode; each open has an inode of its own here."""
    programs = [writer("echo one >&3") for _ in range(20)]
    await waiting(small, 20)
    sent = time.monotonic()
    programs[-1].kill()
    await small.do(programs[-1].wait)
    assert time.monotonic() - sent < ENDS_WITHIN
    small.tree.make_room(19)
    for program in programs[:-1]:
        assert await small.do(program.wait) == 0
    assert small.tree.taken == [b"one\n"] * 19


async def test_a_waiting_write_holds_up_nobody_who_opens_truncates_or_changes_the_file(
    small: Mounted, writer: Writer
) -> None:
    writer("echo one >&3")
    await waiting(small, 1)
    path = small.path / "room"

    def use() -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
        try:
            with pytest.raises(BlockingIOError):
                os.write(descriptor, b"two\n")
        finally:
            os.close(descriptor)
        path.touch()
        assert path.stat().st_size == 0
        assert "room" in os.listdir(small.path)

    with trio.fail_after(5):
        await small.do(use)
    assert len(small.mount.parking) == 1


async def test_more_waiting_calls_than_the_cap_get_eagain(small: Mounted, writer: Writer) -> None:
    small.tree.most_waiting = 1
    writer("echo one >&3")
    await waiting(small, 1)
    second = writer("/bin/echo two >&3")
    assert await small.do(second.wait) != 0
    assert second.stderr is not None
    said = await small.do(second.stderr.read)
    assert os.strerror(errno.EAGAIN).encode() in said


def write(path: Path, data: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)


async def test_the_end_of_the_mount_ends_a_waiting_write(small: Mounted) -> None:
    async def wait() -> None:
        with pytest.raises(OSError, match="No such device"):
            await small.do(write, small.path / "room", b"one\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await waiting(small, 1)
        small.mount.parking.close()
    assert small.tree.taken == []


async def test_poll_tells_reading_and_writing_apart(small: Mounted) -> None:
    path = small.path / "room"
    descriptor = await small.do(os.open, path, os.O_RDWR | os.O_NONBLOCK)
    reader = await small.do(os.open, path, os.O_RDONLY | os.O_NONBLOCK)
    poller = select.poll()
    for opened in (descriptor, reader):
        poller.register(opened, select.POLLIN | select.POLLOUT)
    try:
        assert await small.do(poller.poll, 0) == []

        async def make_room() -> None:
            await trio.lowlevel.checkpoint()
            small.tree.make_room(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            assert await small.do(poller.poll, 10_000) == [(descriptor, select.POLLOUT)]
        assert await small.do(os.write, descriptor, b"one\n") == 4
        assert await small.do(poller.poll, 0) == [(descriptor, select.POLLIN)]
        assert await small.do(os.read, descriptor, 100) == b"taken 1\n"
        assert await small.do(poller.poll, 0) == []
    finally:
        for opened in (descriptor, reader):
            await small.do(os.close, opened)


async def test_a_stream_that_only_reads_is_not_opened_for_writing(small: Mounted) -> None:
    with pytest.raises(PermissionError):
        await small.do(write, small.path / "events", b"x")


async def test_inodes_apart_are_forgotten_with_their_last_use(small: Mounted) -> None:
    path = small.path / "room"

    def use() -> None:
        for _ in range(300):
            os.close(os.open(path, os.O_WRONLY))
            path.stat()
            os.listdir(small.path)

    await small.do(use)
    with trio.fail_after(10):
        while len(small.mount.inodes) > 20:  # noqa: ASYNC110  # Linux tells us in its own time
            await trio.sleep(0.005)


async def test_what_changes_while_a_write_waits_is_announced(
    small: Mounted, writer: Writer
) -> None:
    """That the write is its client's own business is known in its own task only."""
    events = inotify_simple.INotify()
    await small.do(events.add_watch, small.path / "number", inotify_simple.flags.MODIFY)
    writer("echo one >&3")
    await waiting(small, 1)
    small.tree.content = b"7"
    await small.changed(Modified((small.tree.key, "number")))
    await small.announced()
    assert len(await small.do(events.read, 10_000)) == 1
    events.close()
