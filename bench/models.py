"""The side `models`: what stands between an agent and a model costs, beside LiteLLM's proxy, the
way without anything between, and a topic of the tree.

A provider on the loopback answers at once (`alternatives/provider.py`). All ways are measured in
turns, by one client (`alternatives/caller.py`). The processor time is that of everything that a way
has running: of ours, the gateway and the daemon, with the budget asked before a call and told
after it; LiteLLM keeps no books here, which saves it a database.
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

from bench.alternatives.caller import Caller
from bench.alternatives.servers import ROOT, litellm_proxy, provider
from bench.counts import cpu_seconds, resident
from bench.setting import PATIENCE, Setting, Tree
from bench.table import AT_LEAST, Best, Row, percentile

__all__ = ["measure"]

LINES = 32
"""Callers at once, for the rate."""
STREAMS, GAP = 50, 50.0
"""Streams at once, and the milliseconds between two of their chunks, while files are read."""


@dataclass(slots=True)
class _Way:
    """A way to the provider, its processes, and the best of its rounds."""

    name: str
    caller: Caller
    processes: tuple[int, ...] = ()
    best: Best = field(default_factory=Best)

    def spent(self) -> float:
        return sum(map(cpu_seconds, self.processes))


def measure(setting: Setting) -> Iterator[Row]:
    """Everything about calls of models."""
    with contextlib.ExitStack() as stack:
        behind = stack.enter_context(provider())
        tree = stack.enter_context(setting.tree())
        ours = _ours(tree, behind, stack)
        ways = [_Way("no proxy", stack.enter_context(Caller(behind, "k", "bench", LINES))), ours]
        proxy = stack.enter_context(litellm_proxy(setting.folder, behind))
        if proxy is not None:
            caller = stack.enter_context(Caller(proxy.port, proxy.key, "bench", LINES))
            ways.append(_Way("LiteLLM's proxy", caller, (proxy.pid,)))
        for _ in range(setting.size(4, 1)):
            for way in ways:
                _round(way, setting)
        yield from _rows(ours, ways)
        yield from _device(setting, tree, ours)
        yield from _beside_streams(setting, tree, ours)


def _ours(tree: Tree, behind: int, stack: contextlib.ExitStack) -> _Way:
    """Through the gateway of a tree that has the provider and one model, at ordinary prices."""
    document = {
        "providers": {"bench": {"url": f"http://127.0.0.1:{behind}", "speaks": ["chat"]}},
        "models": {"bench": {"tier": "strategic", "provider": "bench", "input": 1, "output": 2}},
    }
    (tree / "etc/models.yaml").write_text(json.dumps(document))
    gateway = _gateway(tree)
    port = int(gateway["address"].rpartition(":")[2])
    caller = stack.enter_context(Caller(port, "agentfs", "bench", LINES))
    caller.call(1, 1, 1)  # starts it
    return _Way("AgentFS", caller, (int(_gateway(tree)["ospid"]), tree.daemon))


def _gateway(tree: Tree) -> dict[str, str]:
    lines = (tree / "sys/gateway").read_text().splitlines()
    return {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}


def _round(way: _Way, setting: Setting) -> None:
    """Calls one after the other, calls of many at once, streams one after the other."""
    calls, streams, chunks = setting.size(200, 5), setting.size(10, 2), setting.size(500, 20)
    spent = way.spent()
    done = way.caller.call(calls, 1, 1)
    one = (way.spent() - spent) / calls
    way.best.keep("processor a call", one)
    way.best.keep("call", percentile(done["whole"], 0.5))
    done = way.caller.call(setting.size(40, 2), 1, 5, stream=True)
    way.best.keep("first byte", percentile(done["first"], 0.5))
    done = way.caller.call(setting.size(400, LINES), LINES, 1)
    way.best.keep("calls a second", len(done["whole"]) * 1e9 / done["took"], max)
    spent = way.spent()
    done = way.caller.call(streams, 1, chunks, stream=True)
    if done["words"] != streams * chunks:
        raise SystemExit(f"the benchmark: {way.name}: {done['words']} of {streams * chunks} words")
    way.best.keep("processor a chunk", ((way.spent() - spent) / streams - one) / chunks)


def _rows(ours: _Way, ways: list[_Way]) -> Iterator[Row]:
    direct = ways[0].best
    late = (ours.best["first byte"] - direct["first byte"]) / 1e6
    own = {"ms with": ours.best["first byte"] / 1e6, "ms without": direct["first byte"] / 1e6}
    yield Row("models", "first byte, later than without", late, "ms", target=1.0, counts=own)
    for what, unit, scale, target in (
        ("processor a call", "µs", 1e6, 1 / 5),
        ("processor a chunk", "µs", 1e6, 1 / 10),
        ("call", "ms", 1e-6, None),
        ("calls a second", "/s", 1.0, 10.0),
    ):
        bound = {"bound": AT_LEAST} if unit == "/s" else {}
        counts = {f"{unit} without a proxy": direct[what] * scale} if what not in SPENT else {}
        for other in ways[2:]:
            figures = (ours.best[what] * scale, unit, other.name, other.best[what] * scale)
            yield Row("models", what, *figures, target, counts=counts, **bound)
        if not ways[2:]:
            yield Row("models", what, ours.best[what] * scale, unit, counts=counts)
    for other in ways[2:]:
        held, theirs = resident(ours.processes[0]) / 1e6, resident(other.processes[0]) / 1e6
        yield Row("models", "memory", held, "MB", other.name, theirs, 1 / 5)


SPENT = frozenset({"processor a call", "processor a chunk"})
"""Figures that the way without a proxy has none of."""


def _device(setting: Setting, tree: Tree, ours: _Way) -> Iterator[Row]:
    """The processor time that a chunk read from /dev/llm takes, beside a record of a topic."""
    count, gap = setting.size(500, 20), 2.0
    best: dict[str, float] = {}
    for _ in range(setting.size(3, 1)):
        spent = ours.spent()
        descriptor = os.open(tree / "dev/llm/bench", os.O_RDWR)
        try:
            os.write(descriptor, f"say {count} {gap}".encode())
            _read_all(descriptor)
        finally:
            os.close(descriptor)
        best["chunk"] = min(best.get("chunk", 1.0), (ours.spent() - spent) / count)
        spent = cpu_seconds(tree.daemon)
        _records(tree, count, gap / 1000)
        best["record"] = min(best.get("record", 1.0), (cpu_seconds(tree.daemon) - spent) / count)
    beside = "a record of a topic"
    chunk, record = best["chunk"] * 1e6, best["record"] * 1e6
    yield Row("models", "processor a chunk of /dev/llm", chunk, "µs", beside, record, 1.5)


def _read_all(descriptor: int) -> int:
    total = 0
    while data := os.read(descriptor, 65536):
        total += len(data)
    return total


def _records(tree: Tree, count: int, gap: float) -> None:
    """Publish so many records of a few bytes, one at a time, to one who reads each."""
    topic = tree / "dev/topics/bench"
    writer = os.open(topic, os.O_WRONLY | os.O_CREAT)
    reader = os.open(topic, os.O_RDONLY)
    try:
        for number in range(count):
            os.write(writer, f" word{number}\n".encode())
            os.read(reader, 4096)
            time.sleep(gap)
    finally:
        os.close(writer)
        os.close(reader)


def _beside_streams(setting: Setting, tree: Tree, ours: _Way) -> Iterator[Row]:
    """The 99th percentile of a read through the mount, with streams going on and without."""
    reads, rounds = setting.size(1500, 20), setting.size(4, 1)
    streams = setting.size(STREAMS, 3)
    chunks = int(setting.size(6000, 1000) / GAP)
    address = _gateway(tree)["address"].rpartition(":")[2]
    words = [address, "agentfs", "bench", str(streams), str(chunks), str(GAP)]
    best: dict[bool, tuple[float, float]] = {}
    for _ in range(rounds):
        quiet = _reading(tree, reads)
        with _program(words):
            busy = _reading(tree, reads)
        best = {
            with_them: min(best.get(with_them, one), one)
            for with_them, one in ((False, quiet), (True, busy))
        }
    counts = {"µs p50 with": best[True][1], "µs p50 without": best[False][1]}
    figures = (best[True][0], "µs", "without", best[False][0])
    yield Row("models", f"open+read+close, p99, {streams} streams", *figures, 1.2, counts=counts)


@contextlib.contextmanager
def _program(words: list[str]) -> Iterator[None]:
    """A process that streams; the block begins when all its streams have."""
    command = [sys.executable, "-m", "bench.alternatives.caller", *words]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert program.stdout is not None
        if not program.stdout.readline():
            raise SystemExit("the benchmark: the streams did not begin")
        yield
        if program.poll() is not None:
            raise SystemExit("the benchmark: the streams ended before the reads did")
    finally:
        program.terminate()
        program.communicate(timeout=PATIENCE)


def _reading(tree: Tree, reads: int) -> tuple[float, float]:
    """(99th percentile, median) of an open, a read and a close, in µs."""
    path = str(tree / "proc/1/status")
    took: list[float] = []
    for _ in range(reads):
        started = time.perf_counter_ns()
        Path(path).read_bytes()
        took.append((time.perf_counter_ns() - started) / 1e3)
    return percentile(took, 0.99), percentile(took, 0.5)
