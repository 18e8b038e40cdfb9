"""Programs whose whole network is the gateway of models: real name spaces, and programs that try
to get out of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import closing

import pytest
import trio

from agentfs.machine import network
from agentfs.machine.confine import FREE, Confinement, described, mechanisms
from agentfs.machine.listeners import Listeners
from agentfs.model.process import Process
from tests.process.test_confine import NO_NETWORK, machine, tried
from tests.process.world import PYTHON, System, eventually

__all__ = ["machine"]

MODELS = Confinement(network=False, models=True)
ALL_BUT_MODELS = Confinement(network=False, write=False, execute=False, models=True)


@pytest.fixture(params=["as root", "in a user name space"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which the machine makes networks."""
    if request.param == "as root":
        if not network.made_by_us():
            pytest.skip("root only")
    elif not network.made_by_children():
        pytest.skip("user name spaces are not for everybody here")
    else:
        monkeypatch.setattr(network, "made_by_us", lambda: False)
    return str(request.param)


class Greeter:
    """Answers each connection to a listener with a word, and keeps what was said to it."""

    def __init__(self, listener: socket.socket) -> None:
        self.heard: list[bytes] = []
        self._listener = listener.dup()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(100))
                connection.sendall(b"hello")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # its accept returns
        self._thread.join()
        self._listener.close()


ASK = """
import os, socket, sys, time

def ask(word, port=4100):
    with socket.create_connection(('127.0.0.1', port), timeout=20) as line:
        line.sendall(word)
        return line.recv(100)
"""


async def listener_of(system: System, process: Process) -> socket.socket:
    with trio.fail_after(20):
        while process.pid not in system.programs.listeners:
            await system.programs.listeners.changed()
    return system.programs.listeners[process.pid]


FAMILY = """
print(ask(b'program'), os.getuid(), os.getgid(), flush=True)
child = os.fork()
if child == 0:
    ask(b'child')
    child = os.getpid()
    if os.fork() == 0:
        os.setsid()
        while os.getppid() == child:
            time.sleep(0.01)
        ask(b'orphan')
    os._exit(0)
os.waitpid(child, 0)
time.sleep(1000)
"""


async def test_a_program_reaches_the_gateway_at_the_usual_address(
    system: System, made: str
) -> None:
    """It, its child, and its grandchild without parents; each as itself, not as nobody."""
    system.grants.confinement = lambda process: MODELS
    process = await system.spawn("bob", exec=[PYTHON, "-c", ASK + FAMILY])
    assert process.confined == ("models",)
    greeter = Greeter(await listener_of(system, process))
    with closing(greeter):
        await eventually(lambda: len(greeter.heard) == 3)
    assert sorted(greeter.heard) == [b"child", b"orphan", b"program"]
    await system.said("bob", f"b'hello' {os.getuid()} {os.getgid()}")


ESCAPES = """
def connect(port, family=socket.AF_INET, host='127.0.0.1'):
    with socket.socket(family) as line:
        line.settimeout(20)
        line.connect((host, port))

def udp(host, port=53):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.sendto(b'x', (host, port))

def resolve():
    try:
        socket.getaddrinfo('example.com', 443)
    except socket.gaierror as failure:
        raise OSError(errno.ENETUNREACH, 'no names') from failure

def abstract():
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(given['abstract'])

attempt('models', lambda: connect(4100))
attempt('own server', lambda: connect(server.getsockname()[1]))
attempt('a port of the host', lambda: connect(given['port']))
attempt('by 6', lambda: connect(given['port'], socket.AF_INET6, '::1'))
attempt('an address of the host', lambda: connect(given['port'], host=given['address']))
attempt('elsewhere', lambda: connect(80, host='192.0.2.1'))
attempt('names', resolve)
attempt('UDP elsewhere', lambda: udp('192.0.2.1'))
attempt('broadcast', lambda: udp('255.255.255.255'))
attempt('multicast', lambda: udp('224.0.0.251', 5353))
attempt('abstract', abstract)
attempt('pair', lambda: socket.socketpair(socket.AF_INET))
for family in range(48):
    if family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        attempt(f'family {family}', lambda: socket.socket(family, socket.SOCK_DGRAM))
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (0, *range(2, 16)):
        attempt(f'{family} kind {kind}', lambda: call('syscall', SOCKET, int(family), kind, 0))
    for protocol in (1, 2, 17, 33, 58, 115, 132, 136, 255, 256, 262):
        for kind in (1, 2, 3):
            attempt(f'{family} {kind} {protocol}',
                lambda: call('syscall', SOCKET, int(family), kind, protocol))
attempt('with high bits', lambda: call('syscall', SOCKET, 2 | 1 << 32, 1, 0))
there = os.pidfd_open(given['pid'])
attempt('setns', lambda: call('setns', there, 0x40000000))
attempt('setns to all', lambda: call('setns', there, 0x50000000))
attempt('setns by file', lambda: call('setns', os.open(f"/proc/{given['pid']}/ns/net", 0), 0))
attempt('unshare', lambda: call('unshare', 0x40000000))
attempt('unshare user', lambda: call('unshare', 0x50000000))
attempt('in a child', lambda: in_child(lambda: call('unshare', 0x40000000), twice=True))
attempt('steal', lambda: call('syscall', 438, there, given['socket'], 0))
attempt('host name', lambda: call('sethostname', b'x', 1))
attempt('mount', lambda: call('mount', b'none', b'/tmp', b'tmpfs', 0, None))
import fcntl
any_socket = socket.socket(socket.AF_INET)
down = struct.pack('16sh14x', b'lo', 0)
attempt('interface', lambda: fcntl.ioctl(any_socket, 0x8914, down))
attempt('UDP to itself', lambda: udp('127.0.0.1', 4100))
attempt('UDP by 6', lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
found['capabilities'] = ' '.join(
    line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapPrm', 'CapBnd')))
found['interfaces'] = ' '.join(
    line.split(':')[0].strip() for line in open('/proc/self/net/dev').readlines()[2:]
    if line.split(':')[0].strip() not in given['fallback'])
"""

# Linux puts these into each name space, down, where their modules are loaded.
FALLBACK = [
    "tunl0",
    "gre0",
    "gretap0",
    "erspan0",
    "ip_vti0",
    "ip6_vti0",
    "sit0",
    "ip6tnl0",
    "ip6gre0",
]


@pytest.mark.parametrize("held", [MODELS, ALL_BUT_MODELS])
async def test_nothing_else_is_reached(system: System, made: str, held: Confinement) -> None:
    outside = socket.socket(socket.AF_UNIX)
    outside.bind("")  # Linux gives it a name without a path
    outside.listen()
    with outside, socket.create_server(("", 0)) as listening:
        given = {
            "pid": os.getpid(),
            "socket": listening.fileno(),
            "port": listening.getsockname()[1],
            "address": address_of_this_host(),
            "abstract": outside.getsockname().decode("latin-1"),
            "fallback": FALLBACK,
        }
        script = "server = socket.create_server(('127.0.0.1', 0))\n" + ESCAPES
        noted = await tried(system, script, held, given)
    assert noted.pop("models") == "done"
    assert noted.pop("own server") == "done", "its network is its own"
    assert noted.pop("interfaces") == "lo"
    bounding, permitted = noted.pop("capabilities").split()[::-1]
    assert int(permitted, 16) & NETWORK_PRIVILEGES == 0
    assert os.geteuid() != 0 or int(bounding, 16) & NETWORK_PRIVILEGES == 0
    away = {"EPERM", "EACCES", "ECONNREFUSED", "ENETUNREACH", "ESRCH", "EINVAL"}
    away |= {"ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "EAFNOSUPPORT"}
    assert {name: said for name, said in noted.items() if said not in away} == {}
    assert len(noted) > 150


NETWORK_PRIVILEGES = 1 << 12 | 1 << 13 | 1 << 21
"""NET_ADMIN, NET_RAW, SYS_ADMIN."""


def address_of_this_host() -> str:
    """One that is not of its loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(any_socket.getsockname()[0])


async def test_no_other_program_comes_to_its_listener(system: System, made: str) -> None:
    system.grants.confinement = lambda process: MODELS
    first = await system.spawn("first", exec=[PYTHON, "-c", ASK + "ask(b'first')"])
    with closing(Greeter(await listener_of(system, first))) as greeter:
        await eventually(lambda: greeter.heard)
        second = await system.spawn("second", exec=[PYTHON, "-c", ASK + "ask(b'second')"])
        with closing(Greeter(await listener_of(system, second))) as other:
            await eventually(lambda: other.heard)
            assert (greeter.heard, other.heard) == ([b"first"], [b"second"])


async def test_the_listener_goes_with_the_program_and_comes_with_the_next(
    system: System, made: str
) -> None:
    system.grants.confinement = lambda process: MODELS
    listeners = system.programs.listeners
    process = await system.spawn("bob", exec=["sleep", "1000"], restart="always")
    before = await listener_of(system, process)
    with trio.fail_after(20):
        assert process.ospid is not None
        os.kill(process.ospid, signal.SIGKILL)
        await listeners.changed()
        assert before.fileno() == -1
        while process.pid not in listeners:
            await listeners.changed()
    assert listeners[process.pid] is not before


async def test_a_program_finds_the_gateway_again_after_a_crash_of_the_daemon(
    system: System, made: str
) -> None:
    """The listener went with the daemon that had made it; the next one makes another there."""
    system.grants.confinement = lambda process: MODELS
    script = (
        ASK
        + """
while not os.path.exists('go'):
    time.sleep(0.01)
print(ask(b'again'), flush=True)
time.sleep(1000)
"""
    )
    process = await system.spawn("bob", exec=[PYTHON, "-c", script])
    listener = await listener_of(system, process)
    listener.close()  # as the crash does
    program = system.programs.find(process.ospid)
    assert program is not None
    later = Listeners()
    later.lost(process, program.pidfd)
    with trio.fail_after(20):
        await later.find_lost()
    (system.agents.memory_dir("bob") / "go").touch()
    with closing(Greeter(later[process.pid])):
        await system.said("bob", "b'hello'")
    later.close()
    assert len(later) == 0


async def test_of_a_program_that_ended_meanwhile_nothing_is_found(system: System) -> None:
    process = await system.spawn("bob", exec=["sleep", "1000"])
    program = system.programs.find(process.ospid)
    assert program is not None
    later = Listeners()
    later.lost(process, program.pidfd)
    assert process.ospid is not None
    os.kill(process.ospid, signal.SIGKILL)
    await system.all_reaped()
    await later.find_lost()
    assert len(later) == 0


async def test_where_no_network_can_be_made_there_is_none_at_all(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network, "made_by_us", lambda: False)
    monkeypatch.setattr(network, "made_by_children", lambda: False)
    system.grants.confinement = lambda process: MODELS
    attempt = "import socket; print(socket.socket())"
    with caplog.at_level(logging.WARNING):
        process = await system.spawn("bob", exec=[PYTHON, "-c", attempt], restart="never")
    assert process.confined == ("network",)
    assert "bob, has no network at all, not even the models: this needs root" in caplog.text
    await system.said("bob", "Operation not permitted")
    assert process.pid not in system.programs.listeners
    assert described(MODELS, process.confined) == described(NO_NETWORK, process.confined)


def test_what_is_held_is_said() -> None:
    allowed = {"llm", "file_write", "shell_exec", "host_read"}
    assert Confinement.of(allowed.__contains__) == MODELS
    assert Confinement.of({*allowed, "network_access"}.__contains__) == FREE
    assert mechanisms().holds(MODELS) == MODELS
    assert described(MODELS, ("models",)).split("; ")[0] == "models"
    assert described(MODELS, ()) == "advisory: network"


async def environment(system: System, **spec: object) -> dict[str, str]:
    """Of a program that is started with this definition."""
    process = await system.shell("bob", "env", restart="never", **spec)
    await system.until(lambda: not process.state.alive)
    lines = system.agents.log_path("bob").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


async def test_programs_find_the_models_by_the_variables_of_the_sdks(system: System) -> None:
    there = await environment(system, caps=["*"])
    assert there["OPENAI_BASE_URL"] == there["OPENAI_API_BASE"] == "http://127.0.0.1:4100/v1"
    assert there["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4100"
    assert there["OPENAI_API_KEY"] == there["ANTHROPIC_AUTH_TOKEN"] == "agentfs"


async def test_what_a_definition_says_of_them_holds(system: System) -> None:
    there = await environment(system, env={"OPENAI_BASE_URL": "http://mine"}, caps=["*"])
    assert there["OPENAI_BASE_URL"] == "http://mine"
    assert there["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4100"


async def test_who_may_not_use_models_is_told_of_none(system: System) -> None:
    there = await environment(system, deny=["llm"])
    assert not [name for name in there if name.startswith(("OPENAI", "ANTHROPIC"))]


async def test_at_another_port_of_the_host_it_is_for_those_alone_who_have_the_network(
    system: System,
) -> None:
    system.programs.set_models_port(5000)
    assert (await environment(system))["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:5000"
    there = await environment(system, deny=["network_access"])
    assert there["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4100"
