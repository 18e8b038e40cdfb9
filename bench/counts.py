"""Figures that a busy machine does not change: the daemon's work for a call, counted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["at_rest", "children", "cpu_seconds", "per_call", "read_perf", "resident"]

EVENT = "instructions:u"
BLOCKS = 10
"""Processor time is that of the best of so many blocks."""
_ATTACHING = 0.3
"""Seconds that perf is given to attach to a process; it does not say when it has."""


def per_call(daemon: int, call: Callable[[], object], times: int) -> dict[str, float]:
    """The cost for `daemon` of one of `times` (at least BLOCKS) calls: processor time in µs, and
    instructions where the machine can count them."""
    best = float("inf")
    for _ in range(BLOCKS):
        before = cpu_seconds(daemon)
        for _ in range(times // BLOCKS):
            call()
        best = min(best, (cpu_seconds(daemon) - before) / (times // BLOCKS))
    counts = {"µs of the daemon": best * 1e6}
    counted = _instructions(daemon, call, times)
    if counted is not None:
        counts["instructions of the daemon"] = counted / times
    return counts


def cpu_seconds(pid: int) -> float:
    """Processor time of a process in seconds, with that of its threads which have ended: what its
    clock says, whose number Linux makes of the pid like this (CPUCLOCK_SCHED)."""
    return time.clock_gettime(~pid << 3 | 2)


def at_rest(pid: int) -> None:
    """Return when a process has used no processor time for 50 ms, or after ten seconds."""
    for _ in range(200):
        before = cpu_seconds(pid)
        time.sleep(0.05)
        if cpu_seconds(pid) == before:
            return


def children(pid: int) -> list[int]:
    """The processes that a process started and that still run."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process has in use, without what belongs to files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


_can_count: list[bool] = []


def _instructions(pid: int, call: Callable[[], object], times: int) -> float | None:
    """Instructions that a process executes in user mode for `times` calls; None if that cannot be
    counted here (no perf, or a machine without counters)."""
    if not _can_count:
        _can_count.append(_probe())
    if not _can_count[0]:
        return None
    perf = subprocess.Popen(
        ["perf", "stat", "-x;", "-e", EVENT, "-p", str(pid)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    try:
        time.sleep(_ATTACHING)
        for _ in range(times):
            call()
    finally:
        perf.send_signal(signal.SIGINT)
        _, told = perf.communicate(timeout=30)
    return read_perf(told)


def _probe() -> bool:
    if shutil.which("perf") is None:
        return False
    done = subprocess.run(
        ["perf", "stat", "-x;", "-e", EVENT, "true"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )
    return done.returncode == 0 and read_perf(done.stderr) is not None


def read_perf(told: str) -> float | None:
    """The count in what `perf stat -x;` prints; None if the event is not supported."""
    for line in told.splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[2].startswith(EVENT.split(":")[0]) and fields[0].isdigit():
            return float(fields[0])
    return None
