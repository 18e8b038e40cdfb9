"""`./run bench`: what a call on the tree costs, beside what else one could use.

Everything is measured in one run, side by side and in turns, so that the ratios hold on a busy
machine; times are the best of the rounds, per call. Where the scheduler puts client and daemon
decides what a round trip costs, more than anything they do, so both layouts are measured: on cores
of their own (what a machine with work to do on all cores comes to; the targets are for this one)
and on one shared core. Exit code 1 if a ratio misses its target.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = 15
FEW, MANY = 100, 10_000

Call = Callable[[], object]


def main() -> int:
    """Measure, print the table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentfs-bench-")))
        tree, daemon = stack.enter_context(_agentfs(folder))
        c_program, c_pid = stack.enter_context(_c_program(folder))
        minimal, minimal_pid = stack.enter_context(_minimal(folder))
        yardsticks = {
            "tmpfs": stack.enter_context(_tmpfs(folder)),
            "C libfuse, no caching": c_program,
            "pyfuse3, minimal": minimal,
        }
        cores = sorted(os.sched_getaffinity(0))
        for layout, core in (("apart", cores[-1]), ("shared", cores[0])):
            with _pinned(cores[0], core, [daemon, c_pid, minimal_pid]):
                _measure_calls(tree, yardsticks, rows, layout)
        _measure_many(tree, rows)
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["holds"] is False for row in rows) else 0


# -- what is measured ------------------------------------------------------------------------------


@contextlib.contextmanager
def _pinned(ours: int, theirs: int, daemons: list[int]) -> Iterator[None]:
    """The client on one core, every daemon on another (or on the same)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ours})
    for pid in daemons:
        os.sched_setaffinity(pid, {theirs})
    try:
        yield
    finally:
        for pid in (0, *daemons):
            os.sched_setaffinity(pid, before)


def _measure_calls(
    tree: Path, yardsticks: dict[str, Path], rows: list[dict[str, object]], layout: str
) -> None:
    ours = tree / "proc" / "1" / "status"
    others = {name: folder / "status" for name, folder in yardsticks.items()}
    targets = {
        "stat": {"tmpfs": 3.0},
        "pread": {"tmpfs": 3.0},
        "open+read+close": {"C libfuse, no caching": 1.0},
    }
    for what, prepare in (("stat", _stat), ("pread", _pread), ("open+read+close", _whole)):
        with contextlib.ExitStack() as opened:
            calls = {name: prepare(path, opened) for name, path in others.items()}
            calls["agentfs"] = prepare(ours, opened)
            best = _in_turns(calls, 300)
        for name in others:
            target = targets[what].get(name) if layout == "apart" else None
            ratio = best["agentfs"] / best[name]
            rows.append(
                _row(
                    f"{what}, {layout}",
                    best["agentfs"] * 1e6,
                    "µs",
                    name,
                    best[name] * 1e6,
                    ratio,
                    target,
                )
            )


def _measure_many(tree: Path, rows: list[dict[str, object]]) -> None:
    (tree / "etc" / "agentfs.yaml").write_text("processes: {max_children_of_init: 1000000}\n")
    spent = {}
    made = 0
    folder = tree / "proc"

    def listing() -> object:
        return os.listdir(folder)

    for count in (FEW, MANY):
        started = time.perf_counter()
        while made < count:
            _spawn(tree, f"bench-{made}")
            made += 1
        print(
            f"  {count} processes in the table, {time.perf_counter() - started:.1f} s", flush=True
        )
        best = min(_time(listing, 1) for _ in range(5))
        spent[count] = best / count
    rows.append(
        _row(
            f"ls /proc, a process of {MANY}",
            spent[MANY] * 1e6,
            "µs",
            f"a process of {FEW}",
            spent[FEW] * 1e6,
            spent[MANY] / spent[FEW],
            10.0,
        )
    )
    daemon = int((tree / "proc" / "1" / "ospid").read_text())
    status = Path(f"/proc/{daemon}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    rows.append(
        _row(f"memory, {MANY} processes", resident, "MB", "the target", 150.0, resident / 150, 1.0)
    )


def _stat(path: Path, opened: contextlib.ExitStack) -> Call:
    text = str(path)
    return lambda: os.stat(text)


def _pread(path: Path, opened: contextlib.ExitStack) -> Call:
    descriptor = os.open(path, os.O_RDONLY)
    opened.callback(os.close, descriptor)
    return lambda: os.pread(descriptor, 4096, 0)


def _whole(path: Path, opened: contextlib.ExitStack) -> Call:
    text = str(path)

    def call() -> None:
        descriptor = os.open(text, os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)

    return call


def _spawn(tree: Path, name: str) -> None:
    descriptor = os.open(tree / "proc" / "1" / "spawn", os.O_RDWR)
    try:
        os.write(descriptor, f"name: {name}\n".encode())
    finally:
        os.close(descriptor)


def _time(call: Call, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def _in_turns(calls: dict[str, Call], times: int) -> dict[str, float]:
    """The best time per call of each, all of them measured in every round."""
    for call in calls.values():
        _time(call, times)
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            best[name] = min(best[name], _time(call, times))
    return best


# -- whom we measure -------------------------------------------------------------------------------


@contextlib.contextmanager
def _agentfs(folder: Path) -> Iterator[tuple[Path, int]]:
    mountpoint = folder / "agentfs"
    mountpoint.mkdir()
    command = [sys.executable, "-m", "agentfs.tools.cli"]
    subprocess.run(
        [*command, "mount", str(mountpoint), "--state", str(folder / "state")], check=True
    )
    try:
        yield mountpoint, int((mountpoint / "proc" / "1" / "ospid").read_text())
    finally:
        if subprocess.run([*command, "umount", str(mountpoint)], check=False).returncode:
            subprocess.run([*command, "umount", "--lazy", str(mountpoint)], check=True)


@contextlib.contextmanager
def _tmpfs(folder: Path) -> Iterator[Path]:
    """A folder on tmpfs: /dev/shm is one on every Linux."""
    with tempfile.TemporaryDirectory(prefix=folder.name, dir="/dev/shm") as name:
        (Path(name) / "status").write_text("x" * 511 + "\n")
        yield Path(name)


@contextlib.contextmanager
def _c_program(folder: Path) -> Iterator[tuple[Path, int]]:
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout.split()
    program = folder / "nocache"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-o", str(program), str(HERE / "nocache.c"), *flags], check=True
    )
    with _serving([str(program), "-f"], folder / "c") as serving:
        yield serving


@contextlib.contextmanager
def _minimal(folder: Path) -> Iterator[tuple[Path, int]]:
    with _serving([sys.executable, str(HERE / "minimal.py")], folder / "python") as serving:
        yield serving


@contextlib.contextmanager
def _serving(command: list[str], mountpoint: Path) -> Iterator[tuple[Path, int]]:
    """A program that serves a mount point: the mount point, and its pid."""
    mountpoint.mkdir()
    program = subprocess.Popen([*command, str(mountpoint)])
    try:
        deadline = time.monotonic() + 10
        while not os.path.ismount(mountpoint):
            if program.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not mount {mountpoint}")
            time.sleep(0.02)
        yield mountpoint, program.pid
    finally:
        program.send_signal(signal.SIGTERM)
        program.wait(10)


# -- the table -------------------------------------------------------------------------------------


def _row(
    what: str,
    ours: float,
    unit: str,
    beside: str,
    theirs: float,
    ratio: float,
    target: float | None,
) -> dict[str, object]:
    return {
        "what": what,
        "ours": round(ours, 3),
        "unit": unit,
        "beside": beside,
        "theirs": round(theirs, 3),
        "ratio": round(ratio, 3),
        "target": target,
        "holds": None if target is None else ratio <= target,
    }


def _print(rows: list[dict[str, object]]) -> None:
    print(f"\n{'what':<28}{'agentfs':>13}   {'beside':<24}{'':>12}{'ratio':>8}{'target':>9}")
    for row in rows:
        unit = row["unit"]
        target = "" if row["target"] is None else f"≤ {row['target']}"
        mark = {True: "ok", False: "MISSED", None: ""}[row["holds"]]  # type: ignore[index]
        print(
            f"{row['what']:<28}{row['ours']:>10} {unit}   {row['beside']:<24}"
            f"{row['theirs']:>9} {unit}{row['ratio']:>8}{target:>9} {mark}"
        )


if __name__ == "__main__":
    sys.exit(main())
