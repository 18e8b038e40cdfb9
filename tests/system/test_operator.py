"""Whatever agents do, what the operator decides comes to pass: on a full disk, without descriptors,
with every table full, and while they flood the event loop."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.puppet import Puppet
from tests.torture.aftermath import faults_of
from tests.tree import Tree, eventually, small_disk, until

pytestmark = pytest.mark.mount

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="a small disk has to be mounted by root")


@pytest.fixture
def small(trees: Callable[..., Tree]) -> Iterator[Tree]:
    """A tree whose state has 24 MiB of disk."""
    tree: Tree = trees("small")
    with small_disk(tree.state, "24m"):
        try:
            tree.mount()
            yield tree
        finally:
            tree.clean_up()


def fill(tree: Tree) -> Path:
    """The disk, to its last block, and without the reserve with which the log is folded."""
    file = tree.state / "ballast"
    eventually((tree.state / "reserve").exists)
    (tree.state / "reserve").unlink()
    with contextlib.suppress(OSError), file.open("wb", 0) as more:
        while more.write(bytes(4096)):
            pass
    assert os.statvfs(tree.state).f_bfree == 0
    return file


def use_up(tree: Tree, agent: Puppet) -> None:
    """What agents may still store."""
    with pytest.raises(OSError) as refusal:
        agent.do("[write('agents/self/outbox/init', 'x' * 4000) for _ in range(2000)] and 0")
    assert refusal.value.errno == errno.ENOSPC


def starts(tree: Tree, name: str) -> int:
    """A process whose program takes a TERM as its end."""
    return tree.spawn(name, exec=["sleep", "1000"], restart="never")


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


class Acts:
    """What the operator does in every plight, and what must have come of it."""

    def __init__(self, tree: Tree, stack: contextlib.ExitStack) -> None:
        self.tree = tree
        self.agent = stack.enter_context(contextlib.closing(Puppet(tree, "agent")))
        self.lead = tree.spawn("lead")
        self.pids = {name: starts(tree, name.lower()) for name in ("STOP", "TERM", "KILL")}
        self.below = tree.spawn("below", self.lead, exec=["sleep", "1000"], restart="never")
        self.ospids = {name: int(self.read(pid, "ospid")) for name, pid in self.pids.items()}
        tree.spawn("one", self.agent.pid)

    def read(self, pid: int, name: str) -> str:
        return self.tree.read(f"proc/{pid}/{name}").strip()

    def do(self) -> None:
        self.signal()
        self.rule()

    def signal(self) -> None:
        for name, pid in self.pids.items():
            self.tree.write(f"proc/{pid}/ctl", name)
        self.tree.write(f"proc/{self.lead}/ctl", "kill-branch")
        eventually(lambda: self._state("STOP") == "T")
        for name in ("TERM", "KILL"):
            eventually(lambda name=name: self._state(name) in "ZX")  # type: ignore[misc]
        self.tree.write(f"proc/{self.pids['STOP']}/ctl", "CONT")
        eventually(lambda: self._state("STOP") == "S")

    def _state(self, name: str) -> str:
        try:
            text = Path(f"/proc/{self.ospids[name]}/stat").read_text()
        except OSError:
            return "X"
        return text.rpartition(")")[2].split()[0]

    def rule(self) -> None:
        tree = self.tree
        tree.write("etc/acl.yaml", "rules: [{effect: deny, agent: agent, action: write_artifact}]")
        tree.write(f"proc/{self.agent.pid}/caps/ctl", "-spawn_children")
        tree.write(f"proc/{self.agent.pid}/limits/max_children", "1")

    def see(self) -> None:
        """What was ruled holds."""
        for call, number in (
            ("os.open(tree + '/dev/shm/global/a', os.O_WRONLY | os.O_CREAT)", errno.EPERM),
            ("ask('proc/self/spawn', 'name: kid')", errno.EPERM),
        ):
            with pytest.raises(OSError) as refusal:
                self.agent.do(call)
            assert refusal.value.errno == number, call
        self.see_kept()

    def see_kept(self) -> None:
        """What is the same after a restart."""
        for name, state in (("TERM", "zombie"), ("KILL", "dead")):
            until(self.tree / f"proc/{self.pids[name]}/state", state)
        until(self.tree / f"proc/{self.below}/state", "dead")  # recorded by itself, and later
        assert "write_artifact" in self.tree.read("etc/acl.yaml")
        assert "spawn_children" not in self.read(self.agent.pid, "caps/effective")
        assert self.read(self.agent.pid, "limits/max_children") == "1"

    def end(self, how: str) -> None:
        """Unmount, and look at what is left."""
        tree = self.tree
        ospid = self.ospids["STOP"]
        if how == "umount":
            tree.unmount()
        else:
            assert tree.daemon is not None
            with tree._watching(tree.daemon) as ended:
                if how == "TERM":
                    os.kill(tree.daemon, signal.SIGTERM)
                else:
                    subprocess.run(["umount", "-l", tree.path], check=True)
                assert ended() != ([], [], []), "the daemon does not end"
            tree.daemon = None
        assert not tree.is_stale()
        assert not os.path.exists(f"/proc/{ospid}")


@ROOT_ONLY
@pytest.mark.parametrize("end", ["umount", "TERM", "umount -l"])
def test_on_a_full_disk(small: Tree, stack: contextlib.ExitStack, end: str) -> None:
    acts = Acts(small, stack)
    file = fill(small)
    use_up(small, acts.agent)
    acts.do()
    acts.see()
    acts.end(end)
    file.unlink()
    assert faults_of(small.state) == []
    small.mount()
    assert "write_artifact" in small.read("etc/acl.yaml")
    assert acts.read(acts.agent.pid, "limits/max_children") == "1"


@ROOT_ONLY
def test_on_a_full_disk_when_what_is_kept_for_the_operator_is_used_up(
    small: Tree, stack: contextlib.ExitStack
) -> None:
    """Then signals are all that there is, and they are recorded when there is room."""
    acts = Acts(small, stack)
    file = fill(small)
    with pytest.raises(OSError) as refusal:
        for size in (100_000, 4000):
            with contextlib.suppress(OSError):
                for _ in range(10_000):
                    small.write("agents/init/outbox/agent", "x" * size)
        for _ in range(10_000):
            small.write("agents/init/outbox/agent", "x")
    assert refusal.value.errno == errno.ENOSPC
    before = small.read("etc/acl.yaml")
    with pytest.raises(OSError) as refusal:
        acts.rule()
    assert refusal.value.errno == errno.ENOSPC
    assert small.read("etc/acl.yaml") == before
    acts.signal()
    file.unlink()
    for name, state in (("TERM", "zombie"), ("KILL", "dead")):
        until(small / f"proc/{acts.pids[name]}/state", state)
    acts.rule()
    acts.see()
    acts.end("umount")
    assert faults_of(small.state) == []


def test_without_descriptors(tree: Tree, stack: contextlib.ExitStack) -> None:
    """Agents have all files open that they can, and have started all programs that they can."""
    acts = Acts(tree, stack)
    (tree / "shared/f").write_text("x")
    hoarders = [
        stack.enter_context(
            contextlib.closing(Puppet(tree, f"hoarder-{number}", limits={"max_children": "max"}))
        )
        for number in range(3)
    ]
    assert tree.daemon is not None
    _, hard = resource.prlimit(tree.daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(tree.daemon, resource.RLIMIT_NOFILE, (288, hard))
    for hoarder in hoarders:
        hoarder.do("(held := []) == []")
        hoarder.do("(f := tree + '/shared/f') and 0")
        with pytest.raises(OSError) as refusal:
            hoarder.do("[held.append(os.open(f, 0)) for _ in range(1000)]")
        assert refusal.value.errno in (errno.EMFILE, errno.ENFILE)
    started = 0
    with pytest.raises(OSError) as refusal:
        for started in range(200):
            request = f"{{name: p{started}, exec: [sleep, '1000']}}"
            hoarders[started % 3].ask("proc/self/spawn", request)
    assert refusal.value.errno == errno.EMFILE, hoarders[started % 3].read("proc/self/error")
    assert started > 3
    used = len(os.listdir(f"/proc/{tree.daemon}/fd"))
    assert 230 < used < 270, "there are some left, and few"
    acts.do()
    acts.see()
    acts.end("umount")
    assert faults_of(tree.state) == []


def test_with_full_tables(tree: Tree, stack: contextlib.ExitStack) -> None:
    acts = Acts(tree, stack)
    tree.write(
        "etc/agentfs.yaml",
        "processes: {max_children_of_init: 5}\nmessages: {max_waiting: 3, max_sent: 1}\n"
        "queues: {max_queues: 1}\ntopics: {max_topics: 1}\nartifacts: {max_artifacts: 1}\n"
        "mount: {max_parked: 2, announce_queue: 1}\naudit: {max_records: 1}\n"
        "groups: {max_groups: 1}\napprovals: {max_pending: 1}\n",
    )
    agent = acts.agent
    for number in range(3):
        agent.send("init", str(number))
    for call in (
        "write('agents/self/outbox/init', 'x')",
        "[ask('proc/self/spawn', f'name: a{n}') for n in range(100)]",
        "[os.close(os.open(f'{tree}/dev/shm/global/a{n}', 0x41)) for n in range(3)]",
    ):
        with pytest.raises(OSError):
            agent.do(call)
    readers = [tree.start("cat", tree / "proc/1/signals") for _ in range(2)]
    metrics = "sys/metrics"
    eventually(lambda: "agentfs_mount_parked 2" in tree.read(metrics), "they do not wait")
    with pytest.raises(OSError):
        tree.spawn("another")
    acts.do()
    acts.see()
    for reader in readers:
        reader.kill()
        reader.wait()
    acts.end("umount")
    assert faults_of(tree.state) == []


FLOOD = """
import os, sys, threading
tree = os.environ["AGENTFS"]
here = f"{tree}/agents/{os.environ['AGENT_NAME']}"

def call(path, content):
    try:
        file = os.open(f"{tree}/{path}", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(file, content)
        finally:
            os.close(file)
    except OSError:
        pass

def flood():
    while True:
        call(f"proc/{os.environ['AGENT_PID']}/spawn", b"{name: 1}")
        call("etc/acl.yaml", b"rules: []")
        call(f"agents/{os.environ['AGENT_NAME']}/outbox/{os.environ['AGENT_NAME']}", b"x" * 4096)
        os.listdir(f"{tree}/proc")
        os.getxattr(tree, "user.agentfs.kind")

for _ in range(8):
    if os.fork() == 0:
        threads = [threading.Thread(target=flood) for _ in range(8)]
        [each.start() for each in threads]
        print("at work", flush=True)
        [each.join() for each in threads]
while True:
    os.wait()
"""


@pytest.mark.parametrize("end", ["KILL", "umount"])
def test_in_a_flood_of_calls(tree: Tree, stack: contextlib.ExitStack, end: str) -> None:
    """Of eight programs of an agent, with eight threads each."""
    acts = Acts(tree, stack)
    flood = tree.spawn("flood", exec=[sys.executable, "-c", FLOOD], restart="never")
    eventually(lambda: tree.read("agents/flood/log").count("at work") == 8)
    ospid = acts.read(flood, "ospid")
    acts.do()
    acts.see()
    if end == "KILL":
        tree.write(f"proc/{flood}/ctl", "KILL")
        until(tree / f"proc/{flood}/state", "dead")
    acts.end("umount")
    eventually(lambda: not os.path.exists(f"/proc/{ospid}"))
