"""The workers of a measurement: started, told what to do, and heard."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from bench.alternatives.servers import ROOT
from bench.alternatives.ways import End, Way
from bench.setting import PATIENCE, Tree

__all__ = ["Couple", "Crew", "Worker", "crew"]


class Worker:
    """One process, at the other end of a line."""

    def __init__(self, line: TextIO) -> None:
        self._line = line

    def tell(self, do: str, **numbers: float) -> None:
        print(json.dumps({"do": do, **numbers}), file=self._line, flush=True)

    def hear(self) -> dict[str, Any]:
        """Its answer; whatever stopped it ends the benchmark."""
        text = self._line.readline()
        answer: dict[str, Any] = json.loads(text) if text else {"error": "a worker ended"}
        if "error" in answer:
            raise SystemExit(f"the benchmark: {answer['error']}")
        return answer


class Couple(NamedTuple):
    """One who sends, and one who receives it."""

    sender: Worker
    receiver: Worker


class Crew:
    """Where workers report, and what is needed to start them."""

    def __init__(self, stack: ExitStack, path: Path, tree: Tree, python: str) -> None:
        self._stack = stack
        self._path = path
        self._tree = tree
        self._python = python
        self._agents: dict[str, int] = {}  # by name, their pids
        self._listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        self._listening.bind(str(path))
        stack.callback(path.unlink)
        self._listening.listen(1000)
        self._listening.settimeout(PATIENCE)

    def couples(self, wanted: Sequence[tuple[Way, str]]) -> list[Couple]:
        """One for each way and name: all receivers, and then all senders, start at once."""
        receivers = self._start([(way, f"{name}-to", way.receiver) for way, name in wanted])
        senders = self._start([(way, f"{name}-from", way.sender) for way, name in wanted])
        return [Couple(*pair) for pair in zip(senders, receivers, strict=True)]

    def _start(self, wanted: Sequence[tuple[Way, str, Any]]) -> list[Worker]:
        for way, name, end in wanted:
            whom = name.replace("-from", "-to") if way.agents else name.rpartition("-")[0]
            self._start_one(way, name, end(whom))
        arrived = dict(self._arrived() for _ in wanted)
        return [arrived[name] for _, name, _ in wanted]

    def _start_one(self, way: Way, name: str, end: End) -> None:
        if way.agents:
            command = ["env", f"PYTHONPATH={ROOT}", *self._words(sys.executable, name, end)]
            parent = 1 if way.siblings else self._agents.get(f"{name.removesuffix('-from')}-to", 1)
            spawned = self._tree.spawn(name, parent, exec=command, restart="never")
            self._agents[name] = spawned
            return
        environment: Mapping[str, str] = os.environ | {"PYTHONPATH": str(ROOT)}
        program = subprocess.Popen(self._words(self._python, name, end), env=environment)
        self._stack.callback(_end, program)

    def _words(self, python: str, name: str, end: End) -> list[str]:
        module, kind, options = end
        worker = ["-m", "bench.alternatives.worker", str(self._path), name]
        return [python, *worker, module, kind, json.dumps(options)]

    def _arrived(self) -> tuple[str, Worker]:
        try:
            connection, _ = self._listening.accept()
        except TimeoutError:
            raise SystemExit("the benchmark: a worker does not start") from None
        with connection:
            line = self._stack.enter_context(connection.makefile("rw"))
        return line.readline().strip(), Worker(line)


@contextmanager
def crew(folder: Path, tree: Tree, python: str) -> Iterator[Crew]:
    """A crew; its workers end with it, because their lines do."""
    with ExitStack() as stack:
        yield Crew(stack, folder / "crew.sock", tree, python)


def _end(program: subprocess.Popen[bytes]) -> None:
    try:
        program.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
