"""What was gained, and not lost, since commit 95a13ff, which had no log, no hand-over and no masks:
that commit runs from git beside today's sources, in turns, where git has it.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from agentfs.store.replay import lacking
from bench.alternatives.crew import crew
from bench.announced import Cost, announce, watched
from bench.counts import cpu_seconds
from bench.population import Population
from bench.setting import ROOT, Setting, Tree
from bench.table import Row, beside, median

__all__ = ["COMMIT", "checkout", "measure"]

COMMIT = "95a13ff"
BESIDE = f"commit {COMMIT}"
ROUNDS = 5
PROCESSES = 1000
LOGGED = 95
"""Messages that are sent right before the kill -9: of a hundred the log is folded."""
FOLDED_SECONDS = 0.3
"""After which the log is empty, if nothing happens."""


def measure(setting: Setting) -> Iterator[Row]:
    """Announcements, memory, starts."""
    sources = checkout(setting.folder / "before")
    if sources is None:
        return
    for measured in (_announcing, _sizes):  # each in trees of its own
        name = measured.__name__.strip("_")
        before = Tree(setting.folder / f"{name}-before", sources)
        with setting.tree(name) as today, _mounted(before):
            yield from measured(setting, today, before)


def checkout(folder: Path) -> Path | None:
    """The sources of COMMIT, in a new folder; None, and words, where git does not have them."""
    top = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--show-toplevel"], capture_output=True, check=False
    )
    archive = subprocess.run(
        ["git", "-C", os.fsdecode(top.stdout.strip()) or "/", "archive", COMMIT],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        print(f"    {COMMIT} is not in git here: nothing is measured beside it", flush=True)
        return None
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@contextmanager
def _mounted(tree: Tree) -> Iterator[Tree]:
    try:
        tree.mount()
        yield tree
    finally:
        tree.unmount()


def _announcing(setting: Setting, today: Tree, before: Tree) -> Iterator[Row]:
    """One who watches for what is created, in both trees, in turns."""
    costs: list[list[Cost]] = [[], []]
    with ExitStack() as stack:
        couples = []
        for tree in (today, before):
            hired = stack.enter_context(crew(tree.state.parent, tree, sys.executable))
            way = watched(tree, everything=False)
            couples.append((tree, way, *hired.couples([(way, "before")])))
        for warm in (False, *[True] * setting.size(ROUNDS, 1)):
            for (tree, way, couple), found in zip(couples, costs, strict=True):
                cost = announce(setting, tree, way.servers, couple)
                if warm:
                    found.append(cost)
    yield beside(
        "before",
        "inotify, 1,000 changes/s: processor a change",
        [cost.cpu for cost in costs[0]],
        "µs",
        BESIDE,
        [cost.cpu for cost in costs[1]],
        0.65,
        counts={
            "requests": median([cost.requests for cost in costs[0]]),
            "requests before": median([cost.requests for cost in costs[1]]),
        },
    )


def _sizes(setting: Setting, today: Tree, before: Tree) -> Iterator[Row]:
    """Memory of the processes, and starts with them after a kill -9."""
    trees, processes = (today, before), setting.size(PROCESSES, 20)
    populations = [Population(tree) for tree in trees]
    for population in populations:
        population.grow_to(processes)
    memory, memory_before = (population.bytes_each() / 1024 for population in populations)
    what = f"memory a process, {processes:,}"
    yield Row("before", what, memory, "KB", BESIDE, memory_before, 1.05)
    took: list[list[float]] = [[], []]
    spent: list[list[float]] = [[], []]
    logged = []
    for warm in (False, *[True] * setting.size(ROUNDS, 1)):
        for tree, passed, processor in zip(trees, took, spent, strict=True):
            _fill_log(tree)
            tree.kill()
            if tree is today and warm:
                logged.append(_not_folded(tree))
            started = time.perf_counter()
            tree.mount()
            if warm:
                passed.append(time.perf_counter() - started)
                processor.append(cpu_seconds(tree.daemon))
    yield beside(
        "before",
        f"start after kill -9, {processes:,} processes and a full log",
        took[0],
        "s",
        BESIDE,
        took[1],
        1.05,
        counts={
            "transactions in the log": median(logged),
            "s of the daemon's processor time": median(spent[0]),
            "s before": median(spent[1]),
        },
    )


def _fill_log(tree: Tree) -> None:
    """Messages that are not folded yet, if nothing else is at work: a fold comes every 50 ms."""
    time.sleep(FOLDED_SECONDS)
    send = os.open(tree / "agents/init/send", os.O_WRONLY)
    try:
        for _ in range(LOGGED):
            os.write(send, b"To: bench-2\n\nhello")
    finally:
        os.close(send)


def _not_folded(tree: Tree) -> int:
    """The transactions of the log that the database lacks."""
    store = tree.state / "store.db"
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database:
        return lacking(database, store).count
