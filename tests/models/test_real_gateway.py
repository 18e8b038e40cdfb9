"""Calls of models by agents, through the real gateway, to a provider on loopback: whose each is,
what is counted when somebody dies, and where the provider's key is not."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.llm.server import Provider
from tests.puppet import Puppet
from tests.system.test_across_users import interpreter
from tests.tree import PATIENCE, Tree, eventually

pytestmark = pytest.mark.mount

KEY = "sk-the-key-of-the-operator-0123456789"

MODELS = """\
providers:
  test: {{url: "{url}", speaks: [chat, responses, messages], key: {{secret: test}}, retries: 0}}
models:
  m: {{tier: operational, provider: test, input: 1, output: 10, context: 200000}}
  slow: {{tier: operational, provider: test, context: 200000}}
"""

CALLS = """
import json, os, socket, sys, time
def post(path, body, door=None, headers="", wait=True):
    door = door or os.environ["OPENAI_BASE_URL"].split("/")[2].split(":")[1]
    made = socket.socket(socket.AF_UNIX if door.startswith("/") else socket.AF_INET)
    made.settimeout(60)
    made.connect(door if door.startswith("/") else ("127.0.0.1", int(door)))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(data)}\\r\\n{headers}"
    made.sendall(head.encode() + b"Connection: close\\r\\n\\r\\n" + data)
    if not wait:
        return made
    return read(made)
def read(made):
    answer = b""
    while more := made.recv(65536):
        answer += more
    made.close()
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    return [int(head.split()[1]), body.decode()]
def opened(path):
    try:
        os.read(os.open(path, os.O_RDONLY), 100)
    except OSError as refused:
        return refused.errno
def chat(model="m", most=50, **more):
    body = {"model": model, "max_tokens": most, "messages": [{"role": "user", "content": "Hi"}]}
    stream = more.pop("stream", False)
    return post("/v1/chat/completions", body | {"stream": stream}, **more)
"""


DAEMON = """
def daemon(work):
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.environ.pop("AGENT_PID")
            time.sleep(0.1)
            work()
        os._exit(0)
    os.waitpid(child, 0)
"""

REST = """
def rest():
    answer = b""
    try:
        while more := open.recv(65536):
            answer += more
    except ConnectionError:
        pass
    return answer.decode()
"""

CHILD = """
def child(work):
    made = os.fork()
    if made == 0:
        try:
            work()
        finally:
            os._exit(0)
    return made
"""


class Town:
    """A tree with a provider behind its gateway."""

    def __init__(self, tree: Tree, provider: Provider) -> None:
        self.tree, self.provider = tree, provider
        self.puppets: list[Puppet] = []
        tree.mount()
        tree.write("etc/models.yaml", MODELS.format(url=provider.url))
        (tree / "etc/secrets/test").write_text(KEY)

    def facts(self) -> dict[str, str]:
        lines = self.tree.read("sys/gateway").splitlines()
        return dict(line.split(":\t", 1) for line in lines)

    def agent(self, name: str, **spec: Any) -> Puppet:
        puppet = Puppet(self.tree, name, python=interpreter(), **spec)
        self.puppets.append(puppet)
        puppet.do(f"exec({CALLS!r}, globals())")
        return puppet

    def counted(self, name: str) -> tuple[int, int, int]:
        """(calls, input, output) of an agent."""
        base = f"sys/accounting/agent/{name}"
        if not (self.tree / base).exists():
            return 0, 0, 0
        figures = [int(self.tree.read(f"{base}/{one}")) for one in ("calls", "input", "output")]
        return figures[0], figures[1], figures[2]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as made:
        yield made


@pytest.fixture(scope="module")
def place(hatchery: Hatchery, provider: Provider) -> Iterator[Town]:
    with tempfile.TemporaryDirectory(prefix="agentfs-models-") as folder:
        os.chmod(folder, 0o755)
        tree = QuickTree(Path(folder) / "tree", hatchery=hatchery)
        try:
            yield Town(tree, provider)
        finally:
            tree.clean_up()


@pytest.fixture
def town(place: Town, provider: Provider) -> Iterator[Town]:
    provider.reset()
    yield place
    while place.puppets:
        place.puppets.pop().close()


def test_a_call_over_each_door_is_its_agents_and_the_key_is_the_operators(town):
    """Another key, and another agent's name, change nothing."""
    agent, other = town.agent("caller"), town.agent("other")
    mine = "Authorization: Bearer other\\r\\nx-api-key: other\\r\\n"
    for door in (None, str(town.tree / "dev/gateway")):
        status, body = agent.do(f"chat(door={door!r}, headers='{mine}')")
        assert (status, "Paris" in body) == (200, True), body
    calls = town.provider.log()
    assert {call.headers["authorization"] for call in calls} == {f"Bearer {KEY}"}
    assert not any("other" in json.dumps(call.headers) for call in calls)
    usage = json.loads(body)["usage"]
    assert town.counted("caller") == (2, 2 * usage["prompt_tokens"], 2 * usage["completion_tokens"])
    assert town.counted("other")[0] == 0
    assert other.pid


def test_a_double_forked_child_is_its_agent(town):
    agent = town.agent("daemonizer")
    agent.do(f"exec({DAEMON!r}, globals())")
    agent.do("daemon(lambda: chat())")
    eventually(lambda: town.counted("daemonizer")[0] == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_is_dead_before_the_answer_is_charged(town, stream):
    """The provider is stopped, and the input counts: it was read."""
    name = f"dead-{'stream' if stream else 'plain'}"
    agent = town.agent(name)
    town.provider.script("slow", hang=True)
    agent.do(f"exec({CHILD!r}, globals())")
    child = agent.do(f"child(lambda: chat('slow', stream={stream}))")
    town.provider.wait(lambda log: len(log) == 1)
    agent.do(f"[os.kill({child}, 9), os.waitpid({child}, 0)] and None")
    (call,) = town.provider.wait(lambda log: log[0].over)
    assert call.hung_up
    eventually(lambda: town.counted(name)[0] == 1)
    calls, read, written = town.counted(name)
    assert (calls, read > 0, written) == (1, True, 0)


def streaming(town: Town, name: str) -> Puppet:
    """An agent that has read the first of an answer that goes on for long."""
    agent = town.agent(name)
    town.provider.script("slow", tokens=10_000, delay=0.005)
    agent.do("globals().update(open=chat('slow', 20_000, stream=True, wait=False)) or None")
    agent.do("len(open.recv(100))")
    return agent


def test_a_kill_9_of_the_gateway_charges_what_has_come_and_the_next_call_goes_through(town):
    agent = streaming(town, "streamer")
    town.provider.wait(lambda log: log[0].chunks > 300)  # it tells the kernel once a second
    eventually(lambda: status_of(town, agent)["Output"] != "0")
    before = int(status_of(town, agent)["Output"])
    os.kill(int(town.facts()["Ospid"]), signal.SIGKILL)
    (call,) = town.provider.wait(lambda log: log[0].over)
    assert call.hung_up
    eventually(lambda: town.counted("streamer")[0] == 1)
    _, read, written = town.counted("streamer")
    assert read > 0
    assert before <= written <= call.chunks + 1
    agent.do(f"exec({REST!r}, globals())")
    assert not agent.do("rest()").endswith("0\r\n\r\n")  # no client takes it for a whole one
    town.provider.reset()
    assert agent.do("chat()")[0] == 200
    assert town.facts()["Trouble"] == "signal 9"


def status_of(town: Town, agent: Puppet) -> dict[str, str]:
    """Of the only call that it has open."""
    folder = town.tree / f"proc/{agent.pid}/calls"
    (number,) = os.listdir(folder)
    lines = (folder / number / "status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def test_a_kill_9_of_the_daemon_charges_what_has_come_at_the_next_start(trees, provider):
    provider.reset()
    town = Town(trees(), provider)
    agent = streaming(town, "streamer")
    eventually(lambda: status_of(town, agent)["Output"] != "0")
    written = int(status_of(town, agent)["Output"])
    gateway = os.pidfd_open(int(town.facts()["Ospid"]))
    town.tree.crash()
    select.select([gateway], [], [], PATIENCE)
    os.close(gateway)
    (call,) = provider.wait(lambda log: log[0].over)
    assert call.hung_up
    town.tree.mount()
    calls, read, counted = town.counted("streamer")
    assert (calls, read > 0) == (1, True)
    assert written <= counted <= call.chunks + 1
    provider.reset()

    def answers() -> bool:
        """At the address that it has. Until the doors are made anew a connection is refused, and
        one that came meanwhile is reset: nobody could say whose it was."""
        try:
            return agent.do("chat()")[0] == 200
        except (ConnectionRefusedError, ConnectionResetError):
            return False

    eventually(answers)
    for puppet in town.puppets:
        puppet.close()


def test_the_end_of_a_program_stops_its_calls(town):
    agent = streaming(town, "ending")
    town.tree.write(f"proc/{agent.pid}/ctl", "kill")
    (call,) = town.provider.wait(lambda log: log[0].over)
    assert call.hung_up
    calls, read, _ = town.counted("ending")
    assert (calls, read > 0) == (1, True)


@pytest.mark.parametrize("spec", [{"user": "nobody"}, {}, {"more": ["host_read", "file_write"]}])
def test_a_program_without_the_network_reaches_the_models_and_nothing_else(town, spec):
    if "user" in spec and os.geteuid() != 0:
        pytest.skip("only root's daemon has agents of other users")
    name, deny = "-".join(["alone", *spec]), ["network_access", *spec.pop("more", ())]
    agent = town.agent(name, deny=deny, **spec)
    confined = town.tree.read(f"proc/{agent.pid}/status")
    if "models" not in confined.partition("Confined:")[2].partition("\n")[0]:
        pytest.skip("no networks can be made here")
    assert agent.do("os.environ['OPENAI_BASE_URL']") == "http://127.0.0.1:4100/v1"
    assert agent.do("chat()")[0] == 200
    assert town.counted(name)[0] == 1
    port = town.provider.url.rpartition(":")[2]
    with pytest.raises(OSError, match=r"refused|unreachable"):
        agent.do(f"socket.create_connection(('127.0.0.1', {port})) and None")
    agent.do(f"exec({DAEMON!r}, globals())")
    agent.do("daemon(lambda: chat())")
    eventually(lambda: town.counted(name)[0] == 2)
    assert agent.do(f"chat(door={str(town.tree / 'dev/gateway')!r})")[0] == 200


def test_a_listener_of_a_program_starts_the_gateway(trees, provider):
    provider.reset()
    town = Town(trees(), provider)
    agent = town.agent("alone", deny=["network_access"])
    assert town.facts()["State"] == "asleep"
    assert agent.do("chat()")[0] == 200
    os.kill(int(town.facts()["Ospid"]), signal.SIGKILL)
    eventually(lambda: town.facts()["State"] == "ended")
    assert agent.do("chat()")[0] == 200
    agent.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="agents of the operator's own user read its files")
@pytest.mark.parametrize("spec", [{"user": "nobody"}, {"deny": ["host_read", "network_access"]}])
def test_the_key_is_in_nothing_that_an_agent_can_read(town, spec):
    """Of another user, or kept from the machine."""
    agent = town.agent("-".join(["spy", *spec]), **spec)
    town.provider.script("m", status=401, error="a wrong key", quote_key=True)
    status, body = agent.do("chat()")
    assert status in (401, 502)
    assert KEY not in body
    assert "a wrong key" in body
    town.provider.reset()
    gateway, daemon = town.facts()["Ospid"], town.tree.daemon
    assert agent.do("chat()")[0] == 200
    for ospid in (gateway, daemon):
        for name in ("environ", "mem", "maps", "auxv", "io", "stack", "syscall"):
            assert agent.do(f"opened('/proc/{ospid}/{name}')") in (errno.EACCES, errno.EPERM), name
        for number in os.listdir(f"/proc/{ospid}/fd"):
            assert agent.do(f"opened('/proc/{ospid}/fd/{number}')") in (
                errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENXIO,
            )  # fmt: skip
        assert KEY not in Path(f"/proc/{ospid}/cmdline").read_text()
        assert KEY not in Path(f"/proc/{ospid}/environ").read_text()
    for path in ("", "/secrets", "/secrets/test", "/store.db", "/kernel.log", "/tapes"):
        assert agent.do(f"opened({str(town.tree.state)!r} + {path!r})") in (
            errno.EACCES, errno.EPERM,
        ), path  # fmt: skip
    assert agent.do(f"opened({str(town.tree / 'etc/secrets/test')!r})") == errno.EACCES


def test_the_key_is_written_down_in_one_file_alone(town):
    """Not in the log, an event, the audit, or anything of the tree, errors of providers included:
    and the operator reads none of that either."""
    agent = town.agent("teller")
    town.provider.script("m", status=500, error="it broke", quote_key=True)
    agent.do("chat()")
    town.provider.script("m", error_after=2, quote_key=True)
    agent.do("chat(stream=True)")
    (town.tree / "etc/secrets/test").write_text(KEY)
    with pytest.raises(OSError):
        (town.tree / "etc/secrets/test").read_text()
    os.kill(int(town.facts()["Ospid"]), signal.SIGKILL)
    eventually(lambda: town.facts()["State"] == "ended")
    found = subprocess.run(
        ["grep", "-rla", KEY, town.tree.state], capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == [f"{town.tree.state}/secrets/test"]
    places = [f"proc/{agent.pid}/error", "sys/gateway", "etc/models.yaml", "sys/accounting"]
    paths = [str(town.tree / place) for place in places]
    found = subprocess.run(
        ["grep", "-rla", KEY, *paths], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.stdout == ""
    descriptor = os.open(town.tree / "dev/events.all", os.O_RDONLY | os.O_NONBLOCK)
    try:
        seen = b"".join(iter(lambda: _more(descriptor), b""))
    finally:
        os.close(descriptor)
    assert b"secret_set" in seen
    assert KEY.encode() not in seen


def _more(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""
