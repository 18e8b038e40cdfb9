"""Nodes that the daemon does in tasks: of models, tools and services on the network."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from agentfs.executors.model_choice import ModelChoice
from agentfs.executors.models import ModelNodes
from agentfs.executors.tasks import StepTasks
from agentfs.executors.tools import ToolNodes
from agentfs.manifests.plan import Plan, PlanNode
from agentfs.process.step_files import step_files
from agentfs.workflow.model import Step, StepRef
from tests.chats.conftest import gateway, world
from tests.chats.gateway import Gateway, Heard
from tests.executors.desk import Desk
from tests.providers.world import World, refused

__all__ = ["gateway", "world"]

REF = StepRef(7, "n", 1)

ADD = "import json, sys; given = json.load(sys.stdin); print(json.dumps({'sum': sum(given['of'])}))"

TOOLS = {
    "tools": {
        "add": {"exec": [sys.executable, "-c", ADD]},
        "say": {"exec": ["/bin/sh", "-c", "cat >/dev/null; echo plain"]},
        "fail": {"exec": ["/bin/sh", "-c", "echo out of order >&2; exit 3"]},
        "slow": {"exec": ["/bin/sh", "-c", "exec sleep 1000"]},
    }
}


async def until(what: Callable[[], bool]) -> None:
    """Wait until `what()` is true, which no event tells."""
    with trio.fail_after(60):
        while not what():  # noqa: ASYNC110
            await trio.sleep(0.002)


class Shop:
    """Executors at work for alice."""

    def __init__(self, world: World, gateway: Gateway, nursery: trio.Nursery) -> None:
        self.world = world
        kernel = world.kernel
        self.desk = Desk(kernel.store)
        models = ModelChoice(kernel.calls.relayed)
        self._models = ModelNodes(kernel.ground, self.desk, models, gateway.connect)
        self.llm = self._models.nodes
        self.tool = ToolNodes(kernel.ground, self.desk, kernel.tooling).nodes
        nursery.start_soon(self._models.run)
        nursery.start_soon(self.tool.run)

    def step(self, kind: str, spec: dict[str, Any], **more: Any) -> Step:
        process = self.world.kernel.table.by_name(more.pop("who", "alice"))
        assert process is not None
        given = more.pop("input", None)
        node = PlanNode("n", kind, spec=spec, **more)
        return Step(REF, Plan("demo"), node, given, spec, "7/n", None, process)

    async def done(self, nodes: StepTasks, step: Step) -> Any:
        """Do a step to its end; its output, or its failure."""
        self.desk.do(nodes, step)
        await until(lambda: not nodes.under_way)
        return self.desk.over.get(REF, self.desk.failed.get(REF))


@pytest.fixture
async def shop(world: World, gateway: Gateway, nursery: trio.Nursery) -> AsyncIterator[Shop]:
    shop = Shop(world, gateway, nursery)
    await trio.testing.wait_all_tasks_blocked()
    yield shop
    nursery.cancel_scope.cancel()


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
    assert await shop.done(shop.llm, shop.step("llm", spec)) == "Good morning"
    [heard] = gateway.heard
    assert heard.pid == shop.world.pid("alice"), "it is the run that asks"
    assert heard.asked == {
        "model": "small",
        "system": "Be short.",
        "messages": [{"role": "user", "content": "Greet."}],
        "max_output": 9,
    }
    state = shop.world.kernel.state_dir
    assert step_files(state, REF.run, REF.path, REF.attempt).log.read_text() == "Good morning"


async def test_the_text_can_be_read_while_it_comes(shop: Shop, gateway: Gateway) -> None:
    log = step_files(shop.world.kernel.state_dir, REF.run, REF.path, REF.attempt).log
    seen: list[str] = []

    async def answer(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"one ")
        await until(log.exists)
        seen.append(log.read_text())
        await heard.data(b"two")
        await heard.end()

    gateway.then(answer)
    assert await shop.done(shop.llm, shop.step("llm", {"prompt": "Count."})) == "one two"
    assert seen == ["one "]


SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


async def test_an_answer_that_does_not_fit_is_told_to_the_model(
    shop: Shop, gateway: Gateway
) -> None:
    gateway.then(_says("three"))
    gateway.then(_says('```json\n{"sum": 3}\n```'))
    step = shop.step("llm", {"prompt": "1 + 2?"}, output_schema=SUM)
    assert await shop.done(shop.llm, step) == {"sum": 3}
    first, second = (heard.asked for heard in gateway.heard)
    assert "fits this JSON Schema" in first["system"]
    assert [each["role"] for each in second["messages"]] == ["user", "assistant", "user"]
    assert "That does not fit: $: it is no JSON" in second["messages"][2]["content"]


async def test_three_answers_and_no_more(shop: Shop, gateway: Gateway) -> None:
    for _ in range(3):
        gateway.then(_says("three"))
    step = shop.step("llm", {"prompt": "1 + 2?"}, output_schema=SUM)
    error, again, kind = await shop.done(shop.llm, step)
    assert error.startswith("EBADMSG: small answered 3 times what does not fit: $: it is no JSON")
    assert (again, kind) == (False, "schema")


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

    gateway.then(answer)
    failed = await shop.done(shop.llm, shop.step("llm", {"prompt": "x"}))
    assert failed[0].startswith(f"{code}: ")
    assert failed[1:] == (again, kind)


async def test_a_rate_is_waited_for(shop: Shop, gateway: Gateway) -> None:
    async def later(heard: Heard) -> None:
        await heard.refuse(429, errno="EAGAIN", words="a moment", retry_after=0.01)

    gateway.then(later)
    gateway.then(_says("there"))
    assert await shop.done(shop.llm, shop.step("llm", {"prompt": "x"})) == "there"


async def test_a_cancelled_call_is_given_up(shop: Shop, gateway: Gateway) -> None:
    gone = trio.Event()

    async def answer(heard: Heard) -> None:
        await heard.begin()
        await heard.data(b"one ")
        await heard.gone.wait()
        gone.set()

    gateway.then(answer)
    shop.desk.do(shop.llm, shop.step("llm", {"prompt": "x"}))
    await until(lambda: bool(gateway.heard))
    shop.desk.cancel(shop.llm, REF)
    await until(gone.is_set)
    await until(lambda: not shop.llm.under_way)
    assert not shop.desk.over
    assert not shop.desk.failed


@pytest.mark.parametrize("once", [False, True])
async def test_a_call_that_was_under_way_when_the_daemon_ended_is_lost(
    shop: Shop, once: bool
) -> None:
    step = shop.step("llm", {"prompt": "x"}, once=once)
    shop.desk.begin(shop.llm, step)
    shop.llm.start(step, again=True)
    words, again, kind = shop.desk.failed[REF]
    assert words == "the daemon ended while it was done"
    assert (again, kind) == (not once, "lost")


# -- tools -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "output"),
    [("add", {"of": [1, 2]}, {"sum": 3}), ("say", {}, "plain")],
)
async def test_the_result_of_a_tool_is_the_output(
    shop: Shop, tool: str, arguments: Any, output: Any
) -> None:
    shop.world.kernel.tooling.document.replace(json.dumps(TOOLS))
    step = shop.step("tool", {"tool": tool, "arguments": arguments}, who="alice")
    assert await shop.done(shop.tool, step) == output


async def test_a_tool_that_fails_says_why(shop: Shop) -> None:
    shop.world.kernel.tooling.document.replace(json.dumps(TOOLS))
    words, again, _ = await shop.done(shop.tool, shop.step("tool", {"tool": "fail"}, input={}))
    assert words == "EREMOTEIO: out of order (it ended with exit code 3)"
    assert again


async def test_a_tool_that_the_run_may_not_call(shop: Shop) -> None:
    shop.world.kernel.tooling.document.replace(json.dumps(TOOLS))
    await shop.world.spawn("bare", deny=["tool:*"])
    with refused("EPERM"):
        shop.desk.begin(shop.tool, shop.step("tool", {"tool": "add"}, who="bare"))
