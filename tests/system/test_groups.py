"""Groups and the books on a real mount: real processes, real refusals, a daemon that dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentfs.storage.check import check
from tests.puppet import Puppet
from tests.system.test_inotify import Watcher
from tests.tree import Tree

pytestmark = pytest.mark.mount

TEAM = "sys/cgroup/team"
BOOKS = "sys/accounting"


@pytest.fixture
def agent(tree: Tree) -> Iterator[Callable[..., Puppet]]:
    """Makes agents with programs."""
    made: list[Puppet] = []

    def make(name: str, **spec: object) -> Puppet:
        made.append(Puppet(tree, name, **spec))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for puppet in made:
        puppet.close()


def refused(call: Callable[..., object], *given: object) -> str:
    """The errno with which a call fails."""
    with pytest.raises(OSError) as caught:
        call(*given)
    return errno.errorcode[caught.value.errno or 0]


def spawn_or_errno(tree: Tree, number: int, parent: int) -> str:
    try:
        tree.spawn(f"crowd-{number}", parent, exec=["sleep", "600"], restart="never")
    except OSError as failure:
        return errno.errorcode[failure.errno or 0]
    return "spawned"


def test_fifty_spawns_at_once_fill_the_seats_of_a_group_exactly(tree: Tree) -> None:
    (tree / TEAM).mkdir()
    lead = tree.spawn("lead", group="team", limits={"max_children": "max"})
    tree.write(f"{TEAM}/pids.max", "8\n")
    with ThreadPoolExecutor(50) as pool:
        ends = list(pool.map(lambda number: spawn_or_errno(tree, number, lead), range(50)))
    assert (ends.count("spawned"), ends.count("EAGAIN")) == (7, 43)
    assert tree.read(f"{TEAM}/pids.current") == "8\n"
    assert tree.read(f"{TEAM}/pids.events") == "max 43\n"
    members = tree.read(f"{TEAM}/cgroup.procs").split()
    assert len(members) == 8
    tree.write(f"proc/{members[-1]}/ctl", "KILL\n")
    assert spawn_or_errno(tree, 50, lead) == "spawned"  # an end frees its seat at once
    assert spawn_or_errno(tree, 51, lead) == "EAGAIN"


def test_a_group_bounds_what_its_programs_use_and_outlives_the_daemon(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    (tree / TEAM / "inner").mkdir(parents=True)
    alice, bob = agent("alice", tier="operational"), agent("bob", tier="operational")
    tree.write(f"{TEAM}/tokens.max", "1000\n")
    tree.write(f"{TEAM}/cgroup.procs", f"{alice.pid}\n")
    tree.write(f"{TEAM}/inner/cgroup.procs", f"{bob.pid}\n")
    watcher = Watcher(tree, tree / TEAM / "tokens.events")
    call = alice.ask("proc/self/call", "llm mini 600\n").strip()
    assert refused(bob.ask, "proc/self/call", "llm mini 500\n") == "EDQUOT"
    assert watcher.until("MODIFY", f"{TEAM}/tokens.events") == [("MODIFY", f"{TEAM}/tokens.events")]
    assert "group team: tokens.max" in tree.read(f"proc/{bob.pid}/error")
    assert refused(bob.write, f"{TEAM}/tokens.max", "max") == "EACCES"
    assert refused(bob.write, "sys/cgroup/cgroup.procs", "0") == "EACCES"
    assert refused(bob.do, f"os.mkdir(tree + '/{TEAM}/mine')") == "EACCES"
    for text in ("many\n", "-5\n", "1.5\n"):
        assert refused(tree.write, f"{TEAM}/tokens.max", text) == "EINVAL"
    assert refused(tree.write, f"{TEAM}/cgroup.procs", "99999\n") == "ESRCH"
    assert refused(os.rmdir, tree / TEAM) == "EBUSY"
    assert refused(os.mkdir, tree / TEAM / "pids.max") == "EEXIST"
    tree.crash()
    assert check(tree.state / "store.db") == []
    tree.mount()
    assert tree.read(f"{TEAM}/tokens.max") == "1000\n"
    assert tree.read(f"{TEAM}/tokens.current") == "600\n"
    assert tree.read(f"{TEAM}/tokens.events") == "max 1\n"
    assert tree.read(f"{TEAM}/inner/cgroup.procs") == f"{bob.pid}\n"
    alice.ask("proc/self/call", f"settle {call} 50 50\n")
    assert tree.read(f"{TEAM}/tokens.current") == "100\n"
    bob.ask("proc/self/call", "llm mini 900\n")
    assert sorted(os.listdir(tree / "sys/cgroup")) == ["cgroup.procs", "team"]
    tree.write("sys/cgroup/cgroup.procs", f"{bob.pid}\n")
    os.rmdir(tree / TEAM / "inner")
    assert not (tree / TEAM / "inner").exists()


def accounts(tree: Tree) -> dict[str, int]:
    """Tokens by view, added up."""
    return {
        view: sum(int(path.read_text()) for path in (tree / BOOKS / view).glob("*/tokens"))
        for view in ("agent", "user", "node", "tier")
    }


def test_the_books_are_for_those_they_are_about_and_outlive_the_daemon(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    alice, bob = agent("alice", tier="tactical"), agent("bob", tier="operational")
    for who, request, used in ((alice, "llm sonnet 9000", "2000 500"), (bob, "llm", "30 4")):
        call = who.ask("proc/self/call", request).strip()
        who.ask("proc/self/call", f"settle {call} {used}")
    alice.write("proc/self/budget/ctl", "report 66\n")
    assert tree.read(f"{BOOKS}/agent/alice/tokens") == alice.read(f"{BOOKS}/agent/alice/tokens")
    assert alice.read(f"{BOOKS}/agent/alice/cost") == "0.01449\n"
    user = next((tree / BOOKS / "user").iterdir()).name
    assert bob.read(f"{BOOKS}/user/{user}/tokens") == "2600\n"
    assert alice.read(f"{BOOKS}/agent/alice/hourly").count("\n") in (1, 2)
    for path in ("agent/bob/tokens", "total/tokens", "tier/tactical/cost", "agent/bob/daily"):
        assert refused(alice.read, f"{BOOKS}/{path}") == "EACCES"
        assert refused(alice.do, f"os.stat(tree + '/{BOOKS}/{path}').st_size") == "EACCES"
    assert refused(alice.ls, f"{BOOKS}/agent") == "EACCES"
    assert refused(alice.write, "etc/models.yaml", "models: {}\n") == "EACCES"
    assert accounts(tree) == dict.fromkeys(("agent", "user", "node", "tier"), 2600)
    tree.crash()
    assert check(tree.state / "store.db") == []
    tree.mount()
    assert tree.read(f"{BOOKS}/total/tokens") == "2600\n"
    assert accounts(tree) == dict.fromkeys(("agent", "user", "node", "tier"), 2600)
    alice.write("proc/self/budget/ctl", "report 4\n")
    assert alice.read(f"{BOOKS}/agent/alice/tokens") == "2570\n"  # nothing stale is served


def test_prices_are_a_document_that_editors_write(tree: Tree, agent: Callable[..., Puppet]) -> None:
    path: Path = tree / "etc/models.yaml"
    before = path.read_text()
    assert "sonnet: {tier: tactical, input: 3, output: 15" in before
    with pytest.raises(OSError, match="Invalid argument"):
        path.write_text("models: {sonnet: {tier: tactical, input: free}}\n")
    assert path.read_text() == before
    path.write_text("models: {sonnet: {tier: tactical, output: 1000}}\n")
    alice = agent("alice", tier="tactical")
    alice.write("proc/self/budget/ctl", "report 1000\n")
    assert alice.read(f"{BOOKS}/agent/alice/cost") == "1\n"
    assert tree.read(f"{BOOKS}/agent/alice/unpriced") == "0\n"
    path.write_text("models: {}\n")
    alice.write("proc/self/budget/ctl", "report 1000\n")
    assert tree.read(f"{BOOKS}/agent/alice/unpriced") == "1\n"
