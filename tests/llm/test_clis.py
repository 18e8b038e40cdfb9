"""Agents that others wrote, unmodified and without a key: each runs as a program of an agent that
has no network but the models, asks a scripted provider, and ends when its budget is refused.

They are looked for in the folders of $AGENTFS_CLIS, in .clients/bin of the checkout (./run clients
fetches them), and in PATH. One that is not there is left out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentfs.machine import network
from tests.llm.server import TEXT, Provider
from tests.tree import AGENTFS, Tree, eventually

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not (network.made_by_us() or network.made_by_children()),
        reason=f"no program can have a network of its own here: needs {network.NEEDED}",
    ),
]

FOLDERS = [
    *os.environ.get("AGENTFS_CLIS", "").split(os.pathsep),
    str(Path(__file__).parents[2] / ".clients/bin"),
    *os.get_exec_path(),
]

PATIENCE = 300.0
"""Seconds for one of them to end: they take one to five on a machine that has nothing else to do,
and opencode tries six times, for 70."""


@dataclass(frozen=True)
class Cli:
    """`model` is what it asks for, `path` where. `refused` is how it tells its user, after at most
    `requests` that were refused, and ends with `code`."""

    name: str
    words: str
    path: str
    model: str
    refused: str
    code: int = 1
    requests: int = 1
    environment: str = ""

    @property
    def file(self) -> str | None:
        return shutil.which(self.name, path=os.pathsep.join(filter(None, FOLDERS)))


PLAIN_AIDER = (
    "--model openai/gpt-4o-mini --yes-always --no-git --no-check-update --no-show-release-notes"
    " --no-show-model-warnings --analytics-disable --no-pretty --no-fancy-input --no-detect-urls"
    " --map-tokens 0 --message"
)
CLIS = [
    # Of some prompts it asks for a title as well, at the same time.
    Cli("claude", "-p", "/v1/messages?beta=true", "claude", "API Error: 402", requests=2),
    Cli(
        "codex",
        "exec --skip-git-repo-check -s danger-full-access"
        ' -c openai_base_url="\\"$OPENAI_BASE_URL\\""',
        "/v1/responses",
        "gpt",
        "budget_exceeded",
    ),
    Cli("opencode", "run -m openai/gpt-5.4 --title t", "/v1/responses", "gpt", ""),
    Cli(
        "aider",
        PLAIN_AIDER,
        "/v1/chat/completions",
        "gpt",
        "BadRequestError",
        code=0,
        environment="LITELLM_LOCAL_MODEL_COST_MAP=True",
    ),
    Cli("llm", "-m gpt-4o-mini", "/v1/chat/completions", "gpt", "Error code: 400"),
]


class Runs:
    """A tree in which all of them run at once: twice, with a budget and with next to none."""

    def __init__(self, tree: Tree, provider: Provider, homes: Path) -> None:
        self.tree = tree
        self.provider = provider
        self._homes = homes
        self._pids: dict[str, int] = {}
        self.answered_by(url=provider.url)
        for cli in CLIS:
            if cli.file is not None:
                self._start(cli, cli.name)
                stop = {"on_limit": "stop"} if cli.name == "opencode" else {}
                self._start(cli, f"poor-{cli.name}", budget={"operational": 10}, **stop)

    def answered_by(self, **how: str) -> None:
        """What stands behind the models from now on."""
        model = {"tier": "operational", "provider": "test", "input": 1, "output": 2}
        models = {name: {**model, "id": name, "match": [f"{name}-*"]} for name in ("claude", "gpt")}
        providers = {"test": {"speaks": ["chat", "responses", "messages"], **how}}
        self.tree.write("etc/models.yaml", json.dumps({"providers": providers, "models": models}))

    def run(self, cli: Cli) -> str:
        """Run it as a person does; its answer."""
        assert cli.file is not None
        variables = ["--env", cli.environment] if cli.environment else []
        # `agentfs run` tells Codex itself where the models are.
        words = shlex.split(cli.words.partition(" -c ")[0])
        command = [*AGENTFS, "run", *variables, "--", cli.file, *words, "Capital of France?"]
        done = subprocess.run(
            command,
            env=os.environ | {"AGENTFS": str(self.tree.path)},
            cwd=self._homes,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return re.sub(r"\s+", " ", done.stdout)

    def _start(self, cli: Cli, name: str, **spec: Any) -> None:
        home = self._homes / name
        home.mkdir()
        assert cli.file is not None
        script = (
            f"cd {shlex.quote(str(home))} && export HOME=$PWD TMPDIR=$PWD {cli.environment} &&"
            f" exec {shlex.quote(cli.file)} {cli.words} 'Capital of France?'"
        )
        spec |= {"exec": ["sh", "-c", script], "restart": "never", "tier": "operational"}
        self._pids[name] = self.tree.spawn(name, deny=["network_access"], **spec)

    def ended(self, name: str) -> tuple[str, str]:
        """What it was confined to, and the output, of one that has ended."""
        pid = self._pids[name]
        state = self.tree / f"proc/{pid}/state"
        eventually(lambda: state.read_text() == "zombie\n", name, PATIENCE)
        return self.tree.read(f"proc/{pid}/why"), self.tree.read(f"agents/{name}/log")

    def refusals(self, name: str) -> int:
        """How many calls of models were refused to it."""
        log = self.tree.read("sys/audit/log").splitlines()
        changes = [change for line in log for change in json.loads(line).get("changes", ())]
        return sum(
            change["type"] == "resource_refused" and change["agent"] == name for change in changes
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("clis")
    (folder / "homes").mkdir()
    tree = Tree(folder / "tree")
    tree.mount()
    try:
        with Provider() as provider:
            yield Runs(tree, provider, folder / "homes")
    finally:
        tree.clean_up()


def here(cli: Cli) -> Cli:
    if cli.file is None:
        pytest.skip(f"{cli.name} is not installed: ./run clients, or its folder in $AGENTFS_CLIS")
    return cli


def named(cli: Cli) -> str:
    return cli.name


@pytest.mark.parametrize("cli", CLIS, ids=named)
def test_it_answers_with_no_network_but_the_models(runs: Runs, cli: Cli) -> None:
    here(cli)
    why, said = runs.ended(cli.name)
    assert "code 0" in why, said
    assert TEXT in re.sub(r"\s+", " ", said)
    asked = [
        call for call in runs.provider.log() if (call.path, call.model) == (cli.path, cli.model)
    ]
    assert asked, "by the path of its dialect, with the name that the provider has for the model"
    assert not any("agentfs" in str(call.headers) for call in asked), "its key is dropped"


@pytest.mark.parametrize("cli", CLIS, ids=named)
def test_it_ends_when_its_budget_is_refused(runs: Runs, cli: Cli) -> None:
    here(cli)
    name = f"poor-{cli.name}"
    why, said = runs.ended(name)
    if cli.refused:
        assert f"code {cli.code}" in why, said
        assert cli.refused in said
        assert f"the operational budget of {name} 10 are left" in re.sub(r"\s+", " ", said)
    else:  # it tries again whatever it is told, so it is ended: `on_limit: stop`
        assert "code 143: limit: budget operational" in why
    assert 1 <= runs.refusals(name) <= cli.requests, runs.tree.read("sys/audit/log")
    assert not [call for call in runs.provider.log() if name in str(call.body)]


@pytest.mark.parametrize(
    "cli", [cli for cli in CLIS if cli.name in ("claude", "codex", "aider")], ids=named
)
def test_it_runs_in_one_command_and_again_on_the_tape_of_that(runs: Runs, cli: Cli) -> None:
    """`agentfs run -- claude -p …`: the second time nobody is there but the tape."""
    here(cli)
    runs.answered_by(url=runs.provider.url, record=cli.name)
    first = runs.run(cli)
    runs.answered_by(replay=cli.name)
    runs.provider.forget()
    second = runs.run(cli)
    assert TEXT in first
    assert TEXT in second
    assert runs.provider.log() == []
