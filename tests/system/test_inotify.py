"""What a watcher sees, exactly."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

PATIENCE = 30  # seconds for an event that is waited for
# Of a value that nobody may write: a daemon that is not root cannot open it, either.
WRITTEN = ("MODIFY", "CLOSE_WRITE") if os.geteuid() == 0 else ("MODIFY",)


def written(path: str) -> list[tuple[str, str]]:
    """What a watcher is told of a value that changed."""
    return [(event, path) for event in WRITTEN]


class Watcher:
    """`inotifywait -m` on some paths; `seen` is what it printed: (events, path)."""

    def __init__(self, tree: Tree, *paths: Path) -> None:
        self._program = tree.start(
            "inotifywait",
            "-m",
            "--format",
            "%e %w%f",
            *map(str, paths),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._program.stderr is not None
        assert self._program.stdout is not None
        line = b""
        while b"Watches established" not in line:
            line = self._program.stderr.readline()
            assert line, "inotifywait has ended: are there too many?"
        self._root = str(tree.path) + "/"

    def until(self, event: str, path: str) -> list[tuple[str, str]]:
        """Everything up to and including an event; opens and closes for reading left out. What
        there was if the event does not come."""
        patience = threading.Timer(PATIENCE, self._program.kill)
        patience.start()
        try:
            return self._until(event, path)
        finally:
            patience.cancel()

    def _until(self, event: str, path: str) -> list[tuple[str, str]]:
        assert self._program.stdout is not None
        seen: list[tuple[str, str]] = []
        for line in self._program.stdout:
            events, _, where = line.decode().strip().partition(" ")
            where = where.removeprefix(self._root)
            events = events.removesuffix(",CLOSE")
            if events in ("OPEN", "ACCESS", "CLOSE_NOWRITE", "OPEN,ISDIR", "ACCESS,ISDIR"):
                continue
            if events.startswith("CLOSE_NOWRITE"):
                continue
            seen.append((events, where))
            if (events, where) == (event, path):
                break
        return seen


def test_spawn_and_reap_are_the_creation_and_removal_of_a_directory(tree: Tree) -> None:
    watcher = Watcher(tree, tree / "proc")
    pid = tree.spawn("alice")
    assert watcher.until("CREATE,ISDIR", f"proc/{pid}") == [("CREATE,ISDIR", f"proc/{pid}")]
    tree.write(f"proc/{pid}/ctl", "KILL\n")
    assert tree.read(f"proc/{pid}/wait") == "137\n"
    assert watcher.until("DELETE,ISDIR", f"proc/{pid}") == [("DELETE,ISDIR", f"proc/{pid}")]
    assert not (tree / f"proc/{pid}").exists()


def each_written(watcher: Watcher, *paths: str) -> list[tuple[str, str]]:
    """Everything until each of them was told as WRITTEN."""
    seen: list[tuple[str, str]] = []
    for path in paths:
        if (WRITTEN[-1], path) not in seen:
            seen += watcher.until(WRITTEN[-1], path)
    return seen


def test_a_state_change_modifies_status_state_and_info_and_closes_them(tree: Tree) -> None:
    pid = tree.spawn("alice")
    paths = [f"proc/{pid}/{name}" for name in ("state", "status", "info")]
    watcher = Watcher(tree, *(tree / path for path in paths))
    tree.write(f"proc/{pid}/ctl", "running\n")
    seen = each_written(watcher, *paths)
    assert sorted(seen) == sorted(event for path in paths for event in written(path))


def test_an_exit_modifies_state_and_exit_and_closes_them(tree: Tree) -> None:
    pid = tree.spawn("bob")
    paths = [f"proc/{pid}/{name}" for name in ("exit", "state")]
    watcher = Watcher(tree, *(tree / path for path in paths))
    tree.write(f"proc/{pid}/ctl", "done 3 finished\n")
    seen = each_written(watcher, *paths)
    assert set(seen) == {event for path in paths for event in written(path)}
    assert tree.read(f"proc/{pid}/exit") == "3\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open what nobody may write")
def test_a_program_that_waits_for_a_close_hears_of_a_value_and_of_each_change(tree: Tree) -> None:
    pid = tree.spawn("carol")
    state = f"proc/{pid}/state"
    for word in ("running", "idle", "running"):
        waiting = tree.start(
            *("inotifywait", "-q", "-e", "close_write", "-t", str(PATIENCE), str(tree / state)),
            stdout=subprocess.PIPE,
        )
        eventually(lambda waiting=waiting: watches(waiting.pid))
        tree.write(f"proc/{pid}/ctl", f"{word}\n")
        assert waiting.wait(PATIENCE + 10) == 0
        assert tree.read(state) == f"{word}\n"


def watches(pid: int) -> bool:
    """Whether a process has an inotify watch."""
    found = b""
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            found += each.read_bytes()
    return b"inotify wd:" in found


def test_a_message_arrives_is_claimed_and_acknowledged_as_a_file(tree: Tree) -> None:
    tree.spawn("alice")
    new, cur = tree / "agents/alice/inbox/new", tree / "agents/alice/inbox/cur"
    watcher = Watcher(tree, new, cur)
    tree.write("agents/init/outbox/alice", "hello\n")
    eventually(lambda: list(new.iterdir()))
    (message,) = [path.name for path in new.iterdir()]
    where = f"agents/alice/inbox/new/{message}"
    assert watcher.until("CLOSE_WRITE", where) == [("CREATE", where), ("CLOSE_WRITE", where)]
    (new / message).rename(cur / message)
    claimed = f"agents/alice/inbox/cur/{message}"
    assert watcher.until("MOVED_TO", claimed) == [("MOVED_FROM", where), ("MOVED_TO", claimed)]
    (cur / message).unlink()
    assert watcher.until("DELETE", claimed) == [("DELETE", claimed)]


def test_recv_shows_as_moving_and_the_next_recv_as_deletion(tree: Tree) -> None:
    tree.spawn("alice")
    new, cur = tree / "agents/alice/inbox/new", tree / "agents/alice/inbox/cur"
    watcher = Watcher(tree, new, cur)
    names = []
    for text in ("one", "two"):
        tree.write("agents/init/outbox/alice", text)
        eventually(lambda: len(list(new.iterdir())) == 1)
        (name,) = [path.name for path in new.iterdir()]
        names.append(name)
        assert tree.read("agents/alice/recv").endswith(text)
    first = f"agents/alice/inbox/cur/{names[0]}:2,"
    seen = watcher.until("MOVED_TO", f"agents/alice/inbox/cur/{names[1]}:2,")
    assert ("MOVED_TO", first) in seen
    assert ("DELETE", first) in seen


def test_no_event_is_lost_for_1000_messages_in_a_burst(tree: Tree) -> None:
    tree.spawn("alice")
    watcher = Watcher(tree, tree / "agents/alice/inbox/new")
    with open(tree / "agents/init/send", "wb", buffering=0) as send:
        for number in range(1000):
            send.write(f"To: alice\n\nmessage {number}\n".encode())
    names = sorted(path.name for path in (tree / "agents/alice/inbox/new").iterdir())
    assert len(names) == 1000
    last = f"agents/alice/inbox/new/{names[-1]}"
    seen = watcher.until("CLOSE_WRITE", last)
    for event in ("CREATE", "CLOSE_WRITE"):
        found = sorted(Path(path).name for what, path in seen if what == event)
        assert found == names
    assert {what for what, _ in seen} == {"CREATE", "CLOSE_WRITE"}


def announcer_of(tree: Tree) -> int:
    """The pid of the process that makes the daemon's announcements."""
    (pid,) = Path(f"/proc/{tree.daemon}/task/{tree.daemon}/children").read_text().split()
    return int(pid)


def test_a_message_that_was_put_back_is_not_read_by_its_old_name(tree: Tree) -> None:
    tree.spawn("alice")
    inbox = tree / "agents/alice/inbox"
    watcher = Watcher(tree, inbox / "new", inbox / "cur")
    tree.write("agents/init/outbox/alice", "hello")
    recv = os.open(tree / "agents/alice/recv", os.O_RDWR)
    try:
        assert os.read(recv, 4096).endswith(b"hello")
        (claimed,) = (inbox / "cur").iterdir()
        watcher.until("MOVED_TO", str(claimed.relative_to(tree.path)))
        assert claimed.read_text().endswith("hello")
        announcer = announcer_of(tree)
        os.kill(announcer, signal.SIGSTOP)
        try:
            os.write(recv, b"back")
            with pytest.raises(FileNotFoundError):
                claimed.read_text()
            with pytest.raises(FileNotFoundError):
                claimed.unlink()
            (waiting,) = (inbox / "new").iterdir()
            assert waiting.read_text().endswith("hello")
        finally:
            os.kill(announcer, signal.SIGCONT)
        where = str(waiting.relative_to(tree.path))
        assert ("MOVED_TO", where) in watcher.until("MOVED_TO", where)
    finally:
        os.close(recv)


def test_what_nobody_watches_is_not_announced_and_what_somebody_watches_is(tree: Tree) -> None:
    tree.spawn("alice")
    new = tree / "agents/alice/inbox/new"

    def announced() -> int:
        eventually(lambda: "agentfs_mount_announcements_waiting 0.0" in tree.read("sys/metrics"))
        (line,) = (
            line
            for line in tree.read("sys/metrics").splitlines()
            if line.startswith("agentfs_mount_announced_total ")
        )
        return int(float(line.split()[1]))

    assert list(new.iterdir()) == []
    opened = os.open(new, os.O_RDONLY)
    try:
        before = announced()
        for number in range(10):
            tree.write("agents/init/outbox/alice", f"{number}")
        assert announced() == before
        watcher = Watcher(tree, new)
        tree.write("agents/init/outbox/alice", "seen")
        (last,) = sorted(new.iterdir())[-1:]
        where = str(last.relative_to(tree.path))
        assert watcher.until("CLOSE_WRITE", where) == [("CREATE", where), ("CLOSE_WRITE", where)]
        assert announced() == before + 1
    finally:
        os.close(opened)


def test_what_a_killed_daemon_had_to_announce_is_not_done_to_its_successor(tree: Tree) -> None:
    tree.spawn("alice")
    new = tree / "agents/alice/inbox/new"
    for number in range(5):
        tree.write("agents/init/outbox/alice", f"{number}")
    names = sorted(path.name for path in new.iterdir())  # from now on Linux knows them
    announcer = announcer_of(tree)
    ended = os.pidfd_open(announcer)
    os.kill(announcer, signal.SIGSTOP)
    recv = os.open(tree / "agents/alice/recv", os.O_RDWR)
    assert os.read(recv, 4096).endswith(b"0")  # a move is to be announced
    os.write(recv, b"back")  # and another
    tree.crash()
    tree.mount()
    with pytest.raises(OSError, match="not connected"):
        os.close(recv)
    with contextlib.suppress(ProcessLookupError):  # it is gone, unless it was only just starting
        os.kill(announcer, signal.SIGCONT)
    assert select.select([ended], [], [], 10)[0], "the announcing process outlives its daemon"
    os.close(ended)
    assert sorted(path.name for path in new.iterdir()) == names
