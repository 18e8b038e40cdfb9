"""What stays of an agent whose process has ended, and what a definition says for its readers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.puppet import Puppet
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def tree(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    made = QuickTree(tmp_path_factory.mktemp("results") / "tree", hatchery=hatchery)
    try:
        made.mount()
        yield made
    finally:
        made.clean_up()


def test_the_last_words_of_done_stay_with_the_agent(tree: Tree) -> None:
    tree.spawn("bob")
    assert (tree.read("agents/bob/exit"), tree.read("agents/bob/result")) == ("", "")
    pid = tree.spawn(
        "alice",
        exec='echo working; echo "done 3 it is ünfinished" > $AGENTFS/proc/self/ctl; sleep 9',
    )
    until(tree / "agents/alice/exit", "3")
    assert tree.read("agents/alice/result") == "it is ünfinished\n"
    assert tree.read(f"proc/{pid}/wait") == "3\n"
    eventually(lambda: not (tree / f"proc/{pid}").exists(), "it is reaped, and Linux is told so")
    tree.crash()
    tree.mount()
    assert (tree.read("agents/alice/exit"), tree.read("agents/alice/result")) == (
        "3\n",
        "it is ünfinished\n",
    )
    again = tree.spawn("alice", exec="echo 42 files; exit 0")
    until(tree / f"proc/{again}/state", "zombie")
    assert (tree.read("agents/alice/exit"), tree.read("agents/alice/result")) == (
        "0\n",
        "42 files\n",
    )


def test_how_it_was_killed_is_its_result_too(tree: Tree) -> None:
    pid = tree.spawn("victim", exec="echo started; exec sleep 1000")
    until(tree / "agents/victim/log", "started")
    tree.write(f"proc/{pid}/ctl", "KILL")
    assert (tree.read("agents/victim/exit"), tree.read("agents/victim/result")) == (
        "137\n",
        "started\n",
    )


def test_long_last_words_are_whole(tree: Tree) -> None:
    words = "x" * 20_000
    pid = tree.spawn("talker")
    tree.write(f"proc/{pid}/ctl", f"done 0 {words}\n")
    assert tree.read("agents/talker/result") == f"{words}\n"


def test_prompt_metadata_and_groups_of_a_definition(tree: Tree) -> None:
    prompt = "You review patches.\nBe kind."
    puppet = Puppet(
        tree,
        "reviewer",
        prompt=prompt,
        metadata={"ticket": "42", "team": "ä"},
        groups=["backend", "night"],
    )
    assert puppet.read("agents/self/prompt") == f"{prompt}\n"
    info = json.loads(tree.read(f"proc/{puppet.pid}/info"))
    assert info["prompt"] == prompt
    assert info["metadata"] == {"ticket": "42", "team": "ä"}
    assert info["groups"] == ["backend", "night"]
    assert "\nGroups:\tbackend night\n" in tree.read(f"proc/{puppet.pid}/status")
    tree.crash()
    tree.mount()
    assert json.loads(tree.read(f"proc/{puppet.pid}/info"))["groups"] == ["backend", "night"]
    assert tree.read("agents/reviewer/prompt") == f"{prompt}\n"
    (tree / "agents/reviewer/spec.yaml").write_text("prompt: another\n")
    assert tree.read("agents/reviewer/prompt") == "another\n"
    puppet.close()


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        ({"prompt": 3}, "prompt: "),
        ({"groups": ["a b"]}, "groups.0: a name like backend was expected"),
        ({"metadata": {"a": ["b"]}}, "metadata.a: "),
        ({"metadata": {"a": "b" * 5000}}, "metadata: at most 4096 bytes were expected"),
    ],
)
def test_what_is_wrong_with_them_is_said(tree: Tree, faulty: dict[str, object], words: str) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        tree.spawn("faulty", **faulty)
    assert words in tree.read("proc/self/error")


def test_a_child_without_a_tier_is_operational_whatever_its_parent_is(tree: Tree) -> None:
    for tier in ("strategic", "tactical", "operational"):
        lead = tree.spawn(f"lead-{tier}", role="lead", tier=tier)
        child = tree.spawn(f"below-{tier}", lead)
        assert tree.read(f"proc/{child}/tier") == "operational\n"
        same = tree.spawn(f"same-{tier}", lead, tier=tier)
        assert tree.read(f"proc/{same}/tier") == f"{tier}\n"
    with pytest.raises(PermissionError):
        tree.spawn("above", child, tier="tactical")
