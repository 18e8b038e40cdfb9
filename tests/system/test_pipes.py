"""/proc/PID/pipes: FIFOs of Linux itself, between a process and its parent, and nobody else."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.system.test_identity import ROOT_ONLY, _open_to_all
from tests.tree import PATIENCE, Tree, eventually

pytestmark = pytest.mark.mount

ECHO = """
exec 3<"$AGENTFS/proc/self/pipes/down" 4>"$AGENTFS/proc/self/pipes/up"
while read -r line <&3; do echo "got $line" >&4; done
"""

WAITS = ["sleep", "600"]


def spawn_echo(tree: Tree, name: str = "child", **spec: object) -> tuple[int, Path]:
    """A child that answers every line; its pid and its pipes."""
    pid = tree.spawn(name, exec=["sh", "-c", ECHO], restart="never", **spec)
    return pid, tree / f"proc/{pid}/pipes"


def errno_of(path: Path, flags: int = os.O_RDWR | os.O_NONBLOCK) -> int:
    """The errno that opening gives; 0 if it opens."""
    try:
        os.close(os.open(path, flags))
    except OSError as refused:
        return refused.errno or -1
    return 0


# -- what Linux does by itself: tried once, because it all hangs on it ---------------------------


def test_parent_and_child_talk_both_ways(tree: Tree) -> None:
    pid, pipes = spawn_echo(tree)
    assert stat.S_ISFIFO((pipes / "up").stat().st_mode)
    assert sorted(os.listdir(pipes)) == ["down", "up"]
    with open(pipes / "down", "wb", 0) as down, open(pipes / "up", "rb", 0) as up:
        for number in range(100):
            down.write(b"line %d\n" % number)
            assert up.read(100) == b"got line %d\n" % number
    assert tree.read(f"proc/{pid}/wait") == "0\n", "it saw the end of file"


def test_a_closed_end_is_end_of_file_for_the_reader_and_epipe_for_the_writer(tree: Tree) -> None:
    pid = tree.spawn("child", exec=WAITS)
    pipes = tree / f"proc/{pid}/pipes"
    reader = os.open(pipes / "up", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipes / "up", os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"the last words")
    os.close(writer)
    assert os.read(reader, 100) == b"the last words", "what was written before is still read"
    assert os.read(reader, 100) == b""
    writer = os.open(pipes / "up", os.O_WRONLY | os.O_NONBLOCK)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"nobody reads that")
    os.close(writer)
    assert errno_of(pipes / "up", os.O_WRONLY | os.O_NONBLOCK) == errno.ENXIO


def test_a_full_pipe_holds_its_writer_up_and_is_eagain_where_it_may_not_wait(tree: Tree) -> None:
    pid = tree.spawn("child", exec=WAITS)
    pipes = tree / f"proc/{pid}/pipes"
    reader = os.open(pipes / "down", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipes / "down", os.O_WRONLY | os.O_NONBLOCK)
    room = 0
    with pytest.raises(BlockingIOError):
        while True:
            room += os.write(writer, b"x" * 4096)
    assert room == 65536
    assert select.select([], [writer], [], 0)[1] == []
    os.set_blocking(writer, True)
    written = threading.Event()

    def write() -> None:
        os.write(writer, b"y" * 4096)
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not written.wait(0.1)
    assert os.read(reader, 65536) == b"x" * 65536
    assert written.wait(10)
    thread.join()
    os.close(reader)
    os.close(writer)


def test_poll_wakes_when_the_other_end_writes(tree: Tree) -> None:
    _, pipes = spawn_echo(tree)
    up = os.open(pipes / "up", os.O_RDONLY | os.O_NONBLOCK)
    down = os.open(pipes / "down", os.O_WRONLY)
    poller = select.epoll()
    poller.register(up, select.EPOLLIN)
    assert poller.poll(0) == []
    os.write(down, b"hello\n")
    assert poller.poll(10) == [(up, select.EPOLLIN)]
    assert os.read(up, 100) == b"got hello\n"
    with pytest.raises(BlockingIOError):
        os.read(up, 100)
    for descriptor in (up, down):
        os.close(descriptor)
    poller.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_whoever_waits_for_the_other_end(tree: Tree, number: signal.Signals) -> None:
    pid = tree.spawn("child", exec=WAITS)
    waits = tree.start("cat", str(tree / f"proc/{pid}/pipes/up"))
    in_open(waits.pid)
    waits.send_signal(number)
    assert waits.wait(10) == -number


def in_open(pid: int) -> None:
    """Wait until a program waits in open(2) for the other end of a FIFO."""
    place = Path(f"/proc/{pid}/wchan")
    eventually(lambda: place.read_text() in ("wait_for_partner", "fifo_open"))


def test_both_ends_meet_however_often_the_name_is_looked_up_between(tree: Tree) -> None:
    _, pipes = spawn_echo(tree)
    down, up = os.open(pipes / "down", os.O_WRONLY), os.open(pipes / "up", os.O_RDONLY)
    inode = os.fstat(up).st_ino
    for number in range(50):
        os.listdir(pipes)
        subprocess.run(["ls", "-l", str(pipes)], check=True, capture_output=True)
        assert (pipes / "up").stat().st_ino == inode
        late = os.open(pipes / "down", os.O_WRONLY)
        os.write(late, b"%d\n" % number)
        assert os.read(up, 100) == b"got %d\n" % number
        os.close(late)
    os.close(down)
    os.close(up)


# -- who may ------------------------------------------------------------------------------------


STRANGER = """
import os, sys, time
pipes, until = sys.argv[1], sys.argv[2]
opened = tries = 0
while not os.path.exists(until):
    for name in ("up", "down"):
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_PATH, os.O_RDWR | os.O_CREAT):
            tries += 1
            try:
                os.open(f"{pipes}/{name}", flags | os.O_NONBLOCK)
                opened += 1
            except PermissionError:
                pass
    assert os.listdir(pipes) == [], os.listdir(pipes)
assert tries > 100
print("opened", opened)
print(open(os.environ["AGENTFS"] + "/proc/self/error").read())
"""


def test_nobody_else_gets_in_while_the_two_come_and_go(tree: Tree, tmp_path: Path) -> None:
    """Linux has the entry in its cache all the time, put there by those who may."""
    _, pipes = spawn_echo(tree)
    stop = tmp_path / "stop"
    sibling = tree.spawn(
        "sibling",
        exec=[sys.executable, "-c", STRANGER, str(pipes), str(stop)],
        restart="never",
    )
    down, up = os.open(pipes / "down", os.O_WRONLY), os.open(pipes / "up", os.O_RDONLY)
    for number in range(300):
        if number % 10 == 0:
            os.listdir(pipes)
        (pipes / "up").stat()
        late = os.open(pipes / "down", os.O_WRONLY)
        os.write(late, b"%d\n" % number)
        os.close(late)
        assert os.read(up, 100) == b"got %d\n" % number
    stop.write_text("")
    assert tree.read(f"proc/{sibling}/wait") == "0\n", tree.read("agents/sibling/log")
    assert tree.read("agents/sibling/log").startswith("opened 0\n")
    assert "these pipes are for child and its parent" in tree.read("agents/sibling/log")
    os.close(down)
    os.close(up)


def test_the_operator_is_the_parent_of_its_own_children_only(tree: Tree) -> None:
    lead = tree.spawn("lead", role="lead")
    worker = tree.spawn("worker", parent=lead)
    assert errno_of(tree / f"proc/{lead}/pipes/up") == 0
    assert errno_of(tree / f"proc/{worker}/pipes/up") == errno.EACCES
    assert os.listdir(tree / f"proc/{worker}/pipes") == []
    assert not (tree / "proc/1/pipes").exists()
    subprocess.run(["find", str(tree / "proc"), "-ls"], check=True, capture_output=True)


def test_after_a_reparent_the_new_parent_is_admitted_and_the_old_one_is_not(tree: Tree) -> None:
    lead = tree.spawn("lead", role="lead")
    worker = tree.spawn("worker", exec=WAITS)
    assert errno_of(tree / f"proc/{worker}/pipes/up") == 0
    tree.write(f"proc/{worker}/ctl", f"reparent {lead}\n")
    assert errno_of(tree / f"proc/{worker}/pipes/up") == errno.EACCES
    tree.write(f"proc/{worker}/ctl", "reparent 1\n")
    assert errno_of(tree / f"proc/{worker}/pipes/up") == 0


def test_an_agent_talks_with_its_own_child(tree: Tree) -> None:
    lead = """
    cd "$AGENTFS"
    pid=$(exec 3<>proc/self/spawn; printf '%s' "$SPEC" >&3; cat <&3)
    exec 4>"proc/$pid/pipes/down" 5<"proc/$pid/pipes/up"
    echo hello >&4; read -r answer <&5; echo "$answer"
    """
    child = {"name": "child", "exec": ["sh", "-c", ECHO]}
    pid = tree.spawn(
        "lead",
        role="lead",
        restart="never",
        exec=["bash", "-c", lead],
        env={"SPEC": json.dumps(child)},
    )
    assert tree.read(f"proc/{pid}/wait") == "0\n"
    assert tree.read("agents/lead/log") == "got hello\n"


@ROOT_ONLY
def test_parent_and_child_may_be_different_users(tree: Tree) -> None:
    _open_to_all(tree.path)
    pid, pipes = spawn_echo(tree, user="nobody")
    with open(pipes / "down", "wb", 0) as down, open(pipes / "up", "rb", 0) as up:
        down.write(b"hello\n")
        assert up.read(100) == b"got hello\n"
    assert tree.read(f"proc/{pid}/wait") == "0\n"


# -- the end ------------------------------------------------------------------------------------


def test_a_process_that_has_ended_has_no_pipes(tree: Tree) -> None:
    pid = tree.spawn("child")
    pipes = tree / f"proc/{pid}/pipes"
    tree.write(f"proc/{pid}/ctl", "done 0 bye\n")
    assert errno_of(pipes / "up") == errno.ESTALE
    assert os.listdir(pipes) == []
    assert tree.read(f"proc/{pid}/wait") == "0\n"
    assert not pipes.exists()


@pytest.mark.parametrize("reaped_at_once", [False, True])
def test_who_waits_for_the_other_end_sees_the_end_of_it(
    tree: Tree, *, reaped_at_once: bool
) -> None:
    pid = tree.spawn("child", exec=WAITS, restart="never")
    waiting = [
        tree.start("cat", str(tree / f"proc/{pid}/pipes/up"), stdout=subprocess.PIPE),
        tree.start("cat", str(tree / f"proc/{pid}/pipes/down"), stdout=subprocess.PIPE),
    ]
    for program in waiting:
        in_open(program.pid)
    if reaped_at_once:
        waits = os.open(tree / f"proc/{pid}/wait", os.O_RDONLY)
        thread = threading.Thread(target=os.read, args=(waits, 10))
        thread.start()
        eventually(lambda: json.loads(tree.read("sys/stats/system"))["mount"]["parked"] == 1)
    tree.write(f"proc/{pid}/ctl", "KILL\n")
    for program in waiting:
        assert program.wait(PATIENCE) == 0
    if reaped_at_once:
        thread.join()
        os.close(waits)
        eventually(lambda: not (tree / f"proc/{pid}").exists())


def test_pipes_that_are_open_outlive_a_crash_of_the_daemon(tree: Tree) -> None:
    _, pipes = spawn_echo(tree)
    down, up = os.open(pipes / "down", os.O_WRONLY), os.open(pipes / "up", os.O_RDONLY)
    tree.crash()
    os.write(down, b"still there\n")
    assert os.read(up, 100) == b"got still there\n"
    tree.mount()
    os.write(down, b"and still\n")
    assert os.read(up, 100) == b"got and still\n"
    os.close(down)
    os.close(up)
