"""`./run bench [SIDE…]`: the cost of AgentFS, beside its alternatives.

Everything is measured side by side, in turns and in one run, so that the ratios hold on a busy
machine. Prints a table; exit code 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import sys
import time
from pathlib import Path

from bench.setting import Setting, Side, file_system, work_folder
from bench.table import Row, as_markdown, as_text, heading, write_json

__all__ = ["SIDES", "main"]

SIDES = {
    "metadata": "stat, pread, open+read+close, readdir: tmpfs, /proc, C libfuse, pyfuse3",
    "messages": "send, receive, acknowledge, wake, inotify: Maildir, SQLite queue, Redis Streams",
    "log": "the store's log: calls of the system, sends during folds, replay",
    "checks": "the cost of rules, limits, groups and budgets for a message",
    "scale": "100 to 100,000 processes, 1 to 1,000 programs, start-up, restart after kill -9",
    "clients": "1 to 64 clients with a mix of calls: throughput, fairness, p99",
    "files": "ordinary work in /shared: passthrough_hp, bindfs, tmpfs, the disk",
    "models": "calls of models: LiteLLM's proxy, no proxy, a topic",
    "workflows": "steps, starts, waits and wakes of runs: DBOS and LangGraph on SQLite",
    "tasks": "submit to assigned, assigned to completed: a queue's send and receive",
    "recall": "memory: recall among 100,000 notes, remember, the index; grep over the same files",
    "checkpoints": "a checkpoint of 5,000 files and 76 MB, its pause, and the way back",
    "instructions": "of the kernel's own calls, a message and a wake, counted by Callgrind",
    "before": "announcements, memory, starts beside a commit that had no log, run from git",
}
"""The sides, each a module of this package with a function `measure`, and what they measure."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write JSON where asked."""
    parser = argparse.ArgumentParser(
        prog="./run bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="sides:\n" + "\n".join(f"  {name:<14}{what}" for name, what in SIDES.items()),
    )
    parser.add_argument("sides", nargs="*", metavar="SIDE", help="default: all")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: does it run? No figures to quote"
    )
    parser.add_argument(
        "--most", type=int, default=100_000, help="the largest table of the side `scale`"
    )
    given = parser.parse_args(arguments)
    for name in given.sides:
        if name not in SIDES:
            parser.error(f"there is no side {name!r}; there are {', '.join(SIDES)}")
    signal.signal(signal.SIGTERM, _end)  # so that the trees are unmounted
    rows: list[Row] = []
    with work_folder() as folder:
        machine = _machine(folder, quick=given.quick)
        for name in given.sides or SIDES:
            print(f"\n{heading(name)}", flush=True)
            own = folder / name
            own.mkdir()
            measure: Side = importlib.import_module(f"bench.{name}").measure
            started = time.monotonic()
            for row in measure(Setting(given.quick, own, given.most)):
                rows.append(row)
                print(as_text(row), flush=True)
            print(f"    {time.monotonic() - started:.0f} s", flush=True)
    if given.json:
        write_json(given.json, rows, machine)
    if given.markdown:
        given.markdown.write_text(as_markdown(rows) + "\n")
    missed = [row for row in rows if row.holds is False]
    return 1 if missed and not given.quick else 0


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _machine(folder: Path, *, quick: bool) -> dict[str, object]:
    """The machine and its software, on which the figures depend."""
    model = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "linux": platform.release(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[0] if model else platform.machine(),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "state_on": file_system(folder),
        "quick": quick,
    }


if __name__ == "__main__":
    sys.exit(main())
