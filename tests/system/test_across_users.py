"""Mail between agents of different users of the machine, on a real mount: who may, by which way."""

from __future__ import annotations

import errno
import os
import pwd
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.tree import Tree

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon has agents of other users"),
]

Make = Callable[..., Puppet]


def interpreter() -> str:
    """A Python that other users can run: root's own may lie in a closed home."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        real = Path(os.path.realpath(candidate))
        if real.exists() and all(part.stat().st_mode & 0o001 for part in real.parents):
            return candidate
    pytest.skip("no interpreter that other users can run")


@pytest.fixture(scope="module")
def town(hatchery: Hatchery) -> Iterator[Tree]:
    """One tree for the tests of this file: each has agents of its own. Not below pytest's folder,
    which every other run of pytest closes to other users."""
    with tempfile.TemporaryDirectory(prefix="agentfs-users-") as folder:
        os.chmod(folder, 0o755)
        made = QuickTree(Path(folder) / "tree", hatchery=hatchery)
        made.mount()
        try:
            yield made
        finally:
            made.clean_up()


@pytest.fixture
def make(town: Tree) -> Iterator[Make]:
    """Makes agents of the first user (`a…`) or of the second."""
    made: list[Puppet] = []
    there = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid}
    users = [name for name in ("daemon", "nobody", "games", "bin") if name in there]

    def one(name: str, parent: int = 1, **spec: Any) -> Puppet:
        user = users[0 if name.startswith("a") else 1]
        made.append(Puppet(town, name, parent, python=interpreter(), user=user, **spec))
        return made[-1]

    yield one
    for each in made:
        each.close()
        town.write("etc/acl.yaml", "rules: []")


@contextmanager
def refused(agent: Puppet, *words: str) -> Iterator[None]:
    """EACCES, and these words say why."""
    with pytest.raises(PermissionError) as caught:
        yield
    assert caught.value.errno == errno.EACCES
    said = agent.read("proc/self/error")
    assert all(word in said for word in words), said


def waiting(town: Tree, name: str) -> int:
    return len(os.listdir(town / f"agents/{name}/inbox/new"))


WAYS = {
    "outbox": "write('agents/self/outbox/NAME', 'hello')",
    "send": "write('agents/self/send', 'To: NAME\\n\\nhello')",
    "asks": "ask('agents/self/asks/new', 'To: NAME\\n\\nwell?')",
    "a forged reply": "write('agents/self/send', 'To: NAME\\nIn-Reply-To: 1\\n\\nhello')",
    "an open without a word": "os.close(os.open(tree + '/agents/self/outbox/NAME', os.O_WRONLY))",
}


def test_no_way_leads_to_a_stranger_of_another_user(town: Tree, make: Make) -> None:
    anna, bert = make("anna"), make("bert")
    for way in WAYS.values():
        with refused(anna, "bert", "{effect: allow, agent: anna, action: send"):
            anna.do(way.replace("NAME", "bert"))
    with refused(anna):
        anna.do("open(tree + '/agents/bert/inbox/new/letter', 'w')")
    assert "bert" not in anna.ls("agents/self/outbox")
    assert waiting(town, "bert") == 0
    can = town.run("can", "anna", "send", "/agents/bert/inbox", check=False)
    assert can.returncode == 1
    assert "strangers" in can.stdout
    del bert


def test_the_rule_that_the_refusal_names_lets_it_through(town: Tree, make: Make) -> None:
    alma, _bela = make("alma"), make("bela")
    with refused(alma):
        alma.send("bela", "hello")
    rule = alma.read("proc/self/error").partition("would: ")[2].partition("}")[0] + "}"
    town.write("etc/acl.yaml", f"rules: [{rule}]")
    for way in ("outbox", "send", "asks"):
        alma.do(WAYS[way].replace("NAME", "bela"))
    assert waiting(town, "bela") == 3
    assert "bela" in alma.ls("agents/self/outbox")
    assert town.run("can", "alma", "send", "/agents/bela/inbox").returncode == 0
    town.write("etc/acl.yaml", "rules: []")
    with refused(alma):
        alma.send("bela", "hello")


def test_who_was_written_to_may_answer(town: Tree, make: Make) -> None:
    arno, bodo = make("arno"), make("bodo")
    rule = "{effect: allow, agent: arno, action: send, path: /agents/bodo/inbox}"
    town.write("etc/acl.yaml", f"rules: [{rule}]")
    with refused(bodo):
        bodo.send("arno", "first")
    key = arno.ask("agents/self/asks/new", "To: bodo\n\nwhat is the time?").split()[0]
    assert "arno" in bodo.ls("agents/self/outbox")
    got = bodo.recv()
    number = next(line[12:] for line in got.splitlines() if line.startswith("Message-ID: "))
    bodo.write("agents/self/send", f"To: arno\nIn-Reply-To: {number}\n\nlate")
    assert "late" in arno.read(f"agents/self/asks/{key}/answer")
    with pytest.raises(BlockingIOError):
        bodo.recv()  # the question is acknowledged
    bodo.send("arno", "by the way")
    town.write("etc/acl.yaml", "rules: [{effect: deny, agent: bodo, action: send}]")
    with pytest.raises(PermissionError):
        bodo.send("arno", "no more")


def test_parents_children_and_the_operator_are_no_strangers(town: Tree, make: Make) -> None:
    boss = make("boss", role="lead")
    axel = make("axel", boss.pid)
    bill = make("bill", boss.pid)
    boss.send("axel", "work")
    axel.send("boss", "done")
    axel.send("init", "a word")
    town.write("agents/init/outbox/axel", "an order")
    axel.write(f"proc/{axel.pid}/escalate", "warning it burns")
    with refused(axel, "bill"):
        axel.send("bill", "psst")
    bill.send("boss", "done")
    assert waiting(town, "axel") == 2
    assert waiting(town, "boss") == 3


def test_a_group_in_common_lets_them_write_and_only_the_operator_makes_it(
    town: Tree, make: Make
) -> None:
    os.mkdir(town / "sys/cgroup/team")
    anton, birte = make("anton", groups=["x"]), make("birte", group="team", groups=["x"])
    with refused(birte):
        birte.send("anton", "hello")
    # Even whom a rule lets manage groups does not put itself among strangers.
    town.write("etc/roles.yaml", "roles: {agent: {capabilities: ['*']}}")
    town.write(
        "etc/acl.yaml",
        "rules:\n- {effect: allow, agent: anton, action: manage_tree}\n",
    )
    with pytest.raises(PermissionError) as caught:
        anton.write("sys/cgroup/team/cgroup.procs", "0")
    assert caught.value.errno == errno.EPERM
    assert "birte, in group team, is another user's" in anton.read("proc/self/error")
    town.write("sys/cgroup/team/cgroup.procs", str(anton.pid))
    anton.send("birte", "hello")
    birte.send("anton", "hello")
    town.write("sys/cgroup/cgroup.procs", str(anton.pid))
    with refused(anton):
        make("benno", group="team")
        anton.send("benno", "hello")
    town.write("etc/roles.yaml", "")


def test_a_broadcast_reaches_those_that_it_may_and_the_operators_everybody(
    town: Tree, make: Make
) -> None:
    alois = make("alois", role="lead")
    friend, bruno = make("alba"), make("bruno")
    town.write("etc/roles.yaml", "roles: {lead: {capabilities: ['*']}}")
    alois.write("dev/broadcast", "to all of ours")
    town.write("etc/roles.yaml", "")
    assert (waiting(town, "alba"), waiting(town, "bruno")) == (1, 0)
    town.write("dev/broadcast", "to all of you")
    assert (waiting(town, "alba"), waiting(town, "bruno")) == (2, 1)
    del friend, bruno


def test_the_operator_is_told_that_there_are_agents_of_several_users(
    town: Tree, make: Make
) -> None:
    make("adele"), make("benita")
    state = str(town.state)
    told = town.run("doctor", "--state", state, check=False).stdout
    assert "there are agents of" in told
    assert "allows `send`, as parent and child" in told


def test_queues_and_topics_go_by_their_mode(town: Tree, make: Make) -> None:
    agathe, berta = make("agathe"), make("berta")
    berta.do("os.mkdir(tree + '/dev/queues/open')")
    berta.do("os.mkdir(tree + '/dev/queues/closed', 0o700)")
    agathe.write("dev/queues/open/send", "a job")
    with pytest.raises(PermissionError):
        agathe.write("dev/queues/closed/send", "a job")
    job = berta.poll("dev/queues/open/recv")
    assert "From: agathe" in job
    berta.send("agathe", "it is done")  # who took a message may answer it
    assert waiting(town, "agathe") == 1


HOLD = """
held = []
def hold(path, count):
    for number in range(count):
        try:
            held.append(os.open(os.path.join(tree, path), os.O_RDONLY))
        except OSError as failure:
            return number, failure.errno
    return count, 0
"""


def test_all_agents_of_one_user_leave_a_share_to_those_of_another(town: Tree, make: Make) -> None:
    greedy, other = [make(f"a-greedy{number}") for number in range(3)], make("b-modest")
    for agent in (*greedy, other):
        agent.do(f"exec({HOLD!r}, globals())")
    town.write("etc/agentfs.yaml", "shares: {handles: 400}\n")  # 40 of them are the operator's
    try:
        got = [agent.do("hold('sys/version', 400)") for agent in greedy]
        assert {code for _, code in got} == {errno.EMFILE}
        assert 250 < sum(number for number, _ in got) <= 270  # three quarters of 360
        words = town.read(f"proc/{greedy[2].pid}/error")
        assert "all programs of user " in words
        assert "shares.user" in words
        assert other.do("hold('sys/version', 30)") == [30, 0]
        for agent in (*greedy, other):
            agent.do("[os.close(fd) for fd in held]")
    finally:
        town.write("etc/agentfs.yaml", "")
