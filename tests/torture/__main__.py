"""`./run torture`: every harm at random while messages flow, then deaths one moment after another,
then no harm at all: the agents of the documents are left alone.

--seconds N     how long harm is done (60)
--messages N    how many messages are sent at most (200 a second, 10,000 at least)
--sweep N       at how many moments of the scenario the daemon dies (40; `all`: at each)
--flow N        at how many moments of a run with nodes of all kinds, and of tasks of all kinds (20;
                `all`: at each)
--moment N      only the death at this moment, as a fault names it
--soak N        how long the agents of the documents are left alone by the machine's clock, and then
                again by one that is 2,000 times as fast, with which 302 s are a week (15)
--fuzz N        only this, for so many seconds: calls of every kind on every file, with requests and
                documents that are spoiled a little
--neighbour N   only this: one agent does for so many seconds all that may hold others up, in eight
                processes, and it is measured how long another's calls take beside it
--seed S        as it was printed: the same programs, harm and moments
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.hatchery import QuickTree
from tests.torture.flow import FlowSweep
from tests.torture.fuzz import Fuzz
from tests.torture.labour import TaskSweep
from tests.torture.neighbour import Neighbour
from tests.torture.rig import torture
from tests.torture.soak import soak
from tests.torture.sweep import Sweep


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--messages", type=int)
    parser.add_argument("--sweep", type=lambda text: 0 if text == "all" else int(text), default=40)
    parser.add_argument("--flow", type=lambda text: 0 if text == "all" else int(text), default=20)
    parser.add_argument("--moment", type=int)
    parser.add_argument("--soak", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--fuzz", type=float, default=0.0)
    parser.add_argument("--neighbour", type=float, default=0.0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which unmounts
    print(f"seed {given.seed}", flush=True)
    if given.fuzz:
        return 1 if _fuzz(given.fuzz, given.seed) else 0
    if given.neighbour:
        return 1 if _neighbour(given.neighbour) else 0
    wrong: list[str] = []
    if given.seconds and given.moment is None:
        wrong += _torture(given.seconds, given.messages, given.seed)
    sweep = Sweep(given.seed, given.sweep, say=lambda words: print(words, flush=True))
    report = sweep.run() if given.moment is None else sweep.run([given.moment])
    print(report)
    wrong += report.faults
    if given.moment is None:
        for kind in (FlowSweep, TaskSweep):
            report = kind(given.seed, given.flow, say=lambda words: print(words, flush=True)).run()
            print(report)
            wrong += report.faults
    if given.soak and given.moment is None:
        wrong += _soak(given.soak)
    print(
        f"{len(wrong)} violations"
        if wrong
        else "nothing was lost, nothing came twice unmarked, nothing was half done or done again"
    )
    return 1 if wrong else 0


def _torture(seconds: float, messages: int | None, seed: int) -> list[str]:
    if messages is None:
        messages = max(10_000, round(200 * seconds))
    folder, wrong = Path(tempfile.mkdtemp(prefix="agentfs-torture-")), list[str]()
    try:
        report = torture(folder / "rig", seconds, messages, seed)
        wrong = report.violations
        print("\n".join([str(report), *wrong[:100]]), flush=True)
        if report.kept:
            print(f"the notes and the store are in {report.kept}", flush=True)
    finally:
        if not wrong:
            shutil.rmtree(folder)
    return wrong


def _fuzz(seconds: float, seed: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="agentfs-fuzz-") as folder:
        tree = QuickTree(Path(folder) / "tree")
        try:
            tree.mount()
            report = Fuzz(tree, seed).run(seconds=seconds)
        finally:
            tree.clean_up()
    print("\n".join([str(report), *report.faults]), flush=True)
    return report.faults


def _neighbour(seconds: float) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="agentfs-neighbour-") as folder:
        tree = QuickTree(Path(folder) / "tree")
        try:
            tree.mount()
            report = Neighbour(tree).run(seconds)
        finally:
            tree.clean_up()
    print("\n".join([str(report), *report.faults]), flush=True)
    return report.faults


def _soak(seconds: float) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="agentfs-soak-") as folder:
        report = soak(Path(folder) / "soak", seconds, seconds)
    print("\n".join([str(report), *report.faults[:100]]), flush=True)
    return report.faults


if __name__ == "__main__":
    sys.exit(main())
