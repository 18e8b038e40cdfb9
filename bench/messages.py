"""The side `messages`: what it costs to send, receive and acknowledge a message, how soon a
receiver wakes, and what watchers see; beside a Maildir, a SQLite queue, Redis Streams, and a mail
that keeps nothing.

Every way is used by processes of its own, `alternatives/worker.py`, that differ in nothing but the
calls they make. The ways of a family are all started first and then take turns; while one is
measured the others wait.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

from bench.alternatives.crew import Couple, crew
from bench.alternatives.servers import Redis, interpreter, on_ext4, redis_server
from bench.alternatives.ways import Empty, Family, Way, families
from bench.counts import cpu_seconds
from bench.setting import ROOT, Setting, Tree, serving
from bench.table import AT_LEAST, Row, beside, median
from bench.waking import wakes

__all__ = ["Result", "empty_mail", "measure", "race", "rates"]

PLANS = ((1, 500), (8, 100))
"""How many senders and as many receivers, and how many messages each of them sends in a round."""
QUICK_PLANS = ((1, 20), (2, 5))
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Result:
    """Messages a second, and the processor time that one took of clients and servers, in µs."""

    rate: float
    cpu: float


def measure(setting: Setting) -> Iterator[Row]:
    """Everything about messages."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(on_ext4(setting.folder))
        tree = stack.enter_context(setting.tree(str(folder / "agentfs")))
        tree.configure(processes={"max_children_of_init": 10_000})
        empty = stack.enter_context(empty_mail(folder))
        everysec = always = None
        if shutil.which("redis-server"):
            everysec = stack.enter_context(redis_server(folder, "everysec"))
            always = stack.enter_context(redis_server(folder, "always"))
        else:
            print("    redis-server is not installed: there is nothing beside ours", flush=True)
        python = interpreter()
        yield from rates(setting, folder, tree, empty, python, everysec, always)
        with crew(folder, tree, python) as hired:
            yield from wakes(setting, hired, tree, empty, everysec)


@contextlib.contextmanager
def empty_mail(folder: Path) -> Iterator[Empty]:
    """The floor: a mount that does nothing but pass messages."""
    mountpoint = folder / "empty"
    with serving([sys.executable, str(ROOT / "bench/empty_mail.py")], mountpoint) as pid:
        yield Empty(mountpoint, pid)


def rates(
    setting: Setting,
    folder: Path,
    tree: Tree,
    empty: Empty,
    python: str,
    everysec: Redis | None = None,
    always: Redis | None = None,
) -> Iterator[Row]:
    """Send, receive, acknowledge: one to one, and eight to eight."""
    serial = numbers()
    for pairs, messages in QUICK_PLANS if setting.quick else PLANS:
        queue = f"bench-{pairs}"
        (tree / f"dev/queues/{queue}").mkdir()
        for family in families(tree, folder, queue, empty, everysec, always):
            with crew(folder, tree, python) as hired:
                wanted = [
                    (way, f"m{next(serial)}-{pair}") for way in family.ways for pair in range(pairs)
                ]
                couples = hired.couples(wanted)
                running = [
                    (way, couples[number * pairs : (number + 1) * pairs])
                    for number, way in enumerate(family.ways)
                ]
                results = _in_turns(running, messages, setting.size(ROUNDS, 1))
            yield from _rows(family, results, pairs)


def _in_turns(
    running: list[tuple[Way, list[Couple]]], messages: int, rounds: int
) -> dict[str, list[Result]]:
    """What each way came to in each round. One round more, to warm up."""
    results: dict[str, list[Result]] = {way.name: [] for way, _ in running}
    for warm in (False, *[True] * rounds):
        for way, couples in running:
            result = race(way, couples, messages)
            if warm:
                results[way.name].append(result)
    return results


def race(way: Way, couples: list[Couple], messages: int) -> Result:
    """All send so many and receive at once; from the first send to the last acknowledgement."""
    spent = -sum(map(cpu_seconds, way.servers))
    for couple in couples:
        couple.receiver.tell("drain")
    for couple in couples:
        couple.sender.tell("fill", count=messages)
    sent = [couple.sender.hear() for couple in couples]
    received = [couple.receiver.hear() for couple in couples]
    spent += sum(map(cpu_seconds, way.servers))
    spent += sum(answer["cpu"] for answer in [*sent, *received])
    total = messages * len(couples)
    handled = sum(answer["handled"] for answer in received)
    if handled != total:
        raise SystemExit(f"the benchmark: {way.name}: {handled} of {total} messages arrived")
    took = max(answer["ended"] for answer in received) - min(answer["started"] for answer in sent)
    return Result(total * 1e9 / took, spent / total * 1e6)


def _rows(family: Family, results: dict[str, list[Result]], pairs: int) -> Iterator[Row]:
    for comparison in family.comparisons:
        ours, theirs = results[comparison.ours], results[comparison.beside]
        what, wanted = f"{pairs} to {pairs}, {comparison.ours}", comparison.wanted.get(pairs)
        spent, spent_theirs = ([result.cpu for result in each] for each in (ours, theirs))
        yield beside(
            "messages",
            what,
            [result.rate for result in ours],
            "/s",
            comparison.beside,
            [result.rate for result in theirs],
            wanted and wanted.rate,
            AT_LEAST,
            counts={
                "µs of processor a message": median(spent),
                "µs theirs": median(spent_theirs),
            },
        )
        if wanted is not None:
            yield beside(
                "messages",
                f"{what}: processor of all",
                spent,
                "µs",
                comparison.beside,
                spent_theirs,
                wanted.processor,
            )
