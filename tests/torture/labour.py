"""The sweep over tasks: an agent, a program from outside and the kernel itself do tasks of every
kind, and each time the daemon dies one moment later. Every task has to end as it ends without a
death, and its result is there once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

from tests.hatchery import QuickTree
from tests.torture.failpoints import Panel
from tests.torture.flow import FlowSweep, Scenario
from tests.torture.sweep import View
from tests.tree import eventually

__all__ = ["TaskSweep"]

HAND = """
import json, os, sys
tree, folder = os.environ["AGENTFS"], sys.argv[1]
with open(tree + "/dev/workers/new", "w") as new:
    new.write("{name: hand, agent: hand, capabilities: {skills: [count, fail]}}")
recv = os.open(tree + "/agents/hand/recv", os.O_RDWR | os.O_DIRECT)
while True:
    head, _, body = os.read(recv, 1 << 20).decode().partition("\\n\\n")
    if "\\nType: assigned-task\\n" not in head:
        continue
    task = json.loads(body)
    mark = folder + "/" + task["key"]
    if task["description"] == "fail" and not os.path.exists(mark):
        open(mark, "w").close()
        os._exit(3)
    with open(f"{tree}/dev/tasks/{task['task']}/result", "w") as result:
        result.write(json.dumps({"twice": 2 * task["input"]}))
"""
"""An agent that is a worker. Of the task `fail` it dies once."""

TASKS: dict[str, dict[str, object]] = {
    "count": {"input": 2, "requirements": {"skills": ["count"]}},
    "fail": {"input": 3, "requirements": {"skills": ["fail"]}},
    "outside": {"requirements": {"gpu": 1}, "priority": 9},
    "refused": {"requirements": {"gpu": 1}, "priority": 0},
    "program": {"program": ["cat"], "input": [1]},
    "waits": {"requirements": {"moon": True}},
}
ENDED = ("completed", "failed", "rejected", "cancelled", "dead")


class TaskSweep(FlowSweep):
    """Tasks of every kind, to the end of each."""

    NAME = "tasks"

    def scenario(self, tree: QuickTree, panel: Panel) -> Scenario:
        return _Labour(tree, panel)


class _Labour(Scenario):
    def run(self) -> View:
        tree = self._tree
        self._do("mount", lambda: None if os.path.ismount(tree.path) else tree.mount())
        self._do("spawn the agent", self._spawn)
        self._do("register", lambda: self._register("desk"))
        ids = {name: self._do(f"submit {name}", lambda n=name: self._submit(n)) for name in TASKS}  # type: ignore[misc]
        for name, outcome in (("outside", {"ok": "done"}), ("refused", {"error": "I do not"})):
            self._do(f"do {name}", lambda n=ids[name], o=outcome: self._work(n, o))  # type: ignore[misc]
        self._do("cancel", lambda: self._cancel(ids["waits"]))
        self._do("wait", lambda: eventually(lambda: all(map(self._is_over, ids.values()))))
        self._do("remove", lambda: self._remove("desk"))
        return self._do("look", lambda: self._observe(ids))

    def _spawn(self) -> None:
        """The agent that works. Its name is taken if it is there already."""
        if not (self._tree / "agents/hand").exists():
            command = [sys.executable, "-c", HAND, str(self._folder)]
            self._tree.spawn("hand", exec=command, restart="always")

    def _register(self, name: str) -> None:
        (self._tree / "dev/workers/new").write_text(f"{{name: {name}, capabilities: {{gpu: 1}}}}")

    def _submit(self, name: str) -> int:
        request = {"description": name, "key": name, "max_attempts": 20, **TASKS[name]}
        return int(self._tree.ask("dev/tasks/new", json.dumps(request)))

    def _state(self, task: int) -> str:
        return self._tree.read(f"dev/tasks/{task}/state").strip()

    def _is_over(self, task: int) -> bool:
        return self._state(task) in ENDED

    def _work(self, task: int, outcome: dict[str, str]) -> None:
        """Be a program from outside: take tasks until this one is done."""
        recv = os.open(self._tree / "dev/workers/desk/recv", os.O_RDWR | os.O_NONBLOCK)
        try:
            while not self._is_over(task):
                with contextlib.suppress(BlockingIOError):
                    told = json.loads(os.read(recv, 1 << 20).decode().partition("\n\n")[2])
                    about = {"task": told["task"], "attempt": told["attempt"]}
                    said = outcome if told["task"] == task else {"error": "not now", "again": True}
                    os.write(recv, json.dumps(about | said).encode() + b"\n")
        finally:
            os.close(recv)

    def _cancel(self, task: int) -> None:
        if not self._is_over(task):
            self._tree.write(f"dev/tasks/{task}/ctl", "cancel\n")

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._tree / f"dev/workers/{name}").rmdir()

    def _observe(self, ids: dict[str, int]) -> View:
        view: View = {}
        for name, task in ids.items():
            for file in ("state", "result", "error", "description"):
                with contextlib.suppress(FileNotFoundError):
                    view[f"{name} {file}"] = self._tree.read(f"dev/tasks/{task}/{file}")
            lines = self._tree.read(f"dev/tasks/{task}/history").splitlines()
            states = [json.loads(line)["state"] for line in lines]
            view[f"{name} ends"] = str([state for state in states if state in ENDED])
        view["tasks"] = str([n for n in os.listdir(self._tree / "dev/tasks") if n.isdigit()])
        view["workers"] = str(sorted(set(os.listdir(self._tree / "dev/workers")) - {"new"}))
        box = self._tree / "agents/hand/inbox"
        left = [path for folder in ("new", "cur") for path in (box / folder).iterdir()]
        view["left"] = str(
            [path.name for path in left if "\nType: assigned-task\n" in path.read_text()]
        )
        return view
