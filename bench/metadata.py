"""The cost of a file operation: beside tmpfs, Linux's /proc, a C libfuse and a pyfuse3 program.

Where the scheduler puts client and daemon decides what a round trip costs, more than anything they
do, so both layouts are measured: on cores of their own (`apart`: what a machine with work to do on
all cores comes to; the targets are for this one) and on one shared core.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.counts import per_call
from bench.setting import Setting, Tree, in_turns, serving
from bench.table import Row

__all__ = ["measure"]

HERE = Path(__file__).parent
FEW, MANY = 100, 10_000

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Beside:
    """A folder with the same files, and who serves it (None: Linux itself)."""

    name: str
    folder: Path
    daemon: int | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that is done to a file, and what is asked of it when client and daemon are apart.

    `ours` is the path in the tree, `theirs` in the other folders, `linux` in Linux's /proc.
    """

    what: str
    prepare: Callable[[str, contextlib.ExitStack], Call]
    ours: str
    theirs: str
    linux: str = ""
    targets: tuple[tuple[str, float], ...] = ()


TMPFS, LINUX, C_FUSE, PYFUSE = "tmpfs", "Linux's /proc", "C libfuse, no caching", "pyfuse3, minimal"


def measure(setting: Setting) -> Iterator[Row]:
    """Calls in both layouts, then listings of 100 and 10,000 processes."""
    with contextlib.ExitStack() as stack:
        tree = stack.enter_context(setting.tree())
        others = [
            Beside(TMPFS, stack.enter_context(_tmpfs(setting))),
            stack.enter_context(_c_program(setting.folder)),
            stack.enter_context(_minimal(setting.folder)),
        ]
        cores = sorted(os.sched_getaffinity(0))
        layouts = (("apart", cores[-1]), ("shared", cores[0]))
        for layout, core in layouts[: setting.size(2, 1)]:
            with _pinned(cores[0], core, [tree.daemon, *_daemons(others)]):
                for operation in OPERATIONS:
                    yield from _calls(setting, tree, others, operation, layout)
        yield from _listings(setting, tree, others)


# -- calls -----------------------------------------------------------------------------------------


def _stat(path: str, opened: contextlib.ExitStack) -> Call:
    return lambda: os.stat(path)


def _stat_missing(path: str, opened: contextlib.ExitStack) -> Call:
    def call() -> None:
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)

    return call


def _pread(path: str, opened: contextlib.ExitStack) -> Call:
    descriptor = os.open(path, os.O_RDONLY)
    opened.callback(os.close, descriptor)
    return lambda: os.pread(descriptor, 4096, 0)


def _whole(path: str, opened: contextlib.ExitStack) -> Call:
    def call() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)

    return call


STATUS = ("proc/1/status", "status", "self/status")

OPERATIONS = (
    Operation("stat", _stat, *STATUS, targets=((TMPFS, 2.0),)),
    Operation("pread", _pread, *STATUS, targets=((TMPFS, 2.0),)),
    Operation("open+read+close", _whole, *STATUS, targets=((C_FUSE, 0.8),)),
    # No cache can answer these: each call comes to the daemon.
    Operation("stat of what is not there", _stat_missing, "proc/0", "none", "0", ((PYFUSE, 1.2),)),
    Operation("pread of a live file", _pread, "proc/uptime", "live", "uptime", ((PYFUSE, 1.2),)),
    Operation(
        "open+read+close of a live file", _whole, "proc/uptime", "live", "uptime", ((PYFUSE, 1.2),)
    ),
)


def _calls(
    setting: Setting, tree: Tree, others: list[Beside], operation: Operation, layout: str
) -> Iterator[Row]:
    with contextlib.ExitStack() as opened:
        ours = operation.prepare(str(tree / operation.ours), opened)
        calls = {"": ours}
        for other in others:
            path = str(other.folder / operation.theirs)
            calls[other.name] = operation.prepare(path, opened)
        calls[LINUX] = operation.prepare(f"/proc/{operation.linux}", opened)
        best = in_turns(calls, setting.size(300, 5), setting.size(15, 2))
        counts = per_call(tree.daemon, ours, setting.size(3000, 10))
    targets = dict(operation.targets) if layout == "apart" else {}
    for name in (*(other.name for other in others), LINUX):
        yield Row(
            "metadata",
            f"{operation.what}, {layout}",
            best[""] * 1e6,
            "µs",
            name,
            best[name] * 1e6,
            targets.get(name),
            counts=counts if name == TMPFS else {},
        )


# -- listings --------------------------------------------------------------------------------------


def _listings(setting: Setting, tree: Tree, others: list[Beside]) -> Iterator[Row]:
    """A listing of /proc, and one with the attributes (what `ls -l` does), for each entry."""
    tree.configure(processes={"max_children_of_init": 1_000_000})
    made = 1
    smallest: dict[str, float] = {}
    for count in (FEW,) if setting.quick else (FEW, MANY):
        while made < setting.size(count, 5):
            made = tree.spawn(f"bench-{made}")
        folders = {"": tree / "proc", LINUX: Path("/proc")}
        folders |= {other.name: other.folder / str(count) for other in others}
        for listing, call in (("readdir", _readdir), ("readdir and stat", _readdir_and_stat)):
            calls = {name: partial(call, str(folder)) for name, folder in folders.items()}
            best = in_turns(calls, 1, 5 if count == FEW else 2)
            entries = {name: len(os.listdir(folder)) for name, folder in folders.items()}
            each = {name: best[name] / entries[name] * 1e6 for name in calls}
            what = f"{listing} of {count:,}, an entry"
            for name in (*(other.name for other in others), LINUX):
                note = f"of {entries[name]:,} there" if name == LINUX else ""
                yield Row("metadata", what, each[""], "µs", name, each[name], note=note)
            few = smallest.setdefault(listing, each[""])
            if count != FEW:
                yield Row("metadata", what, each[""], "µs", f"of {FEW} processes", few)


def _readdir(folder: str) -> None:
    os.listdir(folder)


def _readdir_and_stat(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # in Linux's /proc processes end
                os.stat(entry.path, follow_symlinks=False)


# -- beside whom -----------------------------------------------------------------------------------


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


def _daemons(others: list[Beside]) -> list[int]:
    return [other.daemon for other in others if other.daemon is not None]


@contextlib.contextmanager
def _tmpfs(setting: Setting) -> Iterator[Path]:
    """A folder on tmpfs: /dev/shm is one on every Linux."""
    with tempfile.TemporaryDirectory(prefix="agentfs-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        for file in ("status", "live"):
            (folder / file).write_text("x" * 511 + "\n")
        for count in (FEW,) if setting.quick else (FEW, MANY):
            (folder / str(count)).mkdir()
            for number in range(count):
                (folder / str(count) / str(number)).touch()
        yield folder


@contextlib.contextmanager
def _c_program(folder: Path) -> Iterator[Beside]:
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout.split()
    program = folder / "nocache"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-o", str(program), str(HERE / "nocache.c"), *flags], check=True
    )
    with serving([str(program), "-f"], folder / "c") as pid:
        yield Beside(C_FUSE, folder / "c", pid)


@contextlib.contextmanager
def _minimal(folder: Path) -> Iterator[Beside]:
    with serving([sys.executable, str(HERE / "minimal.py")], folder / "python") as pid:
        yield Beside(PYFUSE, folder / "python", pid)
