"""Who calls the gateway: programs of agents, of strangers, of the operator, at both doors."""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.system.test_across_users import interpreter
from tests.tree import PATIENCE, Tree, eventually

pytestmark = pytest.mark.mount

WHOAMI = """
import json, os, socket
def at(door):
    made = socket.socket(socket.AF_UNIX if door.startswith("/") else socket.AF_INET)
    made.settimeout(60)
    made.connect(door if door.startswith("/") else ("127.0.0.1", int(door)))
    return made
def said_to(made):
    with made, made.makefile() as file:
        return json.loads(file.readline() or "null")
def whoami(door):
    return said_to(at(door))
"""

GROUPED = [True, False]
USER = pwd.getpwnam("nobody")


class Doors:
    """A tree whose gateway says who calls, and both of its doors."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.puppets: list[Puppet] = []
        tree.mount()
        self.all = [self.facts()["Address"].rpartition(":")[2], str(tree / "dev/gateway")]

    def facts(self) -> dict[str, str]:
        lines = self.tree.read("sys/gateway").splitlines()
        return dict(line.split(":\t", 1) for line in lines)

    def agent(self, name: str, **spec: Any) -> Puppet:
        """An agent whose program has the words of `WHOAMI`."""
        puppet = Puppet(self.tree, name, python=interpreter(), **spec)
        self.puppets.append(puppet)
        puppet.do(f"exec({WHOAMI!r}, globals())")
        return puppet


@pytest.fixture(scope="module")
def towns(fuse: None) -> Iterator[dict[bool, Doors]]:
    """One with control groups, and one on a machine that has none, for the tests of this file."""
    with tempfile.TemporaryDirectory(prefix="agentfs-callers-") as folder, ExitStack() as ends:
        os.chmod(folder, 0o755)
        made = {}
        for grouped in GROUPED:
            hatchery = Hatchery("tests.models.hatched", {} if grouped else {"UNGROUPED": "1"})
            ends.callback(hatchery.close)
            tree = QuickTree(Path(folder, str(grouped)), hatchery=hatchery)
            ends.callback(tree.clean_up)
            made[grouped] = Doors(tree)
        yield made


@pytest.fixture
def doors(request: pytest.FixtureRequest, towns: dict[bool, Doors]) -> Iterator[Doors]:
    made = towns[getattr(request, "param", True)]
    yield made
    while made.puppets:
        made.puppets.pop().close()


def outside(door: str, **options: Any) -> Any:
    """What a program is told that no daemon has started."""
    script = f"{WHOAMI}\nimport sys\nprint(json.dumps(whoami(sys.argv[1])))"
    command = [sys.executable, "-c", script, door]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    return json.loads(done.stdout)


def named(said: dict[str, Any]) -> tuple[Any, Any]:
    return said.get("pid"), said.get("agent")


@pytest.mark.parametrize("doors", GROUPED, indirect=True)
def test_an_agent_is_told_at_both_doors_and_the_operator_is_process_1(doors):
    agent = doors.agent("worker")
    for door in doors.all:
        assert named(agent.do(f"whoami({door!r})")) == (agent.pid, "worker")
        assert named(outside(door)) == (1, "init")


@pytest.mark.parametrize("doors", GROUPED, indirect=True)
def test_a_child_that_forked_twice_into_a_session_of_its_own_is_its_agents(doors):
    agent = doors.agent("daemonizer")
    script = """
def from_daemon(doors):
    read, write = os.pipe()
    gone, left = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(left)
        os.read(gone, 1)  # until its grandparent has waited for its parent
        os.environ.clear()
        os.write(write, json.dumps([whoami(door) for door in doors]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(left)
    return json.loads(os.read(read, 65536))
"""
    agent.do(f"exec({script!r}, globals())")
    said = agent.do(f"from_daemon({doors.all!r})")
    assert [named(each) for each in said] == [(agent.pid, "daemonizer")] * 2


@pytest.mark.parametrize("doors", GROUPED, indirect=True)
def test_a_socket_that_a_program_has_inherited_is_its_agents(doors):
    agent = doors.agent("parent")
    script = """
def by_child(door):
    import subprocess, sys
    made = at(door)
    made.set_inheritable(True)
    made.setblocking(True)
    program = "import socket, sys; print(socket.fromfd(int(sys.argv[1]), 1, 1).recv(9999).decode())"
    command = [sys.executable, "-c", program, str(made.fileno())]
    child = subprocess.Popen(command, close_fds=False, stdout=-1, text=True)
    made.close()
    return json.loads(child.communicate()[0])
"""
    agent.do(f"exec({script!r}, globals())")
    for door in doors.all:
        assert named(agent.do(f"by_child({door!r})")) == (agent.pid, "parent")


@pytest.mark.skipif(os.geteuid() != 0, reason="leaves a control group")
def test_root_that_leaves_its_group_or_enters_anothers_is_still_itself(doors):
    """Nobody can choose whom it descends from."""
    victim, thief = doors.agent("victim"), doors.agent("thief")
    own, others = (
        f"/proc/{(doors.tree / f'proc/{each.pid}/ospid').read_text().strip()}/cgroup"
        for each in (thief, victim)
    )
    script = f"""
def enter(group):
    with open(group + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
def group_of(path):
    mounted = next(line.split(" ")[1] for line in open("/proc/mounts") if " cgroup2 " in line)
    line = next(line for line in open(path) if line.startswith("0::"))
    return mounted + line[3:].strip()
OWN, OTHERS = group_of({own!r}), group_of({others!r})
ROOT = os.path.dirname(os.path.dirname(OWN))
def made_in_anothers(door):
    enter(OTHERS)
    made = socket.socket()
    enter(ROOT)
    made.settimeout(60)
    made.connect(("127.0.0.1", int(door)))
    return said_to(made)
"""
    thief.do(f"exec({script!r}, globals())")
    for where in ("OTHERS", "ROOT"):
        thief.do(f"enter({where})")
        for door in doors.all:
            assert named(thief.do(f"whoami({door!r})")) == (thief.pid, "thief")
    said = thief.do(f"made_in_anothers({doors.all[0]!r})")
    assert named(said) == (thief.pid, "thief")
    thief.do("enter(OWN)")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("doors", GROUPED, indirect=True)
def test_another_user_is_refused_and_an_agent_that_is_that_user_is_not(doors):
    agent = doors.agent("guest", user="nobody")
    for door in doors.all:
        path = os.path.realpath(door) if door.startswith("/") else door
        said = outside(path, user=USER.pw_uid, group=USER.pw_gid, extra_groups=[])
        assert said["refused"]["errno"] == "EACCES"
        assert named(agent.do(f"whoami({door!r})")) == (agent.pid, "guest")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("doors", GROUPED, indirect=True)
def test_a_program_that_lets_nobody_look_into_it_is_told_where_groups_are_sure(doors):
    """Without dumps /proc/PID/fd is root's: the daemon looks all the same, where it is root."""
    agent = doors.agent("shy", user="nobody")
    agent.do("__import__('ctypes').CDLL(None).prctl(4, 0, 0, 0, 0)")
    for door in doors.all:
        assert named(agent.do(f"whoami({door!r})")) == (agent.pid, "shy")


@pytest.mark.parametrize("doors", GROUPED, indirect=True)
def test_a_caller_that_is_gone_before_it_can_be_told_is_never_taken_for_another(doors):
    """It gets no answer, no call is made for it, and so nobody pays: a call is begun for one that
    was told, and is charged then even if that dies."""
    agent = doors.agent("hasty")
    script = """
def hasty(door):
    for _ in range(50):
        child = os.fork()
        if child == 0:
            try:
                at(door).send(b"POST")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
"""
    agent.do(f"exec({script!r}, globals())")
    for door in doors.all:
        agent.do(f"hasty({door!r})")
        assert named(agent.do(f"whoami({door!r})")) == (agent.pid, "hasty")
        assert named(outside(door)) == (1, "init")


def test_the_door_is_a_socket_to_who_looks_and_the_tree_can_be_unmounted_by_hand(trees):
    made = Doors(trees())
    path = made.tree / "dev/gateway"
    assert path.is_socket()
    where = Path(os.readlink(path))
    assert made.facts()["State"] == "asleep"
    subprocess.run(["umount", str(made.tree.path)], check=True)
    eventually(lambda: not where.exists())


def test_a_kill_9_of_the_daemon_ends_the_gateway_and_the_next_daemon_has_the_same_doors(trees):
    """Programs that outlive the daemon have the address in their environment."""
    hatchery = Hatchery("tests.models.hatched")
    try:
        made = Doors(trees(hatchery=hatchery))
        assert named(outside(made.all[0])) == (1, "init")
        gateway = int(made.facts()["Ospid"])
        pidfd = os.pidfd_open(gateway)
        words = f"the gateway of models is running, at http://127.0.0.1:{made.all[0]}"
        assert words in made.tree.run("doctor", check=False).stdout
        os.kill(gateway, signal.SIGSTOP)  # the daemon's end is its end whatever it does
        made.tree.crash()
        select.select([pidfd], [], [], PATIENCE)
        os.close(pidfd)
        made.tree.mount()
        facts = made.facts()
        assert facts["Address"] == f"http://127.0.0.1:{made.all[0]}"
        assert (facts["State"], facts["Restarts"], facts["Trouble"]) == ("asleep", "0", "-")
        for door in made.all:
            assert named(outside(door)) == (1, "init")
        os.kill(int(made.facts()["Ospid"]), signal.SIGKILL)
        eventually(lambda: made.facts()["Trouble"] == "signal 9")
        assert named(outside(made.all[0])) == (1, "init")
        assert made.facts()["Restarts"] == "1"
        assert "agentfs_gateway_restarts_total 1.0" in made.tree.read("sys/metrics")
        assert "1 restarts, signal 9" in made.tree.run("doctor", check=False).stdout
    finally:
        hatchery.close()


@pytest.mark.parametrize("doors", GROUPED, indirect=True)
def test_programs_have_the_address_in_their_environment(doors):
    agent = doors.agent("reader")
    assert agent.do("os.environ['OPENAI_BASE_URL']") == f"http://127.0.0.1:{doors.all[0]}/v1"
