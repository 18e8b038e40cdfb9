"""The FUSE mechanics that the mount is built on, each tried on a real mount."""

from __future__ import annotations

import errno
import os
import select
import subprocess
from pathlib import Path
from typing import cast

import inotify_simple
import pytest
import trio
from inotify_simple import flags

from agentfs.base.errors import KernelError
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Created, Modified, Removed
from agentfs.vfs.node import File, Handle, Node, Stat, StreamHandle
from tests.mount.conftest import Mounted

pytestmark = pytest.mark.mount

QUIET = flags.OPEN | flags.ACCESS | flags.CLOSE_NOWRITE


def watch(*paths: Path) -> inotify_simple.INotify:
    watcher = inotify_simple.INotify()
    for path in paths:
        watcher.add_watch(str(path), inotify_simple.masks.ALL_EVENTS & ~QUIET)
    return watcher


def seen(watcher: inotify_simple.INotify) -> list[tuple[str, str]]:
    """The events so far, as (name of the event, name of the entry)."""
    found = []
    for event in watcher.read(timeout=0):
        names = [flag.name or "" for flag in flags.from_mask(event.mask)]
        found.append(("|".join(sorted(names)), event.name))
    return found


def kept_read(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


async def test_attribute_invalidation_makes_the_next_cached_read_see_the_change(
    small: Mounted,
) -> None:
    descriptor = await small.do(kept_read, small.path / "number")
    try:
        for number in range(1000):
            text = b"%d " % number + b"x" * (number * 31 % 5000)
            small.tree.content = text
            await small.changed(Modified((small.tree.key, "number")))
            assert await small.do(os.pread, descriptor, 8192, 0) == text
            assert (await small.do(os.fstat, descriptor)).st_size == len(text)
    finally:
        await small.do(os.close, descriptor)


async def test_unchanged_content_is_served_from_the_page_cache(small: Mounted) -> None:
    path = small.path / "number"
    await small.do(path.read_bytes)
    before = small.mount.wakeups.requests
    descriptor = await small.do(kept_read, path)
    for _ in range(20):
        await small.do(os.pread, descriptor, 100, 0)
        await small.do(os.stat, path)
    await small.do(os.close, descriptor)
    # open, flush, release, and what was still to come of the first read; 40 without the cache
    assert small.mount.wakeups.requests - before <= 8


async def test_setting_only_the_modification_time_is_in_modify_and_a_close_follows(
    small: Mounted,
) -> None:
    watcher = await small.do(watch, small.path / "number")
    small.tree.content = b"7"
    await small.changed(Modified((small.tree.key, "number")))
    await small.announced()
    assert seen(watcher) == [("MODIFY", ""), ("CLOSE_WRITE", "")]
    watcher.close()


async def test_an_announced_entry_is_created_and_closed_for_a_watcher(small: Mounted) -> None:
    watcher = await small.do(watch, small.path)
    small.tree.items.add("one")
    await small.changed(Created(small.tree.key, "one", small.tree.item("one")))
    await small.announced()
    assert seen(watcher) == [("CREATE", "one"), ("CLOSE_WRITE", "one")]
    small.tree.items.remove("one")
    await small.changed(Removed(small.tree.key, "one", ("item", "one")))
    await small.announced()
    assert seen(watcher) == [("DELETE", "one")]
    names = ["number", "text", "events", "room", "oracle", "ctl"]
    assert await small.do(os.listdir, small.path) == names
    watcher.close()


async def test_an_entry_that_was_looked_up_before_it_is_announced_is_announced_all_the_same(
    small: Mounted,
) -> None:
    watcher = await small.do(watch, small.path)
    small.tree.items.add("early")
    assert (await small.do((small.path / "early").read_bytes)) == b"early\n"
    await small.changed(Created(small.tree.key, "early", small.tree.item("early")))
    await small.announced()
    assert ("CREATE", "early") in seen(watcher)
    assert (await small.do((small.path / "early").read_bytes)) == b"early\n"
    watcher.close()


async def test_an_entry_that_is_gone_again_is_still_announced_twice(small: Mounted) -> None:
    watcher = await small.do(watch, small.path)
    await small.changed(Created(small.tree.key, "brief", small.tree.item("brief")))
    await small.changed(Removed(small.tree.key, "brief", ("item", "brief")))
    await small.announced()
    assert [event for event, _ in seen(watcher)] == ["CREATE", "CLOSE_WRITE", "DELETE"]
    with pytest.raises(FileNotFoundError):
        await small.do(os.stat, small.path / "brief")
    watcher.close()


class Vanished(Node):
    """Something whose attributes nobody can tell any more."""

    key = ("item", "vanished")

    def stat(self) -> Stat:
        raise KernelError(errno.ENOENT, "it was removed with all that it was part of")


async def test_an_entry_that_cannot_be_described_any_more_is_left_out_and_the_next_is_told(
    small: Mounted,
) -> None:
    watcher = await small.do(watch, small.path)
    await small.changed(Created(small.tree.key, "vanished", Vanished()))
    small.tree.items.add("one")
    await small.changed(Created(small.tree.key, "one", small.tree.item("one")))
    await small.announced()
    assert seen(watcher) == [("CREATE", "one"), ("CLOSE_WRITE", "one")]
    assert small.mount.announcer.failed == 1
    watcher.close()


async def test_the_clients_own_call_is_not_announced_again(small: Mounted) -> None:
    watcher = await small.do(watch, small.path / "number")
    await small.do(lambda: (small.path / "number").write_bytes(b"5"))
    await small.announced()
    assert [event for event, _ in seen(watcher)] == ["MODIFY", "CLOSE_WRITE"]
    assert small.mount.announcer.done == 0
    watcher.close()


async def test_a_full_announcement_queue_is_counted_and_readers_still_see_the_change(
    small: Mounted,
) -> None:
    await small.do((small.path / "number").read_bytes)
    small.mount.announcer._limit = 0
    small.tree.content = b"changed"
    await small.changed(Modified((small.tree.key, "number")))
    assert small.mount.announcer.lost == 1
    assert await small.do((small.path / "number").read_bytes) == b"changed"


async def test_a_faulty_node_does_not_hide_its_neighbours(small: Mounted) -> None:
    assert "number" in await small.do(os.listdir, small.path)
    assert small.mount.operations.requests.faults, "once for each request that came to it"


async def test_a_fault_of_ours_is_eio_and_the_mount_lives_on(
    small: Mounted, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OSError, match="Input/output") as failure:
        await small.do((small.path / "faulty").read_bytes)
    assert failure.value.errno == errno.EIO
    assert "on purpose" in caplog.text
    assert await small.do((small.path / "number").read_bytes) == b"0"
    assert small.mount.operations.requests.faults == 1


async def test_a_refusal_keeps_its_errno_and_its_path(small: Mounted) -> None:
    def write() -> None:
        descriptor = os.open(small.path / "ctl", os.O_WRONLY)
        try:
            os.write(descriptor, b"jump\n")
        finally:
            os.close(descriptor)

    with pytest.raises(PermissionError):
        await small.do(write)
    assert [(path, str(refusal)) for path, refusal in small.tree.refusals] == [
        ("/ctl", "EPERM: no jump")
    ]


async def test_a_document_is_applied_at_close_and_its_refusal_is_the_error_of_close(
    small: Mounted,
) -> None:
    def write(content: bytes) -> None:
        descriptor = os.open(small.path / "text", os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, content[:3])
            os.write(descriptor, content[3:])
            assert small.tree.document != content
        finally:
            os.close(descriptor)

    await small.do(write, b"good document")
    assert small.tree.applied == [b"good document"]
    with pytest.raises(OSError, match="Invalid argument"):
        await small.do(write, b"a bad document")
    assert await small.do((small.path / "text").read_bytes) == b"good document"


async def test_a_childs_exit_does_not_end_what_its_parent_still_writes(small: Mounted) -> None:
    script = f"{{ /bin/echo one; /bin/echo two; sh -c 'echo three'; }} > '{small.path}/text'"
    await small.do(lambda: subprocess.run(["sh", "-c", script], check=True))
    assert small.tree.applied == [b"one\ntwo\nthree\n"]


async def test_poll_wakes_through_epoll(small: Mounted) -> None:
    descriptor = await small.do(lambda: os.open(small.path / "events", os.O_RDONLY | os.O_NONBLOCK))
    poller = select.epoll()
    await small.do(lambda: poller.register(descriptor, select.EPOLLIN))
    assert await small.do(lambda: poller.poll(0)) == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say_soon, small)
        assert await small.do(lambda: poller.poll(10)) == [(descriptor, select.EPOLLIN)]
    assert await small.do(os.read, descriptor, 100) == b"hello\n"
    with pytest.raises(BlockingIOError):
        await small.do(os.read, descriptor, 100)
    await small.do(poller.close)
    await small.do(os.close, descriptor)


async def _say_soon(small: Mounted) -> None:
    await trio.sleep(0.05)
    small.tree.streams[0].say(b"hello\n")


async def test_an_interrupt_is_noticed_without_polling(small: Mounted) -> None:
    program = await small.do(lambda: subprocess.Popen(["cat", str(small.path / "events")]))
    with trio.fail_after(10):
        while not len(small.mount.parking):  # noqa: ASYNC110  # another process or thread acts
            await trio.sleep(0.005)
    before = trio.current_time()
    program.terminate()
    await small.do(program.wait)
    assert trio.current_time() - before < 0.3
    assert small.mount.wakeups.interrupts >= 1
    assert small.tree.streams[0].released or await _released(small)


async def _released(small: Mounted) -> bool:
    with trio.move_on_after(5):
        while not small.tree.streams[0].released:  # noqa: ASYNC110  # another process or thread acts
            await trio.sleep(0.005)
    return small.tree.streams[0].released


async def test_a_removed_entry_is_gone_at_once_for_whoever_asks(small: Mounted) -> None:
    small.tree.items.add("one")
    path = small.path / "one"
    assert await small.do(path.read_bytes) == b"one\n"
    small.tree.items.remove("one")
    await small.changed(Removed(small.tree.key, "one", ("item", "one")))
    with pytest.raises(FileNotFoundError):
        await small.do(path.read_bytes)


async def test_umount_is_never_busy_because_of_us(small: Mounted) -> None:
    watcher = await small.do(watch, small.path)
    watcher.close()
    tool = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    await small.do(lambda: subprocess.run([*tool, str(small.path)], check=True))
    with trio.fail_after(5):
        await small.mount.wakeups.disconnected.wait()


class Wrong(Handle):
    """Answers with whatever it is given."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def read(self, offset: int, size: int) -> bytes:
        return cast("bytes", self._answer)

    async def write(self, offset: int, data: bytes) -> int:
        return cast("int", self._answer)


class WrongStream(StreamHandle):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self._answer = answer

    def ready(self) -> bool:
        return True

    def try_read(self, size: int) -> bytes | None:
        return cast("bytes", self._answer)

    def try_write(self, data: bytes) -> int | None:
        return cast("int", self._answer)


class WrongFile(File):
    def __init__(self, name: str, handle: Handle, answer: object) -> None:
        self.key = ("wrong", name)
        self._handle = handle
        self._answer = answer

    def stat(self) -> Stat:
        return Stat(0o100666, 0, 0, size=10)

    def open(self, flags: int, caller: Caller) -> Handle:
        return self._handle

    def getxattr(self, name: str) -> bytes:
        return cast("bytes", self._answer)


@pytest.mark.parametrize("answer", [None, "text", 1.5, -1, [b"x"]], ids=repr)
async def test_an_answer_of_the_wrong_type_is_eio_and_the_mount_goes_on(
    small: Mounted, answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles: dict[str, Handle] = {"wrong": Wrong(answer)}
    if answer is not None:  # of a stream that means: wait
        handles["stream"] = WrongStream(answer)
    nodes = {name: WrongFile(name, handle, answer) for name, handle in handles.items()}
    monkeypatch.setattr(small.tree, "find", nodes.get)
    for name in nodes:
        path = small.path / name
        descriptor = await small.do(os.open, path, os.O_RDWR)
        for call in (
            lambda opened=descriptor: os.read(opened, 10),
            lambda opened=descriptor: os.write(opened, b"x"),
            lambda path=path: os.getxattr(path, "user.agentfs.kind"),
        ):
            before = small.mount.operations.requests.faults
            with pytest.raises(OSError, match="Input/output"):
                await small.do(call)
            assert small.mount.operations.requests.faults == before + 1
        await small.do(os.close, descriptor)
    assert await small.do((small.path / "number").read_bytes) == b"0"


class Eager:
    """A poll that says for a while that a request is there: it was, and its thread was
    killed before it was taken."""

    def __init__(self, poller: select.poll) -> None:
        self.poller = poller
        self.lies = 50

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        ready = self.poller.poll(timeout)
        if not ready and self.lies:
            self.lies -= 1
            return [(0, select.POLLIN)]
        return ready


async def test_a_request_that_is_gone_before_it_is_taken_holds_up_nobody(
    small: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the device blocks, the whole daemon stands still until the next request."""
    monkeypatch.setattr("agentfs.mount.wakeups.TURN_SECONDS", 60.0)
    wakeups = small.mount.wakeups
    await small.do((small.path / "number").read_text)
    assert wakeups._poller is not None
    eager = Eager(wakeups._poller)
    late = small.path.parent / "late"
    script = 'sleep 20; > "$0"; while ls "$1"; do sleep 0.1; done'
    words = ["sh", "-c", script, str(late), str(small.path)]
    unblock = await small.do(lambda: subprocess.Popen(words, stdout=subprocess.DEVNULL))
    try:
        wakeups._poller = eager  # type: ignore[assignment]
        assert await small.do((small.path / "number").read_text)
        with trio.fail_after(30):
            while eager.lies:  # noqa: ASYNC110
                await trio.sleep(0.001)
        await trio.sleep(0.05)
        assert not late.exists()
    finally:
        wakeups._poller = eager.poller
        unblock.kill()
        await small.do(unblock.wait)
    assert await small.do((small.path / "number").read_text)
