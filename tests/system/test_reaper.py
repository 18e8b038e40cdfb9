"""What outlives a daemon that is killed: whose it is, and how it ends. Each where the daemon may
make control groups (on this machine, if it may) and where it may not."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentfs.machine import reaper
from tests.hatchery import Hatchery
from tests.puppet import Puppet
from tests.tree import AGENTFS, PATIENCE, Tree, eventually, until

pytestmark = pytest.mark.mount

Trees = Callable[..., Tree]


@pytest.fixture(scope="module")
def ancestry(fuse: None) -> Iterator[Hatchery]:
    made = Hatchery("tests.ancestry")
    yield made
    made.close()


@pytest.fixture(params=["cgroup", "ancestry"])
def tree(request: pytest.FixtureRequest, trees: Trees, ancestry: Hatchery) -> Tree:
    made = trees(**({"hatchery": ancestry} if request.param == "ancestry" else {}))
    made.mount()
    return made


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nPPid:")[2].split()[0])


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Callable[[], bool]]:
    """Gives a function that waits for the end of a process; False if it does not end."""
    pidfd = os.pidfd_open(pid)
    try:
        yield lambda: bool(select.select([pidfd], [], [], PATIENCE)[0])
    finally:
        os.close(pidfd)


# -- how it ends -----------------------------------------------------------------------------------


def waits_for(go: Path, then: str) -> str:
    return f"until [ -e {shlex.quote(str(go))} ]; do sleep 0.02; done 2>/dev/null; {then}"


ENDS = {"exit 7": "7", "exit 0": "0", "kill -9 $$": "137"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_exit_code_of_what_outlived_the_daemon_is_true(
    tree: Tree, tmp_path: Path, when: str
) -> None:
    go = tmp_path / "go"
    names = dict(zip(("alice", "bob", "carol"), ENDS, strict=True))
    pids = [
        tree.spawn(name, exec=waits_for(go, then), restart="never") for name, then in names.items()
    ]
    ospids = [int(tree.read(f"proc/{pid}/ospid")) for pid in pids]
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(watched(ospid)) for ospid in ospids]
        tree.crash()
        if when == "after":
            tree.mount()
        go.touch()
        assert all(ended() for ended in ends)
        if when == "before":
            tree.mount()
    for pid, code in zip(pids, ENDS.values(), strict=True):
        until(tree / f"proc/{pid}/exit", code)


def test_it_is_true_twice_removed(tree: Tree, tmp_path: Path) -> None:
    """The program of the first daemon ends while the third is away."""
    go = tmp_path / "go"
    pid = tree.spawn("alice", exec=waits_for(go, "exit 7"), restart="never")
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    assert tree.daemon is not None
    above = parent_of(tree.daemon)
    for _ in range(2):
        tree.crash()
        tree.mount()
        assert tree.read(f"proc/{pid}/ospid").strip() == str(ospid)
    assert str(above) in os.listdir(tree.state / "reapers")
    tree.crash()
    with watched(above) as ended:
        go.touch()
        assert ended()
    tree.mount()
    assert tree.read(f"proc/{pid}/exit").strip() == "7"
    assert str(above) not in os.listdir(tree.state / "reapers"), "all that it knew is known"


def test_who_ended_well_while_there_was_no_daemon_has_acknowledged_nothing(
    tree: Tree, tmp_path: Path
) -> None:
    """A loop over `recv` ends so, too, when the tree goes away."""
    go = tmp_path / "go"
    took = waits_for(go, "exit 0")
    pid = tree.spawn("alice", exec=f"cat $AGENTFS/agents/self/recv; {took}", restart_notice=False)
    tree.write("agents/init/outbox/alice", "work\n")
    eventually(lambda: "work" in tree.read("agents/alice/log"))
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    with watched(ospid) as ended:
        tree.crash()
        go.touch()
        assert ended()
    go.unlink()
    tree.mount()
    eventually(lambda: tree.read("agents/alice/log").count("work\n") == 2)
    assert "Delivery-Attempt: 2\n" in tree.read("agents/alice/log")


# -- whose it is -----------------------------------------------------------------------------------

ORPHAN = """
import os, socket, sys
tree, path, away = sys.argv[1:]
if away:
    with open(away, "w") as group:
        group.write("0")
def attempt(call):
    try:
        return call()
    except OSError as failure:
        return os.strerror(failure.errno)
line = socket.socket(socket.AF_UNIX)
line.connect(path)
with line.makefile("rw") as wire:
    for _ in wire:
        who = attempt(lambda: os.readlink(tree + "/proc/self"))
        what = attempt(lambda: os.listdir(tree + "/agents/init/memory") and "operator's")
        print(os.getpid(), os.getppid(), who, what, sep=";", file=wire, flush=True)
"""


class Orphan:
    """What an agent's program leaves behind by forking twice, in a session of its own and without
    an environment. `away`: a control group that it enters."""

    def __init__(self, tree: Tree, puppet: Puppet, away: str = "") -> None:
        path = tree.state.parent / "orphan.sock"
        words = [sys.executable, "-I", "-S", "-c", ORPHAN, str(tree.path), str(path), away]
        script = f"setsid env -i {shlex.join(words)} </dev/null >/dev/null 2>&1 &"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen(1)
            listening.settimeout(PATIENCE)
            puppet.do(f"os.system({script!r})")
            self._line = listening.accept()[0]
        path.unlink()
        self._line.settimeout(PATIENCE)
        self._wire = self._line.makefile("rw")
        self.pid, _, _, _ = self.ask()
        self.tree = tree

    def ask(self) -> tuple[int, int, str, str]:
        """Its pid, its parent, who it is in the tree, and what it gets of the operator's."""
        print("who", file=self._wire, flush=True)
        pid, parent, who, what = self._wire.readline().strip().split(";")
        return int(pid), int(parent), who, what

    def is_no_operator(self, puppet: Puppet) -> None:
        _, _, who, what = self.ask()
        assert who in (str(puppet.pid), "No such file or directory")
        assert what == "Permission denied"

    def close(self) -> None:
        self._wire.close()
        self._line.close()


AWAY = [
    f"{place}/cgroup.procs"
    for place in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
    if os.access(f"{place}/cgroup.procs", os.W_OK)
][:1]
"""A group that is nobody's, which root's programs may enter."""


@pytest.mark.parametrize("away", ["", *AWAY])
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_what_a_survivor_leaves_behind_is_not_the_operator(
    tree: Tree, when: str, away: str
) -> None:
    with contextlib.closing(Puppet(tree, "alice")) as puppet:
        orphan = Orphan(tree, puppet, away) if when == "before" else None
        if orphan is not None:
            orphan.is_no_operator(puppet)
        tree.crash()
        if when == "between":
            orphan = Orphan(tree, puppet, away)
        tree.mount()
        orphan = orphan or Orphan(tree, puppet, away)
        with contextlib.closing(orphan):
            eventually(lambda: orphan.ask()[1] != puppet.do("os.getpid()"))
            orphan.is_no_operator(puppet)
            assert puppet.do("os.readlink(tree + '/proc/self')") == str(puppet.pid)
            assert os.readlink(tree / "proc/self") == "1", "whoever mounted it is the operator"


# -- the reaper itself -----------------------------------------------------------------------------


def test_it_goes_with_the_daemon_if_nobody_is_left(tree: Tree) -> None:
    assert tree.daemon is not None
    above = parent_of(tree.daemon)
    assert os.listdir(tree.state / "reapers") == [str(above)]
    tree.spawn("alice", exec="exec sleep 1000")
    with watched(above) as ended:
        tree.unmount()
        assert ended()
    assert os.listdir(tree.state / "reapers") == []


def test_it_goes_when_the_last_that_outlived_the_daemon_has(tree: Tree) -> None:
    pid = tree.spawn("alice", exec="exec sleep 1000")
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    assert tree.daemon is not None
    with watched(parent_of(tree.daemon)) as ended:
        tree.crash()
        os.kill(ospid, signal.SIGKILL)
        assert ended()


def test_it_is_small_and_holds_nothing(tree: Tree) -> None:
    assert tree.daemon is not None
    above = parent_of(tree.daemon)
    eventually(lambda: b"reaper.py" in Path(f"/proc/{above}/cmdline").read_bytes())
    eventually(lambda: os.readlink(f"/proc/{above}/cwd") == "/")
    kept = {os.readlink(f"/proc/{above}/fd/{name}") for name in os.listdir(f"/proc/{above}/fd")}
    assert {link for link in kept if not link.startswith("pipe:")} == {os.devnull}
    status = Path(f"/proc/{above}/status").read_text()
    assert int(status.partition("\nRssAnon:")[2].split()[0]) < 6 * 1024  # kB, of its own


def test_killed_it_takes_nothing_along_and_the_log_says_what_is_lost(tree: Tree) -> None:
    assert tree.daemon is not None
    above = parent_of(tree.daemon)
    pid = tree.spawn("alice", exec="exec sleep 1000")
    ospid = tree.read(f"proc/{pid}/ospid")
    with watched(above) as ended:
        os.kill(above, signal.SIGKILL)
        assert ended()
    eventually(lambda: "the reaper was killed" in tree.log())
    assert tree.read(f"proc/{pid}/ospid") == ospid
    tree.crash()
    tree.mount()
    assert tree.read(f"proc/{pid}/ospid") == ospid
    assert f"process {pid}, alice, has outlived its reaper" in tree.log()
    os.kill(int(ospid), signal.SIGKILL)
    eventually(lambda: "Restarts:\t1\n" in tree.read(f"proc/{pid}/status"))


def test_term_for_it_is_the_daemons(tree: Tree) -> None:
    assert tree.daemon is not None
    with watched(tree.daemon) as ended:
        os.kill(parent_of(tree.daemon), signal.SIGTERM)
        assert ended()
    tree.daemon = None
    assert "ending: SIGTERM" in tree.log()


def test_on_a_full_disk_nothing_that_ends_is_forgotten(trees: Trees, tmp_path: Path) -> None:
    """Linux keeps the code until there is room for it."""
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    read, write = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        try:
            child = os.fork()
            if child == 0:
                os._exit(7)
            os.write(write, b"%d\n" % child)
            reaper._reap({child}, str(path))
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as lines:
        child = int(lines.readline())
    try:
        eventually(lambda: Path(f"/proc/{child}/stat").read_text().split()[2] == "Z")
        path.unlink()
        path.touch()
        os.waitpid(keeper, 0)
    except BaseException:
        os.kill(keeper, signal.SIGKILL)
        raise
    (line,) = path.read_text().split("\n")[-2:-1]
    assert line.split()[::2] == [str(child), "7"]


# -- in the foreground -----------------------------------------------------------------------------


@pytest.fixture
def front(trees: Trees) -> tuple[Tree, subprocess.Popen[bytes]]:
    """A tree that is served in the foreground, by `agentfs mount -f`."""
    tree = trees(command=AGENTFS)
    words = ["mount", "-f", str(tree.path), "--state", str(tree.state)]
    program = tree.start(*AGENTFS, *words, stderr=subprocess.DEVNULL)
    eventually((tree / "proc/1/ospid").exists)
    tree.daemon = int(tree.read("proc/1/ospid"))
    return tree, program


def test_in_front_it_ends_with_the_daemon_and_not_with_the_reaper(
    front: tuple[Tree, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    tree, program = front
    go = tmp_path / "go"
    pid = tree.spawn("alice", exec=waits_for(go, "exit 7"), restart="never")
    ospid = int(tree.read(f"proc/{pid}/ospid"))
    tree.crash()
    assert program.wait(PATIENCE) == 128 + signal.SIGKILL
    assert b"reaper.py" in Path(f"/proc/{parent_of(ospid)}/cmdline").read_bytes()
    with watched(ospid) as ended:
        go.touch()
        assert ended()
    tree.mount()
    assert tree.read(f"proc/{pid}/exit").strip() == "7"


def test_who_kills_what_is_in_front_kills_the_daemon(
    front: tuple[Tree, subprocess.Popen[bytes]],
) -> None:
    tree, program = front
    pid = tree.spawn("alice", exec="exec sleep 1000")
    ospid = tree.read(f"proc/{pid}/ospid")
    assert tree.daemon is not None
    with watched(tree.daemon) as ended:
        program.kill()
        assert ended()
    tree.daemon = None
    tree.mount()
    assert tree.read(f"proc/{pid}/ospid") == ospid
    assert json.loads(tree.read(f"proc/{pid}/info"))["restarts"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_whole_group_that_is_asked_to_end_ends_well(
    trees: Trees, number: signal.Signals, tmp_path: Path
) -> None:
    """As systemd and Ctrl-C do it: the daemon hears it three times."""
    tree = trees(command=AGENTFS)
    words = ["mount", "-f", str(tree.path), "--state", str(tree.state)]
    program = tree.start(*AGENTFS, *words, stderr=subprocess.DEVNULL, start_new_session=True)
    eventually((tree / "proc/1/ospid").exists)
    last = tmp_path / "last"
    loop = f"trap 'touch {last}; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    tree.spawn("alice", exec=loop)
    until(tree / "agents/alice/log", "up")
    above = parent_of(int(tree.read("proc/1/ospid")))
    with watched(above) as ended:
        os.killpg(program.pid, number)
        assert program.wait(PATIENCE) == 0
        assert ended()
    assert last.exists(), "its programs were asked, too"
    assert tree.log().count("ending: SIG") == 1
    assert tree.log().rstrip().endswith(f"unmounted {tree.path}")
