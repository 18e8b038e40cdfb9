"""Limits on a real mount: agents at work, real programs, and the daemon killed in between."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentfs.machine.cgroups import ControlGroups
from tests.puppet import Puppet
from tests.tree import BOMB, Tree, eventually

pytestmark = pytest.mark.mount


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code


@pytest.fixture
def puppet(tree: Tree) -> Iterator[Callable[..., Puppet]]:
    """Makes agents of the tree."""
    made: list[Puppet] = []

    def make(*arguments: Any, **spec: object) -> Puppet:
        made.append(Puppet(tree, *arguments, **spec))
        return made[-1]

    yield make
    for each in made:
        each.close()


def limit(agent: Puppet, name: str) -> str:
    return f"proc/{agent.pid}/limits/{name}"


def claim(agent: Puppet) -> str:
    """Rename its first message into cur/; the new path."""
    inbox = f"agents/{agent.name}/inbox"
    first = agent.ls(f"{inbox}/new")[0]
    agent.mv(f"{inbox}/new/{first}", f"{inbox}/cur/{first}:2,")
    return f"{inbox}/cur/{first}:2,"


def tell(tree: Tree, agent: str, count: int) -> None:
    for number in range(count):
        tree.write(f"agents/init/outbox/{agent}", f"{number}")


def test_an_agent_lowers_its_limits_and_only_those_above_raise_them(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    lead = puppet("lead", role="lead")
    child = puppet("child", lead.pid)
    other = puppet("other")
    path = limit(child, "max_tool_calls")
    assert tree.read(path) == "max\n"
    child.write(path, "5")
    assert tree.read(path) == "5\n"
    for agent, text in ((child, "6"), (child, "max"), (other, "4"), (other, "6")):
        with refused(errno.EPERM):
            agent.write(path, text)
    assert "only its parent and the operator raise it" in child.read(f"proc/{child.pid}/error")
    with refused(errno.EINVAL):
        child.write(path, "four")
    lead.write(path, "2")
    assert tree.read(path) == child.read(path) == "2\n"
    for _ in range(2):
        child.ask(f"proc/{child.pid}/call", "tool search")
    with refused(errno.EDQUOT):
        child.ask(f"proc/{child.pid}/call", "tool search")
    assert tree.read(f"proc/{child.pid}/usage/max_tool_calls") == "2\n"
    tree.write(path, "3")
    child.ask(f"proc/{child.pid}/call", "tool search")
    assert "max_tool_calls 3 3 own\n" in tree.read(f"proc/{child.pid}/limits/status")


def test_a_reader_waits_while_its_agent_has_all_the_tasks_it_may_have(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    agent = puppet("alice", limits={"max_concurrent_tasks": 1})
    tell(tree, "alice", 3)
    held = claim(agent)
    with refused(errno.EAGAIN):
        claim(agent)
    with refused(errno.EAGAIN):
        agent.recv()
    out = tree.state.parent / "got"
    shell = ["sh", "-c", f"cat {tree.path}/agents/alice/recv > {out}"]
    agent.do(f"__import__('subprocess').Popen({shell!r}).pid")
    eventually(lambda: "agentfs_mount_parked 1" in tree.read("sys/metrics"))
    assert len(agent.ls("agents/alice/inbox/new")) == 2
    agent.rm(held)
    eventually(lambda: out.exists() and out.read_text().endswith("1"))
    assert tree.read(f"proc/{agent.pid}/usage/max_concurrent_tasks") == "1\n"


def test_a_poll_is_woken_when_a_task_ends(tree: Tree, puppet: Callable[..., Puppet]) -> None:
    agent = puppet("alice", limits={"max_concurrent_tasks": 1})
    tell(tree, "alice", 2)
    held = claim(agent)
    out = tree.state.parent / "woken"
    program = (
        "import os, select, sys\n"
        f"fd = os.open({str(tree / 'agents/alice/recv')!r}, os.O_RDONLY | os.O_NONBLOCK)\n"
        "poll = select.poll(); poll.register(fd, select.POLLIN)\n"
        f"open({str(out)!r}, 'w').write('before %d\\n' % len(poll.poll(0)))\n"
        "poll.poll(20000)\n"
        f"open({str(out)!r}, 'a').write(os.read(fd, 4096).decode())\n"
    )
    agent.do(f"__import__('subprocess').Popen([sys.executable, '-c', {program!r}]).pid")
    eventually(lambda: out.exists() and out.read_text() == "before 0\n")
    agent.rm(held)
    eventually(lambda: out.read_text().endswith("\n1"))


def test_a_task_that_takes_too_long_comes_back_also_after_kill_9_of_the_daemon(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    agent = puppet("alice", limits={"timeout_seconds": 1})
    tell(tree, "alice", 1)
    held = claim(agent)
    new = Path(tree / "agents/alice/inbox/new")
    eventually(lambda: os.listdir(new))
    with refused(errno.ENOENT):
        agent.rm(held)
    assert "Delivery-Attempt: 2\n" in (new / os.listdir(new)[0]).read_text()
    claim(agent)
    tree.crash()
    tree.mount()
    eventually(lambda: os.listdir(new))
    assert "Delivery-Attempt: 3\n" in (new / os.listdir(new)[0]).read_text()


def test_of_fifty_senders_at_once_exactly_n_get_through(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    agent = puppet("alice", limits={"messages_per_minute": 20})
    tree.spawn("bob")
    script = (
        f"for i in $(seq 50); do (echo $i > {tree.path}/agents/alice/outbox/bob) 2>/dev/null &"
        " done; wait"
    )
    agent.do(f"os.system({script!r})")
    assert len(os.listdir(tree / "agents/bob/inbox/new")) == 20
    with refused(errno.EAGAIN):
        agent.send("bob", "one more")
    with refused(errno.EAGAIN):
        agent.write("agents/alice/send", "To: bob\n\none more")
    assert "20 messages a minute" in agent.read(f"proc/{agent.pid}/error")
    assert agent.read(f"proc/{agent.pid}/usage/messages_per_minute") == "20\n"


def test_a_limit_on_processor_time_holds_for_a_program_at_work(tree: Tree) -> None:
    pid = tree.spawn("busy", exec=["sh", "-c", "while :; do :; done"], restart="never")
    tree.write(f"proc/{pid}/limits/max_cpu_seconds", "1")
    eventually(lambda: tree.read(f"proc/{pid}/state").strip() in ("zombie", "dead"))
    assert int(tree.read(f"proc/{pid}/exit")) > 128


def test_a_fork_bomb_is_the_trouble_of_its_own_agent(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    neighbour = puppet("neighbour")
    assert tree.read(f"proc/{neighbour.pid}/limits/max_pids") == "1024\n"
    assert tree.read(f"proc/{neighbour.pid}/usage/max_pids") == "1\n"
    limits = {"max_pids": 12}
    bomb = tree.spawn("bomb", exec=["python3", "-c", BOMB], limits=limits, restart="never")

    def stopped() -> bool:
        log = tree.read("agents/bomb/log")
        return "refused" in log or "limit: max_pids" in log

    eventually(stopped)
    assert int(tree.read(f"proc/{bomb}/usage/max_pids")) <= 12
    assert neighbour.do("os.system('true')") == 0
    neighbour.send("bomb", "are you well?")
    if tree.read(f"proc/{bomb}/state").strip() not in ("zombie", "dead"):
        assert "max_pids 12 12 own\n" in tree.read(f"proc/{bomb}/limits/status")
    tree.write(f"proc/{bomb}/ctl", "KILL")
    eventually(lambda: tree.read(f"proc/{bomb}/usage/max_pids") == "0\n")


def test_the_number_of_programs_is_bounded_for_everybody_at_once(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    groups = ControlGroups("test-limits")
    if not groups.has_pids:
        pytest.skip("no pids controller here")
    groups.close()
    agent = puppet("alice")
    fork = "(lambda child: child and os.waitpid(child, 0)[1] or child or os._exit(0))(os.fork())"
    assert agent.do(fork) > 0
    tree.write("etc/agentfs.yaml", "limits: {max_pids: 1}\n")
    assert "max_pids 1 1 limits.max_pids\n" in tree.read(f"proc/{agent.pid}/limits/status")
    with refused(errno.EAGAIN):
        agent.do(fork)
    tree.write("etc/agentfs.yaml", "limits: {max_pids: max}\n")
    assert agent.do(fork) > 0


def test_the_configuration_limits_everybody_at_once(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    agent = puppet("alice")
    for _ in range(3):
        agent.ask(f"proc/{agent.pid}/call", "tool search")
    tree.write("etc/agentfs.yaml", "limits: {max_tool_calls: 3}\n")
    with refused(errno.EDQUOT):
        agent.ask(f"proc/{agent.pid}/call", "tool search")
    status = tree.read(f"proc/{agent.pid}/limits/status")
    assert "max_tool_calls 3 3 limits.max_tool_calls\n" in status
    tree.write("etc/agentfs.yaml", "limits: {max_tool_calls: max}\n")
    agent.ask(f"proc/{agent.pid}/call", "tool search")


# -- calls of any kind a minute --------------------------------------------------------------------

CALLS = {
    "spawns": "ask('proc/self/spawn', '{name: kid-%s-NUMBER}' % os.environ['AGENT_NAME'])",
    "signals": "write('proc/%s/ctl' % kid, 'HUP')",
    "claims": "read('agents/self/recv', flags=os.O_NONBLOCK)",
    "artifacts": "open(tree + '/dev/shm/private/key-NUMBER', 'w').close()",
    "llm_calls": "ask('proc/self/call', 'llm 10')",
    "tool_calls": "ask('proc/self/call', 'tool search')",
    "messages": "write('agents/self/outbox/init', 'hello')",
}


def call(agent: Puppet, kind: str, number: int) -> None:
    agent.do(CALLS[kind].replace("NUMBER", str(number)))


@pytest.mark.parametrize("kind", CALLS)
def test_calls_of_every_kind_can_be_limited_by_the_minute(
    tree: Tree, puppet: Callable[..., Puppet], kind: str
) -> None:
    free = puppet("free", role="lead", limits={"max_children": "max"})
    agent = puppet(
        "busy",
        role="lead",
        limits={f"{kind}_per_minute": 3, "max_children": "max", "max_concurrent_tasks": "max"},
    )
    kid = tree.spawn("kid", agent.pid)
    agent.do(f"globals().update(kid={kid})")
    tell(tree, "busy", 8)
    tell(tree, "free", 8)
    for number in range(3):
        call(agent, kind, number)
    for number in range(3, 6):
        with refused(errno.EAGAIN):
            call(agent, kind, number)
    why = agent.read("proc/self/error")
    what = kind.replace("_", " ")
    assert f"3 {what} a minute; the next one may be" in why
    assert tree.read(f"proc/{agent.pid}/usage/{kind}_per_minute") == "3\n"
    with refused(errno.EPERM):
        agent.write(limit(agent, f"{kind}_per_minute"), "max")
    tree.write(limit(agent, f"{kind}_per_minute"), "4")
    call(agent, kind, 7)
    with refused(errno.EAGAIN):
        call(agent, kind, 8)
    if kind not in ("signals", "claims"):
        for number in range(10, 16):
            call(free, kind, number)


def test_a_limit_on_all_calls_together_and_one_of_a_group(
    tree: Tree, puppet: Callable[..., Puppet]
) -> None:
    (tree / "sys/cgroup/team/inner").mkdir(parents=True)
    one = puppet("one", role="lead", group="team", limits={"calls_per_minute": 5})
    two = puppet("two", role="lead", group="team/inner")
    for number in range(5):
        call(one, ("llm_calls", "tool_calls", "messages", "spawns", "artifacts")[number], number)
    for kind in ("llm_calls", "messages", "spawns"):
        with refused(errno.EAGAIN):
            call(one, kind, 9)
    assert "one may make 5 calls a minute" in one.read("proc/self/error")
    rates = tree / "sys/cgroup/team/rate.max"
    assert rates.read_text() == ""
    tree.write("sys/cgroup/team/rate.max", "tool_calls 4\n")
    tree.write("sys/cgroup/team/rate.max", "messages 100\n")
    assert rates.read_text() == "messages 100\ntool_calls 4\n"
    for bad in ("tool_calls", "tools 4", "tool_calls -1", "4"):
        with refused(errno.EINVAL):
            tree.write("sys/cgroup/team/rate.max", bad)
    tree.write(limit(one, "calls_per_minute"), "max")
    for agent in (one, two, one, two):
        call(agent, "tool_calls", 1)
    for agent in (one, two):
        with refused(errno.EAGAIN):
            call(agent, "tool_calls", 1)
    assert "group team may make 4 tool calls a minute" in two.read("proc/self/error")
    assert "tool_calls 4\n" in tree.read("sys/cgroup/team/rate.current")
    tree.crash()
    tree.mount()
    assert rates.read_text() == "messages 100\ntool_calls 4\n"
    tree.write("sys/cgroup/team/rate.max", "tool_calls max\n")
    assert rates.read_text() == "messages 100\n"
