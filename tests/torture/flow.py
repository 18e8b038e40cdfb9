"""The sweep over workflows: one run with nodes of all kinds, and each time the daemon dies one
moment later. It is started again, those who work go on as they do, and the run has to end as it
ends without a death: the same state, the same outputs, and each message once.

Those who work are other programs: a worker at a pool, an agent in the tree, and a person at a shell
who repeats what failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from agentfs.agent import Message
from tests.hatchery import Hatchery, QuickTree
from tests.torture.aftermath import faults_of, strays_of
from tests.torture.failpoints import Panel
from tests.torture.sweep import SweepReport, View, die_at_each, is_free
from tests.tree import Tree, eventually

__all__ = ["FlowSweep", "Scenario"]

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

ALICE = """
import os, sys
me = os.environ["AGENTFS"] + "/agents/alice"
recv = os.open(me + "/recv", os.O_RDWR | os.O_DIRECT)
while True:
    head, _, body = os.read(recv, 1 << 20).decode().partition("\\n\\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines())
    if headers.get("Type") != "step":
        continue
    with open(me + "/outbox/" + headers["From"], "w") as reply:
        reply.write("In-Reply-To: " + headers["Message-ID"] + "\\n\\n{\\"words\\": 3}\\n")
"""

CODE = """
from agentfs.steps import step

@step
def double(value: int) -> int:
    return 2 * value
"""

INNER = """
kind: Pipeline
metadata: {name: inner}
spec:
  nodes:
    - {name: square, expression: {value: "input.n * input.n"}}
  output: "{{ nodes.square.value }}"
"""

MACRO = """
kind: Macro
metadata: {name: pair}
parameters: [{name: first, type: int, required: true}]
nodes:
  - {name: "{{ name }}_one", data: {value: "{{ first }}"}}
  - name: "{{ name }}_two"
    expression: {value: "nodes.{{ name }}_one.value + 1"}
"""

POLICY = """
kind: Policy
metadata: {name: patient}
spec: {type: retry, config: {attempts: 5, delay: 0.05, backoff: 1}}
"""

MAIN = """
kind: Pipeline
metadata: {name: main, description: a node of every kind}
spec:
  input_schema: {type: object, properties: {n: {type: integer}, folder: {type: string}}}
  nodes:
    - {name: start, data: {list: [1, 2, 3]}, dependencies: []}
    - name: script
      program: 'echo $STEP_KEY >> "$1"; test -e "$1.2" || { : > "$1.2"; exit 1; }; echo 5'
      args: ["{{ input.folder }}/effects"]
      policies: [patient]
    - {name: worked, function: "flow:double", pool: sums, policies: [patient],
       input_mapping: {value: nodes.script}}
    - name: loop
      for-each: "{{ nodes.start.list }}"
      concurrency: 2
      body:
        - {name: add, expression: {value: "item + nodes.worked"}}
        - {name: again, program: [cat], input_mapping: {value: nodes.add.value}}
    - name: counted
      while: state.count < 3
      initial_state: {count: 0}
      state_update: {count: "state.count + 1"}
      body:
        - {name: tick, data: {x: 1}}
      wait_for: loop
    - {name: inner, pipeline: inner, input: {n: "{{ input.n }}"}, wait_for: counted}
    - kind: macro_invocation
      metadata: {name: duo}
      spec: {macro: pair, inputs: {first: 7}}
      wait_for: inner
    - {name: asked, agent: alice, prompt: "how many words?", wait_for: duo, patience: 10m}
    - {name: signal, wait: go, wait_for: asked}
    - {name: agreed, approval: "shall it go on?", wait_for: signal}
    - {name: told, message: init, body: "{{ nodes.signal }} {{ nodes.asked.words }}",
       wait_for: agreed}
    - name: which
      if: nodes.inner > 10
      body: [{name: big, data: {size: big}}]
      else_body: [{name: small, data: {size: small}}]
      wait_for: told
    - {name: skipped, data: {x: 1}, when: "nodes.inner < 0", wait_for: which}
    - {name: last, expression: {every: "[nodes.worked, nodes.inner, nodes.signal]"},
       wait_for: [skipped, which]}
  output: "{{ nodes.last.every }}"
"""


DOCUMENTS = {
    "policies/patient": POLICY,
    "macros/pair": MACRO,
    "pipelines/inner": INNER,
    "pipelines/main": MAIN,
}
OPEN = ("queued\n", "running\n", "suspended\n")
DEAD = (OSError, AssertionError, ValueError, subprocess.SubprocessError)
"""What a person, or a program of theirs, gets from a tree whose daemon is dead."""


class FlowSweep:
    """Runs the scenario to its end, over a death at each of the moments: of all hits so many as
    `moments` says, by the seed; 0: each."""

    NAME = "workflows"

    def __init__(self, seed: int, moments: int = 0, *, say: Callable[[str], object] = str) -> None:
        self.report = SweepReport(seed, self.NAME)
        self._moments = moments
        self._say = say
        self._end: View = {}

    def run(self, only: Iterable[int] = (), hatchery: Hatchery | None = None) -> SweepReport:
        """Die at the chosen moments, or `only` at these. A `hatchery` of one's own is left open."""
        moments = only or self._moments
        return die_at_each(self.report, moments, self._learn, self._fall, hatchery)

    def scenario(self, tree: QuickTree, panel: Panel) -> Scenario:
        """What happens in a tree."""
        return _Flow(tree, panel)

    def _learn(self, tree: QuickTree, panel: Panel) -> None:
        self._end = self.scenario(tree, panel).run()
        self.report.hits = panel.hits

    def _fall(self, tree: QuickTree, panel: Panel, moment: int) -> None:
        scenario = self.scenario(tree, panel)
        try:
            end = scenario.run()
        except DEAD as failure:
            self._fault(f"{scenario.place(moment)}: {failure}")
            return
        if not scenario.fell_in:
            return  # threads make the number of hits differ a little: this time there were less
        self.report.fell[panel.fell] += 1
        self.report.steps[scenario.fell_in] += 1
        for fault in scenario.faults():
            self._fault(f"{scenario.place(moment)}: {fault}")
        for key in sorted(end.keys() | self._end.keys()):
            if end.get(key) != self._end.get(key):
                words = f"{key} is {end.get(key)!r}, and without a death {self._end.get(key)!r}"
                self._fault(f"{scenario.place(moment)}: {words}")

    def _fault(self, words: str) -> None:
        self.report.faults.append(words)
        self._say(words)


class Scenario:
    """One tree, and a person in it who does again what failed. `fell_in` is what the person was
    doing when the daemon died."""

    def __init__(self, tree: QuickTree, panel: Panel) -> None:
        self._panel = panel
        self.fell_in = ""
        self._doing = "mount"
        self._tree = tree
        self._folder = tree.path.parent / "work"
        self._folder.mkdir()
        self._crashed: list[str] = []

    def place(self, moment: int) -> str:
        """Where the daemon died, in words."""
        return (
            f"moment {moment} ({self._panel.fell or 'no death'}, in: {self.fell_in or self._doing})"
        )

    def faults(self) -> list[str]:
        """What is wrong with the store, after the death and now, and with what runs."""
        return [*self._crashed, *faults_of(self._tree.state), *strays_of(self._tree)]

    def run(self) -> View:
        """What there is in the end."""
        raise NotImplementedError

    def _do(self, name: str, step: Callable[[], T]) -> T:
        """Do a step of the person; if the daemon dies in it, start the next one, and do it
        again."""
        self._doing = name
        try:
            return step()
        except DEAD:
            if not self._panel.fell or self.fell_in:
                raise
        self.fell_in = name
        tree = self._tree
        eventually(lambda: is_free(tree.state), "the dead daemon keeps its lock")
        if (tree.state / "store.db").exists():
            self._crashed += faults_of(tree.state, after_crash=True, new=name == "mount")
        tree.daemon = None
        tree.words = ("--panel", self._panel.path)
        tree.mount()
        return step()


class _Flow(Scenario):
    """A run with nodes of all kinds, and those who work for it."""

    def __init__(self, tree: QuickTree, panel: Panel) -> None:
        super().__init__(tree, panel)
        (self._folder / "flow.py").write_text(CODE)
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> View:
        """What there is in the end."""
        tree = self._tree
        self._do("mount", lambda: None if os.path.ismount(tree.path) else tree.mount())
        self._do("make the pool", lambda: (tree / "dev/pools/sums").mkdir(exist_ok=True))
        self._work()
        self._do("spawn the agent", self._spawn)
        for name, text in DOCUMENTS.items():
            self._do(f"write {name}", lambda at=(name, text): _write(tree, *at))  # type: ignore[misc]
        given = json.dumps({"n": 4, "folder": str(self._folder)})
        request = f"Key: one\n\n{given}"
        run = self._do("start", lambda: int(tree.ask("etc/pipelines/main/run", request)))
        self._do("send the signal", lambda: self._signal(run))
        self._do("approve", lambda: self._approve(run))
        self._do("wait", lambda: eventually(lambda: self._is_over(run)))
        return self._do("look", lambda: self._observe(run))

    def _work(self) -> None:
        """Start a worker at the pool."""
        worker = [sys.executable, "-m", "agentfs.steps", str(self._folder), "--pool", "sums"]
        environment = os.environ | {"AGENTFS": str(self._tree.path)}
        with (self._folder / "worker.log").open("ab") as log:
            self._worker = self._tree.start(
                *worker, cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    # -- the steps of the person -------------------------------------------------------------------

    def _spawn(self) -> None:
        """The agent that answers. Its name is taken if it is there already."""
        if not (self._tree / "agents/alice").exists():
            self._tree.spawn("alice", exec=[sys.executable, "-c", ALICE], restart="always")

    def _signal(self, run: int) -> None:
        node = f"proc/runs/{run}/nodes/signal/state"
        if self._tree.read(node) not in ("completed\n", "running\n"):
            (self._tree / f"proc/runs/{run}/signals/go").write_text('"now"')

    def _is_over(self, run: int) -> bool:
        if self._worker is not None and self._worker.poll() is not None:
            self._work()  # it was begun when there was no tree
        return self._tree.read(f"proc/runs/{run}/state") not in OPEN

    def _approve(self, run: int) -> None:
        """Agree to the first thing that is asked for."""
        requests = self._tree / "dev/approvals"

        def asked() -> bool:
            return any(map(str.isdigit, os.listdir(requests))) or self._is_over(run)

        eventually(asked)
        for name in os.listdir(requests):
            if name.isdigit() and "State:\tpending\n" in (requests / name / "status").read_text():
                self._tree.run("approve", name)

    # -- what there is in the end ------------------------------------------------------------------

    def _observe(self, run: int) -> View:
        tree = self._tree
        view: View = {"end": tree.read(f"proc/runs/{run}/wait")}
        self._look(tree / f"proc/runs/{run}/nodes", "", view)
        view["runs"] = str(len([name for name in os.listdir(tree / "proc/runs") if name.isdigit()]))
        said = [Message(path.read_bytes()) for path in (tree / "agents/init/inbox/new").iterdir()]
        del view["told output"]  # it has the number of the message
        view["told"] = str([each.text for each in said if each.get("Node")])
        lines = tree.read(f"proc/runs/{run}/events").splitlines()
        events = [json.loads(line) for line in lines]
        view["numbers"] = str([each["seq"] for each in events] == list(range(1, len(events) + 1)))
        view["ends"] = str([e["type"] for e in events if e["type"] == "PipelineCompleted"])
        keys = (self._folder / "effects").read_text().splitlines()
        view["step keys"] = str({key.removeprefix(f"{run}/") for key in keys})
        view["effects"] = "2 to 4" if 2 <= len(keys) <= 4 else str(len(keys))
        return view

    def _look(self, nodes: Path, above: str, view: View) -> None:
        """State and output of each node, at any depth."""
        for node in nodes.iterdir():
            name = f"{above}{node.name}"
            for file in ("state", "output", "error"):
                text = (node / file).read_text()
                view[f"{name} {file}"] = text.replace(str(self._folder), "FOLDER")
            if (node / "items").is_dir():
                for item in (node / "items").iterdir():
                    self._look(item, f"{name}/{item.name}/", view)


def _write(tree: Tree, name: str, text: str) -> None:
    (tree / f"etc/{name}.yaml").write_text(text)
