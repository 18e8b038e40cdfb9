"""docs/memory.md: each line is run as it is written, on one mount; and what else a shell does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.agent import Agent
from tests.hatchery import Hatchery, QuickTree
from tests.llm.server import Provider
from tests.pages import blocks, run
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def tree(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("memory") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


def test_the_page_is_right(tree: Tree, tmp_path: Path) -> None:
    scripts = list(blocks("memory.md"))
    assert len(scripts) == 4
    for script, expected in scripts:
        assert run(script, tree, tmp_path) == expected, script


def test_commands_say_what_is_wrong_and_how_it_is_done(tree: Tree) -> None:
    for words, status, said in (
        (["recall"], 1, "nothing to look for"),
        (["recall", "--type", "a b", "x"], 1, "one word"),
        (["recall", "--limit", "0", "x"], 2, "0 is not in the range"),
        (["recall", "--agent", "nobody", "x"], 1, "No such file"),
        (["remember", "--expires", "never", "x"], 1, "Expires"),
        (["remember", "--type", "a\nb", "x"], 2, "one line"),
    ):
        done = tree.run(*words, check=False)
        assert (done.returncode, done.stdout) == (status, ""), words
        assert said in done.stderr
    env = os.environ | {"AGENTFS": str(tree.path)}
    for words in (["remember", "--tag", "50%", "it's 100% odd"], ["recall", "it's 100%"]):
        line = tree.run(*words, "--how").stdout
        done_by = subprocess.run(["bash", "-ec", line], env=env, capture_output=True, text=True)
        assert done_by.returncode == 0, done_by.stderr
    assert "it's 100% odd" in done_by.stdout
    assert '"tags": ["50%"]' in done_by.stdout
    piped = tree.run("remember", stdin="from a pipe\n").stdout
    assert tree.run("recall", "pipe").stdout == f"{piped.strip()}:4: from a pipe\n"
    assert tree.run("recall", "--json", "pipe").stdout.startswith('{"path": "memory/notes/')


def test_the_library_for_agents(tree: Tree) -> None:
    agent = Agent(str(tree.path), "init")
    path = agent.remember("Lila likes plums.", type="preference", tags="lila, food", expires="1h")
    (found,) = agent.recall("plums", type="preference")
    assert (found["path"], found["tags"]) == (path, ["lila", "food"])
    assert agent.recall("plums", tags="other") == []
    with pytest.raises(OSError, match="Invalid argument"):
        agent.recall("")


def test_the_note_is_in_listings_that_linux_has_kept(tree: Tree) -> None:
    notes = tree / "agents/init/memory/notes"
    before = set(os.listdir(notes))
    for _ in range(3):
        path = tree.run("remember", "one more").stdout.strip()
        name = path.rpartition("/")[2]
        assert set(os.listdir(notes)) - before == {name}
        before.add(name)
        assert (tree / f"agents/init/{path}").read_text().endswith("\n\none more\n")


def test_vectors_are_had_through_the_gateway_and_counted(tree: Tree) -> None:
    tree.run("remember", "a kitten")
    before = tree.read("etc/models.yaml")
    with Provider() as provider:
        models = f"""
providers: {{here: {{url: "{provider.url}", speaks: [responses, embeddings]}}}}
models: {{vectors: {{tier: operational, provider: here, input: 1000000}}}}
"""
        tree.write("etc/models.yaml", models)
        tree.write("etc/agentfs.yaml", "memory: {embeddings: vectors}\n")
        try:
            assert "a kitten" in tree.run("recall", "kitten").stdout
            (call,) = provider.wait(lambda log: len(log) == 1 and log[0].over)
            assert call.dialect == "embeddings"
            calls = tree / "sys/accounting/agent/init/calls"
            eventually(lambda: calls.exists() and calls.read_text() == "1\n")
            assert float(tree.read("sys/accounting/agent/init/cost")) > 0
        finally:
            tree.write("etc/agentfs.yaml", "")
            tree.write("etc/models.yaml", before)
