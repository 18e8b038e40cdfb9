"""MCP servers: programs and over HTTP, with the official SDK on both sides; and servers that never
answer, hang, die, print garbage, end late or answer with too much."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from agentfs.base.errors import KernelError
from agentfs.machine.cgroups import _hierarchies
from agentfs.toolbox.__main__ import Toolbox
from agentfs.tooling.toolbox_process import ToolboxProcess
from tests.hatchery import Hatchery
from tests.puppet import Puppet
from tests.tooling.test_tools import call, offer, refused, why
from tests.tree import Tree, eventually

HERE = Path(__file__).parent
PUPPET = [sys.executable, str(HERE / "puppet_server.py")]
SDK = [sys.executable, str(HERE / "sdk_server.py")]


def status(tree: Tree, tool: str) -> dict[str, str]:
    lines = tree.read(f"lib/tools/{tool}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def test_the_life_of_a_server(tree: Tree) -> None:
    offer(tree, p={"mcp": PUPPET})
    assert os.listdir(tree / "lib/tools") == ["p"]
    assert status(tree, "p")["State"] == "stopped"
    assert call(tree, "p_echo", {"text": "first"}) == "first\n"
    state = status(tree, "p_echo")
    assert (state["State"], state["Starts"]) == ("running", "1")
    assert os.path.exists(f"/proc/{state['OSPid']}")
    assert {"p_echo", "p_none"} < set(os.listdir(tree / "lib/tools"))
    refused(errno.EINVAL, lambda: call(tree, "p_echo", {"text": 5}))
    assert "at /text: 5 is not of type 'string'" in why(tree)
    assert json.loads(tree.read("lib/tools/p_none/schema")) == {
        "name": "p_none",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }
    assert "Says it again." in tree.read("lib/tools/p_echo/help")
    assert '"p_echo"' in call(tree, "p", {})
    refused(errno.EREMOTEIO, lambda: call(tree, "p_error", {}))
    assert "out of cheese" in why(tree)
    refused(errno.EREMOTEIO, lambda: call(tree, "p_fail", {}))
    assert "no such city: Xanadu" in why(tree)
    assert call(tree, "p_garbage", {}) == "after garbage\n"
    assert "p_new" not in os.listdir(tree / "lib/tools")
    assert call(tree, "p_grow", {}) == "grown\n"
    eventually(lambda: "p_new" in os.listdir(tree / "lib/tools"))
    assert call(tree, "p_new", {}) == "nothing\n"
    tree.write("lib/tools/p/ctl", "stop")
    assert status(tree, "p")["State"] == "stopped"
    eventually(lambda: not os.path.exists(f"/proc/{state['OSPid']}"))
    offer(tree, p={"mcp": PUPPET, "tools": ["ech*"]})
    tree.write("lib/tools/p/ctl", "refresh")
    eventually(lambda: os.listdir(tree / "lib/tools") == ["p", "p_echo"])
    assert not tree.holds()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_servers_of_the_official_sdk(tree: Tree, agent: Callable[..., Puppet]) -> None:
    port = free_port()
    tree.start(*SDK, "http", str(port))
    offer(tree, local={"mcp": [*SDK, "stdio"]}, far={"mcp": f"http://127.0.0.1:{port}/mcp"})
    eventually(lambda: is_open(port))
    ann = agent("ann")
    for server in ("local", "far"):
        assert ann.call(f"{server}_add", a=1, b=5) == "6\n"
        assert ann.call(f"{server}_greet", name="Ann") == "hello Ann\n"
        refused(errno.EINVAL, lambda server=server: ann.call(f"{server}_add", b=5))
        assert "'a' is a required property" in ann.read("proc/self/error")
        said = json.loads(ann.read(f"lib/tools/{server}_add/schema"))
        assert said["parameters"]["required"] == ["a"]
    offline = agent("offline", deny=["network_access"])
    assert offline.call("local_add", a=1) == "2\n"
    refused(errno.EREMOTEIO, lambda: offline.call("far_add", a=1))


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_servers_that_do_not_start_are_told_in_time(tree: Tree) -> None:
    offer(
        tree,
        silent={"mcp": [*PUPPET, "silent"], "start_timeout": "0.5s"},
        babble={"mcp": [*PUPPET, "babble"], "start_timeout": "0.5s"},
        wrong={"mcp": [*PUPPET, "wrong"], "start_timeout": "0.5s"},
        dead={"mcp": [*PUPPET, "dead"]},
        gone={"mcp": ["/nowhere/server"]},
        closed={"mcp": f"http://127.0.0.1:{free_port()}/mcp"},
    )
    for name, code, words in (
        ("silent", errno.ETIMEDOUT, "did not begin within 0.5 s"),
        ("babble", errno.ETIMEDOUT, "'Starting server on stdio…', which is no message of MCP"),
        ("wrong", errno.ETIMEDOUT, "which is no message of MCP"),
        ("dead", errno.EREMOTEIO, "it ended with exit code 3"),
        ("gone", errno.ENOENT, "/nowhere/server"),
        ("closed", errno.EREMOTEIO, "closed: "),
    ):
        refused(code, lambda name=name: call(tree, f"{name}_tool", {}))
        assert words in why(tree), name
        assert status(tree, name)["State"] == "failed"


def test_a_server_that_hangs_or_answers_too_much_is_bounded(tree: Tree) -> None:
    offer(tree, p={"mcp": PUPPET, "timeout": "0.5s"}, q={"mcp": PUPPET})
    refused(errno.ETIMEDOUT, lambda: call(tree, "p_hang", {}))
    assert "no answer within 0.5 s" in why(tree)
    assert call(tree, "p_echo", {"text": "still there"}) == "still there\n"
    refused(errno.EREMOTEIO, lambda: call(tree, "q_large", {}))
    assert "a line of more than 16 MiB" in why(tree)
    assert call(tree, "q_echo", {"text": "another one"}) == "another one\n"
    assert not tree.holds()


def test_the_death_of_a_server_is_told_at_once_and_nothing_is_tried_again(tree: Tree) -> None:
    offer(tree, p={"mcp": PUPPET})
    began = time.monotonic()
    refused(errno.EREMOTEIO, lambda: call(tree, "p_die", {}))
    assert time.monotonic() - began < 30
    eventually(lambda: "ended with exit code 7" in status(tree, "p")["Failure"])
    assert call(tree, "p_echo", {"text": "started again"}) == "started again\n"
    refused(errno.EREMOTEIO, lambda: call(tree, "p_die", {}))
    eventually(lambda: status(tree, "p")["State"] == "failed")
    refused(errno.EREMOTEIO, lambda: call(tree, "p_echo", {"text": "too soon"}))
    assert "is started again in 1 s: it ended with exit code 7" in why(tree)
    eventually(lambda: status(tree, "p")["Again"] == "")
    assert call(tree, "p_echo", {"text": "in time"}) == "in time\n"
    assert status(tree, "p")["Starts"] == "3"
    os.kill(int(status(tree, "p")["OSPid"]), signal.SIGKILL)
    eventually(lambda: "SIGKILL" in status(tree, "p")["Failure"])


def at_work(pid: int, tree: Tree) -> dict[int, str]:
    """What runs with the environment of process `pid` of the tree: commands by OS pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                env = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if b"AGENTFS=%s" % os.fsencode(tree.path) in env and b"AGENT_PID=%d" % pid in env:
                found[int(name)] = command.decode()
    return found


def toolbox_of(pid: int, tree: Tree) -> int:
    """The OS pid of the toolbox of process `pid`."""
    (found,) = (ospid for ospid, words in at_work(pid, tree).items() if "agentfs.toolbox" in words)
    return found


@pytest.fixture(params=["cgroup", "ancestry", "untold"])
def any_tree(
    request: pytest.FixtureRequest, trees: Callable[..., Tree], fuse: None
) -> Iterator[Tree]:
    """With control groups, without, and where Linux does not tell of forks either."""
    if request.param == "cgroup":
        made = trees()
        made.mount()
        yield made
        return
    hatchery = Hatchery("tests.ancestry", {"UNTOLD": "1"} if request.param == "untold" else {})
    try:
        made = trees(hatchery=hatchery)
        made.mount()
        yield made
        made.unmount()
    finally:
        hatchery.close()


def test_nothing_of_a_server_outlives_its_agent(any_tree: Tree) -> None:
    tree = any_tree
    offer(tree, p={"mcp": [*PUPPET, "stubborn"]}, cat={"exec": ["/bin/cat"]})
    for number in range(2):
        ann = Puppet(tree, f"ann{number}")
        try:
            assert ann.call("p_echo", text="x") == "x\n"
            assert ann.call("cat") == "{}"
            ann.call("p_fork")
            assert len(at_work(ann.pid, tree)) >= 4
            tree.write(f"proc/{ann.pid}/ctl", "kill")
            began = time.monotonic()
            eventually(lambda ann=ann: not at_work(ann.pid, tree))
            assert time.monotonic() - began < 20  # on a busy machine; else a moment
        finally:
            ann.close()


def test_a_tool_is_known_as_its_callers_by_its_ancestry_too(any_tree: Tree) -> None:
    ask = "import os; print(open(os.environ['AGENTFS'] + '/proc/self/name').read())"
    offer(any_tree, who={"exec": [sys.executable, "-c", ask]})
    ann = Puppet(any_tree, "ann")
    try:
        assert ann.call("who").strip() == "ann"
        assert call(any_tree, "who", {}).strip() == "init"
    finally:
        ann.close()


def test_an_agent_that_ends_its_toolbox_harms_itself_alone(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    offer(tree, p={"mcp": PUPPET}, cat={"exec": ["/bin/cat"]})
    ann, bob = agent("ann"), agent("bob")
    for puppet in (ann, bob):
        assert puppet.call("p_echo", text="x") == "x\n"
    ann.do(f"os.kill({toolbox_of(ann.pid, tree)}, 9)")
    eventually(lambda: "SIGKILL" in str(ann.read("lib/tools/p/status")))
    assert ann.call("cat") == "{}"
    assert ann.call("p_echo", text="again") == "again\n"
    assert bob.call("p_echo", text="not mine") == "not mine\n"


class Works:
    """What a toolbox of the daemon needs of sidecars."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.work = nursery.start_soon
        self.killed = trio.Event()

    def kill(self, running: object) -> None:
        self.killed.set()


@pytest.mark.parametrize(
    "packet",
    [
        b"no JSON",
        b"5",
        b"[" * 50_000,
        b'{"n": []}',
        b'{"do": 5, "server": {}}',
        *[json.dumps({"do": "changed", "server": "1"}).encode()],
    ],
    ids=lambda packet: packet[:12].decode(),
)
async def test_what_a_toolbox_says_is_read_with_care(packet: bytes) -> None:
    """An agent can speak for its toolbox."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heard: list[object] = []
    with theirs:
        theirs.setblocking(False)
        async with trio.open_nursery() as nursery:
            works = Works(nursery)
            toolbox = ToolboxProcess(works, None, ours, heard.append)
            nursery.start_soon(refuse, toolbox)
            with trio.fail_after(30):
                while not works.killed.is_set():
                    with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                        theirs.send(packet)
                    await trio.lowlevel.checkpoint()
    assert len(heard) <= 101


async def refuse(toolbox: ToolboxProcess) -> None:
    with pytest.raises(KernelError, check=lambda bad: bad.errno == errno.EREMOTEIO):
        await toolbox.ask({"do": "check"})


def test_each_agent_has_a_server_of_its_own(tree: Tree, agent: Callable[..., Puppet]) -> None:
    offer(tree, p={"mcp": PUPPET})
    ann, bob = agent("ann"), agent("bob")
    for puppet in (ann, bob):
        env = json.loads(puppet.call("p_env"))
        assert env["AGENT_NAME"] == puppet.name
    ann.call("p_grow")
    eventually(lambda: "p_new" in ann.ls("lib/tools"))
    assert "p_new" not in bob.ls("lib/tools")
    refused(errno.EREMOTEIO, lambda: ann.call("p_die"))
    assert bob.call("p_echo", text="not mine") == "not mine\n"


def test_a_tool_apart_has_secrets_that_no_caller_sees(
    tree: Tree, agent: Callable[..., Puppet]
) -> None:
    apart = {"run_as": "tool", "secrets": {"TOKEN": "weather"}}
    script = '[ "$TOKEN" = "s3cr3t-value" ] && echo "$AGENT_NAME knows it"'
    fails = 'echo "bad token: $TOKEN" >&2; exit 1'
    offer(
        tree,
        w={"exec": ["/bin/sh", "-c", script], **apart},
        f={"exec": ["/bin/sh", "-c", fails], **apart},
        p={"mcp": PUPPET, **apart},
    )
    ann = agent("ann")
    refused(errno.EACCES, lambda: ann.call("w"))
    assert "agentfs secret set weather" in ann.read("proc/self/error")
    (tree / "etc/secrets/weather").write_text("s3cr3t-value\n")
    assert ann.call("w") == "tool-w knows it\n"
    refused(errno.EREMOTEIO, lambda: ann.call("f"))
    assert "s3cr3t-value" not in ann.read("proc/self/error")
    env = json.loads(ann.call("p_env"))
    assert (env["TOKEN"], env["AGENT_NAME"]) == ("s3cr3t-value", "tool-p")
    assert agent("bob").call("p_echo", text="one server for all") == "one server for all\n"
    assert status(tree, "p")["Starts"] == "1"
    assert "s3cr3t-value" not in tree.log()
    refused(errno.EACCES, lambda: ann.write("lib/tools/p/ctl", "stop"))
    pid = int(tree.read("agents/tool-p/pid"))
    offer(tree)
    eventually(lambda: not at_work(pid, tree))


def test_servers_end_with_the_daemon_and_its_tools_are_still_known(
    trees: Callable[..., Tree],
) -> None:
    tree = trees()
    tree.mount()
    offer(tree, p={"mcp": PUPPET})
    assert call(tree, "p_echo", {"text": "x"}) == "x\n"
    pid = int(status(tree, "p")["OSPid"])
    tree.crash()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    tree.mount()
    assert "p_echo" in os.listdir(tree / "lib/tools")
    assert json.loads(tree.read("lib/tools/p_echo/schema"))["description"] == "Says it again."
    assert status(tree, "p")["State"] == "stopped"
    assert call(tree, "p_echo", {"text": "y"}) == "y\n"


async def test_without_the_sdk_a_server_says_so_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "agentfs.toolbox.servers", raising=False)
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            request = {"do": "serve", "n": 1, "server": "1", "url": "http://x/", "start": 1}
            await Toolbox(theirs, nursery).take(json.dumps(request).encode(), [])
        answer = json.loads(await ours.recv(65536))
    assert answer["errno"] == "EREMOTEIO"
    assert "pip install 'agentfs-kernel[mcp]'" in answer["words"]


def test_who_enters_the_group_of_the_operators_tools_is_not_the_operator(
    tree: Tree, agent: Callable[..., Puppet], tmp_path: Path
) -> None:
    """Its orphan is a stranger there: root can enter any group."""
    offer(tree, cat={"exec": ["/bin/cat"]})
    assert call(tree, "cat", {}) == "{}"
    toolbox = toolbox_of(1, tree)
    said = Path(f"/proc/{toolbox}/cgroup").read_text()
    group = next((line[3:] for line in said.splitlines() if line.startswith("0::")), "")
    places = [Path(mounted + group, "cgroup.procs") for mounted, _ in _hierarchies()]
    procs = next((place for place in places if place.exists() and "agentfs-" in group), None)
    if procs is None:
        pytest.skip("there are no control groups")
    script = tmp_path / "orphan"
    script.write_text(
        f"echo $$ > {procs}; cat {tree / 'proc/self/name'}; echo x > {tree / 'etc/tools.yaml'};"
        " echo done"
    )
    ann = agent("ann")
    ann.do(f"os.system('setsid sh {script} > {tmp_path}/said 2>&1 &')")
    said_there = tmp_path / "said"
    eventually(lambda: said_there.exists() and "done" in said_there.read_text())
    assert "init" not in said_there.read_text()
    assert "exec" in tree.read("etc/tools.yaml")
