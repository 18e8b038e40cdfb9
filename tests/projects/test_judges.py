"""Seeds through a real mount: phases that a model, a program and an agent do, over kill -9."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree, eventually, until

pytestmark = pytest.mark.mount

ANSWERS = """
answers:
  - when: how clear is it
    say: '{"ambiguity": 0.1}'
  - when: what does it take
    say: |
      ```json
      ["it is short"]
      ```
  - when: say it better
    say: a short page on bees
"""

MODELS = {
    "providers": {"script": {"scripted": "bees.yaml", "speaks": ["chat"]}},
    "models": {"test": {"tier": "operational", "provider": "script", "max_output": 100}},
}

SPEC = {
    "evolutions": 1,
    "phases": {
        "interview": {"llm": "{{ input.goal }}: how clear is it?"},
        "seed": {"llm": "{{ input.goal }}: what does it take?"},
        "execute": {"program": "grep -o 'a [a-z ]*page on bees' | head -n 1"},
        "evaluate": {"agent": "judge", "prompt": "Is this good: {{ input.result }}"},
        "evolve": {"llm": "{{ input.goal }}, {{ input.evaluation.words }}: say it better"},
    },
}


@pytest.fixture
def tree(fuse: None, hatchery: Hatchery, tmp_path: Path) -> Iterator[Tree]:
    tree = QuickTree(tmp_path / "tree", hatchery=hatchery)
    try:
        (tree.state / "tapes").mkdir(parents=True)
        (tree.state / "tapes/bees.yaml").write_text(ANSWERS)
        tree.mount()
        tree.write("etc/models.yaml", json.dumps(MODELS))
        yield tree
    finally:
        tree.clean_up()


def answer(tree: Tree, seed: int, verdict: dict[str, object]) -> str:
    """The judge answers the question about a seed; what it was asked."""
    phase = tree / f"projects/bees/seeds/{seed}/phase"
    until(phase, "evaluate")
    new = tree / "agents/judge/inbox/new"
    eventually(lambda: os.listdir(new))
    (letter,) = new.iterdir()
    head, _, asked = letter.read_text().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    letter.unlink()
    reply = f"In-Reply-To: {fields['Message-ID']}\n\n{json.dumps(verdict)}"
    (tree / f"agents/judge/outbox/{fields['From']}").write_text(reply)
    return asked


def test_a_seed_evolves_and_passes_whatever_dies_meanwhile(tree: Tree) -> None:
    tree.ask("proc/1/spawn", "name: judge\n")
    (tree / "projects/bees").mkdir()
    (tree / "projects/bees/spec.yaml").write_text(json.dumps(SPEC))
    assert tree.ask("projects/bees/seeds/new", "a page on bees") == "1\n"
    seeds = tree / "projects/bees/seeds"
    until(seeds / "1/phase", "evaluate")
    eventually(lambda: os.listdir(tree / "agents/judge/inbox/new"))
    tree.crash()
    tree.mount()
    assert "a page on bees" in answer(tree, 1, {"score": 0.3, "words": "too long"})
    until(seeds / "1/state", "evolved")
    until(seeds / "2/phase", "evaluate")
    tree.crash()
    tree.mount()
    assert "a short page on bees" in answer(tree, 2, {"score": 0.9})
    said = json.loads((seeds / "1/wait").read_text())
    assert (said["state"], said["seed"], said["score"]) == ("passed", 2, 0.9)
    assert (seeds / "2/feedback").read_text() == "too long\n"
    assert (seeds / "1/criteria").read_text() == "it is short\n"
    for number, phases in ((1, 5), (2, 3)):
        runs = os.listdir(tree / f"proc/runs/by-ref/seed/{number}")
        assert len(runs) == phases, "no phase had two runs"
        history = (seeds / f"{number}/history").read_text().splitlines()
        assert {json.loads(line)["attempt"] for line in history} == {1}
