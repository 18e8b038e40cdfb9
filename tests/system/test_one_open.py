"""One open is one message, or one document: accepted by the close that ends it, whoever closes."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.hatchery import Hatchery
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

names = map("bob{}".format, itertools.count())


@pytest.fixture(scope="module")
def shared(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    from tests.hatchery import QuickTree

    tree = QuickTree(tmp_path_factory.mktemp("one") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


class Peer:
    """An agent that gets mail from the operator."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.name = next(names)
        tree.spawn(self.name)
        self.outbox = tree / f"agents/init/outbox/{self.name}"
        self.new = tree / f"agents/{self.name}/inbox/new"

    def bodies(self) -> list[str]:
        """What has arrived, without headers."""
        texts = [(self.new / name).read_text() for name in sorted(os.listdir(self.new))]
        return [text.partition("\n\n")[2] for text in texts]


@pytest.fixture
def bob(shared: Tree) -> Peer:
    return Peer(shared)


def shell(script: str, **where: object) -> subprocess.CompletedProcess[str]:
    """Run it with sh; `$outbox` and the like are in `where`."""
    environment = os.environ | {key: str(value) for key, value in where.items()}
    return subprocess.run(
        ["sh", "-c", script], env=environment, text=True, capture_output=True, timeout=60
    )


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, text=True, capture_output=True, timeout=60)


# -- threads ------------------------------------------------------------------------------------


def test_threads_that_write_to_one_path_send_a_message_each_and_none_waits_for_another(
    bob: Peer,
) -> None:
    """Each is there when its close has returned, whoever else has the path open."""
    late: list[str] = []

    def send(number: int) -> None:
        for count in range(40):
            text = f"{number} {count}"
            with open(bob.outbox, "w") as file:
                file.write(text)
            if not any(text == body for body in bob.bodies()):
                late.append(text)

    other = os.open(bob.outbox, os.O_WRONLY)
    try:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.close(other)
    assert not late
    assert len(bob.bodies()) == 160


def test_a_file_opened_in_a_thread_that_ended_is_one_message(bob: Peer) -> None:
    async def write() -> None:
        async with await trio.open_file(bob.outbox, "w") as file:
            await file.write("one ")
            await file.flush()
            # The thread that opened it ends, and a child comes and goes that has inherited nothing.
            await trio.run_process(["true"])
            await file.write("two")

    trio.run(write)
    assert bob.bodies() == ["one two"]


@pytest.mark.parametrize("opener", ["thread", "main"])
def test_a_child_that_inherits_from_another_thread(bob: Peer, opener: str) -> None:
    opened: list[int] = []

    def open_it() -> None:
        opened.append(os.open(bob.outbox, os.O_WRONLY))

    if opener == "thread":
        thread = threading.Thread(target=open_it)
        thread.start()
        thread.join()
    else:
        open_it()
    for text in ("one", "two"):
        subprocess.run(["/bin/echo", text], stdout=opened[0], check=True)
        assert bob.bodies() == []
    os.close(opened[0])
    assert bob.bodies() == ["one\ntwo\n"]


# -- other names of one tree ----------------------------------------------------------------------

TWO = "{ /bin/echo one; /bin/echo two; }"


def test_programs_in_a_sandbox_that_has_the_tree_elsewhere(bob: Peer, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    inside = f"mount --bind '{bob.tree.path}' '{place}' && cd '{place}/agents/init/outbox' && "
    for way in ("", "--pid --fork --mount-proc"):
        done = subprocess.run(
            ["unshare", "--mount", *way.split(), "sh", "-c", inside + f"{TWO} > {bob.name}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert bob.bodies() == ["one\ntwo\n"] * 2


def test_programs_that_have_one_file_of_the_tree_as_another(bob: Peer, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()
    script = f"mount --bind '{bob.outbox}' '{place}' && {TWO} > '{place}'"
    subprocess.run(["unshare", "--mount", "sh", "-c", script], check=True)
    assert bob.bodies() == ["one\ntwo\n"]


# -- duplicates and heirs -------------------------------------------------------------------------


def test_an_exec_that_closes_descriptors_is_waited_for_by_nobody(bob: Peer) -> None:
    """Linux holds a lock meanwhile, for which whoever looks at the process in /proc waits."""
    script = """
        import os, sys
        file = os.open(sys.argv[1], os.O_WRONLY)  # closed by exec
        os.write(file, b"one ")
        for _ in range(20):
            pid = os.fork()
            if not pid:
                os.execv("/bin/true", ["true"])
            os.waitpid(pid, 0)
        os.write(file, b"two")
        os.execv("/bin/echo", ["echo", "done"])
        """
    done = python(script, bob.outbox)
    assert done.stdout == "done\n", done.stderr
    eventually(lambda: bob.bodies() == ["one two"])


def test_a_duplicate_is_the_same_message(bob: Peer) -> None:
    first = os.open(bob.outbox, os.O_WRONLY)
    second = os.dup(first)
    os.write(first, b"one ")
    os.close(first)
    assert bob.bodies() == []
    os.write(second, b"two")
    os.close(second)
    assert bob.bodies() == ["one two"]


def test_a_second_open_of_standard_output_is_a_message_of_its_own(bob: Peer) -> None:
    done = shell('{ echo one; echo two > /dev/stdout; echo three; } > "$outbox"', outbox=bob.outbox)
    assert done.returncode == 0, done.stderr
    assert sorted(bob.bodies()) == ["one\nthree\n", "two\n"]


@pytest.mark.parametrize(
    "script",
    [
        '(echo one; /bin/echo two) > "$outbox"',  # dash: a voluntary end without a close
        '(/bin/echo one; exec /bin/echo two) > "$outbox"',
        '{ (echo one); (echo two); } > "$outbox"',
        'exec 3> "$outbox"; echo one >&3; exec 4>&3 3>&-; echo two >&4; exec 4>&-',
        '{ echo one; sleep 0.2; echo two; } > "$outbox" & wait',
        '(echo one; exit 3) > "$outbox"; true',
    ],
)
def test_what_shells_do_is_one_message(bob: Peer, script: str) -> None:
    shell(script, outbox=bob.outbox)
    assert bob.bodies() == ["one\n" if "exit" in script else "one\ntwo\n"]


@pytest.mark.parametrize("place", ["outbox", "new"])
def test_the_child_goes_on_when_its_parent_has_ended(bob: Peer, place: str) -> None:
    path = bob.outbox if place == "outbox" else bob.new / "letter"
    script = """
        import os, sys, time
        file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
        parent = os.getpid()
        if os.fork():
            if sys.argv[2] == "half":
                os.write(file, b"one ")
            os._exit(0)
        while os.getppid() == parent:
            time.sleep(0.01)
        if os.fork():  # and once more
            os._exit(0)
        time.sleep(0.05)
        os.write(file, b"two")
        os.close(file)
        print("done", flush=True)
        """
    for half in ("half", "nothing"):
        done = python(script, f"{path}{half * (place == 'new')}", half)
        assert "done" in done.stdout, done.stderr
    assert sorted(bob.bodies()) == ["one two", "two"]


def test_a_descriptor_on_its_way_through_a_socket_is_still_the_same_message(bob: Peer) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        descriptor = os.open(bob.outbox, os.O_WRONLY)
        os.write(descriptor, b"one ")
        socket.send_fds(ours, [b"x"], [descriptor])
        os.close(descriptor)
        _, (received,), _, _ = socket.recv_fds(theirs, 10, 1)
        os.write(received, b"two")
        os.close(received)
    eventually(lambda: bob.bodies() == ["one two"], "the message as a whole")


def test_what_a_close_accepted_before_the_message_was_whole_survives_kill_9(
    trees: Callable[..., Tree],
) -> None:
    """Nobody can tell whether a descriptor is on its way: the close that accepts it is kept to,
    and the whole is one message if the daemon lives, the accepted part if it does not."""
    tree = trees()
    tree.mount()
    bob = Peer(tree)
    queue = tree / "dev/queues/jobs"
    queue.mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for path in (bob.outbox, bob.new / "letter", queue / "new/job"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, b"accepted")
            socket.send_fds(ours, [b"x"], [descriptor])
            os.close(descriptor)
        assert bob.bodies() == os.listdir(queue / "new") == []
        tree.crash()
        _, received, _, _ = socket.recv_fds(theirs, 10, 3)
        for descriptor in received:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    for _ in range(2):  # once, and not at every start
        tree.mount()
        assert bob.bodies() == ["accepted"] * 2
        assert "letter" in os.listdir(bob.new)
        assert os.listdir(queue / "new") == ["job"]
        tree.crash()
    tree.mount()


# -- refused --------------------------------------------------------------------------------------


def test_what_was_refused_once_is_refused_at_the_close_and_not_sent(bob: Peer) -> None:
    for path in (bob.outbox, bob.new / "big"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        for _ in range(8):
            os.write(descriptor, bytes(128 * 1024))
        for _ in range(2):
            with pytest.raises(OSError, match="too long"):
                os.write(descriptor, bytes(128 * 1024))
        with pytest.raises(OSError, match="too long") as refused:
            os.close(descriptor)
        assert refused.value.errno == errno.EMSGSIZE
    assert bob.bodies() == []
    acl = bob.tree / "etc/acl.yaml"
    before = acl.read_text()
    descriptor = os.open(acl, os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"rules: []\n")
    with pytest.raises(OSError, match="too large"):
        os.pwrite(descriptor, b"#", 1 << 20)
    with pytest.raises(OSError, match="too large"):
        os.close(descriptor)
    assert acl.read_text() == before


def test_half_a_message_to_send_is_refused_and_dd_makes_one_of_what_printf_writes(
    bob: Peer,
) -> None:
    send = bob.tree / "agents/init/send"
    header = f"To: {bob.name}\\n"
    done = shell(f"{{ printf '{header}'; sleep 0.1; printf '\\nhi\\n'; }} | cat > '{send}'")
    assert "Invalid argument" in done.stderr
    assert bob.bodies() == []
    script = (
        f"printf '{header}Priority: high\\n\\none\\ntwo\\n' | dd bs=1M iflag=fullblock of='{send}'"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert bob.bodies() == ["one\ntwo\n"]


# -- killed ---------------------------------------------------------------------------------------

HALF = """
    import os, sys
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, sys.argv[2].encode())
    print("half", flush=True)
    sys.stdin.read()
    """


def killed_between_two_writes(path: Path, text: str, script: str = HALF) -> None:
    command = [sys.executable, "-c", textwrap.dedent(script), str(path), text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.kill()


def test_half_a_message_of_a_writer_that_was_killed_is_not_sent(bob: Peer) -> None:
    queue = bob.tree / f"dev/queues/{bob.name}"
    queue.mkdir()
    for path in (bob.outbox, bob.new / "half", queue / "new/half"):
        killed_between_two_writes(path, "half")
    with open(bob.outbox, "w") as file:
        file.write("whole")
    eventually(lambda: not (bob.new / "half").exists())
    assert bob.bodies() == ["whole"]
    assert os.listdir(queue / "new") == []


@pytest.mark.parametrize("name", ["etc/acl.yaml", "etc/agentfs.yaml", "spec.yaml"])
def test_half_a_document_of_a_writer_that_was_killed_is_not_in_force(bob: Peer, name: str) -> None:
    path = bob.tree / (name if "/" in name else f"agents/{bob.name}/{name}")
    before = path.read_text()
    killed_between_two_writes(path, "rules: []\n" if "acl" in name else "# half\n")
    assert path.read_text() == before
    with open(path) as file, open(path, "r+") as writer:  # and readers see the old one meanwhile
        writer.write("# more\n")
        writer.flush()
        assert file.read() == before
        writer.seek(0)
        writer.write(before[: len("# more\n")])
    assert path.read_text() == before


THREADED = """
    import os, sys, threading, time
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    file = os.open(sys.argv[1], os.O_WRONLY)
    os.write(file, sys.argv[2].encode())
    if os.fork() == 0:
        time.sleep(0.1)
        os._exit(0)
    print("half", flush=True)
    sys.stdin.read()
    """


def test_a_writer_with_threads_and_a_child_is_killed(bob: Peer) -> None:
    """The child has inherited the descriptor, and ends by itself: nobody is left to take it back,
    so what is there is what was written."""
    killed_between_two_writes(bob.outbox, "half", THREADED.replace("os._exit(0)", "os.abort()"))
    time.sleep(0.3)
    # Where it cannot be told which of the two closed last, it is rather taken than lost.
    before = bob.bodies()
    assert before in ([], ["half"])
    killed_between_two_writes(bob.outbox, "whole", THREADED)
    eventually(lambda: bob.bodies() == [*before, "whole"])


def test_a_process_with_threads_that_exits_is_not_killed(bob: Peer) -> None:
    """Linux ends the other threads of a process that exits by a signal of its own."""
    python(THREADED.replace("sys.stdin.read()", "os._exit(0)"), bob.outbox, "whole")
    eventually(lambda: bob.bodies() == ["whole"])


def test_a_message_counts_while_a_child_of_its_sender_is_killed(bob: Peer) -> None:
    """A parent that kills a child and tells of it: the child's end says nothing of the message."""
    for count in range(20):
        child = subprocess.Popen(["sleep", "60"])
        with open(bob.outbox, "w") as file:
            file.write(f"killed {count}")
            file.flush()
            child.kill()
        child.wait()
    assert bob.bodies() == [f"killed {count}" for count in range(20)]


def test_a_child_is_killed_while_its_parent_writes_on(bob: Peer) -> None:
    with open(bob.outbox, "w") as file:
        child = subprocess.Popen(["sh", "-c", "echo one; kill -9 $$"], stdout=file)
        child.wait()
        assert bob.bodies() == []
        file.write("two")
    assert bob.bodies() == ["one\ntwo"]


# -- what it costs --------------------------------------------------------------------------------


def test_a_sender_with_many_descriptors_holds_nobody_up(bob: Peer) -> None:
    script = """
        import os, resource, sys, time
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        many = [os.open("/dev/null", os.O_RDONLY) for _ in range(min(hard - 50, 15000))]
        for count in range(int(sys.argv[2])):
            with open(sys.argv[1], "w") as file:
                file.write(f"{count}")
        """
    done = threading.Event()
    slow: list[float] = []

    def look() -> None:
        while not done.is_set():
            before = time.thread_time(), time.monotonic()
            os.stat(bob.outbox)
            slow.append(time.monotonic() - before[1])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        sent = python(script, bob.outbox, 20)
    finally:
        done.set()
        thread.join()
    assert sent.returncode == 0, sent.stderr
    assert len(bob.bodies()) == 20
    assert sorted(slow)[int(len(slow) * 0.9)] < 0.1  # each one took 0.2 s of the loop before


def test_what_others_open_while_a_close_is_looked_at_takes_nothing_from_it(bob: Peer) -> None:
    """Threads that look a file up at once share its inode; more than 32 descriptors are looked at
    beside the event loop, which opens files meanwhile."""
    script = """
        import os, sys, threading
        many = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
        def send(number):
            for count in range(40):
                file = os.open(sys.argv[1], os.O_WRONLY)
                os.write(file, f"{number}.{count}".encode())
                os.close(file)
        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        """
    sent = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(bob.outbox)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert sent.returncode == 0, sent.stderr
    wanted = {f"{number}.{count}" for number in range(8) for count in range(40)}
    eventually(lambda: len(bob.bodies()) >= len(wanted))
    assert set(bob.bodies()) == wanted


# -- a crash --------------------------------------------------------------------------------------


SENDERS = """
    import os, sys, threading
    accepted = open(sys.argv[2], "a")
    def send(number):
        for count in range(2000):
            text = f"{number}.{count}"
            try:
                file = os.open(sys.argv[1], os.O_WRONLY)
                os.write(file, text.encode())
                os.close(file)
            except OSError:
                return
            accepted.write(text + "\\n")
            accepted.flush()
    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    """


def has(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def test_what_four_threads_were_told_is_accepted_survives_kill_9(
    trees: Callable[..., Tree], tmp_path: Path
) -> None:
    tree = trees()
    told: set[str] = set()
    for round_ in range(5):
        tree.mount()
        if not round_:
            tree.spawn("sink")
        ledger = tmp_path / f"ledger{round_}"
        ledger.touch()
        sender = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(SENDERS).replace('f"{number}.', f'f"{round_}.{{number}}.'),
                str(tree / "agents/init/outbox/sink"),
                str(ledger),
            ]
        )
        wanted = 600 + 40 * round_
        eventually(functools.partial(has, ledger, wanted))
        tree.crash()
        sender.wait(30)
        told |= set(ledger.read_text().splitlines())
    tree.mount()
    new = tree / "agents/sink/inbox/new"
    arrived = [(new / name).read_text().partition("\n\n")[2] for name in os.listdir(new)]
    assert len(arrived) == len(set(arrived))
    assert told <= set(arrived)
    assert all(re.fullmatch(r"\d\.\d\.\d+", body) for body in arrived)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_half_a_message_through_a_mount_that_was_taken_away_lazily_is_not_accepted(
    trees: Callable[..., Tree], tmp_path: Path
) -> None:
    """Such a mount is in no table of Linux any more, and its files are open still."""
    tree, place = trees(), tmp_path / "elsewhere"
    tree.mount()
    bob = Peer(tree)
    place.mkdir()
    subprocess.run(["mount", "--bind", tree.path, place], check=True)
    try:
        first = os.open(place / bob.outbox.relative_to(tree.path), os.O_WRONLY)
        second, third = os.dup(first), os.dup(first)
        os.write(first, b"one half")
        os.close(first)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    os.write(second, b", and not the other")
    os.close(second)
    tree.crash()
    with contextlib.suppress(OSError):
        os.close(third)
    tree.mount()
    assert bob.bodies() == []
