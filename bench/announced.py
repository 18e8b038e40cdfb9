"""What it costs the daemon to announce changes to somebody who watches, at a thousand a second."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.alternatives.crew import Couple, Crew
from bench.alternatives.ways import Way, mail
from bench.counts import at_rest, cpu_seconds
from bench.setting import PATIENCE, Setting, Tree
from bench.table import Row, beside

__all__ = [
    "EVERY",
    "EVERYTHING",
    "Cost",
    "all_announced",
    "announce",
    "by_mask",
    "figure",
    "watched",
]

ROUNDS = 5
CHANGES, EVERY = 3000, 0.001
"""Changes of a round, and the seconds between two."""

EVERYTHING = "watched for everything"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a change: the requests beside the one that made it, and the processor time of the daemon
    and its announcer in µs, that request's with it."""

    requests: float
    cpu: float


def watched(tree: Tree, *, everything: bool) -> Way:
    """Mail to one who watches its inbox."""
    return mail(
        EVERYTHING if everything else "watched for what is created",
        tree,
        receiver=("ours", "Watcher", {"everything": everything}),
    )


def by_mask(setting: Setting, hired: Crew, tree: Tree) -> Iterator[Row]:
    """One who watches for what is created, beside one who watches for everything, in turns."""
    ways = [watched(tree, everything=everything) for everything in (False, True)]
    couples = hired.couples([(way, f"masks-{number}") for number, way in enumerate(ways)])
    costs: list[list[Cost]] = [[], []]
    for warm in (False, *[True] * setting.size(ROUNDS, 1)):
        for way, couple, found in zip(ways, couples, costs, strict=True):
            cost = announce(setting, tree, way.servers, couple)
            if warm:
                found.append(cost)
    created, everything = costs
    yield Row(
        "messages",
        "inotify, 1,000 changes/s: requests of an announcement",
        min(cost.requests for cost in created),
        "requests",
        target=3,
        counts={EVERYTHING: min(cost.requests for cost in everything)},
        note="beside the one that made the change; of the round in which Linux forgot fewest names",
    )
    yield beside(
        "messages",
        "inotify, 1,000 changes/s: processor a change",
        [cost.cpu for cost in created],
        "µs",
        EVERYTHING,
        [cost.cpu for cost in everything],
    )


def announce(setting: Setting, tree: Tree, servers: Sequence[int], couple: Couple) -> Cost:
    """A round. The watcher waits for one change more, which comes when all is counted: then it
    takes its mail, which is not counted."""
    count = setting.size(CHANGES, 50)
    couple.receiver.tell("notice", count=count + 1)
    time.sleep(0.05)  # it waits now
    figure(tree, "requests_total")
    first = figure(tree, "requests_total")
    before = figure(tree, "requests_total")
    spent = -_spent(servers)
    couple.sender.tell("pace", count=count, interval=EVERY)
    couple.sender.hear()
    at_rest(tree.daemon)  # a look is some requests, and costs it 2 ms
    spent += _spent(servers)
    looks = all_announced(tree) + 1
    requests = figure(tree, "requests_total") - before - looks * (before - first)
    couple.sender.tell("pace", count=1, interval=EVERY)
    couple.sender.hear()
    noticed = len(couple.receiver.hear()["wakes"])
    if looks > 2 or noticed != count + 1:
        raise SystemExit(f"the benchmark: {noticed} of {count + 1} changes were announced")
    all_announced(tree)
    return Cost(requests / count - 1, spent / count * 1e6)


def _spent(servers: Sequence[int]) -> float:
    return sum(map(cpu_seconds, servers))


def all_announced(tree: Tree) -> int:
    """Wait until nothing is left to announce. How many looks that took."""
    deadline = time.monotonic() + PATIENCE
    for looks in itertools.count(1):
        if not figure(tree, "announcements_waiting"):
            return looks
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)  # reading the figure costs the daemon 2 ms
    raise SystemExit("the benchmark: changes are never announced")


def figure(tree: Tree, name: str) -> float:
    """One of the mount's own, in /sys/metrics."""
    start = f"agentfs_mount_{name} "
    for line in (tree / "sys/metrics").read_text().splitlines():
        if line.startswith(start):
            return float(line.removeprefix(start))
    raise SystemExit(f"the benchmark: there is no {start}in /sys/metrics")
