"""`agentfs tool`: the document is changed, and nothing else of it; calls print what comes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from agentfs.tools.tool import _changed
from tests.tree import Tree

HERE = Path(__file__).parent
ENTRY = {"exec": ["/bin/cat"]}

DOCUMENTS = [
    "",
    "# only a comment\n",
    "tools: {}\n",
    "# a head\ntools: {}\n",
    "tools:\n",
    "tools:\n  one: {exec: [/bin/one]}\n",
    "tools:\n  one: {exec: [/bin/one]} # why\n  # of two\n  two:\n    exec:\n    - /bin/two\n",
    "tools:\n    two:\n        exec: [/bin/two]\n\n    one: {exec: [/bin/one]}\n\n# the end\n",
    "tools: {one: {exec: [/bin/one]}, two: {exec: [/bin/two]}}\n",
    "{tools: {one: {exec: [/bin/one]}}}",
    '{"tools": {"one": {"exec": ["/bin/one"]}}}\n',
]


def tools(text: str) -> dict[str, object]:
    return (yaml.safe_load(text) or {}).get("tools") or {}


@pytest.mark.parametrize("text", DOCUMENTS)
def test_a_tool_is_added_replaced_and_removed_and_the_rest_stays(text: str) -> None:
    before = tools(text)
    added = _changed(text, "new", ENTRY)
    assert tools(added) == before | {"new": ENTRY}
    assert tools(_changed(added, "new", {"python": "a:b"})) == before | {"new": {"python": "a:b"}}
    assert tools(_changed(added, "new", None)) == before
    for name in before:
        assert tools(_changed(text, name, ENTRY)) == before | {name: ENTRY}
        assert tools(_changed(text, name, None)) == {n: e for n, e in before.items() if n != name}


def test_comments_stay() -> None:
    text = DOCUMENTS[6]
    for changed in (_changed(text, "new", ENTRY), _changed(text, "two", ENTRY)):
        assert "# why" in changed
        assert "# of two" in changed
    assert "# a head" in _changed(DOCUMENTS[3], "new", ENTRY)


def test_the_life_of_a_tool_on_the_command_line(tree: Tree, tmp_path: Path) -> None:
    said = tree.run("tool", "add", "cat", "-d", "Says it again.", "--", "cat")
    assert said.stdout == ""
    tree.run("tool", "add", "area", f"{HERE / 'functions.py'}:area")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "required": ["a"]}')
    tree.run("tool", "add", "must", "--schema", str(schema), "--", "/bin/cat")
    listed = tree.run("tool", "ls").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["area", "cat", "must"]
    rows = [json.loads(line) for line in tree.run("tool", "ls", "--json").stdout.splitlines()]
    program = shutil.which("cat")
    assert rows[1] == {"name": "cat", "run_as": "caller", "source": f"exec {program}"}
    assert tree.run("tool", "call", "cat", '{"a": 1}').stdout == '{"a": 1}'
    assert tree.run("tool", "call", "cat", "-", stdin='{"b": 2}').stdout == '{"b": 2}'
    assert tree.run("tool", "call", "area", "width=2", "height=3.5").stdout == "7.0\n"
    failed = tree.run("tool", "call", "must", check=False)
    assert failed.returncode == 1
    assert "at /: 'a' is a required property" in failed.stderr
    tree.run("tool", "rm", "cat")
    assert sorted(os.listdir(tree / "lib/tools")) == ["area", "must"]
    gone = tree.run("tool", "rm", "cat", check=False)
    assert (gone.returncode, "there is no tool cat" in gone.stderr) == (1, True)
    how = tree.run("tool", "call", "--how", "area", "width=2", "height=3").stdout
    assert "lib/tools/area/call" in how


def test_a_server_is_asked_for_its_tools_when_it_is_added(tree: Tree) -> None:
    server = [sys.executable, str(HERE / "puppet_server.py")]
    said = tree.run("tool", "add", "p", "--mcp", "--", *server).stdout.splitlines()
    assert {"p_echo", "p_none"} < set(said)
    assert tree.run("tool", "call", "p_echo", "text=hello").stdout == "hello\n"
    dead = tree.run("tool", "add", "d", "--mcp", "--", *server, "dead", check=False)
    assert dead.returncode == 1
    assert "it ended with exit code 3" in dead.stderr


def test_a_wrong_tool_is_refused(tree: Tree) -> None:
    for words in (
        ["add", "x"],
        ["add", "x", "file.py:f", "--", "cat"],
        ["add", "x", "/nowhere.py:f"],
        ["add", "x", "--", "/nowhere/program"],
        ["add", "x y", "--", "cat"],
        ["add", "x", "--timeout", "soon", "--", "cat"],
        ["call", "nothing"],
        ["call", "x", "city"],
    ):
        done = tree.run("tool", *words, check=False)
        assert done.returncode in (1, 2), words
        assert done.stderr
        assert "Traceback" not in done.stderr
    assert os.listdir(tree / "lib/tools") == []
