"""What was found wrong with AGFS, each shown not to be so here. Named after the faults."""

from __future__ import annotations

import errno
import os
import select
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.puppet import Puppet
from tests.system.test_blocking import parked
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount


@pytest.fixture
def queue(tree: Tree) -> Path:
    path = tree / "dev/queues/jobs"
    path.mkdir()
    return path


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def put(queue: Path, text: str) -> None:
    with opened(queue / "send", os.O_WRONLY) as descriptor:
        assert os.write(descriptor, text.encode()) == len(text.encode())


def body(content: bytes) -> str:
    return content.partition(b"\n\n")[2].decode()


def length(queue: Path) -> int:
    return int((queue / "length").read_text())


def test_opening_is_destructive(queue: Path) -> None:
    put(queue, "kept")
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK):
        with opened(queue / "recv", flags):
            pass
    assert length(queue) == 1
    with opened(queue / "recv", os.O_RDONLY) as descriptor:
        assert body(os.read(descriptor, 65536)) == "kept"


def test_dequeue_before_the_reader_has_the_bytes(tree: Tree, queue: Path) -> None:
    """A reader that dies with half of a message has not taken it."""
    put(queue, "x" * 500_000)
    reader = tree.start("cat", str(queue / "recv"), stdout=subprocess.PIPE)
    eventually(lambda: length(queue) == 0)
    reader.kill()
    reader.wait()
    eventually(lambda: length(queue) == 1)
    whole = subprocess.run(
        ["cat", queue / "recv"], capture_output=True, timeout=20, check=True
    ).stdout
    assert b"Delivery-Attempt: 2\n" in whole
    assert body(whole) == "x" * 500_000


def test_no_leasing(tree: Tree, queue: Path) -> None:
    """What a consumer has is claimed until it says so, and comes back when it dies."""
    ann, bob = Puppet(tree, "ann"), Puppet(tree, "bob")
    try:
        put(queue, "task")
        taken = ann.poll("dev/queues/jobs/recv")
        with pytest.raises(BlockingIOError):
            bob.poll("dev/queues/jobs/recv")
        assert len(ann.ls("dev/queues/jobs/cur")) == 1
        tree.write(f"proc/{ann.pid}/ctl", "KILL")
        tree.read(f"proc/{ann.pid}/wait")
        again = bob.poll("dev/queues/jobs/recv")
        assert body(again.encode()) == body(taken.encode())
        assert "Delivery-Attempt: 2" in again
        (name,) = bob.ls("dev/queues/jobs/cur")
        bob.rm(f"dev/queues/jobs/cur/{name}")
        assert bob.ls("dev/queues/jobs/cur") == []
    finally:
        for puppet in (ann, bob):
            puppet.close()


def test_duplicates_under_concurrency(tree: Tree, queue: Path) -> None:
    script = 'for n in $(seq 25); do cat "$0/recv" | tail -n 1; echo; done'
    readers = [tree.start("sh", "-c", script, str(queue), stdout=subprocess.PIPE) for _ in range(8)]
    for number in range(200):
        put(queue, f"{number}")
    got = [line for r in readers for line in r.communicate(timeout=120)[0].decode().split()]
    assert sorted(got, key=int) == [f"{number}" for number in range(200)]


def test_blocking_reads_none(tree: Tree, queue: Path) -> None:
    """A read waits for as long as it takes (theirs: 5 s, then zero bytes), and takes nothing when
    it is given up."""
    given_up = tree.start("cat", str(queue / "recv"), stdout=subprocess.PIPE)
    eventually(lambda: parked(tree) == 1)
    given_up.terminate()
    given_up.wait()
    reader = tree.start("cat", str(queue / "recv"), stdout=subprocess.PIPE)
    eventually(lambda: parked(tree) == 1)
    with pytest.raises(subprocess.TimeoutExpired):
        reader.wait(6)
    put(queue, "late")
    assert body(reader.communicate(timeout=20)[0]) == "late"


def test_inotify_nothing(tree: Tree, queue: Path) -> None:
    """Whoever else changes it, watchers hear of it and readers see it, at once."""
    watcher = tree.start(
        "inotifywait", "-q", "-e", "modify", str(queue / "length"), stderr=subprocess.PIPE
    )
    descriptor = os.open(queue / "length", os.O_RDONLY)
    try:
        assert os.read(descriptor, 10) == b"0\n"
        for number in range(1, 100):
            put(queue, f"{number}")
            assert os.pread(descriptor, 10, 0) == b"%d\n" % number
            if watcher.poll() is not None:
                break
        assert watcher.wait(20) == 0
    finally:
        os.close(descriptor)


def test_almost_every_failure_becomes_eio(tree: Tree, queue: Path) -> None:
    codes = {}
    for what, call in {
        "no such queue": lambda: put(tree / "dev/queues/none", "x"),
        "a bad name": lambda: (tree / "dev/queues/a b").mkdir(),
        "taken": lambda: queue.mkdir(),
        "a malformed header": lambda: put(queue, "Priority: urgentest\n\nx"),
        "too large": lambda: put(queue, "x" * 1_048_000),
        "read only": lambda: os.open(queue / "length", os.O_WRONLY),
    }.items():
        with pytest.raises(OSError) as caught:
            call()
        codes[what] = errno.errorcode[caught.value.errno or 0]
    put(queue, "x")
    with pytest.raises(OSError) as caught:
        queue.rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    assert codes == {
        "no such queue": "ENOENT",
        "a bad name": "EINVAL",
        "taken": "EEXIST",
        "a malformed header": "EINVAL",
        "too large": "EMSGSIZE",
        "read only": "EACCES",
    }
    assert "messages wait" in tree.read("proc/self/error")


def test_permissions_no_users_at_all(tree: Tree) -> None:
    ann, bob = Puppet(tree, "ann"), Puppet(tree, "bob")
    try:
        ann.do("os.mkdir(tree + '/dev/queues/hers', 0o700)")
        for path in ("recv", "send", "ctl"):
            with pytest.raises(PermissionError):
                bob.write(f"dev/queues/hers/{path}", "purge")
        assert ann.read("dev/queues/hers/length") == "0\n"
        assert bob.pid != ann.pid
    finally:
        for puppet in (ann, bob):
            puppet.close()


def test_listens_on_all_interfaces(tree: Tree) -> None:
    """The daemon listens for calls of models, on the loopback, and has no other network socket."""
    sockets = set()
    for path in Path(f"/proc/{tree.daemon}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is at work: what was open a moment ago is closed
            sockets.add(os.readlink(path))
    lines = [line.split() for table in _network_tables() for line in table.splitlines()[1:]]
    ours = [line for line in lines if f"socket:[{line[9]}]" in sockets]
    assert [(line[1].partition(":")[0], line[3]) for line in ours] == [("0100007F", "0A")]


def _network_tables() -> list[str]:
    names = ("tcp", "tcp6", "udp", "udp6")
    return [p.read_text() for p in (Path("/proc/net") / n for n in names) if p.exists()]


def test_durability_memory_by_default(tree: Tree, queue: Path) -> None:
    for number in range(20):
        put(queue, f"{number}")
    tree.crash()
    tree.mount()
    assert length(queue) == 20
    with closing(sqlite3.connect(tree.state / "store.db")) as store:
        (count,) = store.execute(
            "SELECT count(*) FROM messages WHERE mailbox = 'queues/jobs' AND state = 'new'"
        ).fetchone()
    assert count == 20


def test_statfs_invents_a_terabyte(tree: Tree) -> None:
    here, disk = os.statvfs(tree.path), os.statvfs(tree.state)
    assert here.f_blocks * here.f_frsize == disk.f_blocks * disk.f_frsize


def test_name_collisions(tree: Tree) -> None:
    names = ["a-b", "a_b", "a.b", "A-b", "ab", "a--b", "drop-table", "x" * 64]
    for name in names:
        (tree / "dev/queues" / name).mkdir()
        put(tree / "dev/queues" / name, name)
    for name in names:
        with opened(tree / "dev/queues" / name / "recv", os.O_RDONLY | os.O_NONBLOCK) as queue:
            assert body(os.read(queue, 65536)) == name
            assert os.read(queue, 1) == b""
            with pytest.raises(BlockingIOError):
                os.read(queue, 1)
    for name in ("a'; DROP TABLE messages; --", "a;b", "a%b", "."):
        with pytest.raises(OSError):
            (tree / "dev/queues" / name).mkdir()


@pytest.mark.parametrize("size", [1, 4096, 131_072, 131_073, 900_000])
def test_each_write_one_message_large_messages_are_split(queue: Path, size: int) -> None:
    put(queue, "x" * size)
    assert length(queue) == 1
    whole = subprocess.run(["cat", queue / "recv"], capture_output=True, timeout=20, check=True)
    assert body(whole.stdout) == "x" * size
    assert length(queue) == 0


def test_what_would_be_split_is_refused_and_nothing_is_sent(queue: Path) -> None:
    with pytest.raises(OSError) as caught:
        put(queue, "x" * 1_100_000)
    assert caught.value.errno == errno.EMSGSIZE
    assert length(queue) == 0


def test_a_queue_can_be_polled_instead_of_slept_on(queue: Path) -> None:
    with opened(queue / "recv", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(0) == []
        put(queue, "x")
        assert poller.poll(10_000) == [(descriptor, select.POLLIN)]
