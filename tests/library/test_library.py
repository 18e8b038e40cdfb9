"""The documents of /etc/pipelines and its like: versions, rights, faults, plans."""

from __future__ import annotations

import errno
import gc
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.library.events import ManifestChanged, ManifestRemoved
from agentfs.library.library import Library
from agentfs.model.principal import Principal
from agentfs.workflow.model import Start
from tests.world import OPERATOR, World

PIPELINE = """\
kind: Pipeline
metadata: {{name: p, description: for tests}}
spec:
  nodes:
  - {{name: a, data: {{v: {v}}}}}
"""
POLICY = """\
kind: Policy
metadata: {{name: gentle}}
spec: {{type: retry, config: {{attempts: {attempts}, delay: 0}}}}
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.process("alice")
    world.process("bob")
    yield world
    world.close()


def library(world: World) -> Library:
    return world.kernel.library


async def put(world: World, kind: str, name: str, text: str, by: Principal = OPERATOR) -> int:
    return await library(world).put(by, kind, name, text)


async def refused(
    number: int, world: World, kind: str, name: str, text: str, by: Principal = OPERATOR
) -> str:
    before = library(world).names(kind), library(world).versions(kind, name), world.events.last
    with pytest.raises(KernelError) as caught:
        await put(world, kind, name, text, by)
    assert caught.value.errno == number
    after = library(world).names(kind), library(world).versions(kind, name), world.events.last
    assert after == before
    return caught.value.reason


async def test_another_text_is_a_version_and_the_same_is_none(world: World) -> None:
    first, second = PIPELINE.format(v=1), PIPELINE.format(v=2)
    assert await put(world, "pipelines", "p", first) == 1
    assert await put(world, "pipelines", "p", first) == 1
    assert await put(world, "pipelines", "p", second) == 2
    assert await put(world, "pipelines", "p", first) == 3
    assert [event for event in world.seen if isinstance(event, ManifestChanged)] == [
        ManifestChanged("pipelines", "p", version) for version in (1, 2, 3)
    ]
    world.restart()
    found = library(world).get("pipelines", "p")
    assert (found.version, found.text, found.description) == (3, first, "for tests")
    assert library(world).get("pipelines", "p", 2).text == second
    assert library(world).versions("pipelines", "p") == [1, 2, 3]
    assert library(world).find("pipelines", "p", 4) is None
    assert library(world).find("pipelines", "q") is None


async def test_ten_versions_are_kept(world: World) -> None:
    for number in range(13):
        await put(world, "pipelines", "p", PIPELINE.format(v=number))
    assert library(world).versions("pipelines", "p") == list(range(4, 14))
    rows = world.store.read("SELECT count(*) FROM manifests")
    assert rows.fetchone() == (10,)


async def test_the_version_of_an_open_run_is_kept(world: World) -> None:
    waiting = PIPELINE + "  - {{name: w, wait: go}}\n"
    await put(world, "pipelines", "p", waiting.format(v=0))
    run = world.kernel.runs.start(OPERATOR, Start("p"))
    for number in range(1, 13):
        await put(world, "pipelines", "p", waiting.format(v=number))
    assert library(world).versions("pipelines", "p") == [1, *range(4, 14)]
    world.kernel.runs.cancel(OPERATOR, run.id, "enough")
    await put(world, "pipelines", "p", waiting.format(v=20))
    assert library(world).versions("pipelines", "p") == list(range(5, 15))


async def test_a_text_with_faults_changes_nothing_and_all_are_told(world: World) -> None:
    await put(world, "pipelines", "p", PIPELINE.format(v=1))
    bad = (
        "kind: Pipeline\nmetadata: {name: p}\nspec:\n  nods: []\n  nodes:\n  - {name: a, dat: 1}\n"
    )
    reason = await refused(errno.EINVAL, world, "pipelines", "p", bad)
    lines = reason.splitlines()
    assert lines == [
        "p.yaml:4:3: E005 spec: unknown key `nods` (did you mean nodes?)",
        "p.yaml:6:5: E101 a node: a kind was expected as key (did you mean data?)",
    ]
    found = await library(world).check("pipelines", bad)
    assert [each.severity for each in found] == ["error", "error"]
    assert found[0].record() == {
        "file": "draft.yaml",
        "line": 4,
        "column": 3,
        "code": "E005",
        "severity": "error",
        "message": "spec: unknown key `nods`",
        "hint": "did you mean nodes?",
    }


async def test_a_document_is_its_makers(world: World) -> None:
    alice, bob = world.principal("alice"), world.principal("bob")
    await put(world, "pipelines", "p", PIPELINE.format(v=1), alice)
    assert "belongs to alice" in await refused(
        errno.EACCES, world, "pipelines", "p", PIPELINE.format(v=2), bob
    )
    await put(world, "pipelines", "p", PIPELINE.format(v=3), OPERATOR)
    await put(world, "pipelines", "p", PIPELINE.format(v=4), alice)
    with pytest.raises(KernelError, match="belongs to alice"):
        library(world).remove(bob, "pipelines", "p")
    library(world).remove(alice, "pipelines", "p")
    assert library(world).find("pipelines", "p") is None
    assert world.seen[-1] == ManifestRemoved("pipelines", "p")
    assert world.store.read("SELECT count(*) FROM manifests").fetchone() == (0,)
    assert library(world).names("pipelines") == []


async def test_the_successor_of_a_removed_document_goes_on_counting(world: World) -> None:
    alice, bob = world.principal("alice"), world.principal("bob")
    for version in (1, 2):
        await put(world, "pipelines", "p", PIPELINE.format(v=version), alice)
    library(world).remove(alice, "pipelines", "p")
    world.restart()
    assert library(world).versions("pipelines", "p") == []
    with pytest.raises(KernelError) as caught:
        library(world).remove(OPERATOR, "pipelines", "p")
    assert caught.value.errno == errno.ENOENT
    assert await put(world, "pipelines", "p", PIPELINE.format(v=2), bob) == 3
    assert library(world).get("pipelines", "p").maker == "bob"
    library(world).remove(bob, "pipelines", "p")
    world.clock.advance(8 * 86_400)
    library(world).tidy()
    assert await put(world, "pipelines", "p", PIPELINE.format(v=2), bob) == 1


async def test_what_concerns_everybody_is_the_operators(world: World) -> None:
    alice = world.principal("alice")
    for kind in ("policies", "adapters", "configs"):
        reason = await refused(errno.EACCES, world, kind, "x", POLICY.format(attempts=2), alice)
        assert "only the operator" in reason
    await refused(errno.EINVAL, world, "pipelines", "a/b", PIPELINE.format(v=1))
    await refused(errno.EINVAL, world, "nonsense", "a", PIPELINE.format(v=1))
    with pytest.raises(KernelError) as caught:
        library(world).remove(alice, "pipelines", "nope")
    assert caught.value.errno == errno.ENOENT


async def test_documents_are_limited(world: World) -> None:
    world.settings.replace("workflows: {max_documents: 2}\n")
    for name in ("a", "b"):
        await put(world, "pipelines", name, PIPELINE.format(v=1))
    await put(world, "pipelines", "a", PIPELINE.format(v=2))
    assert "2 documents" in await refused(
        errno.ENOSPC, world, "pipelines", "c", PIPELINE.format(v=1)
    )


async def test_a_plan_is_kept_until_something_that_it_names_changes(world: World) -> None:
    await put(world, "policies", "gentle", POLICY.format(attempts=2))
    text = PIPELINE.format(v="'${WHERE}'") + "  - {name: b, tool: t, retry: gentle}\n"
    reason = await refused(errno.EINVAL, world, "pipelines", "p", text)
    assert "${WHERE}: there is no such variable" in reason
    world.settings.replace("workflows: {env: {WHERE: here}}\n")
    await put(world, "pipelines", "p", text)
    plan = await library(world).plan("p")
    assert plan is library(world).plan_now("p", 1)
    assert plan.graph.by_name["b"].retry.attempts == 2
    assert plan.graph.by_name["a"].spec == {"output": {"v": "here"}}
    await put(world, "policies", "gentle", POLICY.format(attempts=7))
    assert library(world).plan_now("p").graph.by_name["b"].retry.attempts == 7
    world.settings.replace("workflows: {env: {WHERE: there}}\n")
    assert (await library(world).plan("p")).graph.by_name["a"].spec == {"output": {"v": "there"}}
    library(world).remove(OPERATOR, "policies", "gentle")
    with pytest.raises(KernelError, match="there is no policy `gentle`"):
        await library(world).plan("p")


async def test_prompts_are_texts_that_nodes_name(world: World) -> None:
    alice = world.principal("alice")
    await put(world, "prompts", "sum", "Sum up {{ a.v }}.", alice)
    text = PIPELINE.format(v=1) + "  - {name: b, llm: /lib/prompts/sum.md}\n"
    await put(world, "pipelines", "p", text)
    node = library(world).plan_now("p").graph.by_name["b"]
    assert (node.spec["prompt"], node.needs) == ("Sum up {{ a.v }}.", ("a",))
    told = await refused(errno.EINVAL, world, "pipelines", "p", text.replace("sum.md", "som.md"))
    assert "there is no prompt `som` in /lib/prompts (did you mean sum?)" in told
    macro = (
        "kind: Macro\nmetadata: {name: m}\nparameters: [{name: from, type: Any}]\n"
        "nodes: [{name: '{{ name }}', llm: /lib/prompts/sum.md, wait_for: '{{ from }}'}]\n"
    )
    await put(world, "macros", "m", macro)
    used = PIPELINE.format(v=1) + "  - {name: c, macro: m, inputs: {from: a}}\n"
    await put(world, "pipelines", "q", used)
    await put(world, "prompts", "sum", "All of {{ a.v }}?", alice)
    assert library(world).plan_now("q").graph.by_name["c"].spec["prompt"] == "All of {{ a.v }}?"
    words = await refused(errno.EINVAL, world, "prompts", "sum", "Sum\n {{ a.v | uper }}")
    assert "sum.md:2:11: E110 there is no filter `uper` (did you mean upper?)" in words
    assert await library(world).check("prompts", "{{ a }}") == []


async def test_a_document_that_cannot_be_read_any_more_stops_no_other(world: World) -> None:
    await put(world, "policies", "gentle", POLICY.format(attempts=2))
    await put(world, "policies", "other", POLICY.format(attempts=3))
    with world.store.transaction():
        world.store.write("UPDATE manifests SET text = ? WHERE name = ?", ("kind: [", "gentle"))
    world.restart()
    text = PIPELINE.format(v=1) + "  - {name: b, tool: t, retry: other}\n"
    await put(world, "pipelines", "p", text)
    reason = await refused(
        errno.EINVAL, world, "pipelines", "q", text.replace("retry: other", "retry: gentle")
    )
    assert "there is no policy `gentle`" in reason


async def test_a_config_that_names_what_is_gone_says_so(world: World) -> None:
    await put(world, "policies", "gentle", POLICY.format(attempts=2))
    spec = "kind: Config\nmetadata: {name: org}\nspec: {policies: [gentle]}\n"
    await put(world, "configs", "org", spec)
    await put(world, "pipelines", "p", PIPELINE.format(v=1) + "  - {name: b, tool: t}\n")
    assert library(world).plan_now("p").graph.by_name["b"].retry.attempts == 2
    library(world).remove(OPERATOR, "policies", "gentle")
    with pytest.raises(KernelError, match="config org: policies: there is no policy `gentle`"):
        library(world).plan_now("p")


async def test_all_configs_are_in_effect_and_limits_are_the_least(world: World) -> None:
    for name, most in (("org", 100), ("team", 50)):
        spec = f"spec: {{limits: {{max_llm_calls: {most}}}}}"
        await put(world, "configs", name, f"kind: Config\nmetadata: {{name: {name}}}\n{spec}\n")
    await put(world, "pipelines", "p", PIPELINE.format(v=1) + "  limits: {max_llm_calls: 60}\n")
    plan = library(world).plan_now("p")
    assert plan.limits == {"max_llm_calls": 50}
    assert plan.origin["limits.max_llm_calls"] == (50, "config team")


async def test_a_long_text_is_read_in_a_thread_and_a_huge_one_not_at_all(world: World) -> None:
    nodes = "".join(f"  - {{name: n{number}, data: {number}}}\n" for number in range(1000))
    text = PIPELINE.format(v=1) + nodes
    held: list[float] = []
    done = trio.Event()

    async def watch() -> None:
        last = time.perf_counter()
        while not done.is_set():
            await trio.lowlevel.checkpoint()
            now = time.perf_counter()
            held.append(now - last)
            last = now

    before = sys.getswitchinterval(), gc.isenabled()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        assert await put(world, "pipelines", "p", text) == 1
        assert len((await library(world).plan("p")).graph.nodes) == 1001
        done.set()
    assert (sys.getswitchinterval(), gc.isenabled()) == before
    assert len(held) > 100  # turns of the loop meanwhile
    assert sorted(held)[len(held) * 99 // 100] < 0.5  # ms on an idle machine
    huge = PIPELINE.format(v=1) + "#" * (5 << 20)
    assert "at most" in await refused(errno.EINVAL, world, "pipelines", "p", huge)
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    assert "too long" in await refused(errno.EINVAL, world, "pipelines", "p", bomb)


async def test_the_check_finds_what_does_not_agree(world: World) -> None:
    for number in (1, 2):
        await put(world, "pipelines", "p", PIPELINE.format(v=number))
    await put(world, "pipelines", "q", PIPELINE.format(v=1))
    harm = {
        "DELETE FROM manifests WHERE name = 'p' AND version = 1": "document pipelines/p: versions",
        "DELETE FROM records WHERE kind = 'manifest' AND key = 'pipelines/q'": "nobody knows of",
        "UPDATE records SET record = '{}' WHERE key = 'pipelines/p'": "its record cannot be read",
    }
    path = world.state / "store.db"
    for statement, words in harm.items():
        with sqlite3.connect(path) as connection:
            before = connection.execute("SELECT * FROM manifests").fetchall()
            records = connection.execute("SELECT * FROM records").fetchall()
            connection.execute(statement)
        connection.close()
        assert any(words in fault for fault in check(path)), check(path)
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM manifests")
            connection.executemany("INSERT INTO manifests VALUES (?, ?, ?, ?, ?)", before)
            connection.execute("DELETE FROM records")
            connection.executemany("INSERT INTO records VALUES (?, ?, ?)", records)
        connection.close()
    assert check(path) == []
