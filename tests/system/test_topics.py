"""Topics on a real mount: published by write(2), read by read(2)."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfs.store.store import Store
from tests.system.test_blocking import ENDS_WITHIN, parked
from tests.system.test_identity import ROOT_ONLY, as_nobody, run_as
from tests.system.test_identity import _open_to_all as open_to_all
from tests.system.test_inotify import Watcher
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

Record = dict[str, Any]

# Publishes its name and a number, until told to stop or so many times, one write(2) each; tells
# what was taken on stdout.
PUBLISHER = """
import os, sys
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
descriptor = os.open(path, os.O_WRONLY)
for number in range(count):
    try:
        os.write(descriptor, f"{name} {number}\\n".encode())
    except OSError as failure:
        sys.exit(f"number {number}: {failure.strerror}")
    print(number, flush=True)
"""


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # the daemon may be gone
            os.close(descriptor)


class Reader:
    """A subscriber: an open descriptor and the records that came so far."""

    def __init__(self, path: Path, since: int | None = None) -> None:
        self.descriptor = os.open(path, os.O_RDWR)
        self._rest = b""
        if since is not None:
            self.command(f"since {since}")

    def command(self, text: str) -> None:
        os.write(self.descriptor, f"{text}\n".encode())

    def some(self) -> list[Record] | None:
        """What one read(2) gives; waits for it. None at the end of the file."""
        chunk = os.read(self.descriptor, 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines] if chunk else None

    def take(self, count: int) -> list[Record]:
        """At least so many records."""
        found: list[Record] = []
        while len(found) < count:
            more = self.some()
            assert more is not None, "the end came early"
            found += more
        return found

    def until(self, seq: int) -> list[Record]:
        """Everything up to record `seq`."""
        found = self.take(1)
        while found[-1]["seq"] < seq:
            found += self.take(1)
        return found

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


Subscribe = Callable[..., Reader]


@pytest.fixture
def news(tree: Tree) -> Path:
    path = tree / "dev/topics/news"
    path.touch()
    return path


@pytest.fixture
def subscribe() -> Iterator[Subscribe]:
    readers: list[Reader] = []

    def open_one(path: Path, since: int | None = None) -> Reader:
        readers.append(Reader(path, since))
        return readers[-1]

    yield open_one
    for reader in readers:
        reader.close()


def publish(path: Path, *texts: str) -> None:
    with opened(path, os.O_WRONLY) as descriptor:
        for text in texts:
            os.write(descriptor, text.encode())


def publisher(tree: Tree, path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    return tree.start(
        sys.executable,
        "-c",
        PUBLISHER,
        str(path),
        name,
        str(count),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(program: subprocess.Popen[bytes]) -> list[str]:
    """Wait for a publisher that must have succeeded; what it says was taken."""
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err.decode()
    return out.decode().split()


def texts(records: list[Record]) -> list[str]:
    return [record["data"] for record in records]


# -- the shell -----------------------------------------------------------------------------------


def test_the_shell_publishes_with_echo_and_subscribes_with_cat(tree: Tree) -> None:
    subprocess.run(["touch", tree / "dev/topics/news"], check=True)
    reader = tree.start("cat", str(tree / "dev/topics/news"), stdout=subprocess.PIPE)
    eventually(lambda: parked(tree) == 1)
    path = str(tree / "dev/topics/news")
    subprocess.run(f"echo hello > '{path}'; printf 'a\\nb' > '{path}'", shell=True, check=True)
    assert reader.stdout is not None
    first, second = (json.loads(reader.stdout.readline()) for _ in range(2))
    assert (first["seq"], first["from"], first["data"]) == (1, "init", "hello")
    assert (second["seq"], second["data"]) == (2, "a\nb")
    subprocess.run(["rm", path], check=True)
    assert reader.wait(10) == 0
    assert reader.stdout.read() == b""


def test_the_first_redirection_makes_the_topic(tree: Tree) -> None:
    path = tree / "dev/topics/jobs"
    subprocess.run(f"umask 022; echo hello > '{path}'", shell=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o666  # for others, too
    path.unlink()
    subprocess.run(f"umask 077; echo hello > '{path}'", shell=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="Invalid argument"):
        (tree / "dev/topics/no name").touch()
    assert os.listdir(tree / "dev/topics") == ["jobs"]


def test_stat_says_size_0_and_the_time_of_the_last_record(tree: Tree, news: Path) -> None:
    (tree / "dev/topics/Apples").touch()
    assert os.listdir(tree / "dev/topics") == ["Apples", "news"]
    before = news.stat()
    publish(news, "hello")
    after = news.stat()
    assert (before.st_size, after.st_size) == (0, 0)
    assert after.st_mtime_ns > before.st_mtime_ns
    assert news.stat().st_mtime_ns == after.st_mtime_ns


# -- who gets what -------------------------------------------------------------------------------


def test_eight_publishers_at_once_every_reader_gets_all_in_each_ones_order(
    tree: Tree, news: Path, subscribe: Subscribe
) -> None:
    tree.write("etc/agentfs.yaml", "topics: {max_records: 2000}\n")
    readers = [subscribe(news) for _ in range(3)]
    programs = [publisher(tree, news, f"p{number}", 200) for number in range(8)]
    for program in programs:
        assert len(ended(program)) == 200
    for reader in readers:
        records = reader.until(1600)
        assert [record["seq"] for record in records] == list(range(1, 1601))
        for number in range(8):
            own = [text for text in texts(records) if text.startswith(f"p{number} ")]
            assert own == [f"p{number} {count}" for count in range(200)]


def test_a_reader_that_never_reads_slows_nobody_while_5000_records_are_published(
    tree: Tree, news: Path, subscribe: Subscribe
) -> None:
    slow, quick = subscribe(news), subscribe(news)
    program = publisher(tree, news, "p", 5000)
    seen: list[Record] = []

    def follow() -> None:
        seen.extend(quick.until(5000))

    follower = threading.Thread(target=follow)
    follower.start()
    assert len(ended(program)) == 5000
    follower.join(60)
    assert texts(seen) == [f"p {number}" for number in range(5000)]
    lost, *others = slow.until(5000)
    assert (lost["type"], lost["count"], lost["seq"]) == ("lost", 4000, 4000)
    assert [record["seq"] for record in others] == list(range(4001, 5001))


def test_subscribers_that_come_and_go_harm_no_publisher(tree: Tree, news: Path) -> None:
    """Fault I11 of HiveKernel: one that disconnects while something is published ends nobody."""
    programs = [publisher(tree, news, f"p{number}", 400) for number in range(3)]
    while any(program.poll() is None for program in programs):
        reader = tree.start("cat", str(news), stdout=subprocess.DEVNULL)
        with (
            opened(news, os.O_RDONLY | os.O_NONBLOCK) as descriptor,
            contextlib.suppress(BlockingIOError),
        ):
            os.read(descriptor, 100)
        reader.kill()
        reader.wait(10)
    for program in programs:
        assert len(ended(program)) == 400
    eventually(lambda: parked(tree) == 0)
    with_all = Reader(news, since=200)
    try:
        assert with_all.until(1200)[-1]["seq"] == 1200
    finally:
        with_all.close()


def test_what_is_published_in_one_topic_reaches_no_other(tree: Tree, subscribe: Subscribe) -> None:
    """TestEventBusTopicIsolation."""
    names = ["news", "News", "new"]
    readers = {}
    for name in names:
        (tree / "dev/topics" / name).touch()
        readers[name] = subscribe(tree / "dev/topics" / name)
    for name in names:
        publish(tree / "dev/topics" / name, f"for {name}")
    for name in names:
        assert texts(readers[name].take(1)) == [f"for {name}"]


def test_who_has_closed_gets_nothing_and_publishing_goes_on(
    tree: Tree, news: Path, subscribe: Subscribe
) -> None:
    """TestEventBusUnsubscribe, TestEventBusNoSubscribers."""
    reader = subscribe(news)
    publish(news, "one")
    assert texts(reader.take(1)) == ["one"]
    reader.close()
    publish(news, "two", "three")
    assert texts(subscribe(news, since=1).take(2)) == ["two", "three"]


# -- since ---------------------------------------------------------------------------------------


def test_since_gives_what_was_missed(news: Path, subscribe: Subscribe) -> None:
    publish(news, *"abcde")
    reader = subscribe(news, since=2)
    assert texts(reader.take(3)) == ["c", "d", "e"]
    publish(news, "f")
    assert texts(reader.take(1)) == ["f"]
    reader.command("since 0")
    assert texts(reader.take(6)) == list("abcdef")
    with pytest.raises(OSError, match="Invalid argument"):
        reader.command("until 7")
    with pytest.raises(OSError, match="out of range"):
        reader.command("since 7")


def test_what_is_gone_is_announced_by_its_count(
    tree: Tree, news: Path, subscribe: Subscribe
) -> None:
    tree.write("etc/agentfs.yaml", "topics: {max_records: 3}\n")
    publish(news, *"abcde")
    lost, *others = subscribe(news, since=0).take(4)
    assert (lost["type"], lost["count"], lost["seq"]) == ("lost", 2, 2)
    assert texts(others) == ["c", "d", "e"]


def test_since_goes_on_over_kill_9_and_what_was_taken_is_there(
    tree: Tree, news: Path, subscribe: Subscribe
) -> None:
    """Publishers write until the daemon dies under them; all that a write said yes to is kept."""
    tree.write("etc/agentfs.yaml", "topics: {max_records: 20000, max_bytes: 10000000}\n")
    seen: list[Record] = []
    taken: list[str] = []
    for round_ in range(3):
        reader = subscribe(news, since=len(seen))
        programs = [publisher(tree, news, f"r{round_}p{number}", 10_000) for number in range(3)]
        seen += reader.take(random.randrange(50, 300))
        tree.crash()
        report = tree.doctor()
        assert "the store is consistent" in report.stdout, report.stdout
        for program in programs:
            out, _ = program.communicate(timeout=60)
            name = program.args[4]  # type: ignore[index]
            taken += [f"{name} {number}" for number in out.decode().split()]
        reader.close()
        tree.mount()
    publish(news, "the end")
    reader = subscribe(news, since=len(seen))
    while texts(seen)[-1:] != ["the end"]:
        seen += reader.take(1)
    assert [record["seq"] for record in seen] == list(range(1, len(seen) + 1))
    assert set(taken) <= set(texts(seen))
    # Beyond those: at most the one write of each publisher that was under way at each crash.
    assert len(seen) - 1 <= len(taken) + 9


# -- who may -------------------------------------------------------------------------------------

TRY = """
for path in "$AGENTFS"/dev/topics/news; do
    head -c 1 < "$path" 2>&1; echo hello > "$path" || echo refused
    cat "$AGENTFS/proc/self/error"; rm -f "$path" || echo kept; chmod 666 "$path" || echo kept
done
"""


def test_chmod_700_keeps_another_agent_of_the_same_user_out(tree: Tree) -> None:
    run_as(tree, "alice", 'touch "$AGENTFS/dev/topics/news"; chmod 700 "$AGENTFS/dev/topics/news"')
    path = tree / "dev/topics/news"
    assert path.stat().st_mode & 0o777 == 0o700
    said = run_as(tree, "bob", TRY)
    assert said.count("Permission denied") >= 1
    assert said.count("refused") == 1
    assert said.count("kept") == 2
    assert "may not write to topic news, which belongs to alice and has mode 0700" in said
    assert path.stat().st_mode & 0o777 == 0o700
    said = run_as(tree, "alice", 'echo hello > "$AGENTFS/dev/topics/news" && echo published')
    assert said.endswith("published\n")
    assert texts_since_0(path) == [("alice", "hello")]


def texts_since_0(path: Path) -> list[tuple[str, str]]:
    with opened(path, os.O_RDWR | os.O_NONBLOCK) as descriptor:
        os.write(descriptor, b"since 0\n")
        try:
            lines = os.read(descriptor, 65536).splitlines()
        except BlockingIOError:
            return []
    return [(record["from"], record["data"]) for record in map(json.loads, lines)]


def test_a_task_publishes_only_to_the_topics_of_its_parent(tree: Tree) -> None:
    mine, theirs = tree / "dev/topics/mine", tree / "dev/topics/theirs"
    theirs.touch()
    make = 'umask 022; touch "$AGENTFS/dev/topics/mine"; sleep 1000'
    boss = tree.spawn("boss", role="lead", exec=["sh", "-c", make])
    eventually(mine.exists)
    script = """
    cd "$AGENTFS/dev/topics"
    (echo hello > mine) && echo published; (echo hello > theirs) || echo refused
    read why < "$AGENTFS/proc/self/error"; echo "$why"; (echo hello > own) || echo refused
    """
    said = run_as(tree, "job", script, parent=boss, role="task")
    assert said.count("published") == 1
    assert said.count("refused") == 2
    assert "is a task and may only write to what its parent boss owns" in said
    assert texts_since_0(mine) == [("job", "hello")]
    assert texts_since_0(theirs) == []
    assert not (tree / "dev/topics/own").exists()


def test_a_task_of_init_publishes_to_the_topics_of_init(tree: Tree, news: Path) -> None:
    said = run_as(tree, "job", 'echo hello > "$AGENTFS/dev/topics/news" && echo ok', role="task")
    assert said == "ok\n"
    assert texts_since_0(news) == [("job", "hello")]


@ROOT_ONLY
def test_agents_of_several_users_share_topics(tree: Tree) -> None:
    open_to_all(tree.path)
    script = 'umask 022; cd "$AGENTFS/dev/topics"; echo hello > news; rm theirs || echo kept'
    (tree / "dev/topics/theirs").touch()
    assert "kept" in run_as(tree, "alice", script, user="nobody")
    path = tree / "dev/topics/news"
    assert path.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    run_as(tree, "bob", 'echo hi > "$AGENTFS/dev/topics/news"', user="daemon")
    assert texts_since_0(path) == [("alice", "hello"), ("bob", "hi")]
    # Another user of the machine has no process: it may look on, as far as the mode goes.
    read = f"exec 3<> '{path}'; echo since 1 >&3; head -n 1 <&3"
    assert '"data": "hi"' in as_nobody(read).stdout
    assert "Permission denied" in as_nobody(f"echo x > '{path}'").stderr
    path.chmod(0o600)  # the agent's, and not everybody's who has its uid
    assert "Permission denied" in as_nobody(f"timeout 1 cat '{path}'").stderr


# -- waiting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_waiting_subscriber_ends_within_300_ms_of_a_signal(
    tree: Tree, news: Path, number: signal.Signals
) -> None:
    program = tree.start("cat", str(news), stdout=subprocess.DEVNULL)
    eventually(lambda: parked(tree) == 1)
    sent = time.monotonic()
    program.send_signal(number)
    program.wait(10)
    assert time.monotonic() - sent < ENDS_WITHIN
    assert program.returncode == -number
    eventually(lambda: parked(tree) == 0)


def test_poll_and_epoll_wake_when_something_is_published(news: Path) -> None:
    with (
        opened(news, os.O_RDONLY | os.O_NONBLOCK) as descriptor,
        select.epoll() as poller,
    ):
        poller.register(descriptor, select.EPOLLIN)
        assert poller.poll(0) == []
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 100)
        for round_ in range(3):
            publish(news, f"number {round_}")
            assert poller.poll(10) == [(descriptor, select.EPOLLIN)]
            assert json.loads(os.read(descriptor, 4096))["data"] == f"number {round_}"
        assert poller.poll(0.05) == []
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLOUT)
        news.unlink()
        assert poll.poll(10_000) == [(descriptor, select.POLLIN)]
        assert os.read(descriptor, 100) == b""


def test_a_topic_that_is_removed_ends_its_readers_and_refuses_its_publishers(
    news: Path, subscribe: Subscribe
) -> None:
    behind, done = subscribe(news), subscribe(news)
    with opened(news, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"one")
        assert texts(done.take(1)) == ["one"]
        news.unlink()
        assert done.some() is None
        (lost,) = behind.take(1)
        assert (lost["type"], lost["count"]) == ("lost", 1)
        assert behind.some() is None
        with pytest.raises(OSError, match="Stale"):
            os.write(descriptor, b"two")
    news.touch()
    publish(news, "new")
    assert subscribe(news, since=0).take(1)[0]["seq"] == 1
    assert done.some() is None


# -- inotify -------------------------------------------------------------------------------------


def test_a_watcher_sees_a_topic_come_change_and_go(tree: Tree) -> None:
    folder = tree / "dev/topics"
    watcher = Watcher(tree, folder)
    path = folder / "news"
    path.touch()
    publish(path, "one")
    path.chmod(0o600)
    path.unlink()
    where = "dev/topics/news"
    assert watcher.until("DELETE", where) == [
        ("CREATE", where),
        ("CLOSE_WRITE", where),
        ("MODIFY", where),
        ("CLOSE_WRITE", where),
        ("ATTRIB", where),
        ("DELETE", where),
    ]


def test_a_watcher_of_the_file_sees_each_publication_once(tree: Tree, news: Path) -> None:
    watcher = Watcher(tree, news)
    with opened(news, os.O_WRONLY) as descriptor:
        for _ in range(3):
            os.write(descriptor, b"hello")
    seen = watcher.until("CLOSE_WRITE", "dev/topics/news")
    # Linux merges equal events that nobody has read yet.
    assert set(seen[:-1]) == {("MODIFY", "dev/topics/news")}
    assert 1 <= len(seen) - 1 <= 3


def test_10_000_topics_are_looked_up_and_published_to_as_quickly_as_10(tree: Tree) -> None:
    folder = tree / "dev/topics"

    def requests() -> int:
        for line in tree.read("sys/metrics").splitlines():
            if line.startswith("agentfs_mount_requests"):
                return int(float(line.split()[1]))
        raise AssertionError("no agentfs_mount_requests in /sys/metrics")

    def cost(name: str) -> int:
        """The calls that reach the daemon when a topic is made, published to and removed."""
        before = requests()
        (folder / name).touch()
        publish(folder / name, "hello", "again")
        (folder / name).unlink()
        return requests() - before

    for number in range(10):
        (folder / f"topic{number}").touch()
    few = cost("one")
    tree.unmount()
    store = Store(tree.state / "store.db")
    with store.transaction():
        ((_, record),) = [kept for kept in store.records("topic") if kept[0] == "topic0"]
        for number in range(10, 10_000):
            store.put_record("topic", f"topic{number}", record)
    store.close()
    tree.mount()
    cost("warm")
    assert cost("two") <= few + 2
    assert len(os.listdir(folder)) == 10_000
