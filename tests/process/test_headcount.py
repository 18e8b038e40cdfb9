"""How many processes and threads programs may be: a fork bomb is its own agent's trouble alone."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfs.machine.census import Census, forks_for, tasks_of
from agentfs.machine.cgroups import MOST_PIDS, ControlGroups
from agentfs.machine.rlimits import Bounds, below
from agentfs.model.process import Process, State
from agentfs.process.events import ResourceExceeded
from agentfs.process.headcount import HeadCount
from tests.process.world import PYTHON, System, eventually, running
from tests.tree import BOMB

FORKS = "i=0; while [ $i -lt 12 ]; do (:) || echo refused; i=$((i+1)); done; echo through"
"""A neighbour at work."""


@pytest.fixture
async def grouped(tmp_path: Path) -> AsyncIterator[System]:
    """With a control group that counts processes."""
    async with running(tmp_path / "grouped") as made:
        if not made.programs.groups.has_pids:
            pytest.skip("no pids controller here")
        yield made


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[System]:
    """Without any control group."""
    async with running(tmp_path / "plain", groups=False) as made:
        yield made


def bound(ospid: int) -> int:
    """RLIMIT_NPROC, by the file that everybody may read."""
    lines = Path(f"/proc/{ospid}/limits").read_text().splitlines()
    (soft,) = (line.split()[2] for line in lines if line.startswith("Max processes"))
    return int(soft)


def interpreter() -> str:
    """One that every user may execute."""
    return shutil.which("python3", path=os.defpath) or PYTHON


async def refused(system: System, process: Process, at_least: int = 1) -> None:
    """Wait until forks of `process` were refused."""
    groups = system.programs.groups
    await eventually(lambda: groups.refused_forks(process.pid) >= at_least)


async def test_the_group_lets_no_more_be_than_the_limit_and_the_neighbour_forks_on(
    grouped: System,
) -> None:
    bomb = await grouped.spawn("bomb", exec=[PYTHON, "-c", BOMB], limits={"max_pids": 9})
    await refused(grouped, bomb)
    assert grouped.programs.measures.tasks(bomb) <= 9
    neighbour = await grouped.shell("neighbour", FORKS, restart="never")
    await grouped.until(lambda: not neighbour.state.alive)
    assert neighbour.output == "through\n"
    for _ in range(2):
        grouped.kernel.consumption.tidy()
    assert grouped.of(ResourceExceeded) == [ResourceExceeded(bomb.pid, "bomb", "max_pids", 9, 9)]
    assert bomb.state.alive, "its forks fail, as with every such limit of Linux"
    assert [process.limits.max_pids for process in (bomb, neighbour)] == [9, 1024]


async def test_a_changed_limit_holds_at_once_for_the_group_that_is_at_work(
    grouped: System,
) -> None:
    script = (
        "import os\n"
        "while True:\n"
        " try:\n"
        "  child = os.fork()\n"
        "  if not child: os._exit(0)\n"
        "  os.waitpid(child, 0)\n"
        "  print('forked', flush=True)\n"
        " except BlockingIOError: print('refused', flush=True)\n"
        " open('gate').read()\n"
    )
    memory = grouped.agents.memory_dir("bob")
    memory.mkdir(parents=True)
    os.mkfifo(memory / "gate")
    process = await grouped.spawn("bob", exec=[PYTHON, "-c", script])
    said = ["forked"]
    for pids, word in ((1, "refused"), (2, "forked"), (0, "refused"), (None, "forked")):
        await eventually(lambda: grouped.agents.log_path("bob").read_text().split() == said)
        grouped.programs.measures.apply_limits(process, Bounds(pids=pids))
        (memory / "gate").write_text("on")
        said.append(word)
    await eventually(lambda: grouped.agents.log_path("bob").read_text().split() == said)


async def test_a_thread_counts_as_a_process_does(grouped: System) -> None:
    script = (
        "import threading, time\n"
        "def rest(): time.sleep(1000)\n"
        "try:\n"
        " for n in range(20): threading.Thread(target=rest, daemon=True).start()\n"
        "except RuntimeError: print('refused at', n, flush=True)\n"
        "rest()"
    )
    process = await grouped.spawn("bob", exec=[PYTHON, "-c", script], limits={"max_pids": 6})
    await grouped.said("bob", "refused at 5")
    assert grouped.programs.measures.tasks(process) == tasks_of([process.ospid or 0]) == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is stopped before")
async def test_without_a_controller_who_has_more_than_it_may_is_ended(plain: System) -> None:
    bomb = await plain.spawn(
        "bomb", exec=[interpreter(), "-c", BOMB], limits={"max_pids": 20}, restart="always"
    )
    await plain.until(lambda: not bomb.state.alive)
    assert bomb.state is State.DEAD, "for good, whatever its policy"
    assert bomb.output.splitlines()[-1].startswith("limit: max_pids, ")
    (exceeded,) = plain.of(ResourceExceeded)
    assert (exceeded.pid, exceeded.resource, exceeded.limit) == (bomb.pid, "max_pids", 20)
    assert exceeded.used > 20
    neighbour = await plain.shell("neighbour", FORKS, restart="never")
    await plain.until(lambda: not neighbour.state.alive)
    assert neighbour.output == "through\n"


async def test_without_a_controller_the_machine_bounds_the_programs_of_an_ordinary_user(
    plain: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By RLIMIT_NPROC, as nobody counts here."""
    monkeypatch.setattr(HeadCount, "begin", lambda self: None)
    user = "nobody" if os.geteuid() == 0 else None
    bomb = await plain.spawn(
        "bomb", exec=[interpreter(), "-c", BOMB], limits={"max_pids": 9}, user=user, restart="never"
    )
    await plain.said("bomb", "refused")
    assert bomb.ospid is not None
    assert bound(bomb.ospid) >= 9
    assert plain.programs.measures.tasks(bomb) <= 40, "not 64"


@pytest.mark.skipif(os.geteuid() == 0, reason="this bound is not for root; see system/test_user.py")
async def test_the_bound_of_a_user_moves_with_what_else_the_user_has(plain: System) -> None:
    bob = await plain.shell("bob", "sleep 1000 & wait", limits={"max_pids": 30})
    await eventually(lambda: plain.programs.measures.tasks(bob) == 2)

    def bounds() -> set[int]:
        return set(map(bound, plain.programs.measures.members(bob)))

    (first,) = bounds()
    many = "i=0; while [ $i -lt 24 ]; do sleep 1000 & i=$((i+1)); done; wait"
    alice = await plain.shell("alice", many)
    await eventually(lambda: plain.programs.measures.tasks(alice) == 25)
    plain.kernel.consumption.tidy()
    (second,) = bounds()
    assert second > first, "others of the user may have ended meanwhile, but not so many"
    plain.grants.bounds = lambda process: Bounds(pids=5)
    plain.programs.measures.apply_limits(bob, Bounds(pids=5))
    await eventually(lambda: max(bounds()) < second)


def test_the_census_finds_what_the_walk_finds() -> None:
    census, us = Census(), os.getpid()
    assert set(below(us)) <= {*census.below(us), *below(us)}
    assert us in census.below(us)
    assert census.tasks([us]) == tasks_of([us]) == len(os.listdir("/proc/self/task"))
    assert census.tasks([us], os.getuid() + 1) == 0
    assert census.of_user(os.getuid()) >= census.tasks([us])
    assert census.tasks([4_194_305]) == tasks_of([4_194_305]) == 0


def test_the_bound_of_a_user_is_never_above_the_hard_limit() -> None:
    number, soft, hard = forks_for(7, 5)
    assert (number, soft) == (resource.RLIMIT_NPROC, 12)
    assert forks_for(10**12, 0)[1] == (hard if hard > 0 else 10**12)
    assert forks_for(None, 3)[1:] == resource.getrlimit(resource.RLIMIT_NPROC)


def test_what_is_written_where_the_group_itself_has_the_controller(tmp_path: Path) -> None:
    """As on a machine with cgroup v2 alone; here it may be beside an old hierarchy."""
    groups = ControlGroups(f"written-{os.getpid()}")
    groups.close()
    groups._base = groups._pids = str(tmp_path)
    (tmp_path / "p7").mkdir()
    for name in ("pids.max", "cgroup.procs"):
        (tmp_path / "p7" / name).write_text("")
    assert groups.has_pids
    (opened,) = groups.open(7)  # one group, one door
    os.close(opened)
    for most, text in ((64, "64"), (10**9, str(MOST_PIDS)), (None, "max")):
        (tmp_path / "p7/pids.max").write_text("")
        groups.limit_pids(7, most)
        assert (tmp_path / "p7/pids.max").read_text() == text
    (tmp_path / "p7/pids.events").write_text("max 3\n")
    (tmp_path / "p7/pids.current").write_text("5\n")
    assert (groups.refused_forks(7), groups.tasks(7)) == (3, 5)
    assert (groups.refused_forks(8), groups.tasks(8)) == (0, 0)
    groups._base = ""
    assert not groups.has_pids
