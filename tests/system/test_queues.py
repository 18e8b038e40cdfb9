"""Queues on a real mount: many consumers, crashes of every kind, back-pressure, watchers."""

from __future__ import annotations

import email
import errno
import mailbox
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.puppet import Puppet
from tests.system.test_blocking import parked
from tests.system.test_inotify import Watcher
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount

JOBS = "dev/queues/jobs"


@pytest.fixture
def queue(tree: Tree) -> Path:
    """An empty queue for everybody."""
    path = tree / JOBS
    path.mkdir()
    return path


@pytest.fixture
def agents(tree: Tree) -> Iterator[tuple[Puppet, Puppet]]:
    """ann and bob."""
    made = Puppet(tree, "ann"), Puppet(tree, "bob")
    yield made
    for puppet in made:
        puppet.close()


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def put(queue: Path, *texts: str) -> None:
    with opened(queue / "send", os.O_WRONLY) as descriptor:
        for text in texts:
            assert os.write(descriptor, text.encode()) == len(text.encode())


def body(message: str) -> str:
    return str(email.message_from_string(message).get_payload())


def attempt(message: str) -> int:
    return int(email.message_from_string(message).get("Delivery-Attempt", "1"))


# -- the files -------------------------------------------------------------------------------------


def test_a_queue_from_the_shell(tree: Tree) -> None:
    script = """
    set -e
    cd "$1/dev/queues"
    mkdir jobs
    test "$(stat -c %a jobs)" = 777
    echo one > jobs/send
    printf 'Priority: high\\nSubject: two\\n\\n2' > jobs/send
    cat jobs/length
    cat jobs/recv | sed 1,/^$/d
    echo
    cat jobs/length
    ! rmdir jobs
    cat jobs/recv | sed 1,/^$/d
    cat jobs/length
    echo done > jobs/recv
    ! echo done > jobs/recv 2>/dev/null
    rmdir jobs
    ls
    """
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(tree.path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n2\n1\none\n0\n"
    assert "Directory not empty" in done.stderr


def test_a_queue_is_a_maildir_and_a_batch_an_mbox(tree: Tree, queue: Path) -> None:
    put(queue, *(f"{n}" for n in range(5)))
    assert (queue / "length").read_text() == "5\n"
    with opened(queue / "recv.batch", os.O_RDWR) as descriptor:
        os.write(descriptor, b"2")
        text = os.read(descriptor, 65536).decode()
    assert len(re.findall("^From ", text, re.MULTILINE)) == 2
    box = mailbox.Maildir(queue, factory=None, create=False)
    assert [m.get_payload() for m in box] == ["0", "1", "2", "3", "4"]
    assert len(os.listdir(queue / "cur")) == 2
    (name, *_) = sorted(os.listdir(queue / "new"))
    os.rename(queue / "new" / name, queue / "cur" / f"{name}:2,")
    os.unlink(queue / "cur" / f"{name}:2,")
    box.add(email.message_from_string("Subject: delivered\n\nthe Maildir way"))
    assert (queue / "length").read_text() == "3\n"
    assert "Waiting:\t3\nClaimed:\t2\nDead:\t0\n" in (queue / "status").read_text()


def test_ctl_purges_limits_and_removes(tree: Tree, queue: Path) -> None:
    put(queue, "a", "b", "c")
    (queue / "ctl").write_text("max 3\n")
    with (
        pytest.raises(OSError) as caught,
        opened(queue / "send", os.O_WRONLY | os.O_NONBLOCK) as fd,
    ):
        os.write(fd, b"d")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        (queue / "new/d").write_text("d")
    assert caught.value.errno == errno.ENOSPC
    (queue / "ctl").write_text("purge\n")
    assert (queue / "length").read_text() == "0\n"
    assert os.listdir(queue / "new") == []
    put(queue, "d")
    for word in ("max 0", "max", "burn"):
        with pytest.raises(OSError) as caught:
            (queue / "ctl").write_text(word)
        assert caught.value.errno == errno.EINVAL
    (queue / "ctl").write_text("remove\n")
    eventually(lambda: not queue.exists())  # Linux forgets it when its removal is announced
    sent = [path.read_text() for path in (tree / "agents/init/sent").iterdir()]
    assert sum("purged" in text for text in sent) == 3 + 1


def test_chmod_700_keeps_an_agent_of_the_same_user_out(
    tree: Tree, agents: tuple[Puppet, Puppet]
) -> None:
    ann, bob = agents
    ann.do(f"os.mkdir(tree + '/{JOBS}', 0o700)")
    assert (tree / JOBS).stat().st_mode & 0o777 == 0o700
    ann.write(f"{JOBS}/send", "hers")
    refused = (
        lambda: bob.write(f"{JOBS}/send", "x"),
        lambda: bob.poll(f"{JOBS}/recv"),
        lambda: bob.poll(f"{JOBS}/recv.batch"),
        lambda: bob.ls(f"{JOBS}/new"),
        lambda: bob.ls(f"{JOBS}/dead"),
        lambda: bob.read(f"{JOBS}/length"),
        lambda: bob.do(f"os.chmod(tree + '/{JOBS}', 0o777)"),
        lambda: bob.write(f"{JOBS}/ctl", "purge"),
        lambda: bob.do(f"os.rmdir(tree + '/{JOBS}')"),
    )
    for call in refused:
        with pytest.raises(PermissionError):
            call()
    assert "only ann and the operator may remove queue jobs" in bob.read("proc/self/error")
    ann.do(f"os.chmod(tree + '/{JOBS}', 0o733)")
    bob.write(f"{JOBS}/send", "his")
    assert bob.read(f"{JOBS}/length") == "2\n"
    with pytest.raises(PermissionError):
        bob.poll(f"{JOBS}/recv")
    assert [body(ann.poll(f"{JOBS}/recv")) for _ in range(2)] == ["hers", "his"]


# -- consumers -------------------------------------------------------------------------------------

LOOP = """
cd "$AGENTFS/dev/queues/jobs"
while message=$(cat recv); do
    printf '%s\\n' "$message" | tail -n 1 >> "$AGENTFS/shared/got.$AGENT_NAME"
done
"""


def test_two_hundred_consumers_get_disjoint_messages_and_all_of_them(
    tree: Tree, queue: Path
) -> None:
    """Each is an agent of its own whose program is a shell loop around `cat recv`."""
    tree.write("etc/agentfs.yaml", "processes: {max_children_of_init: 300}\n")
    for number in range(200):
        tree.spawn(f"c{number}", exec=["sh", "-c", LOOP], restart="never")
    eventually(lambda: parked(tree) == 200, patience=120)
    wanted = [f"job-{number}" for number in range(600)]
    put(queue, *wanted)
    eventually(lambda: parked(tree) == 200, patience=120)
    assert (queue / "length").read_text() == "0\n"
    files = list((tree / "shared").glob("got.*"))
    got = [line for file in files for line in file.read_text().split()]
    assert sorted(got) == sorted(wanted)  # every one, and none twice
    assert len(files) > 100  # in turn, and not always the same


def test_a_consumer_killed_in_the_middle_gives_its_message_to_another(
    tree: Tree, queue: Path, agents: tuple[Puppet, Puppet]
) -> None:
    ann, bob = agents
    put(queue, "work")
    first = ann.poll(f"{JOBS}/recv")
    assert (body(first), attempt(first)) == ("work", 1)
    with pytest.raises(BlockingIOError):
        bob.poll(f"{JOBS}/recv")
    tree.write(f"proc/{ann.pid}/ctl", "KILL\n")
    assert tree.read(f"proc/{ann.pid}/wait") == "137\n"
    second = bob.poll(f"{JOBS}/recv")
    assert (body(second), attempt(second)) == ("work", 2)


def test_a_poison_message_goes_to_dead_after_five_deaths(tree: Tree, queue: Path) -> None:
    put(queue, "poison")
    script = f"cat $AGENTFS/{JOBS}/recv >/dev/null; exit 3"
    for number in range(5):
        pid = tree.spawn(f"victim{number}", exec=["sh", "-c", script], restart="never")
        assert tree.read(f"proc/{pid}/wait") == "3\n"
    assert (queue / "length").read_text() == "0\n"
    (letter,) = (queue / "dead").iterdir()
    assert letter.read_text().startswith("Reason: delivered 5 times")
    with pytest.raises(OSError) as caught:
        queue.rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    letter.rename(queue / "new/again")
    with opened(queue / "recv", os.O_RDONLY) as descriptor:
        assert attempt(os.read(descriptor, 65536).decode()) == 6


# One agent, several loops. Each prints the bodies that it gets into a file of its own; a body that
# says so ends it.
WORKERS = """
import email, os, signal, subprocess, sys
queue = os.environ["AGENTFS"] + "/dev/queues/jobs/recv"
shared = os.environ["AGENTFS"] + "/shared/"

def work(me):
    reader = os.open(queue, os.O_RDONLY)
    while True:
        message = email.message_from_bytes(os.read(reader, 65536))
        os.lseek(reader, 0, os.SEEK_SET)  # from now on the next one is asked for
        with open(shared + me, "a") as log:
            print(message.get_payload(), message.get("Delivery-Attempt", 1), file=log)
        if message.get_payload() == "crash" and "Delivery-Attempt" not in message:
            os.kill(os.getpid(), signal.SIGKILL)

for number in range(4):
    if not os.fork():
        work(f"worker{number}")
for _ in range(4):
    os.wait()
os.wait()
"""


def lines(tree: Tree) -> list[str]:
    files = (tree / "shared").glob("worker*")
    return sorted(line for file in files for line in file.read_text().splitlines())


def test_a_worker_that_crashes_does_not_lose_its_message_to_its_siblings(
    tree: Tree, queue: Path
) -> None:
    """Four processes of one agent, each with an open `recv` of its own."""
    tree.spawn("pool", exec=["python3", "-c", WORKERS], restart="never")
    eventually(lambda: parked(tree) == 4)
    put(queue, "one", "crash", "two", "three", "four", "five")
    eventually(lambda: "crash 2" in lines(tree))
    eventually(lambda: (queue / "length").read_text() == "0\n" and parked(tree) == 3)
    put(queue, "six", "seven", "eight", "nine")
    eventually(lambda: len(lines(tree)) == 11)
    assert lines(tree) == sorted(
        ["crash 1", "crash 2"]
        + [
            f"{n} 1"
            for n in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        ]
    )


SHELLS = """
cd "$AGENTFS/dev/queues/jobs"
loop() {
    while message=$(cat recv | tail -n 1); do
        echo "$message" >> "$AGENTFS/shared/worker$1"
        if [ "$message" = wait ]; then
            echo "$message-is-done" > /dev/null
            while ! [ -e "$AGENTFS/shared/go" ]; do sleep 0.05; done
        fi
    done
}
loop 1 & loop 2 & wait
"""


def test_two_shell_loops_of_one_agent_do_not_acknowledge_for_each_other(
    tree: Tree, queue: Path
) -> None:
    tree.spawn("shells", exec=["bash", "-c", SHELLS], restart="never")
    eventually(lambda: parked(tree) == 2)
    put(queue, "wait")
    eventually(lambda: lines(tree) == ["wait"])
    put(queue, *(f"{n}" for n in range(5)))
    eventually(lambda: len(lines(tree)) == 6 and parked(tree) == 1)
    held = [path.read_text() for path in (queue / "cur").iterdir()]
    assert [body(text) for text in held] == ["wait"]  # not acknowledged by the other, which waits
    (tree / "shared/go").touch()
    eventually(lambda: parked(tree) == 2)
    put(queue, "a", "b")
    eventually(lambda: len(lines(tree)) == 8 and parked(tree) == 2)
    held = [body(path.read_text()) for path in (queue / "cur").iterdir()]
    assert "wait" not in held


def test_a_killed_cat_returns_at_once_what_it_read(tree: Tree, queue: Path) -> None:
    """By an operator too, whose process never ends."""
    put(queue, "x" * 900_000)
    program = tree.start("cat", str(queue / "recv"), stdout=subprocess.PIPE)  # blocked in its pipe
    eventually(lambda: os.listdir(queue / "cur"))
    program.kill()
    program.wait()
    until(queue / "length", "1")
    with opened(queue / "recv", os.O_RDONLY) as descriptor:
        assert b"\nDelivery-Attempt: 2\n" in b"\n" + os.read(descriptor, 65536)


def test_what_was_accepted_survives_kill_9_of_the_daemon(tree: Tree, queue: Path) -> None:
    with opened(queue / "send", os.O_WRONLY) as descriptor:
        for number in range(50):
            os.write(descriptor, b"%d" % number)
    with opened(queue / "recv", os.O_RDONLY) as descriptor:
        taken = os.read(descriptor, 65536).decode()
    os.chmod(queue, 0o750)
    (queue / "ctl").write_text("max 77\n")
    tree.crash()
    tree.mount()
    assert queue.stat().st_mode & 0o777 == 0o750
    assert "Max:\t77\n" in (queue / "status").read_text()
    seen: dict[str, int] = {}
    with opened(queue / "recv", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        while len(seen) < 50:
            text = os.read(descriptor, 65536).decode()
            os.read(descriptor, 1)
            assert body(text) not in seen
            seen[body(text)] = attempt(text)
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 1)
    assert seen.pop(body(taken)) == 2
    assert set(seen.values()) == {1}


# -- back-pressure ---------------------------------------------------------------------------------


def fill(queue: Path, limit: int = 1) -> None:
    (queue / "ctl").write_text(f"max {limit}\n")
    put(queue, *("full" for _ in range(limit)))


def test_a_write_into_a_full_queue_waits_for_room(tree: Tree, queue: Path) -> None:
    fill(queue)
    script = f"echo $0 > {queue / 'send'}"
    for number in range(3):
        tree.start("sh", "-c", script, f"number {number}")
        eventually(lambda number=number: parked(tree) == number + 1)  # type: ignore[misc]
    with opened(queue / "recv", os.O_RDONLY) as descriptor:
        got = []
        for _ in range(4):  # each claim makes room for one, in order of arrival
            got.append(body(os.read(descriptor, 65536).decode()).strip())
            os.lseek(descriptor, 0, os.SEEK_SET)  # the next one
    assert got == ["full", "number 0", "number 1", "number 2"]
    eventually(lambda: parked(tree) == 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_write_that_waits_and_nothing_is_sent(
    tree: Tree, queue: Path, number: signal.Signals
) -> None:
    fill(queue)
    first = tree.start("sh", "-c", f"echo lost > {queue / 'send'}")
    eventually(lambda: parked(tree) == 1)
    second = tree.start("sh", "-c", f"echo next > {queue / 'send'}")
    eventually(lambda: parked(tree) == 2)
    sent = time.monotonic()
    first.send_signal(number)
    assert first.wait(10) != 0
    assert time.monotonic() - sent < 0.5
    eventually(lambda: parked(tree) == 1)
    for wanted in ("full", "next\n"):
        with opened(queue / "recv", os.O_RDONLY) as descriptor:
            assert body(os.read(descriptor, 65536).decode()) == wanted
    assert second.wait(10) == 0
    assert (queue / "length").read_text() == "0\n"


def test_poll_says_when_there_is_room(tree: Tree, queue: Path) -> None:
    fill(queue)
    with opened(queue / "send", os.O_WRONLY | os.O_NONBLOCK) as descriptor:
        with pytest.raises(OSError) as caught:
            os.write(descriptor, b"too much")
        assert caught.value.errno == errno.ENOSPC
        with select.epoll() as poller:
            poller.register(descriptor, select.EPOLLOUT)
            assert poller.poll(0) == []
            subprocess.run(["cat", queue / "recv"], check=True, capture_output=True, timeout=20)
            assert poller.poll(10) == [(descriptor, select.EPOLLOUT)]
            os.write(descriptor, b"fits")
            assert poller.poll(0) == []
    assert (queue / "length").read_text() == "1\n"


def test_removing_a_queue_ends_who_waits_in_it(tree: Tree, queue: Path) -> None:
    other = tree / "dev/queues/other"
    other.mkdir()
    fill(queue)
    writer = tree.start("sh", "-c", f"echo x | tee {queue / 'send'}", stderr=subprocess.PIPE)
    reader = tree.start("cat", str(other / "recv"), stderr=subprocess.PIPE)
    eventually(lambda: parked(tree) == 2)
    other.rmdir()
    (queue / "ctl").write_text("remove")
    for program in (writer, reader):
        assert program.wait(10) != 0
        assert program.stderr is not None
        assert os.strerror(errno.ESTALE).encode() in program.stderr.read()


# -- watchers --------------------------------------------------------------------------------------


def test_watchers_see_queues_and_messages_come_and_go(
    tree: Tree, agents: tuple[Puppet, Puppet]
) -> None:
    watcher = Watcher(tree, tree / "dev/queues")
    ann, _ = agents
    ann.do(f"os.mkdir(tree + '/{JOBS}')")
    assert watcher.until("CREATE,ISDIR", JOBS) == [("CREATE,ISDIR", JOBS)]
    inside = Watcher(tree, tree / JOBS / "new", tree / JOBS / "length")
    ann.write(f"{JOBS}/send", "hello")
    seen = inside.until("MODIFY", f"{JOBS}/length")
    (name,) = os.listdir(tree / JOBS / "new")
    path = f"{JOBS}/new/{name}"
    seen = [event for event in seen if event[0] != "MODIFY"]
    if ("CLOSE_WRITE", path) not in seen:
        seen += [e for e in inside.until("CLOSE_WRITE", path) if e[0] != "MODIFY"]
    assert [event for event, _ in seen] == ["CREATE", "CLOSE_WRITE"]
    ann.poll(f"{JOBS}/recv")
    events = [event for event, _ in inside.until("MODIFY", f"{JOBS}/length")]
    assert tree.read(f"{JOBS}/length") == "0\n"
    assert {"MODIFY"} < set(events) | {"DELETE", "MOVED_FROM"}
    ann.write(f"{JOBS}/ctl", "remove")
    assert watcher.until("DELETE,ISDIR", JOBS)[-1] == ("DELETE,ISDIR", JOBS)


def test_poll_and_epoll_wake_every_poller_of_recv(tree: Tree, queue: Path) -> None:
    flags = os.O_RDONLY | os.O_NONBLOCK
    with opened(queue / "recv", flags) as one, opened(queue / "recv", flags) as two:
        poller = select.poll()
        for descriptor in (one, two):
            poller.register(descriptor, select.POLLIN)
        assert poller.poll(0) == []
        put(queue, "hello")
        assert {fd for fd, _ in poller.poll(10_000)} <= {one, two}
        assert os.read(two, 65536).endswith(b"\n\nhello")
        with pytest.raises(BlockingIOError):
            os.read(one, 1)


def test_a_woken_reader_that_is_killed_hands_on(tree: Tree, queue: Path) -> None:
    for number in range(10):
        doomed = tree.start("cat", str(queue / "recv"), stdout=subprocess.DEVNULL)
        eventually(lambda: parked(tree) == 1)
        heir = tree.start("cat", str(queue / "recv"), stdout=subprocess.PIPE)
        eventually(lambda: parked(tree) == 2)
        doomed.kill()
        put(queue, str(number))
        assert heir.stdout is not None
        assert heir.stdout.read().decode().endswith(f"\n\n{number}")
        assert heir.wait(10) == 0
        doomed.wait()
        eventually(lambda: parked(tree) == 0)
