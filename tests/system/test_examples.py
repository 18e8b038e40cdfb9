"""The examples do what their pages say, on real mounts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentfs.agent import Agent, Message
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parents[2]
AGENTS = ROOT / "examples/agents"
INTERPRETERS = {".sh": "sh", ".py": sys.executable, ".pl": "perl"}


@pytest.mark.parametrize("name", ["counter.sh", "counter.py", "counter.pl"])
def test_the_same_agent_in_three_languages(tree: Tree, name: str) -> None:
    file = AGENTS / name
    pid = tree.spawn("counter", exec=[INTERPRETERS[file.suffix], str(file)], restart="always")
    init = Agent(str(tree.path), "init")

    def ask(number: int) -> None:
        init.send("counter", f"message {number}\n\nwith two paragraphs\n", subject="count me")
        answer = Message((tree / "agents/init/recv").read_bytes())
        assert answer.text == f"{number} so far\n", tree.read("agents/counter/log")
        assert answer.sender == "counter"
        assert answer.get("In-Reply-To")

    ask(1)
    ask(2)
    os.kill(int(tree.read(f"proc/{pid}/ospid")), signal.SIGKILL)
    eventually(lambda: "Restarts:\t1\n" in tree.read(f"proc/{pid}/status"))
    init.send("counter", "three")
    text = Message((tree / "agents/init/recv").read_bytes()).text
    if text == "2 so far\n":  # the last message came back: it is answered, and not counted, again
        text = Message((tree / "agents/init/recv").read_bytes()).text
    assert text == "3 so far\n"
    eventually(lambda: not list((tree / "agents/counter/inbox/new").iterdir()))  # the notice, too


def test_the_page_on_agents_shows_the_programs_as_they_are() -> None:
    page = (ROOT / "docs/agents.md").read_text()
    shown = re.findall(r"^```[a-z]+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for name in ("counter.sh", "counter.py", "counter.pl"):
        assert (AGENTS / name).read_text() in shown, f"docs/agents.md does not show {name} as it is"


def test_the_pipeline_grows_with_the_work_and_shrinks_without_it(tree: Tree) -> None:
    environment = {
        "PIPELINE_JOBS": "10", "PIPELINE_MAX": "4", "PIPELINE_TURN": "0.2", "PIPELINE_PAUSE": "0.1",
    }  # fmt: skip
    words = [f"--env={name}={value}" for name, value in environment.items()]
    tree.run("up", "--detach", str(ROOT / "examples/pipeline/system.yaml"), *words)
    jobs = tree / "dev/queues/jobs"
    eventually((jobs / "send").exists)
    numbers = range(1001, 1061)
    for number in numbers:
        tree.write("dev/queues/jobs/send", f"{number}\n")

    def workers() -> list[str]:
        foreman = tree.read("agents/foreman/pid").strip()
        names = []
        for child in (tree / f"proc/{foreman}/children").iterdir():
            with contextlib.suppress(OSError):  # it went home this moment
                name, state = (child / "name").read_text(), (child / "state").read_text()
                if name.startswith("worker-") and state not in ("zombie\n", "dead\n"):
                    names.append(child.name)
        return names

    eventually(lambda: len(workers()) == 4, tree.read("agents/foreman/log"))
    victim = tree.read(f"proc/{workers()[0]}/ospid")
    os.kill(int(victim), signal.SIGKILL)  # its job comes to another one
    wanted = subprocess.run(
        ["factor", *map(str, numbers)], capture_output=True, text=True, check=True
    ).stdout

    def table() -> list[str]:
        file = tree / "shared/factors.txt"
        return sorted(file.read_text().splitlines()) if file.exists() else []

    eventually(lambda: table() == sorted(wanted.splitlines()), patience=60)
    eventually(lambda: len(workers()) == 1)
    assert tree.read("dev/queues/jobs/length") == "0\n"
    assert list((jobs / "dead").iterdir()) == []
    assert tree.read("agents/foreman/log").count("started worker-") >= 4
    eventually(lambda: tree.read("agents/foreman/log").count("went home: 0") >= 3)


def test_the_central_agent_reaches_goals_by_the_pipelines_that_there_are(
    tree: Tree, tmp_path: Path
) -> None:
    central, init = ROOT / "examples/central", Agent(str(tree.path), "init")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("three little words\n")
    (tmp_path / "notes/b.txt").write_text("one\n")
    tree.run("up", str(central / "pipelines/words.yaml"))
    tree.run("up", str(central / "pipelines/largest.yaml"))
    tree.run("up", "-d", str(central / "system.yaml"))

    def reached(goal: str) -> str:
        init.send("central", goal)
        return Message((tree / "agents/init/recv").read_bytes()).text

    folder = tmp_path / "notes"
    assert reached(f"How many words are in the text files of {folder}?").endswith(': "4"\n\n')
    # Both are as near: the model has to say which (docs/models.md: or its tape).
    answer = reached(f"Tell me about the folder {folder}.")
    assert answer.endswith(f'completed: "19 {folder}/a.txt"\n\n')
    assert "the goal does not say it" in reached("Find the largest file.")
    runs = [
        json.loads(line) for line in tree.ask("proc/runs/query", "ref=goal/central").splitlines()
    ]
    assert [run["state"] for run in runs] == ["completed"] * 2
