"""Hooks: /etc/hooks.yaml, the nodes that they add to runs, and what their tools may say."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentfs.base.errors import KernelError
from agentfs.kernel import Kernel
from agentfs.library.hooks import FORM, parse_hooks
from agentfs.manifests.hooks import hooked
from agentfs.manifests.plan import Graph, Plan
from agentfs.workflow.model import NodeRow, NodeState, Run, RunState, Start
from tests.executors.test_task_nodes import until
from tests.providers.world import OPERATOR, World
from tests.workflow.lab import data, node


def python(body: str) -> dict[str, Any]:
    """A tool: `given` is what it gets; it prints what `say` is called with."""
    code = (
        "import json, sys, time\ngiven = json.load(sys.stdin)\n"
        "def say(value): print(json.dumps(value))\n"
    )
    return {"exec": [sys.executable, "-c", code + body]}


class Hooked:
    """A system at work with hooks. `told`: what the tool `see` was called with."""

    def __init__(self, world: World, state: Path) -> None:
        self.world, self.kernel = world, world.kernel
        self._seen = state / "seen"
        self._tools = {
            "freeze": python("say({'veto': 'the week is over'})"),
            "only_small": python("say({'veto': 'too big'} if given['input']['v'] > 9 else {})"),
            "twice": python("v = given['input']; say({'input': {**v, 'v': v['v'] * 2}})"),
            "sign": python("say({'output': {**given['output'], 'signed': given['kind']}})"),
            "broken": {"exec": ["/bin/sh", "-c", "cat >/dev/null; echo no disk >&2; exit 3"]},
            "talks": {"exec": ["/bin/sh", "-c", "cat >/dev/null; echo hello"]},
            "sleeps": python("time.sleep(600)"),
            "see": python(f"open({str(self._seen)!r}, 'a').write(json.dumps(given) + '\\n')"),
        }
        self.tool("back", "say(given)")

    def tool(self, name: str, body: str) -> None:
        """There is another tool of this name from now on."""
        self._tools[name] = python(body)
        self.kernel.tooling.document.replace(json.dumps({"tools": self._tools}))

    def hook(self, *hooks: str) -> None:
        """What /etc/hooks.yaml says from now on."""
        self.kernel.hooks.replace("hooks:\n" + "".join(f"- {{{hook}}}\n" for hook in hooks))

    async def put(self, nodes: str, **spec: Any) -> None:
        document = {"kind": "Pipeline", "metadata": {"name": "p"}}
        document["spec"] = {"nodes": yaml.safe_load(nodes), **spec}
        text = yaml.safe_dump(document, sort_keys=False)
        await self.kernel.library.put(OPERATOR.principal, "pipelines", "p", text)

    def start(self, given: Any = None, who: str = "alice") -> Run:
        return self.kernel.runs.start(self.world.as_agent(who).principal, Start("p", given))

    async def ended(self, run: Run) -> Run:
        await until(lambda: self.kernel.runs.get(run.id).state.final)
        return self.kernel.runs.get(run.id)

    async def run(self, given: Any = None, who: str = "alice") -> Run:
        return await self.ended(self.start(given, who))

    def output(self, run: Run, path: str = "") -> Any:
        runs = self.kernel.runs
        text = runs.node_output(run.id, path) if path else runs.output_of(run.id)
        return json.loads(text) if text else None

    def row(self, run: Run, path: str) -> NodeRow | None:
        return self.kernel.runs.node(run.id, path)

    @property
    def told(self) -> list[dict[str, Any]]:
        if not self._seen.exists():
            return []
        return [json.loads(line) for line in self._seen.read_text().splitlines()]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Hooked]:
    kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        world = World(kernel)
        await world.spawn("alice", tier="tactical")
        await world.spawn("bare", caps=["spawner"])
        yield Hooked(world, tmp_path)


ECHO = '- {name: n, tool: back, arguments: {v: "{{ input.v }}"}}\n'


async def test_a_hook_before_a_run_refuses_it_and_nothing_of_it_is_done(lab: Hooked) -> None:
    lab.hook("on: pre-run, match: 'p*', tool: freeze")
    await lab.put(
        "- {name: a, data: {v: 1}}\n"
        "- {name: b, data: {v: 2}, wait_for: [a]}\n"
        "- {name: tidy, data: {v: 3}, always: true, wait_for: [a]}\n"
    )
    run = await lab.run()
    assert run.state is RunState.FAILED
    assert run.error == "pre-run:1:freeze: EPERM: hook freeze: the week is over"
    for name in ("a", "b", "tidy"):
        row = lab.row(run, name)
        assert row is None or not row.attempt
    lab.hook("on: pre-run, match: other, tool: freeze")
    assert (await lab.run()).state is RunState.COMPLETED
    lab.tool("freeze", "say({})")
    again = lab.kernel.runs.retry(OPERATOR.principal, run.id)  # it is asked once more
    assert (await lab.ended(again)).state is RunState.COMPLETED
    assert lab.output(again, "tidy") == {"v": 3}


async def test_hooks_before_a_run_rewrite_its_input_one_after_the_other(lab: Hooked) -> None:
    lab.hook(
        "on: pre-run, tool: twice", "on: pre-run, tool: twice", "on: pre-run, tool: only_small"
    )
    await lab.put(ECHO, output={"result": "{{ n.v }}", "given": "{{ input.v }}"})
    run = await lab.run({"v": 2})
    assert lab.output(run) == {"result": 8, "given": 8}
    run = await lab.run({"v": 3})
    assert run.error.endswith("EPERM: hook only_small: too big")


async def test_an_input_that_the_pipeline_does_not_take_is_a_failure(lab: Hooked) -> None:
    lab.hook("on: pre-run, tool: twice")
    schema = {"type": "object", "properties": {"v": {"type": "integer", "maximum": 9}}}
    await lab.put(ECHO, input_schema=schema)
    assert "the input that it gives" in (await lab.run({"v": 5})).error
    assert lab.output(await lab.run({"v": 4})) == {"v": 8}


async def test_a_hook_before_a_node_refuses_or_rewrites(lab: Hooked) -> None:
    lab.hook("on: pre-node, match: p/n, tool: only_small", "on: pre-node, match: tool, tool: twice")
    await lab.put(
        "- {name: a, data: {v: '{{ input.v }}'}}\n"
        "- {name: n, tool: back, dependencies: [a], on_error: sorry}\n"
        "- {name: sorry, data: {v: '{{ n._error.message }}'}}\n"
    )
    run = await lab.run({"v": 4})
    assert lab.output(run, "n") == {"v": 8}
    run = await lab.run({"v": 10})
    assert run.state is RunState.COMPLETED  # its handler was told
    assert lab.output(run, "sorry") == {"v": "EPERM: hook only_small: too big"}
    row = lab.row(run, "n")
    assert row is not None
    assert row.state is NodeState.FAILED
    second = lab.row(run, "pre-node:2:twice:n")
    assert second is not None
    assert second.state is NodeState.SKIPPED


async def test_a_hook_after_a_node_gives_another_output_to_those_behind_it(lab: Hooked) -> None:
    lab.hook("on: post-node, match: tool, tool: sign", "on: post-node, match: p/n, tool: see")
    await lab.put(ECHO + "- {name: b, expression: {got: n.signed}, dependencies: [n]}\n")
    run = await lab.run({"v": 1})
    assert lab.output(run, "n") == {"v": 1}  # what it gave
    assert lab.output(run, "b") == {"got": "tool"}
    [told] = lab.told
    assert told["output"] == {"v": 1, "signed": "tool"}
    assert (told["on"], told["node"], told["state"]) == ("post-node", "n", "completed")
    await lab.put(ECHO)
    assert lab.output(await lab.run({"v": 1})) == {"v": 1, "signed": "tool"}  # the last node's


async def test_what_always_runs_does_unless_the_run_was_refused(lab: Hooked) -> None:
    nodes = (
        "- {name: a, data: {v: 1}}\n"
        "- {name: tidy, data: {v: 3}, always: true, wait_for: [a]}\n"
        "- {name: b, data: {v: '{{ a.w.x }}'}, dependencies: [a]}\n"
    )
    await lab.put(nodes)
    see = "on: post-run, tool: see"
    lab.hook("on: post-node, match: p/a, tool: broken, on_failure: abort", see)
    run = await lab.run()
    assert run.error.startswith("post-node:1:broken:a: EPERM: hook broken: it failed: ")
    assert lab.output(run, "tidy") == {"v": 3}
    lab.hook("on: pre-run, tool: freeze", "on: pre-node, tool: see", see)
    run = await lab.run()
    assert lab.row(run, "tidy") is None or not lab.output(run, "tidy")
    assert [told["on"] for told in lab.told] == ["post-run", "post-run"]
    assert lab.told[-1]["error"].endswith("the week is over")
    lab.hook("on: pre-run, tool: sleeps", see)
    run = lab.start()
    await until(lambda: lab.row(run, "pre-run:1:sleeps") is not None)
    lab.kernel.runs.cancel(OPERATOR.principal, run.id)
    assert (await lab.ended(run)).state is RunState.CANCELLED
    assert lab.told[-1]["state"] == "cancelled"
    assert not lab.output(run, "tidy")


async def test_hooks_keep_no_loser_of_a_race(lab: Hooked) -> None:
    lab.hook("on: pre-node, tool: see", "on: post-node, tool: see", "on: post-run, tool: see")
    await lab.put(
        "- {name: slow, wait: never}\n- {name: fast, data: {v: 1}, dependencies: []}\n"
        "- {name: f, expression: {v: fast.v}, join: first, dependencies: [slow, fast]}\n"
    )
    run = await lab.run()
    assert (run.state, lab.output(run)) == (RunState.COMPLETED, {"v": 1})
    row = lab.row(run, "slow")
    assert row is not None
    assert row.state is NodeState.CANCELLED
    assert ("post-node", "slow") not in [(told["on"], told.get("node")) for told in lab.told]


async def test_nodes_in_loops_have_hooks_and_loops_may_be_refused(lab: Hooked) -> None:
    loop = (
        "- name: each\n  for-each: [1, 12]\n  error_handling: collect\n  body:\n"
        "  - {name: n, tool: back, input_mapping: {v: item}, strict_mapping: true}\n"
    )
    lab.hook("on: pre-node, match: p/n, tool: only_small", "on: post-node, match: p/n, tool: sign")
    await lab.put(loop)
    found = lab.output(await lab.run())
    assert found["result"] == [{"v": 1, "signed": "tool"}]
    assert "EPERM: hook only_small: too big" in json.dumps(found["metadata"]["errors"])
    lab.hook("on: pre-node, match: for-each, tool: freeze")
    assert (await lab.run()).error == "each: EPERM: hook freeze: the week is over"


async def test_a_skipped_node_has_no_hooks(lab: Hooked) -> None:
    lab.hook("on: pre-node, tool: see", "on: post-node, tool: see")
    await lab.put(
        "- {name: a, data: {v: 1}, when: 'input.v > 5'}\n"
        "- {name: s, switch: [{condition: 'input.v > 5', action: x}], else_action: y,"
        " dependencies: []}\n"
        "- {name: x, data: {v: 1}}\n- {name: y, data: {v: 2}}\n"
    )
    run = await lab.run({"v": 1})
    assert run.state is RunState.COMPLETED, run.error
    assert [(told["on"], told["node"]) for told in lab.told] == [
        *(("pre-node", "s"), ("post-node", "s"), ("pre-node", "y"), ("post-node", "y"))
    ]


@pytest.mark.parametrize(
    ("nodes", "state"), [(ECHO, "completed"), ("- {name: n, tool: broken}", "failed")]
)
async def test_a_hook_after_a_run_is_told_how_it_ended(lab: Hooked, nodes: str, state: str) -> None:
    lab.hook("on: post-run, tool: see")
    await lab.put(nodes)
    run = await lab.run({"v": 7})
    assert run.state.value == state
    [told] = lab.told
    assert (told["run"], told["pipeline"], told["state"]) == (run.id, "p", state)
    assert told["output"] == ({"v": 7} if state == "completed" else None)
    assert ("no disk" in told["error"]) == (state == "failed")


async def test_a_failure_of_a_hook_is_an_end_or_is_ignored(lab: Hooked) -> None:
    await lab.put("- {name: n, data: {v: 1}}")
    for on in ("pre-run", "pre-node", "post-node", "post-run"):
        lab.hook(f"on: {on}, tool: broken, on_failure: abort")
        run = await lab.run()
        assert run.state is RunState.FAILED
        assert "EPERM: hook broken: it failed: " in run.error
        assert "no disk" in run.error
        lab.hook(f"on: {on}, tool: broken, on_failure: ignore")
        run = await lab.run()
        assert run.state is RunState.COMPLETED
        name = f"{on}:1:broken" + (":n" if on.endswith("node") else "")
        assert "no disk" in lab.output(run, name)["failed"]


async def test_what_a_hook_may_not_say_and_one_that_says_nothing_in_time(lab: Hooked) -> None:
    await lab.put("- {name: n, data: {v: 1}}")
    lab.hook("on: pre-run, tool: talks")
    assert "`veto` or `input`" in (await lab.run()).error
    lab.hook("on: post-node, tool: talks")
    assert (await lab.run()).state is RunState.COMPLETED
    lab.hook("on: pre-run, tool: sleeps, timeout: 200ms")
    assert "it did not answer in 0.2 s" in (await lab.run()).error
    lab.hook("on: pre-run, tool: nothing")
    assert "hook nothing: it failed: there is no tool" in (await lab.run()).error
    lab.hook("on: pre-node, match: data, tool: twice")  # of no node that has an input
    await lab.put("- {name: n, times: 2, body: [{name: m, data: {v: 1}}]}")
    lab.hook("on: pre-node, match: times, tool: twice")
    assert "has none" in (await lab.run({"v": 1})).error


async def test_a_hook_that_the_run_may_not_call_is_a_failure_with_words(lab: Hooked) -> None:
    await lab.put("- {name: n, data: {v: 1}}")
    lab.hook("on: pre-run, tool: see")
    run = await lab.run(who="bare")
    assert "EPERM: hook see: it failed: " in run.error
    assert "tool:see" in run.error
    assert lab.told == []


async def test_other_hooks_are_for_the_runs_that_begin_later(lab: Hooked) -> None:
    await lab.put("- {name: w, wait: go}\n- {name: n, data: {v: 1}, dependencies: [w]}")
    lab.hook("on: post-run, tool: see")
    run = lab.start()
    lab.hook("on: pre-run, tool: freeze")
    lab.kernel.runs.signal(OPERATOR.principal, run.id, "go", 1)
    assert (await lab.ended(run)).state is RunState.COMPLETED
    assert [told["run"] for told in lab.told] == [run.id]
    assert (await lab.run()).state is RunState.FAILED


async def test_a_hook_that_was_under_way_when_the_daemon_ended_is_called_again(
    lab: Hooked, tmp_path: Path
) -> None:
    first = tmp_path / "first"  # only the first call hangs
    lab.tool(
        "slow",
        f"import os\nif not os.path.exists({str(first)!r}):\n"
        f"    open({str(first)!r}, 'w').close()\n    time.sleep(600)\nsay({{'veto': 'no'}})",
    )
    lab.hook("on: pre-run, tool: slow")
    await lab.put("- {name: n, data: {v: 1}}")
    run = lab.start()
    await until(first.exists)
    list(lab.kernel.engine.start_again())  # as the next daemon does
    assert (await lab.ended(run)).error == "pre-run:1:slow: EPERM: hook slow: no"
    row = lab.row(run, "pre-run:1:slow")
    assert row is not None
    assert row.attempt == 2


def test_every_fault_of_the_document_is_told_with_its_line() -> None:
    text = (
        "hooks:\n- {on: pre-call, tool: x}\n- {on: pre-run, tool: 'a b'}\n"
        "- {on: post-run, match: p/n, tool: x}\n- {on: pre-run, tool: x, timeout: soon}\n"
        "- {on: pre-run, tool: x, matches: y, on_failure: retry}\n"
    )
    with pytest.raises(KernelError) as refused:
        parse_hooks(text)
    assert refused.value.errno == errno.EINVAL
    for words in (
        "line 2: hooks.0.on: pre-call is not done: pre-node and post-node with `match: llm`",
        "line 3: hooks.1.tool: the name of a tool was expected",
        "line 4: hooks.2: post-run is about pipelines",
        "line 5: hooks.3.timeout: a duration like 90s",
        "line 6: hooks.4.matches: there is no such key",
        "line 6: hooks.4.on_failure",
    ):
        assert words in refused.value.reason, refused.value.reason
    assert parse_hooks(FORM.default()) == () == parse_hooks("")


def test_a_plan_without_hooks_of_its_own_stays_as_it_is() -> None:
    plan = Plan("p", 1, Graph((data("a", 1), node("b", "tool", "a"))))
    hooks = parse_hooks("hooks: [{on: pre-run, match: q, tool: x}]")
    assert hooked(plan, hooks) is plan
    hooks = parse_hooks(
        "hooks: [{on: pre-run, tool: x}, {on: pre-node, match: tool, tool: x},"
        " {on: post-node, match: p/a, tool: x}, {on: post-run, tool: x}]"
    )
    found = hooked(plan, hooks)
    assert Plan.from_record(json.loads(json.dumps(found.record()))) == found
    assert [each.name for each in found.graph.nodes] == [
        *("pre-run:1:x", "a", "post-node:1:x:a", "pre-node:1:x:b", "b", "post-run:1:x")
    ]
