"""Groups and the books on a real mount: real processes, real refusals, a daemon that dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentfs.check import check
from tests.puppet import Puppet
from tests.system.test_inotify import WRITTEN, Watcher, written
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
    events = f"{TEAM}/tokens.events"
    assert watcher.until(WRITTEN[-1], events) == written(events)
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
    assert "sonnet: {tier: tactical, provider: anthropic" in before
    assert "input: 3, output: 15" in before
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


def test_remaining_and_percent_of_a_group(tree: Tree, agent: Callable[..., Puppet]) -> None:
    (tree / TEAM).mkdir()
    alice = agent("alice", group="team")
    names = ("tokens.remaining", "tokens.percent", "pids.remaining", "pids.percent")
    assert [tree.read(f"{TEAM}/{name}") for name in names] == ["max\n", "0.0\n"] * 2
    tree.write(f"{TEAM}/tokens.max", "10000")
    tree.write(f"{TEAM}/pids.max", "3")
    call = alice.ask("proc/self/call", "llm 2500").strip()
    alice.ask("proc/self/call", f"settle {call} 2000 500")
    expected = ["7500\n", "25.0\n", "2\n", "33.3\n"]
    assert [tree.read(f"{TEAM}/{name}") for name in names] == expected
    tree.write(f"{TEAM}/tokens.max", "1000")
    tree.write(f"{TEAM}/pids.max", "0")
    expected = ["0\n", "250.0\n", "0\n", "100.0\n"]
    assert [tree.read(f"{TEAM}/{name}") for name in names] == expected
    with pytest.raises(FileExistsError):
        (tree / TEAM / "tokens.percent").mkdir()


def test_a_whole_branch_is_put_into_a_group_in_one_step(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    (tree / TEAM).mkdir()
    lead = tree.spawn("lead", role="lead")
    below = [tree.spawn(f"below-{number}", lead, role="lead") for number in range(3)]
    deep = tree.spawn("deep", below[0])
    other = tree.spawn("other")
    tree.write(f"{TEAM}/cgroup.procs", f"branch {lead}\n")
    members = {int(pid) for pid in tree.read(f"{TEAM}/cgroup.procs").split()}
    assert members == {lead, deep, *below}
    assert other not in members
    for bad in ("branch", "branch x", "branch 3 4", "branches 3"):
        assert refused(tree.write, f"{TEAM}/cgroup.procs", bad) == "EINVAL"
    assert refused(tree.write, f"{TEAM}/cgroup.procs", "branch 1") == "EPERM"
    assert refused(tree.write, f"{TEAM}/cgroup.procs", "branch 999") == "ESRCH"
    tree.write("sys/cgroup/cgroup.procs", f"branch {below[0]}\n")
    members = {int(pid) for pid in tree.read(f"{TEAM}/cgroup.procs").split()}
    assert members == {lead, *below[1:]}


def used(tree: Tree, pid: int) -> dict[str, str]:
    return dict(line.split() for line in tree.read(f"proc/{pid}/branch").splitlines())


def test_what_a_branch_has_used_is_in_a_file_also_what_ended(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    lead = tree.spawn("lead", role="lead", tier="tactical")
    for number in range(3):
        worker = agent(f"worker-{number}", parent=lead, tier="tactical")
        call = worker.ask("proc/self/call", "llm sonnet 1000").strip()
        worker.ask("proc/self/call", f"settle {call} 900 100")
        call = worker.ask("proc/self/call", "tool search").strip()
        worker.ask("proc/self/call", f"settle {call}")
        if number:
            tree.write(f"proc/{worker.pid}/ctl", "KILL")
            tree.read(f"proc/{worker.pid}/wait")
        else:
            first = worker
    three = {
        "tokens": "3000", "llm_calls": "3", "tool_calls": "3", "cost_usd": "0.0126",
    }  # fmt: skip
    assert used(tree, lead) == three | {"processes": "2"}
    assert used(tree, 1) == three | {"processes": "3"}
    assert used(tree, first.pid)["tokens"] == "1000"
    tree.crash()
    tree.mount()
    assert used(tree, lead) == three | {"processes": "2"}
    tree.write(f"proc/{lead}/ctl", "kill-branch")
    assert used(tree, 1) == three | {"processes": "1"}
    tree.unmount()
    assert check(tree.state / "store.db") == []
