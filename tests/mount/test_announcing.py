"""What is announced to whom, in what order, and what Linux does until it is told."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import inotify_simple
import pytest
import trio
from inotify_simple import flags

from agentfs.mount.announce_process import close, opened, write
from agentfs.mount.calls import may_watch
from agentfs.vfs.changes import Created, Modified, Moved, Removed
from tests.mount.conftest import Letters, Mounted
from tests.mount.test_mechanics import seen, watch

pytestmark = pytest.mark.mount


async def letters(small: Mounted, name: str = "letters") -> Letters:
    """The directory, which Linux knows from now on, and keeps while somebody has it open."""
    await small.do(os.stat, small.path / name)
    return small.tree.letters[name]


async def arrive(small: Mounted, there: Letters, name: str) -> None:
    there.names[name] = name
    await small.changed(Created(there.key, name, there.letter(name)))


async def leave(small: Mounted, there: Letters, name: str) -> None:
    del there.names[name]
    await small.changed(Removed(there.key, name, ("letter", name)))


async def move(small: Mounted, there: Letters, name: str, new_name: str) -> None:
    there.names[new_name] = who = there.names.pop(name)
    letter = there.letter(who)
    await small.changed(Moved(there.key, name, there.key, new_name, letter))


@contextmanager
def held_back(small: Mounted) -> Iterator[None]:
    """The announcing process is stopped."""
    os.kill(small.mount.announcer.tid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(small.mount.announcer.tid, signal.SIGCONT)


@asynccontextmanager
async def kept(small: Mounted, path: Path) -> AsyncIterator[None]:
    """Open, so that Linux does not forget it."""
    opened = await small.do(os.open, path, os.O_RDONLY)
    try:
        yield
    finally:
        await small.do(os.close, opened)


async def test_nobody_is_told_what_comes_and_goes_where_nobody_watches(small: Mounted) -> None:
    there = await letters(small)
    async with kept(small, small.path / "letters"):
        for number in range(10):
            await arrive(small, there, str(number))
        await small.do(os.listdir, small.path / "letters")
        await small.do(os.access, small.path / "letters", os.R_OK)
        await small.announced()
        assert small.mount.announcer.done == 0
        watcher = await small.do(watch, small.path / "letters")
        await arrive(small, there, "seen")
        await small.announced()
        assert seen(watcher) == [("CREATE", "seen"), ("CLOSE_WRITE", "seen")]
        watcher.close()


async def test_what_linux_knows_there_is_told_all_the_same(small: Mounted) -> None:
    there = await letters(small)
    async with kept(small, small.path / "letters"):
        await arrive(small, there, "one")
        assert await small.do((small.path / "letters/one").read_text) == "from one\n"
        on_itself = await small.do(watch, small.path / "letters/one")
        await leave(small, there, "one")
        await small.announced()
        assert ("DELETE_SELF", "") in seen(on_itself)
        on_itself.close()


async def test_a_watch_is_told_what_it_is_for_and_nothing_else(small: Mounted) -> None:
    there = await letters(small)
    async with kept(small, small.path / "letters"):
        watcher = inotify_simple.INotify()
        await small.do(watcher.add_watch, str(small.path / "letters"), flags.CREATE)
        for number in range(10):
            await arrive(small, there, str(number))
            await small.announced()  # before it is gone again
            await move(small, there, str(number), f"{number}-moved")
            await leave(small, there, f"{number}-moved")
        await small.announced()
        assert seen(watcher) == [("CREATE", str(number)) for number in range(10)]
        assert small.mount.announcer.done == 10
        watcher.close()


async def test_what_linux_is_told_alone_of_a_creation_it_does_not_keep(small: Mounted) -> None:
    there = await letters(small)
    async with kept(small, small.path / "letters"):
        watcher = inotify_simple.INotify()
        await small.do(watcher.add_watch, str(small.path / "letters"), flags.CREATE)
        known = len(small.mount.inodes)
        for number in range(100):
            await arrive(small, there, str(number))
        came = 0
        with trio.fail_after(60):
            while came < 100 or len(small.mount.inodes) > known:
                came += len(watcher.read(timeout=0))
                await trio.sleep(0.01)
        watcher.close()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (flags.CREATE, flags.DELETE),
        (flags.CREATE, flags.MOVED_FROM),
        (flags.DELETE, flags.MOVED_TO),
        (flags.CREATE, flags.CLOSE_WRITE),
        (flags.ATTRIB, flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM),
    ],
)
async def test_a_second_watch_for_other_events_misses_nothing(
    small: Mounted, first: int, then: int
) -> None:
    there = await letters(small)
    async with kept(small, small.path / "letters"):
        early, late = inotify_simple.INotify(), inotify_simple.INotify()
        await small.do(early.add_watch, str(small.path / "letters"), first)
        await arrive(small, there, "before")
        await small.announced()
        await small.do(late.add_watch, str(small.path / "letters"), then)
        await arrive(small, there, "a")
        await move(small, there, "a", "b")
        await leave(small, there, "b")
        await small.announced()
        expected = {
            flags.CREATE: ("CREATE", "a"),
            flags.CLOSE_WRITE: ("CLOSE_WRITE", "a"),
            flags.MOVED_FROM: ("MOVED_FROM", "a"),
            flags.MOVED_TO: ("MOVED_TO", "b"),
            flags.DELETE: ("DELETE", "b"),
        }
        assert seen(late) == [said for flag, said in expected.items() if flag & then]
        early.close()
        late.close()


async def test_a_file_that_is_watched_itself_is_told_of_though_its_folder_is_not(
    small: Mounted,
) -> None:
    there = await letters(small)
    async with kept(small, small.path / "letters"):
        on_folder = inotify_simple.INotify()
        await small.do(on_folder.add_watch, str(small.path / "letters"), flags.CREATE)
        await arrive(small, there, "one")
        await small.announced()
        on_itself = await small.do(watch, small.path / "letters/one")
        await move(small, there, "one", "two")
        await leave(small, there, "two")
        await small.announced()
        assert [event for event, _ in seen(on_itself)] == [
            "MOVE_SELF",
            "ATTRIB",
            "DELETE_SELF",
            "IGNORED",
        ]
        on_folder.close()
        on_itself.close()


class Latecomer(threading.Thread):
    """Watches a directory from some moment on; `missed` is what came since and was not seen."""

    def __init__(self, path: Path, arrived: list[str]) -> None:
        super().__init__()
        self._path, self._arrived = path, arrived
        self._watcher = inotify_simple.INotify()
        self._from = 0

    def run(self) -> None:
        self._watcher.add_watch(str(self._path), flags.CREATE)
        self._from = len(self._arrived)

    def missed(self) -> set[str]:
        came = {event.name for event in self._watcher.read(timeout=0)}
        self._watcher.close()
        return set(self._arrived[self._from :]) - came


async def test_a_watcher_misses_nothing_from_the_moment_its_watch_is_there(small: Mounted) -> None:
    missed: set[str] = set()
    told = 0
    for number in range(100):
        name = f"letters-{number}"
        there = await letters(small, name)
        arrived: list[str] = []
        latecomer = Latecomer(small.path / name, arrived)
        async with kept(small, small.path / name):
            for count in range(40):
                if count == number % 20:
                    latecomer.start()
                # Counted before it comes: what came while the watch was added need not be seen.
                arrived.append(str(count))
                await arrive(small, there, str(count))
                await trio.lowlevel.checkpoint()
            await small.do(latecomer.join)
            arrived.append("last")
            await arrive(small, there, "last")
            await small.announced()
        missed |= {f"{name}/{each}" for each in latecomer.missed()}
        told = small.mount.announcer.done
    assert missed == set()
    assert 100 <= told < 4100


@pytest.mark.skipif(os.geteuid() != 0, reason="fanotify is root's")
async def test_who_marks_a_directory_for_fanotify_watches_it(small: Mounted) -> None:
    there = await letters(small)
    libc = ctypes.CDLL(None, use_errno=True)
    fan_report_dfid_name, fan_mark_add, fan_create = 0xC00, 0x1, 0x100
    group = libc.fanotify_init(fan_report_dfid_name, os.O_RDONLY)
    assert group >= 0, os.strerror(ctypes.get_errno())
    async with kept(small, small.path / "letters"):
        path = os.fsencode(small.path / "letters")
        mask = ctypes.c_uint64(fan_create)
        await small.do(lambda: libc.fanotify_mark(group, fan_mark_add, mask, -100, path))
        os.close(group)
        await arrive(small, there, "one")  # told, whether this Linux accepts such a mark or not
        await small.announced()
        assert small.mount.announcer.done == 1


async def test_whoever_cannot_be_seen_may_be_about_to_watch() -> None:
    assert await may_watch(0)
    sleeper = await trio.to_thread.run_sync(lambda: subprocess.Popen(["sleep", "60"]))
    try:
        with trio.fail_after(10):
            while await may_watch(sleeper.pid):  # noqa: ASYNC110  # until it is in nanosleep(2)
                await trio.sleep(0.01)
    finally:
        sleeper.kill()
        await trio.to_thread.run_sync(sleeper.wait)
    assert await may_watch(sleeper.pid)


async def test_a_burst_is_told_in_order(small: Mounted) -> None:
    there = await letters(small)
    watcher = await small.do(watch, small.path / "letters")
    expected = []
    for number in range(300):  # more than the process is told at once
        old, new = f"{number}", f"{number}:2,"
        await arrive(small, there, old)
        await move(small, there, old, new)
        there.names[old] = there.names.pop(new)  # so that `leave` finds it by the letter's name
        del there.names[old]
        await small.changed(Removed(there.key, new, ("letter", old)))
        expected += [("CREATE", old), ("CLOSE_WRITE", old)]
        expected += [("MOVED_FROM", old), ("MOVED_TO", new), ("DELETE", new)]
    await small.announced()
    assert seen(watcher) == expected
    assert small.mount.announcer.failed == 0
    watcher.close()


async def test_a_burst_of_modifications_is_written_and_closed_once_or_twice(small: Mounted) -> None:
    paths = [small.path / "number", small.path / "text"]
    watchers = [await small.do(watch, path) for path in paths]
    await small.announced()
    with held_back(small):
        for _ in range(100):
            for path in paths:
                await small.changed(Modified((small.tree.key, path.name)))
    await small.announced()
    for watcher in watchers:
        told = [event for event, _ in seen(watcher)]
        # The first may have been begun before the process stopped, and all others are one.
        assert told in (["MODIFY", "CLOSE_WRITE"], ["MODIFY", "CLOSE_WRITE"] * 2)
        watcher.close()
    assert small.mount.announcer.done <= 8
    assert small.mount.announcer.failed == 0


async def test_each_modification_is_closed(small: Mounted) -> None:
    watcher = await small.do(watch, small.path / "number")
    for _ in range(50):
        await small.changed(Modified((small.tree.key, "number")))
        await small.announced()
    told = [event for event, _ in seen(watcher)]
    assert told[-1] == "CLOSE_WRITE"
    assert told == ["MODIFY", "CLOSE_WRITE"] * 50
    watcher.close()


async def test_the_announcer_opens_no_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)
    watcher = inotify_simple.INotify()
    watcher.add_watch(str(pipe), flags.OPEN | flags.CLOSE_WRITE | flags.CLOSE_NOWRITE)
    try:
        write(os.fsencode(pipe), b"")
        assert opened == []
        close(b"", b"")
        assert watcher.read(timeout=0) == []
    finally:
        watcher.close()
        os.close(writer)
        os.close(reader)


async def test_what_a_killed_process_had_not_begun_is_told_by_the_next(small: Mounted) -> None:
    there = await letters(small)
    watcher = await small.do(watch, small.path / "letters")
    first = small.mount.announcer.tid
    with held_back(small):
        for number in range(200):
            await arrive(small, there, f"{number:03}")
        os.kill(first, signal.SIGKILL)
    await small.announced()
    assert small.mount.announcer.tid != first
    came = [name for event, name in seen(watcher) if event == "CREATE"]
    assert came == sorted(came)
    assert len(came) >= 199  # the one that it had begun may be lost with it
    assert small.mount.announcer.done + small.mount.announcer.failed == 200
    watcher.close()


async def test_an_outdated_name_cannot_be_opened_before_its_move_is_told(small: Mounted) -> None:
    there = await letters(small)
    watcher = await small.do(watch, small.path / "letters")
    await arrive(small, there, "old")
    await small.announced()
    old, new = small.path / "letters/old", small.path / "letters/new"
    opened = await small.do(os.open, old, os.O_RDONLY)
    with held_back(small):
        await move(small, there, "old", "new")
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await small.do(old.read_text)
            assert await small.do(new.read_text) == "from old\n"
        # Not by a name: there is nothing to look up again.
        assert await small.do(Path(f"/proc/self/fd/{opened}").read_text) == "from old\n"
    await small.do(os.close, opened)
    await small.announced()
    assert ("MOVED_TO", "new") in seen(watcher)
    asked = small.mount.wakeups.requests
    assert await small.do(new.read_text) == "from old\n"
    assert small.mount.wakeups.requests - asked <= 7  # Linux need not look up again any more
    with pytest.raises(FileNotFoundError):
        await small.do(old.read_text)
    watcher.close()


async def test_what_has_a_removed_ones_name_is_opened_before_the_removal_is_told(
    small: Mounted,
) -> None:
    there = await letters(small)
    watcher = await small.do(watch, small.path / "letters")
    await arrive(small, there, "name")
    await small.announced()
    path = small.path / "letters/name"
    assert await small.do(path.read_text) == "from name\n"
    with held_back(small):
        await leave(small, there, "name")
        with pytest.raises(FileNotFoundError):
            await small.do(path.read_text)
        there.names["name"] = "another"
        await small.changed(Created(there.key, "name", there.letter("another")))
        assert await small.do(path.read_text) == "from another\n"
    await small.announced()
    assert await small.do(path.read_text) == "from another\n"
    watcher.close()
