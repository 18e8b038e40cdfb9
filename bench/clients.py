"""Many clients at once, each an agent's program with a mix of calls: throughput, fairness, p99."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bench.counts import cpu_seconds
from bench.mixing import MIX
from bench.setting import PATIENCE, Setting, Tree
from bench.table import Row, percentile

__all__ = ["Outcome", "measure"]

PROGRAM = Path(__file__).with_name("mixing.py")
LEAD = 0.1
"""Seconds from the word to the beginning, so that all begin together."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The calls of the clients of one round, each {kind of call: microseconds of each}."""

    clients: list[dict[str, list[int]]]
    seconds: float
    daemon_seconds: float

    @property
    def done(self) -> list[int]:
        """How many calls each client made."""
        return [sum(map(len, took.values())) for took in self.clients]

    @property
    def rate(self) -> float:
        return sum(self.done) / self.seconds

    @property
    def fairness(self) -> float:
        """Calls of the client that made the fewest, as a share of the mean: 1 is even."""
        return min(self.done) * len(self.done) / sum(self.done)

    def took(self, *kinds: str) -> list[int]:
        return [one for took in self.clients for kind in kinds for one in took[kind]]


def measure(setting: Setting) -> Iterator[Row]:
    """1 to 64 clients, in turns; of each number the round with the highest rate."""
    numbers = (1, 3) if setting.quick else (1, 2, 4, 8, 16, 32, 64)
    seconds, rounds = (0.1, 1) if setting.quick else (2.0, 3)
    best: dict[int, Outcome] = {}
    with setting.tree() as tree, ExitStack() as stack:
        wires = _clients(tree, setting.folder, numbers[-1], stack)
        _round(tree, wires, seconds)  # to warm up
        for _ in range(rounds):
            for number in numbers:
                outcome = _round(tree, wires[:number], seconds)
                if number not in best or outcome.rate > best[number].rate:
                    best[number] = outcome
    for number in numbers:
        yield from _rows(number, best[number], best[1])


def _clients(tree: Tree, folder: Path, count: int, stack: ExitStack) -> list[TextIO]:
    """The lines to as many clients, by number."""
    tree.configure(messages={"max_waiting": 1_000_000}, processes={"max_children_of_init": 1000})
    path = str(folder / "clients.sock")
    wires: list[TextIO] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(PATIENCE)
        for number in range(count):
            command = [sys.executable, str(PROGRAM), path, str(number)]
            tree.spawn(f"client-{number}", exec=command, restart="never")
            connection, _ = listening.accept()
            with connection:
                wires.append(stack.enter_context(connection.makefile("rw")))
    return wires


def _round(tree: Tree, wires: list[TextIO], seconds: float) -> Outcome:
    begin = time.monotonic() + LEAD
    spent = cpu_seconds(tree.daemon)
    for wire in wires:
        print(begin, begin + seconds, len(wires), file=wire, flush=True)
    answers = []
    for number, wire in enumerate(wires):
        answer = wire.readline()
        if not answer:
            told = (tree / f"agents/client-{number}/log").read_text()
            raise SystemExit(f"client {number} ended: {told}")
        answers.append(json.loads(answer))
    return Outcome(answers, seconds, cpu_seconds(tree.daemon) - spent)


def _rows(number: int, outcome: Outcome, alone: Outcome) -> Iterator[Row]:
    clients = "1 client" if number == 1 else f"{number} clients"
    calls = sum(outcome.done)
    counts = {"µs of the daemon a call": outcome.daemon_seconds / calls * 1e6}
    yield Row(
        "clients", f"{clients}, the mix", outcome.rate, "/s", "1 client", alone.rate, counts=counts
    )
    if number > 1:
        what = f"{clients}, fewest calls of one"
        yield Row("clients", what, outcome.fairness, "of the mean")
    latencies = outcome.took(*MIX)
    parts = {"µs p50": percentile(latencies, 0.5)}
    for kind in MIX:
        if took := outcome.took(kind):
            parts[f"ms p99 of {kind}"] = percentile(took, 0.99) / 1e3
    yield Row("clients", f"{clients}, p99", percentile(latencies, 0.99) / 1e3, "ms", counts=parts)
