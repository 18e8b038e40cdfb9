"""docs/models.md: each line is run as it is written, with a provider on this machine instead of the
real ones, and says what the page says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llm.server import TEXT, Provider
from tests.llm.test_clis import FOLDERS, pytestmark  # noqa: F401  # marks these tests, too
from tests.pages import blocks, run
from tests.tree import Tree

KEYS = {"ANTHROPIC_KEY": "sk-ant-1", "OPENAI_KEY": "sk-2"}
PROGRAMS = ("claude", "codex", "aider")
WRITE = {
    "name": "Bash",
    "arguments": {
        "command": "echo 'Write slugify().' > $AGENTFS/agents/self/outbox/coder",
        "description": "write to coder",
    },
}


def _needs(script: str) -> set[str]:
    return {name for name in PROGRAMS if f"-- {name}" in script}


def _is_here(name: str) -> bool:
    return any(os.access(f"{folder}/{name}", os.X_OK) for folder in FOLDERS if folder)


@pytest.fixture
def provider(tree: Tree) -> Iterator[Provider]:
    """A provider in the places of Anthropic and OpenAI; the small model is its tape."""
    with Provider() as provider:
        text = tree.read("etc/models.yaml").replace("run: smollm2", "replay: smollm2")
        for name in ("anthropic", "openai"):
            text = text.replace(f"https://api.{name}.com", provider.url)
        tree.write("etc/models.yaml", text)
        yield provider


def test_the_page_is_right(tree: Tree, provider: Provider, tmp_path: Path) -> None:
    """Without the programs of others: those are below."""
    scripts = [(script, said) for script, said in blocks("models.md") if not _needs(script)]
    assert len(scripts) >= 3
    for script, expected in scripts:
        assert run(script, tree, tmp_path, **KEYS) == expected, script


def test_programs_of_others_are_agents_that_write_to_one_another(
    tree: Tree, provider: Provider, tmp_path: Path
) -> None:
    scripts = [(script, said) for script, said in blocks("models.md") if _needs(script)]
    missing = {name for script, _ in scripts for name in _needs(script) if not _is_here(name)}
    if missing:
        pytest.skip(f"{', '.join(sorted(missing))}: ./run clients fetches them")
    for name, key in zip(("anthropic", "openai"), KEYS.values(), strict=True):
        (tree / f"etc/secrets/{name}").write_text(key)
    env = {"PATH": os.pathsep.join(filter(None, FOLDERS))}
    (one, expected), (team, _) = scripts
    assert run(one, tree, tmp_path, **env) == expected
    provider.script("claude-sonnet-4-5", tool=WRITE, times=1)
    printed = run(team, tree, tmp_path, **env)
    assert "lead asks to send /agents/coder/inbox" in printed
    assert "Write slugify()." in printed
    assert TEXT in printed.partition("Write slugify().")[2]  # in the inbox, in the log
    assert "Turns:\t" in printed
    assert "coder works on its mail with codex" in printed
