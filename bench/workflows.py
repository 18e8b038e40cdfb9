"""The side `workflows`: the cost of steps, starts, waits and wakes of runs, in turns with two
engines that keep workflows in SQLite: DBOS, and LangGraph with its SqliteSaver.

Ours go through the mount: a step is taken by a worker of `agentfs.steps` from a pool and answered
there, a start is a write, its end the end of a read. The processor time is that of all that a way
has running; the peers have one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.counts import cpu_seconds, resident
from bench.setting import PATIENCE, ROOT, Setting, Tree
from bench.table import AT_LEAST, Best, Row, percentile

__all__ = ["measure"]

TOGETHER = 20
QUIET_SECONDS = 6
"""After so many starts a log is folded into the database, every 5 seconds: then all is quiet."""
CODE = """
from agentfs.steps import step

@step
def nothing(index: int) -> int:
    return index
"""


@dataclass(slots=True)
class _Way:
    """An engine, and the best of its rounds."""

    name: str
    best: Best = field(default_factory=Best)


class _Engine(Protocol):
    """What is measured of each. `do` answers with `took` (s), `spent` (processor seconds), `held`
    (bytes of memory more) and `each` (s)."""

    def do(self, what: str, count: int) -> dict[str, Any]: ...


class _Peer:
    """A peer in a process of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir()
        python, program = ROOT / ".venv-durable/bin/python", ROOT / "bench/alternatives/durable.py"
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [python, program, name, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"the benchmark: a peer ended: {Path(self._log.name).read_text()[-2000:]}")

    def do(self, what: str, count: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {count}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)
        self._log.close()


class _Ours:
    """A mounted tree with a worker at a pool."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self._tree = tree
        folder.mkdir()
        (folder / "bench.py").write_text(CODE)
        (tree / "dev/pools/bench").mkdir()
        function = {"fn": "bench:nothing", "pool": "bench"}
        for name, nodes in {
            "steps": [_loop("times", {"count": "{{ input.count }}"}, "function", function)],
            "together": [
                _loop(
                    "for-each",
                    {"items": "{{ input.items }}", "concurrency": TOGETHER},
                    "function",
                    function | {"input_mapping": {"index": "$item"}},
                )
            ],
            "run": [_node("one", "function", function | {"input_mapping": {"index": "1 + 0"}})],
            "kernel": [
                _loop("times", {"count": "{{ input.count }}"}, "expression",
                      {"expressions": {"x": "index + 1"}})
            ],
            "program": [_node("one", "program", {"program": ["/bin/true"]})],
            "waiting": [_node("w", "wait", {"event_key": "bench-{{ input.number }}"})],
        }.items():  # fmt: skip
            document = {
                "kind": "Pipeline",
                "metadata": {"name": name},
                "spec": {"nodes": nodes, "max_concurrent_nodes": TOGETHER},
            }
            (tree / f"etc/pipelines/{name}.yaml").write_text(json.dumps(document))
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "agentfs.steps", folder, "--pool", "bench"],
            cwd=ROOT,
            env=os.environ | {"AGENTFS": str(tree.path), "PYTHONPATH": str(ROOT)},
        )
        self.start("run", {})

    def close(self) -> None:
        self._worker.terminate()
        self._worker.wait(PATIENCE)

    def begin(self, pipeline: str, given: object) -> int:
        return int(self._tree.ask(f"etc/pipelines/{pipeline}/run", json.dumps(given)))

    def start(self, pipeline: str, given: object) -> None:
        """Start a run, and wait for its end."""
        run = self.begin(pipeline, given)
        end = json.loads((self._tree / f"proc/runs/{run}/wait").read_text())
        if end["state"] != "completed":
            raise SystemExit(f"the benchmark: run {run} of {pipeline}: {end}")

    def spent(self) -> float:
        return cpu_seconds(self._tree.daemon) + cpu_seconds(self._worker.pid)

    def do(self, what: str, count: int) -> dict[str, Any]:
        held, spent, began = resident(self._tree.daemon), self.spent(), time.perf_counter()
        each: list[float] = []
        match what:
            case "steps" | "kernel":
                self.start(what, {"count": count})
            case "together":
                self.start(what, {"items": list(range(count))})
            case "runs" | "programs":
                for _ in range(count):
                    started = time.perf_counter()
                    self.start(what.removesuffix("s"), {})
                    each.append(time.perf_counter() - started)
            case "wait":
                for number in range(count):
                    self.begin("waiting", {"number": number})
            case "idle":
                time.sleep(count)
            case "wake":
                for number in range(count):
                    (self._tree / f"dev/waits/bench-{number}").write_text('"go"')
                while os.listdir(self._tree / "proc/runs/by-state/suspended"):
                    time.sleep(0.01)
        took = time.perf_counter() - began
        more = resident(self._tree.daemon) - held
        return {"took": took, "spent": self.spent() - spent, "held": more, "each": each}


def _node(name: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


def _loop(kind: str, own: dict[str, Any], inner: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A loop of this kind around one node."""
    return _node("loop", kind, own | {"body": [_node("step", inner, spec)]})


def measure(setting: Setting) -> Iterator[Row]:
    """Everything about runs."""
    with contextlib.ExitStack() as stack:
        tree = stack.enter_context(setting.tree())
        ours = stack.enter_context(contextlib.closing(_Ours(tree, setting.folder / "code")))
        engines: list[tuple[_Way, _Engine]] = [(_Way("AgentFS"), ours)]
        if (ROOT / ".venv-durable/bin/python").exists():
            for name, title in (("dbos", "DBOS"), ("langgraph", "LangGraph")):
                peer = _Peer(name, setting.folder / name)
                engines.append((_Way(title), stack.enter_context(contextlib.closing(peer))))
        for _ in range(setting.size(5, 1)):
            for way, engine in engines:
                _round(way, engine, setting)
        for way, engine in engines:
            _waits(way, engine, setting)
        mine, *peers = (way for way, _ in engines)
        yield from _rows(mine, {way.name: way for way in peers})
        yield from _kernel(setting, ours, mine, {way.name: way for way in peers})
        yield from _programs(setting, tree, ours)
        yield from _many(setting, tree, ours)


def _round(way: _Way, engine: _Engine, setting: Setting) -> None:
    """Steps one after the other, 20 at once, and runs of one step."""
    count = setting.size(400, 20)
    done = engine.do("steps", count)
    way.best.keep("processor a step", done["spent"] / count)
    way.best.keep("steps a second", count / done["took"], max)
    count = setting.size(800, 2 * TOGETHER)
    done = engine.do("together", count)
    way.best.keep("processor a step, 20 at once", done["spent"] / count)
    way.best.keep("steps a second, 20 at once", count / done["took"], max)
    done = engine.do("runs", setting.size(60, 3))
    way.best.keep("start to result, p50", percentile(done["each"], 0.5))


def _waits(way: _Way, engine: _Engine, setting: Setting) -> None:
    count, pause = setting.size(1000, 10), setting.size(10, 1)
    way.best["memory of a waiting run"] = engine.do("wait", count)["held"] / count
    engine.do("idle", QUIET_SECONDS)
    way.best["processor while 1,000 wait"] = engine.do("idle", pause)["spent"] / pause
    way.best["resumed a second"] = count / engine.do("wake", count)["took"]


def _rows(mine: _Way, peers: dict[str, _Way]) -> Iterator[Row]:
    for what, unit, scale, targets in (
        ("processor a step", "µs", 1e6, {"DBOS": 0.5, "LangGraph": 1.6}),
        ("steps a second", "/s", 1.0, {}),
        ("processor a step, 20 at once", "µs", 1e6, {}),
        ("steps a second, 20 at once", "/s", 1.0, {"LangGraph": 2.0}),
        ("start to result, p50", "ms", 1e3, {"DBOS": 1.5}),
        ("memory of a waiting run", "bytes", 1.0, {}),
        ("processor while 1,000 wait", "% of a core", 100.0, {}),
        ("resumed a second", "/s", 1.0, {"LangGraph": 2.0}),
    ):
        bound = {"bound": AT_LEAST} if unit == "/s" else {}
        figure = mine.best[what] * scale
        if not peers:
            yield Row("workflows", what, figure, unit)
        for name, peer in peers.items():
            theirs = peer.best[what] * scale
            yield Row("workflows", what, figure, unit, name, theirs, targets.get(name), **bound)  # type: ignore[arg-type]


def _kernel(setting: Setting, ours: _Ours, mine: _Way, peers: dict[str, _Way]) -> Iterator[Row]:
    """Nodes that the kernel does itself, of which 200 go into one commit."""
    count = setting.size(2000, 100)
    best = max(count / ours.do("kernel", count)["took"] for _ in range(setting.size(5, 1)))
    what = "nodes of the kernel a second"
    if "LangGraph" in peers:
        theirs = peers["LangGraph"].best["steps a second"]
        yield Row("workflows", what, best, "/s", "LangGraph's steps", theirs, 5.0, AT_LEAST)
    else:
        yield Row("workflows", what, best, "/s")


def _programs(setting: Setting, tree: Tree, ours: _Ours) -> Iterator[Row]:
    """A program as a step, beside the spawn of the same one and the wait for its end."""
    count = setting.size(30, 2)
    steps: list[float] = []
    spawns: list[float] = []
    for _ in range(setting.size(3, 1)):
        steps += ours.do("programs", count)["each"]
        for number in range(count):
            started = time.perf_counter()
            pid = tree.spawn(f"p{number}", exec=["/bin/true"], restart="never")
            (tree / f"proc/{pid}/wait").read_text()
            spawns.append(time.perf_counter() - started)
    step, spawn = percentile(steps, 0.5) * 1e3, percentile(spawns, 0.5) * 1e3
    yield Row("workflows", "program as a step, p50", step, "ms", "spawn and wait", spawn, 1.3)


def _many(setting: Setting, tree: Tree, ours: _Ours) -> Iterator[Row]:
    """10,000 runs that wait: their memory, what they cost while nothing happens, and a start with
    them."""
    count, pause = setting.size(10_000, 50), setting.size(10, 1)
    empty = _start_seconds(tree)
    held = ours.do("wait", count)["held"]
    ours.do("idle", QUIET_SECONDS)
    yield Row("workflows", f"memory of one of {count} waiting", held / count, "bytes", target=4096)
    idle = ours.do("idle", pause)["spent"] / pause * 100
    yield Row("workflows", f"processor while {count} wait", idle, "% of a core", target=0.3)
    full = _start_seconds(tree)
    more = {"s without": empty, "s with": full}
    yield Row("workflows", f"start with {count}, later", full - empty, "s", target=2, counts=more)


def _start_seconds(tree: Tree) -> float:
    """kill -9, and how long until the next daemon serves."""
    tree.kill()
    started = time.perf_counter()
    tree.mount()
    return time.perf_counter() - started
