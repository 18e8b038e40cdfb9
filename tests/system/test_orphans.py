"""Where there are no control groups: what an agent's program leaves behind is its agent's, and ends
with it. Once where Linux tells of forks, and once where it does not, as in most containers."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentfs.store.replay import replay
from tests.hatchery import Hatchery
from tests.puppet import Puppet
from tests.system.test_reaper import parent_of, watched
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

Trees = Callable[..., Tree]


@pytest.fixture(scope="module")
def telling(fuse: None) -> Iterator[Hatchery]:
    made = Hatchery("tests.ancestry")
    yield made
    made.close()


@pytest.fixture(scope="module")
def silent(fuse: None) -> Iterator[Hatchery]:
    made = Hatchery("tests.ancestry", {"UNTOLD": "1"})
    yield made
    made.close()


@pytest.fixture
def told(trees: Trees, telling: Hatchery) -> Tree:
    tree = trees("told", hatchery=telling)
    tree.mount()
    if "forks twice between two looks" in tree.log():
        pytest.skip("Linux does not tell of forks in this container")
    return tree


@pytest.fixture
def untold(trees: Trees, silent: Hatchery) -> Tree:
    tree = trees("untold", hatchery=silent)
    tree.mount()
    return tree


# Forks twice at once, in a session of its own and with nothing of its environment; says its pid.
RUNS_AWAY = """
import os, sys
file = sys.argv[1]
def leave():
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in range(3):
        os.close(number)
    with open(file + ".new", "w") as said:
        said.write(str(os.getpid()))
    os.rename(file + ".new", file)
    os.execve("/bin/sleep", ["sleep", "1000"], {})
"""


def runs_away(file: Path, then: str) -> list[str]:
    """A program that leaves an orphan, whose pid is in `file`, and then does something else."""
    script = f"{RUNS_AWAY}\nif os.fork() == 0:\n    leave()\nos.wait()\n{then}"
    return [sys.executable, "-c", script, str(file)]


def orphan(file: Path) -> int:
    """The pid of the orphan, once its parents are gone."""
    eventually(file.exists)
    return int(file.read_text())


SLEEPS = "import time; time.sleep(1000)"


@pytest.mark.parametrize("how", ["KILL", "TERM"])
def test_a_kill_reaches_what_forked_twice_and_hides(told: Tree, tmp_path: Path, how: str) -> None:
    pid = told.spawn("alice", exec=runs_away(tmp_path / "pid", SLEEPS), restart="never")
    other = told.spawn("bob", exec=runs_away(tmp_path / "other", SLEEPS), restart="never")
    with watched(orphan(tmp_path / "pid")) as ended:
        told.write(f"proc/{pid}/ctl", f"{how}\n")
        assert ended(), "it has outlived its agent"
    os.kill(orphan(tmp_path / "other"), 0)  # it is another's, and lives
    with watched(orphan(tmp_path / "other")) as ended:
        told.unmount()
        assert ended(), f"{other} has left it behind"


def test_what_forked_twice_ends_with_its_program(told: Tree, tmp_path: Path) -> None:
    go = tmp_path / "go"
    then = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nsys.exit(7)"
    pid = told.spawn("alice", exec=runs_away(tmp_path / "pid", then), restart="never")
    with watched(orphan(tmp_path / "pid")) as ended:
        go.touch()
        assert ended()
    eventually(lambda: told.read(f"proc/{pid}/exit").strip() == "7")


CHAIN = """
import os
for number in range(40):
    if os.fork():
        os._exit(0)
    os.setsid()
os.write(1, b"last %d\\n" % os.getpid())
os.execve("/bin/sleep", ["sleep", "1000"], {})
"""


def test_forty_generations_in_a_moment_hide_nobody(told: Tree) -> None:
    chain = f"if os.fork() == 0:\n    exec({CHAIN!r})\n{SLEEPS}"
    pid = told.spawn("alice", exec=[sys.executable, "-c", f"import os\n{chain}"], restart="never")
    log = told / "agents/alice/log"
    eventually(lambda: log.read_text().startswith("last ") and log.read_text().endswith("\n"))
    with watched(int(log.read_text().split()[1])) as ended:
        told.write(f"proc/{pid}/ctl", "KILL\n")
        assert ended()


WHO = """
import os, sys, time
tree, out = os.environ["AGENTFS"], sys.argv[1]
if os.fork() == 0:
    os.setsid()
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(0.01)
    try:
        who = os.readlink(tree + "/proc/self")
    except OSError as failure:
        who = os.strerror(failure.errno)
    with open(out + ".new", "w") as said:
        said.write(who)
    os.rename(out + ".new", out)
    time.sleep(1000)
os.wait()
time.sleep(1000)
"""


def test_an_orphan_stays_its_agent(told: Tree, tmp_path: Path) -> None:
    out = tmp_path / "who"
    pid = told.spawn("alice", exec=[sys.executable, "-c", WHO, str(out)], restart="never")
    eventually(out.exists)
    assert out.read_text() == str(pid)


def test_a_survivors_orphan_is_known_again(told: Tree, tmp_path: Path) -> None:
    """What forks after the restart is, and what a program that was there then forks."""
    with contextlib.closing(Puppet(told, "alice")) as puppet:
        told.crash()
        told.mount()
        words = runs_away(tmp_path / "pid", "sys.exit(0)")
        puppet.do(f"os.waitpid(os.spawnv(os.P_NOWAIT, {words[0]!r}, {words!r}), 0)")
        with watched(orphan(tmp_path / "pid")) as ended:
            told.write(f"proc/{puppet.pid}/ctl", "KILL\n")
            assert ended()


def test_what_was_started_and_not_recorded_is_ended_by_the_next_daemon(told: Tree) -> None:
    """The daemon dies between the start of a program and the record of it."""
    pids = [told.spawn(name, exec="exec sleep 1000") for name in ("alice", "bob")]
    alice, bob = (int(told.read(f"proc/{pid}/ospid")) for pid in pids)
    told.crash()
    with contextlib.closing(sqlite3.connect(told.state / "store.db")) as store, store:
        replay(store, told.state / "store.db")
        store.execute(
            "UPDATE processes SET record = json_set(record, '$.ospid', NULL, '$.os_start', 0)"
            " WHERE pid = ?",
            (pids[0],),
        )
    with watched(alice) as ended:
        told.mount()
        assert ended()
    assert told.read(f"proc/{pids[1]}/ospid").strip() == str(bob)
    assert f"program {alice} was started for no process" in told.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="Linux itself stops who is not root")
def test_who_left_counts_against_max_pids(told: Tree, tmp_path: Path) -> None:
    """A fork bomb whose every process forks twice."""
    script = (
        "import os, time\nfor _ in range(30):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork():\n            os._exit(0)\n"
        '        os.execve("/bin/sleep", ["sleep", "1000"], {})\n'
        "    os.wait()\ntime.sleep(1000)"
    )
    told.write("etc/agentfs.yaml", "processes: {maid_interval: 0.2s}\n")
    words = [sys.executable, "-c", script]
    pid = told.spawn("alice", exec=words, restart="never", limits={"max_pids": 20})
    eventually(lambda: told.read(f"proc/{pid}/state").strip() == "dead")
    assert "max_pids" in told.read(f"proc/{pid}/info")
    assert told.daemon is not None
    above = parent_of(told.daemon)
    with watched(above) as ended:
        told.unmount()
        assert ended(), "somebody got away"


# -- where Linux does not tell -----------------------------------------------------------------


LINGERS = """
import os, sys, time
file, go = sys.argv[1:]
if os.fork() == 0:
    os.setsid()
    if os.fork():
        while not os.path.exists(go):
            time.sleep(0.01)
        os._exit(0)
    with open(file + ".new", "w") as said:
        said.write(str(os.getpid()))
    os.rename(file + ".new", file)
    os.execve("/bin/sleep", ["sleep", "1000"], {})
os.wait()
os.rename(go, go + ".done")
time.sleep(1000)
"""


def test_what_was_seen_once_is_killed_though_it_is_an_orphan_since(
    untold: Tree, tmp_path: Path
) -> None:
    untold.write("etc/agentfs.yaml", "processes: {maid_interval: 0.1s}\n")
    go = tmp_path / "go"
    words = [sys.executable, "-c", LINGERS, str(tmp_path / "pid"), str(go)]
    pid = untold.spawn("alice", exec=words, restart="never")
    left = orphan(tmp_path / "pid")
    checked = untold.read("sys/health")
    eventually(lambda: untold.read("sys/health") != checked)  # the maid has looked
    checked = untold.read("sys/health")
    eventually(lambda: untold.read("sys/health") != checked)
    go.touch()
    eventually(Path(f"{go}.done").exists)
    with watched(left) as ended:
        untold.write(f"proc/{pid}/ctl", "KILL\n")
        assert ended()


def test_the_log_says_what_is_not_known(untold: Tree) -> None:
    assert "who forks twice between two looks is not known" in untold.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may say which number comes next")
def test_a_number_that_is_another_programs_now_is_not_killed(told: Tree, tmp_path: Path) -> None:
    """Root says which number comes next."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    pid = told.spawn("alice", exec=runs_away(tmp_path / "pid", SLEEPS), restart="never")
    left = orphan(tmp_path / "pid")
    with watched(left) as ended:
        os.kill(left, signal.SIGKILL)
        assert ended()
    eventually(lambda: not os.path.exists(f"/proc/{left}"))
    for _ in range(1000):
        last.write_text(str(left - 1))
        innocent = told.start("sleep", "1000")
        if innocent.pid == left:
            break
        innocent.kill()
        innocent.wait()
    else:
        pytest.skip("others were always quicker")
    told.write(f"proc/{pid}/ctl", "KILL\n")
    eventually(lambda: told.read(f"proc/{pid}/state").strip() == "dead")
    told.unmount()
    assert innocent.poll() is None
