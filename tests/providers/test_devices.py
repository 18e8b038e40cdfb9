"""Where calls on real files are made, in the loop or in a thread, and what becomes of them."""

from __future__ import annotations

import ast
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

import agentfs
from agentfs.base.errors import KernelError
from agentfs.base.within import is_directory, open_within
from agentfs.providers.devices import DOUBTFUL, MOST_IN_LINE, OWN, THREADS, Devices, Mounted
from agentfs.vfs.waiting import driven, in_fiber, wait

SECONDS = 0.05


class Disk:
    """Calls of it wait until it answers."""

    def __init__(self) -> None:
        self.answering = threading.Event()
        self.asked = 0

    def ask(self, answer: int = 7) -> int:
        self.asked += 1
        assert self.answering.wait(60)
        return answer


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.answering.set()


def device(seconds: float = SECONDS) -> Mounted:
    return Devices(lambda: seconds).beyond("/nowhere")


def is_silent(refused: pytest.ExceptionInfo[KernelError]) -> bool:
    return refused.value.errno == errno.ETIMEDOUT and "/nowhere" in refused.value.reason


# -- threads ---------------------------------------------------------------------------------------


async def test_an_answer_in_time_is_the_answer() -> None:
    there = device(60)
    assert await there.run(lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(FileNotFoundError):
        await there.run(os.stat, "/nowhere/at/all")
    descriptor = os.open("/", os.O_RDONLY)
    there.close(descriptor)
    while os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: ASYNC110  # a thread acts
        await trio.sleep(0.001)


async def test_no_answer_in_time_is_etimedout_and_others_wait_less(disk: Disk) -> None:
    there = device(1.0)
    began = trio.current_time()
    with pytest.raises(KernelError) as refused:
        await there.run(disk.ask)
    assert is_silent(refused)
    first = trio.current_time() - began
    assert first >= 1.0
    assert disk.asked
    with pytest.raises(KernelError) as refused:
        await there.run(disk.ask)
    assert f"{1.0 * DOUBTFUL:g} s" in refused.value.reason


async def test_stuck_threads_are_bounded_and_come_back(disk: Disk) -> None:
    there = device()
    while disk.asked < THREADS:  # on a busy machine some do not even begin
        with pytest.raises(KernelError) as refused:
            await there.run(disk.ask)
        assert is_silent(refused)
    for _ in range(THREADS):
        with pytest.raises(KernelError) as refused:
            await there.run(disk.ask)
        assert "does not answer" in refused.value.reason
    assert disk.asked == THREADS
    disk.answering.set()
    with trio.fail_after(60):
        while True:
            try:
                assert await there.run(disk.ask) == 7
                break
            except KernelError:
                await trio.sleep(0.001)


async def test_what_comes_too_late_is_taken_back_once(disk: Disk) -> None:
    there, late = device(), list[int]()
    while not disk.asked:
        with pytest.raises(KernelError):
            await there.run(disk.ask, 5, late=late.append)
    assert not late
    disk.answering.set()
    with trio.fail_after(60):
        while not late:  # noqa: ASYNC110  # a thread acts
            await trio.sleep(0.001)
    assert await device(60).run(lambda: 6, late=late.append) == 6
    assert late == [5]


async def test_a_cancelled_call_is_left_at_once(disk: Disk) -> None:
    there, late = device(60), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: there.run(disk.ask, late=late.append))
        while not disk.asked:  # noqa: ASYNC110  # a thread acts
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert there.is_stuck
    disk.answering.set()
    with trio.fail_after(60):
        while not late or there.is_stuck:  # noqa: ASYNC110  # a thread acts
            await trio.sleep(0.001)


async def test_not_all_may_stand_in_line(disk: Disk) -> None:
    """Each has a task of the mount's, which others need as well."""
    there = device(60)
    async with trio.open_nursery() as nursery:
        for _ in range(MOST_IN_LINE):
            nursery.start_soon(there.run, disk.ask)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(KernelError) as refused:
            await there.run(disk.ask)
        assert refused.value.errno == errno.EAGAIN
        nursery.cancel_scope.cancel()


# -- fibers ----------------------------------------------------------------------------------------


async def ten_times(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number * 10


def plain(number: int) -> int:
    """No coroutine, and it waits."""
    assert in_fiber()
    return wait(lambda: ten_times(number)) + wait(lambda: ten_times(number))


async def test_code_that_is_not_asynchronous_waits() -> None:
    said: list[str] = []

    async def work() -> int:
        found = plain(1)
        await trio.lowlevel.checkpoint()
        return found + plain(2)

    found = await driven(
        work(),
        lambda: said.append("waits"),
        lambda: said.append("on"),
        lambda: said.append("off"),
    )
    assert found == 60
    assert said.count("waits") == 1
    assert said[:3] == ["on", "off", "waits"]
    assert said.count("on") == said.count("off") == 6
    assert not in_fiber()
    with pytest.raises(RuntimeError):
        wait(lambda: ten_times(1))


async def test_many_wait_at_once_each_with_its_own() -> None:
    found: dict[int, int] = {}

    async def one(number: int) -> None:
        async def work() -> int:
            return plain(number)

        found[number] = await driven(work(), lambda: None)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(one, number)
    assert found == {number: number * 20 for number in range(100)}


async def test_what_is_raised_arrives_on_both_sides() -> None:
    async def fails() -> int:
        await trio.lowlevel.checkpoint()
        raise FileNotFoundError("nothing")

    def plain_too() -> str:
        try:
            wait(fails)
        except FileNotFoundError as failure:
            raise ValueError("as expected") from failure
        return "never"

    async def work() -> str:
        return plain_too()

    with pytest.raises(ValueError, match="as expected"):
        await driven(work(), lambda: None)


async def test_a_wait_that_is_cancelled_is_unwound() -> None:
    ended: list[str] = []

    async def for_ever() -> None:
        await trio.sleep_forever()

    def plain_too() -> None:
        try:
            wait(for_ever)
        finally:
            ended.append("plain")

    async def work() -> None:
        plain_too()

    with trio.move_on_after(0.01):
        await driven(work(), lambda: None)
    assert ended == ["plain"]


# -- every call in one place -----------------------------------------------------------------------

ROOT = Path(agentfs.__file__).parent

HOST = (
    "host.py",
    "hostnode.py",
    "counting.py",
    "shared.py",
    "dotfiles.py",
    "kept.py",
    "descriptors.py",
)
"""Providers of real files: whatever they ask the disk goes through `disk` and `devices`."""

NO_FILE = frozenset({"fsencode", "fsdecode", "fspath", "geteuid", "getegid", "close"}) | {
    "stat_result",
    "statvfs_result",
}
"""What they may call of `os`: nothing that leads to a disk. (`close` only hands it on.)"""

OTHERS = {
    "announce_process.py": "a process of its own, on our own mount",
    "announcer.py": "a file in memory",
    "holders.py": "/proc",
    "mounttable.py": "/proc",
    "proc.py": "/proc",
    "wakeups.py": "/dev/fuse",
    "session.py": "/proc",
}
"""Modules of the mount that open something, and what: never a real file that the tree shows."""


def calls(path: Path) -> Iterator[str]:
    """What a module uses of `os`, `open` and `Path` to reach files."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "os" and node.attr.islower() and node.attr != "path":
                yield node.attr
            elif node.value.id in ("io", "shutil", "pathlib"):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id == "open":
            yield "open"


def test_the_providers_of_real_files_ask_the_disk_in_one_module() -> None:
    for name in HOST:
        found = set(calls(ROOT / "providers" / name)) - NO_FILE
        assert not found, f"providers/{name} calls {sorted(found)}: that belongs into disk.py"


def test_the_mount_asks_for_no_real_file_by_itself() -> None:
    for path in sorted((ROOT / "mount").glob("*.py")):
        found = set(calls(path)) - NO_FILE
        assert path.name in OTHERS or not found, f"mount/{path.name} calls {sorted(found)}"


# -- names that stay on the mount ------------------------------------------------------------------


def test_a_name_is_opened_on_its_own_mount_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    directory = os.open(tmp_path, os.O_PATH)
    root = os.open("/", os.O_PATH)
    try:
        found = open_within(directory, "file", os.O_RDONLY)
        assert os.read(found, 100) == b"content"
        assert not os.get_inheritable(found)
        os.close(found)
        for name, number in (("nothing", errno.ENOENT), ("link", errno.ELOOP)):
            with pytest.raises(OSError) as refused:
                open_within(directory, name, os.O_RDONLY | os.O_NOFOLLOW)
            assert refused.value.errno == number
        with pytest.raises(OSError) as crossed:
            open_within(root, "proc", os.O_PATH)
        assert crossed.value.errno == errno.EXDEV
    finally:
        os.close(directory)
        os.close(root)
    assert is_directory("/proc")
    assert is_directory(str(tmp_path))
    assert not is_directory(str(tmp_path / "file"))
    assert not is_directory(str(tmp_path / "nothing/below"))


async def test_the_stores_own_disk_is_asked_at_once() -> None:
    assert OWN.call(lambda: 3) == 3
    OWN.check()
