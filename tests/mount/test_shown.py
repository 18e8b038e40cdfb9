"""Files whose reading takes something, or waits, are named pipes to those who only look."""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest
import trio
from inotify_simple import flags

from agentfs.mount.calls import looks
from agentfs.vfs.changes import Modified
from tests.mount.conftest import Mounted
from tests.mount.test_mechanics import seen, watch

pytestmark = pytest.mark.mount


def opened(path: Path, how: int = os.O_RDONLY) -> int:
    """The mode of what opening it gives."""
    descriptor = os.open(path, how)
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def listed(folder: Path) -> dict[str, os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return {entry.name: entry for entry in entries}


async def test_who_looks_sees_a_pipe_and_who_opens_gets_a_file(small: Mounted) -> None:
    """Each in turn, by every call that there is for it."""
    path = small.path / "events"
    there = await small.do(os.open, small.path, os.O_RDONLY)
    try:
        for _ in range(3):
            assert stat.S_ISFIFO((await small.do(os.stat, path)).st_mode)
            assert stat.S_ISREG(await small.do(opened, path))
            assert stat.S_ISFIFO((await small.do(os.lstat, path)).st_mode)
            assert stat.S_ISREG(await small.do(opened, path, os.O_RDONLY | os.O_NONBLOCK))
            looked = await small.do(lambda: os.stat("events", dir_fd=there, follow_symlinks=False))
            assert stat.S_ISFIFO(looked.st_mode)
            entry = (await small.do(listed, small.path))["events"]
            assert not entry.is_file()
            # Opened again later through /proc/self/fd: a FIFO would hang there.
            assert stat.S_ISREG(await small.do(opened, path, os.O_PATH))
            assert await small.do(os.access, path, os.R_OK)
        assert stat.S_IMODE((await small.do(os.stat, path)).st_mode) == 0o444
        assert (await small.do(listed, small.path))["number"].is_file()
    finally:
        await small.do(os.close, there)


async def test_looking_and_opening_at_the_same_time_do_not_mix(small: Mounted) -> None:
    """An open that was answered with a FIFO would never come back."""
    path, rounds = small.path / "events", 300
    modes: list[int] = []

    def look() -> None:
        for _ in range(rounds):
            assert stat.S_ISFIFO(os.stat(path).st_mode)

    def take() -> None:
        modes.extend(opened(path) for _ in range(rounds))

    def enumerate_all() -> None:
        for _ in range(rounds // 10):
            assert not listed(small.path)["events"].is_file()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for job in (look, take, take, look, enumerate_all):
                nursery.start_soon(small.do, job)
    assert len(modes) == 2 * rounds
    assert all(map(stat.S_ISREG, modes))


async def test_a_watch_is_on_the_file_that_others_open(small: Mounted) -> None:
    path = small.path / "events"
    await small.do(os.stat, path)
    with await small.do(watch, path) as watcher:
        await small.do(os.stat, path)
        await small.do(listed, small.path)
        await small.changed(Modified((small.tree.key, "events")))
        await small.announced()
        assert seen(watcher) == [("MODIFY", "")]
        await small.do(watcher.add_watch, str(path), flags.OPEN)
        await small.do(opened, path)
        assert seen(watcher) == [("OPEN", "")]


async def test_what_is_shown_has_the_times_of_the_file(small: Mounted) -> None:
    path = small.path / "events"
    descriptor = await small.do(os.open, path, os.O_RDONLY)
    try:
        for _ in range(3):
            before = (await small.do(os.stat, path)).st_mtime_ns
            await small.changed(Modified((small.tree.key, "events")))
            after = (await small.do(os.stat, path)).st_mtime_ns
            assert after > before
            assert (await small.do(os.fstat, descriptor)).st_mtime_ns == after
    finally:
        await small.do(os.close, descriptor)


async def test_both_have_one_number(small: Mounted) -> None:
    path = small.path / "events"
    descriptor = await small.do(os.open, path, os.O_RDONLY)
    try:
        number = (await small.do(os.fstat, descriptor)).st_ino
        assert (await small.do(os.stat, path)).st_ino == number
        assert (await small.do(listed, small.path))["events"].inode() == number
    finally:
        await small.do(os.close, descriptor)


async def test_a_copy_of_it_by_name_is_a_pipe_too(small: Mounted, tmp_path: Path) -> None:
    def copy() -> None:
        subprocess.run(["cp", "-r", small.path / "events", tmp_path / "copy"], check=True)

    with trio.fail_after(30):
        await small.do(copy)
    assert stat.S_ISFIFO((tmp_path / "copy").lstat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may empty Linux's caches")
async def test_both_are_forgotten(small: Mounted) -> None:
    await small.do(listed, small.path)
    await small.do(opened, small.path / "events")
    before = len(small.mount.inodes)
    Path("/proc/sys/vm/drop_caches").write_text("2")
    with trio.fail_after(30):
        while len(small.mount.inodes) >= before:  # noqa: ASYNC110  # Linux says so in its own time
            await trio.sleep(0.01)


async def test_who_cannot_be_seen_does_not_look() -> None:
    assert not await looks(0)
    assert not await looks(os.getpid())  # it runs
    gone = await trio.to_thread.run_sync(lambda: subprocess.Popen(["true"]))
    await trio.to_thread.run_sync(gone.wait)
    assert not await looks(gone.pid)
    sleeper = await trio.to_thread.run_sync(lambda: subprocess.Popen(["sleep", "60"]))
    try:
        assert not await looks(sleeper.pid)
    finally:
        sleeper.kill()
        await trio.to_thread.run_sync(sleeper.wait)


class Params(ctypes.Structure):
    """struct io_uring_params."""

    _fields_ = (
        ("sq_entries", ctypes.c_uint32),
        ("cq_entries", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 7),
        ("sq_off", ctypes.c_uint32 * 10),
        ("cq_off", ctypes.c_uint32 * 10),
    )


def open_by_ring(path: Path) -> int:
    """openat(2) made by a worker thread of io_uring: its result."""
    setup, enter, openat, aside = 425, 426, 18, 1 << 4
    libc = ctypes.CDLL(None, use_errno=True)
    params = Params()
    ring = libc.syscall(setup, 4, ctypes.byref(params))
    if ring < 0:
        pytest.skip("io_uring is switched off here (kernel.io_uring_disabled)")
    try:
        with (
            mmap.mmap(ring, 4096, offset=0) as queue,
            mmap.mmap(ring, 4096, offset=0x10000000) as entries,
        ):
            name = ctypes.create_string_buffer(os.fsencode(path))
            sqe = memoryview(entries).cast("B")
            sqe[0:8] = bytes([openat, aside, 0, 0]) + (-100).to_bytes(4, "little", signed=True)
            sqe[16:24] = ctypes.addressof(name).to_bytes(8, "little")
            words = memoryview(queue).cast("I")
            words[params.sq_off[6] // 4] = 0  # array[0]
            words[params.sq_off[1] // 4] += 1  # tail
            assert libc.syscall(enter, ring, 1, 1, 1, None, 0) == 1
            done = memoryview(queue).cast("i")
            result = done[(params.cq_off[5] + 8) // 4]
            for view in (sqe, words, done):
                view.release()
            return result
    finally:
        os.close(ring)


async def test_a_worker_of_io_uring_opens_the_file(small: Mounted) -> None:
    """It is a thread of its own, and in no system call."""
    results: list[int] = []

    def submit() -> None:
        os.stat(small.path / "events")
        results.append(open_by_ring(small.path / "events"))

    with trio.fail_after(30):
        await small.do(lambda: _in_a_thread(submit))
    descriptor = results[0]
    assert descriptor >= 0
    try:
        assert stat.S_ISREG((await small.do(os.fstat, descriptor)).st_mode)
    finally:
        await small.do(os.close, descriptor)


def _in_a_thread(call: object) -> None:
    thread = threading.Thread(target=call)  # type: ignore[arg-type]
    thread.start()
    thread.join()
