"""Shares on a real mount: one agent takes all that it gets of each pot, and another one, and the
operator, go on."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.system.test_blocking import parked
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount

numbers = itertools.count(1)
"""Each test has agents of its own."""


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


@pytest.fixture(scope="module")
def tree(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """One for all tests: each leaves the pots as they were."""
    made = QuickTree(tmp_path_factory.mktemp("shares") / "tree", hatchery=hatchery)
    made.mount()
    try:
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def greedy(tree: Tree) -> Iterator[Puppet]:
    made = Puppet(tree, f"greedy{next(numbers)}")
    yield made
    made.close()


@pytest.fixture
def leads(tree: Tree) -> Iterator[tuple[Puppet, Puppet]]:
    """Two that may do what most may not."""
    made = [Puppet(tree, f"lead{next(numbers)}", role="daemon") for _ in range(2)]
    yield made[0], made[1]
    for each in made:
        each.close()


@pytest.fixture
def modest(tree: Tree) -> Iterator[Puppet]:
    made = Puppet(tree, f"modest{next(numbers)}")
    yield made
    made.close()


def pot(tree: Tree, name: str) -> list[str]:
    """Its row of /sys/shares."""
    rows = [row.split() for row in tree.read("sys/shares").splitlines()]
    (found,) = [row for row in rows if row[0] == name]
    return found


def in_use(tree: Tree, name: str) -> int:
    return int(pot(tree, name)[3])


def room(agent: Puppet, name: str) -> tuple[int, int]:
    """(what it holds, what it may still take), as it reads it."""
    rows = [row.split() for row in agent.read("proc/self/limits/shares").splitlines()]
    (found,) = [row for row in rows if row[0] == name]
    return int(found[1]), int(found[2])


def share_events(tree: Tree) -> list[tuple[str, str]]:
    """(agent, pot) of the events that tell of refusals."""
    descriptor = os.open(tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    read = b""
    try:
        with suppress(BlockingIOError):
            while more := os.read(descriptor, 1 << 20):
                read += more
    finally:
        os.close(descriptor)
    found = map(json.loads, read.splitlines())
    return [(each["agent"], each["pot"]) for each in found if each["type"] == "share_refused"]


WAIT = """
import threading
errors = []
def wait(path):
    fd = os.open(os.path.join(tree, path), os.O_RDONLY)
    try:
        os.read(fd, 65536)
    except OSError as failure:
        errors.append(failure.errno)
def park(path, count):
    for _ in range(count):
        threading.Thread(target=wait, args=(path,), daemon=True).start()
"""


def test_reads_that_wait(tree: Tree, greedy: Puppet, modest: Puppet) -> None:
    tree.write("etc/agentfs.yaml", "mount: {max_parked: 200}\n")
    for agent in (greedy, modest):
        agent.do(f"exec({WAIT!r}, globals())")
    assert room(greedy, "parked") == (0, 90)
    greedy.do("park('agents/self/recv', 120)")
    eventually(lambda: parked(tree) == 90 and greedy.do("len(errors)") == 30)
    assert greedy.do("set(errors) == {11}")  # EAGAIN
    assert room(greedy, "parked") == (90, 0)
    words = greedy.read("proc/self/error")
    assert f"{greedy.name} holds 90 waiting reads and writes" in words
    assert "mount.max_parked" in words
    assert pot(tree, "parked")[1:5] == ["200", "20", "90", "1"]
    assert share_events(tree) == [(greedy.name, "parked")]

    modest.do("park('agents/self/recv', 40)")  # another agent
    eventually(lambda: parked(tree) == 130)
    assert modest.do("errors") == []
    for _ in range(70):  # the operator, to the last one
        tree.start("cat", str(tree / "dev/events"), stdout=subprocess.DEVNULL)
    eventually(lambda: parked(tree) == 200)
    tree.write(f"agents/init/outbox/{modest.name}", "hello\n")
    eventually(lambda: parked(tree) == 199)

    greedy.close()  # what it had goes with its end
    eventually(lambda: in_use(tree, "parked") == 109)


WRITE = """
kept = []
def begin(path, size):
    fd = os.open(os.path.join(tree, path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    kept.append(fd)
    os.write(fd, bytes(size))
def fill(paths, size):
    for path in paths:
        try:
            begin(path, size)
        except OSError as failure:
            return failure.errno, path
def end():
    while kept:
        try:
            os.close(kept.pop())
        except OSError:
            pass
"""


def test_letters_that_are_being_written(tree: Tree, greedy: Puppet, modest: Puppet) -> None:
    tree.write("etc/agentfs.yaml", "shares: {unsent: 10485760}\n")  # a tenth is the operator's
    most = 4_718_592  # half of the rest
    for agent in (greedy, modest):
        agent.do(f"exec({WRITE!r}, globals())")
    for paths in (
        f"['agents/self/outbox/{modest.name}'] * 20",
        f"['agents/{modest.name}/inbox/new/%s' % n for n in range(1, 20)]",
        f"['agents/{modest.name}/inbox/tmp/%s' % n for n in range(1, 20)]",
    ):
        assert greedy.do(f"fill({paths}, 500_000)[0]") == errno.EDQUOT
        assert room(greedy, "unsent") == (4_500_000, most - 4_500_000)
        with refused(errno.EDQUOT):
            greedy.do("os.truncate(kept[0], 1_000_000)")
        assert in_use(tree, "unsent") == 4_500_000
        assert f"{greedy.name} holds 4,500,000 bytes" in greedy.read("proc/self/error")
        modest.do(f"begin('agents/self/outbox/{greedy.name}', 1_000_000)")  # another agent
        modest.do("end()")
        letter = os.open(tree / f"agents/init/outbox/{modest.name}", os.O_WRONLY)  # the operator
        os.write(letter, bytes(1_000_000))
        assert in_use(tree, "unsent") == 5_500_000
        os.ftruncate(letter, 0)
        os.close(letter)
        greedy.do("[os.ftruncate(fd, 0) for fd in kept]")
        assert in_use(tree, "unsent") == 0
        greedy.do("end()")


def test_what_is_written_counts_as_long_as_the_daemon_has_it(tree: Tree, modest: Puppet) -> None:
    before = in_use(tree, "unsent")
    modest.do(f"exec({WRITE!r}, globals())")
    tmp, new = (f"agents/{modest.name}/inbox/{folder}/1" for folder in ("tmp", "new"))
    modest.do(f"begin({tmp!r}, 1000)")
    modest.do("end()")
    assert in_use(tree, "unsent") == before + 1000  # a file in tmp/ waits until it is sent
    modest.mv(tmp, new)
    assert in_use(tree, "unsent") == before
    modest.do(f"begin({tmp!r}, 1000)")
    modest.rm(tmp)
    assert in_use(tree, "unsent") == before + 1000  # it is open
    modest.do("end()")
    eventually(lambda: in_use(tree, "unsent") == before)

    size = (tree / "etc/acl.yaml").stat().st_size
    document = os.open(tree / "etc/acl.yaml", os.O_RDWR)
    assert in_use(tree, "unsent") == before + size
    os.close(document)
    eventually(lambda: in_use(tree, "unsent") == before)
    (tree / "etc/notes").write_bytes(bytes(1000))
    os.rename(tree / "etc/notes", tree / "etc/notes2")
    assert in_use(tree, "unsent") == before + 1000
    (tree / "etc/notes2").unlink()
    eventually(lambda: in_use(tree, "unsent") == before)

    modest.do("begin('agents/self/outbox/init', 1000)")
    os.kill(int(tree.read(f"proc/{modest.pid}/ospid")), 9)
    eventually(lambda: in_use(tree, "unsent") == before)


SEND = """
def send(receiver, count, text="hello"):
    fd = os.open(os.path.join(tree, "agents/self/send"), os.O_WRONLY)
    sent = 0
    try:
        for _ in range(count):
            os.write(fd, f"To: {receiver}\\n\\n{text}".encode())
            sent += 1
    except OSError as failure:
        return sent, failure.errno
    finally:
        os.close(fd)
    return sent, 0
"""


def test_messages_in_the_inbox_of_another(tree: Tree, greedy: Puppet, modest: Puppet) -> None:
    tree.write("etc/agentfs.yaml", "messages: {max_waiting: 200}\n")
    tree.spawn("target")
    for agent in (greedy, modest):
        agent.do(f"exec({SEND!r}, globals())")
    assert greedy.do("send('target', 300)") == [100, errno.EDQUOT]
    words = greedy.read("proc/self/error")
    assert f"{greedy.name} holds 100 messages that wait in the inbox of target" in words
    assert "messages.max_waiting" in words
    with refused(errno.EDQUOT):
        greedy.write("agents/self/outbox/target", "hello")
    assert greedy.do(f"send({modest.name!r}, 1)") == [1, 0]  # another inbox
    assert modest.do("send('target', 300)") == [50, errno.EDQUOT]  # both: three quarters
    for number in range(50):  # the operator: what is left
        tree.write("agents/init/outbox/target", f"{number}")
    with refused(errno.ENOSPC):
        tree.write("agents/init/outbox/target", "one too many")
    assert (greedy.name, "inbox") in share_events(tree)


def test_the_operator_writes_to_an_inbox_that_others_have_filled(
    tree: Tree, greedy: Puppet, modest: Puppet
) -> None:
    tree.write("etc/agentfs.yaml", "messages: {max_waiting: 12}\n")
    tree.spawn("filled")
    for agent in (greedy, modest):
        agent.do(f"exec({SEND!r}, globals())")
    assert greedy.do("send('filled', 20)") == [12, errno.ENOSPC]
    assert "the inbox of filled is full" in greedy.read("proc/self/error")
    assert modest.do("send('filled', 1)") == [0, errno.ENOSPC]
    tree.write("agents/init/outbox/filled", "hello")
    with refused(errno.ENOSPC):
        tree.write("agents/init/outbox/filled", "the reserve is one")


MAKE = """
def make(pattern, count):
    for number in range(count):
        path = os.path.join(tree, pattern % number)
        try:
            if pattern.startswith("dev/topics"):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            else:
                os.mkdir(path)
        except OSError as failure:
            return number, failure.errno
    return count, 0
def remind(count):
    for number in range(count):
        try:
            write("agents/self/reminders/new", "in 1h tea")
        except OSError as failure:
            return number, failure.errno
    return count, 0
def question(receiver, count):
    for number in range(count):
        try:
            ask("agents/self/asks/new", f"To: {receiver}\\n\\nwhy?")
        except OSError as failure:
            return number, failure.errno
    return count, 0
"""


@pytest.mark.parametrize(
    ("kind", "config", "folder", "code"),
    [
        ("queues", "queues: {max_queues: 60}", "dev/queues", errno.EDQUOT),
        ("topics", "topics: {max_topics: 60}", "dev/topics", errno.EDQUOT),
        ("groups", "groups: {max_groups: 60}", "sys/cgroup", errno.EAGAIN),
        ("definitions", "shares: {definitions: 90}", "agents", errno.EDQUOT),
    ],
)
def test_what_agents_make(
    tree: Tree,
    leads: tuple[Puppet, Puppet],
    kind: str,
    config: str,
    folder: str,
    code: int,
) -> None:
    tree.write("etc/agentfs.yaml", f"{config}\n")
    lead, modest = leads
    group = f"sys/cgroup/of-{lead.name}"
    (tree / group).mkdir()
    for agent in leads:
        tree.write(f"{group}/cgroup.procs", f"{agent.pid}\n")
        agent.do(f"exec({MAKE!r}, globals())")
    where = group if kind == "groups" else folder
    held, may = room(lead, kind)
    assert (held, may > 16) == (0, True)
    assert lead.do(f"make('{where}/{lead.name}.%s', 90)") == [may, code]
    assert room(lead, kind) == (may, 0)
    assert f"{lead.name} holds {may} {kind}" in lead.read("proc/self/error")
    assert (lead.name, kind) in share_events(tree)
    assert modest.do(f"make('{where}/{modest.name}.%s', 5)") == [5, 0]  # another agent
    make, remove = (Path.touch, Path.unlink) if kind == "topics" else (Path.mkdir, Path.rmdir)
    for number in range(5):
        make(tree / where / f"operators-{number}")
    for number in range(5):  # what goes makes room
        remove(tree / where / f"operators-{number}")
        remove(tree / where / f"{modest.name}.{number}")
    remove(tree / where / f"{lead.name}.0")
    assert lead.do(f"make('{where}/{lead.name}.again.%s', 2)") == [1, code]
    for name in sorted(os.listdir(tree / where)):
        if name.startswith(f"{lead.name}."):
            remove(tree / where / name)


@pytest.mark.parametrize(
    ("kind", "call", "code"),
    [("reminders", "remind(60)", errno.EDQUOT), ("asks", "question('init', 60)", errno.EAGAIN)],
)
def test_what_waits_for_its_time_or_an_answer(
    tree: Tree, greedy: Puppet, modest: Puppet, kind: str, call: str, code: int
) -> None:
    burst = "reminders: {burst: 1000, per_minute: 1000}"
    tree.write("etc/agentfs.yaml", f"shares: {{{kind}: 60}}\n{burst}\n")
    for agent in (greedy, modest):
        agent.do(f"exec({MAKE!r}, globals())")
    assert greedy.do(call) == [27, code]
    assert room(greedy, kind) == (27, 0)
    assert f"{greedy.name} holds 27" in greedy.read("proc/self/error")
    assert modest.do(call.replace("60", "10")) == [10, 0]
    assert pot(tree, kind)[1:5] == ["60", "6", "37", "2"]
    for agent in (greedy, modest):
        agent.close()
        until(tree / f"agents/{agent.name}/pid", "")
        (tree / f"agents/{agent.name}").rmdir()
    assert in_use(tree, kind) == 0


def test_what_children_make_counts_for_their_maker_once_they_are_removed(
    tree: Tree, leads: tuple[Puppet, Puppet]
) -> None:
    tree.write("etc/agentfs.yaml", "queues: {max_queues: 60}\n")
    lead, other = leads
    for round_ in range(3):
        name = f"{lead.name}-child{round_}"
        lead.do(f"os.mkdir(tree + '/agents/{name}')")
        child = Puppet(tree, name, lead.pid)
        child.do(f"exec({MAKE!r}, globals())")
        child.do(f"make('dev/queues/{child.name}.%s', 10)")
        child.close()
        until(tree / f"agents/{child.name}/pid", "")
        lead.do(f"os.rmdir(tree + '/agents/{child.name}')")
    assert room(lead, "queues") == (30, 0)
    other.do(f"exec({MAKE!r}, globals())")
    assert other.do(f"make('dev/queues/{other.name}.%s', 5)") == [5, 0]
    for name in os.listdir(tree / "dev/queues"):
        (tree / "dev/queues" / name).rmdir()
    assert in_use(tree, "queues") == 0


HOLD = """
held = []
def hold(path, count, flags=os.O_RDONLY):
    for number in range(count):
        try:
            held.append(os.open(os.path.join(tree, path), flags))
        except OSError as failure:
            return number, failure.errno
    return count, 0
"""


def opens(agent: Puppet, path: str) -> bool:
    """Whether it can open a file."""
    try:
        return bool(agent.read(path))
    except OSError:
        return False


@pytest.mark.parametrize("path", ["proc/self/status", "agents/self/recv", "dev", "shared"])
def test_what_is_open(tree: Tree, greedy: Puppet, modest: Puppet, path: str) -> None:
    tree.write("etc/agentfs.yaml", "shares: {handles: 400}\n")
    for agent in (greedy, modest):
        agent.do(f"exec({HOLD!r}, globals())")
    may = room(greedy, "handles")[1]
    assert 100 < may <= 180
    flags = os.O_DIRECTORY if path in ("dev", "shared") else os.O_RDONLY
    got, code = greedy.do(f"hold({path!r}, 400, {flags})")
    assert (abs(got - may) <= 2, code) == (True, errno.EMFILE)
    assert modest.do(f"hold({path!r}, 50, {flags})") == [50, 0]  # another agent
    descriptor = os.open(tree / "sys/version", os.O_RDONLY)  # the operator
    assert f"{greedy.name} holds" in tree.read(f"proc/{greedy.pid}/error")
    greedy.do("[os.close(fd) for fd in held[:60]]")
    eventually(lambda: opens(greedy, "sys/version"))
    assert greedy.read("sys/version") == os.read(descriptor, 100).decode()
    os.close(descriptor)


START = """
def start(count):
    for number in range(count):
        request = "{name: %s-%s, exec: [/bin/true], restart: never}" % (
            os.environ["AGENT_NAME"], number)
        try:
            ask("proc/self/spawn", request)
        except OSError as failure:
            return number, failure.errno
    return count, 0
"""


def test_launches(trees: Callable[..., Tree]) -> None:
    tree = trees("launches")  # what was started counts for a minute
    tree.mount()
    tree.write("etc/agentfs.yaml", "shares: {launches: 50}\n")
    greedy, modest = (
        Puppet(tree, name, limits={"max_children": "max"}) for name in ("greedy", "modest")
    )
    for agent in (greedy, modest):
        agent.do(f"exec({START!r}, globals())")
    may = room(greedy, "launches")[1]
    assert 16 <= may <= 22
    assert greedy.do("start(40)") == [may, errno.EAGAIN]
    assert "programs started within a minute" in greedy.read("proc/self/error")
    assert modest.do("start(3)") == [3, 0]  # another agent
    for number in range(30):  # the operator, whatever is counted
        tree.spawn(f"o{number}", exec=["/bin/true"], restart="never")
    assert in_use(tree, "launches") > 50
    for agent in (greedy, modest):
        agent.close()


def test_what_was_made_counts_for_its_maker_after_a_crash(trees: Callable[..., Tree]) -> None:
    tree = trees("crashed")
    tree.mount()
    tree.write("etc/agentfs.yaml", "queues: {max_queues: 60}\n")
    maker = Puppet(tree, "maker", role="daemon")
    maker.do(f"exec({MAKE!r}, globals())")
    for pattern in ("dev/queues/q%s", "dev/topics/t%s", "agents/a%s"):
        assert maker.do(f"make('{pattern}', 20)") == [20, 0]
    assert maker.do("remind(3)") == [3, 0]
    tree.crash()
    tree.mount()
    for kind, count in (("queues", 20), ("topics", 20), ("definitions", 20), ("reminders", 3)):
        row = " ".join(pot(tree, kind))
        assert f"maker {count}" in row
    again = Puppet(tree, "again", role="daemon")
    again.do(f"exec({MAKE!r}, globals())")
    assert again.do("make('dev/queues/again%s', 60)") == [17, errno.EDQUOT]  # half of 54 - 20
    for agent in (maker, again):
        agent.close()


def test_messages_that_are_open(tree: Tree, greedy: Puppet, modest: Puppet) -> None:
    tree.write("etc/agentfs.yaml", "shares: {contents: 10485760}\n")
    paths = {}
    for agent in (greedy, modest):
        agent.do(f"exec({HOLD!r}, globals())")
        tree.write(f"agents/init/outbox/{agent.name}", "x" * 1_000_000)
        (name,) = agent.ls("agents/self/inbox/new")
        paths[agent.name] = f"agents/self/inbox/new/{name}"
    got, code = greedy.do(f"hold({paths[greedy.name]!r}, 40)")
    assert (got, code) == (4, errno.EDQUOT)  # half of nine tenths
    assert f"{greedy.name} holds 4,00" in greedy.read("proc/self/error")
    assert modest.do(f"hold({paths[modest.name]!r}, 2)") == [2, 0]  # another agent
    path = tree / paths[modest.name].replace("self", modest.name)
    with path.open() as file:  # the operator
        assert file.read().endswith("x" * 1_000_000)
    for agent in (greedy, modest):
        agent.do("[os.close(fd) for fd in held]")
    eventually(lambda: in_use(tree, "contents") == 0)
