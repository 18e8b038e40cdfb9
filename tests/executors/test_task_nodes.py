"""Nodes that the daemon does in tasks: of models, tools and services on the network."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trio

from agentfs.manifests.plan import Plan, Retry
from agentfs.process.step_files import step_files
from agentfs.workflow.model import NodeState, Run, RunState, Start
from agentfs.workflow.runs import Runs
from tests.chats.conftest import gateway, world
from tests.chats.gateway import Gateway, Heard
from tests.providers.world import OPERATOR, World
from tests.workflow.lab import graph, node

__all__ = ["gateway", "world"]

ADD = "import json, sys; given = json.load(sys.stdin); print(json.dumps({'sum': sum(given['of'])}))"

TOOLS = {
    "tools": {
        "add": {"exec": [sys.executable, "-c", ADD]},
        "say": {"exec": ["/bin/sh", "-c", "cat >/dev/null; echo plain"]},
        "fail": {"exec": ["/bin/sh", "-c", "echo out of order >&2; exit 3"]},
    }
}


async def until(what: Callable[[], bool]) -> None:
    """Wait until `what()` is true, which no event tells."""
    with trio.fail_after(60):
        while not what():  # noqa: ASYNC110
            await trio.sleep(0.002)


class Shop:
    """Runs that alice starts, on a kernel that is at work."""

    def __init__(self, world: World) -> None:
        self.world, self.kernel = world, world.kernel
        kernel = world.kernel
        kernel.tooling.document.replace(json.dumps(TOOLS))
        self._plan = Plan("p")
        self.runs = Runs(
            kernel.ground, kernel.gate, kernel.table, kernel.light, kernel.engine, self
        )

    def plan_now(self, name: str, version: int | None = None, environment: str = "") -> Plan:
        """What `Runs` asks of the library."""
        return self._plan

    def begin(self, kind: str, spec: dict[str, Any], given: Any = None, **more: Any) -> Run:
        """A run of one node, `n`."""
        who = more.pop("who", "alice")
        self._plan = Plan("p", 1, graph(node("n", kind, spec=spec, **more)))
        return self.runs.start(self.world.as_agent(who).principal, Start("p", given))

    async def done(self, kind: str, spec: dict[str, Any], given: Any = None, **more: Any) -> Any:
        """The output of such a run, or the row of its node that has failed."""
        run = self.begin(kind, spec, given, **more)
        await self.ended(run)
        row = self.runs.node(run.id, "n")
        assert row is not None
        if row.state is not NodeState.COMPLETED:
            return row
        return json.loads(self.runs.node_output(run.id, "n"))

    async def ended(self, run: Run) -> None:
        await until(lambda: self.runs.get(run.id).state.final)

    def log(self, run: int) -> Path:
        return step_files(self.kernel.state_dir, run, "n", 1).log


@pytest.fixture
def shop(world: World) -> Shop:
    return Shop(world)


def _says(*pieces: str) -> Any:
    async def answer(heard: Heard) -> None:
        await heard.answer(*pieces)

    return answer


# -- models ----------------------------------------------------------------------------------------


async def test_the_text_of_an_answer_is_the_output_and_in_the_log(
    shop: Shop, gateway: Gateway
) -> None:
    gateway.then(_says("Good ", "morning"))
    spec = {"prompt": "Greet.", "system_message": "Be short.", "max_output": 9}
    assert await shop.done("llm", spec) == "Good morning"
    [heard] = gateway.heard
    run = shop.runs.get(heard.pid)  # it is the run that asks
    assert run.state is RunState.COMPLETED
    assert heard.asked == {
        "model": "small",
        "system": "Be short.",
        "messages": [{"role": "user", "content": "Greet."}],
        "max_output": 9,
    }
    assert shop.log(heard.pid).read_text() == "Good morning"


async def test_the_text_can_be_read_while_it_comes(shop: Shop, gateway: Gateway) -> None:
    seen: list[str] = []

    async def answer(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"one ")
        await until(shop.log(heard.pid).exists)
        seen.append(shop.log(heard.pid).read_text())
        await heard.data(b"two")
        await heard.end()

    gateway.then(answer)
    assert await shop.done("llm", {"prompt": "Count."}) == "one two"
    assert seen == ["one "]


SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


async def test_an_answer_that_does_not_fit_is_told_to_the_model(
    shop: Shop, gateway: Gateway
) -> None:
    gateway.then(_says("three"))
    gateway.then(_says('```json\n{"sum": 3}\n```'))
    assert await shop.done("llm", {"prompt": "1 + 2?"}, output_schema=SUM) == {"sum": 3}
    first, second = (heard.asked for heard in gateway.heard)
    assert "fits this JSON Schema" in first["system"]
    assert [each["role"] for each in second["messages"]] == ["user", "assistant", "user"]
    assert "That does not fit: $: it is no JSON" in second["messages"][2]["content"]


async def test_three_answers_and_no_more(shop: Shop, gateway: Gateway) -> None:
    for _ in range(3):
        gateway.then(_says("three"))
    row = await shop.done("llm", {"prompt": "1 + 2?"}, output_schema=SUM, retry=Retry(3, 0.0))
    assert row.error == "EBADMSG: small answered 3 times what does not fit: $: it is no JSON"
    assert (row.kind, row.attempt) == ("schema", 1)


@pytest.mark.parametrize(
    ("code", "again", "kind"),
    [
        ("EDQUOT", False, "limit"),
        ("EACCES", False, "error"),
        ("EMSGSIZE", False, "size"),
        ("EREMOTEIO", True, "error"),
        ("ETIMEDOUT", True, "timeout"),
    ],
)
async def test_a_refusal_is_the_failure_of_the_step(
    shop: Shop, gateway: Gateway, code: str, again: bool, kind: str
) -> None:
    async def answer(heard: Heard) -> None:
        await heard.refuse(403, errno=code, words="no")

    for _ in range(2):
        gateway.then(answer)
    row = await shop.done("llm", {"prompt": "x"}, retry=Retry(2, 0.0))
    assert row.error.startswith(f"{code}: ")
    assert (row.attempt == 2, row.kind) == (again, kind)


async def test_a_rate_is_waited_for(shop: Shop, gateway: Gateway) -> None:
    async def later(heard: Heard) -> None:
        await heard.refuse(429, errno="EAGAIN", words="a moment", retry_after=0.01)

    gateway.then(later)
    gateway.then(_says("there"))
    assert await shop.done("llm", {"prompt": "x"}) == "there"


async def test_a_cancelled_call_is_given_up(shop: Shop, gateway: Gateway) -> None:
    gone = trio.Event()

    async def answer(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"one ")
        await heard.gone.wait()
        gone.set()

    gateway.then(answer)
    run = shop.begin("llm", {"prompt": "x"})
    await until(lambda: bool(gateway.heard))
    shop.runs.cancel(OPERATOR.principal, run.id)
    await until(gone.is_set)
    assert shop.runs.get(run.id).state is RunState.CANCELLED


@pytest.mark.parametrize("once", [False, True])
async def test_a_call_that_was_under_way_when_the_daemon_ended_is_lost(
    shop: Shop, gateway: Gateway, once: bool
) -> None:
    async def never(heard: Heard) -> None:
        await heard.gone.wait()

    gateway.then(never)
    gateway.then(_says("there"))
    run = shop.begin("llm", {"prompt": "x"}, once=once)
    await until(lambda: bool(gateway.heard))
    list(shop.kernel.engine.start_again())  # as the next daemon does
    await shop.ended(run)
    row = shop.runs.node(run.id, "n")
    assert row is not None
    if once:
        assert (row.error, row.kind) == ("the daemon ended while it was done", "lost")
    else:
        assert (row.state, row.attempt) == (NodeState.COMPLETED, 2)


# -- tools -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "output"),
    [("add", {"of": [1, 2]}, {"sum": 3}), ("say", {}, "plain")],
)
async def test_the_result_of_a_tool_is_the_output(
    shop: Shop, tool: str, arguments: Any, output: Any
) -> None:
    assert await shop.done("tool", {"tool": tool, "arguments": arguments}) == output
    assert await shop.done("tool", {"tool": tool}, arguments) == output, "or its input"


async def test_a_tool_that_fails_says_why(shop: Shop) -> None:
    row = await shop.done("tool", {"tool": "fail"}, {})
    assert row.error == "EREMOTEIO: out of order (it ended with exit code 3)"


async def test_a_tool_that_the_run_may_not_call(shop: Shop) -> None:
    await shop.world.spawn("bare", deny=["tool:*"])
    row = await shop.done("tool", {"tool": "add"}, {}, who="bare")
    assert row.error.startswith("EPERM: ")


async def test_a_cancelled_tool_is_ended(shop: Shop, tmp_path: Path) -> None:
    said = tmp_path / "pid"
    slow = {"exec": ["/bin/sh", "-c", f"echo $$ > {said}.new; mv {said}.new {said}; exec sleep 99"]}
    shop.kernel.tooling.document.replace(json.dumps({"tools": {"slow": slow}}))
    run = shop.begin("tool", {"tool": "slow"}, {})
    await until(said.exists)
    shop.runs.cancel(OPERATOR.principal, run.id)
    await until(lambda: not Path(f"/proc/{said.read_text().strip()}").exists())
    assert shop.runs.get(run.id).state is RunState.CANCELLED


# -- services on the network -----------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """Says what it was asked."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        self._answer({"path": self.path, "got": json.loads(body), "x": self.headers["x-key"]})

    def do_GET(self) -> None:
        self._answer({"path": self.path})

    def _answer(self, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(int(self.path.partition("?s=")[2] or 200))
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing is told."""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_a_service_is_asked_and_its_response_is_the_output(shop: Shop, service: str) -> None:
    spec = {"url": f"{service}/a", "method": "POST", "headers": {"X-Key": 1}, "json_body": {"b": 2}}
    response = await shop.done("api_call", spec)
    assert response["status"] == 200
    assert response["body"] == {"path": "/a", "got": {"b": 2}, "x": "1"}
    response = await shop.done(
        "api_call", {"url": f"{service}/q", "params": {"a": "x y", "b": [1]}}
    )
    assert response["body"] == {"path": "/q?a=x+y&b=1"}


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (503, 2), (429, 2)])
async def test_a_status_that_is_an_error_fails_the_node(
    shop: Shop, service: str, status: int, attempts: int
) -> None:
    spec = {"url": f"{service}/x?s={status}"}
    row = await shop.done("api_call", spec, retry=Retry(2, 0.0))
    assert f"answered {status}: " in row.error
    assert row.attempt == attempts


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/", "nonsense"])
async def test_what_is_no_address_is_not_asked(shop: Shop, url: str) -> None:
    row = await shop.done("api_call", {"url": url})
    assert "is no address that begins with http" in row.error


async def test_nobody_listens(shop: Shop) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        row = await shop.done("api_call", {"url": url})
    assert row.error.startswith(f"EREMOTEIO: {url}: ")
    assert "refused" in row.error
