"""Ordinary work on real files: /shared beside FUSE programs in C that pass everything on (libfuse's
passthrough_hp, bindfs), and beside the disk and memory themselves.

All folders lie on one disk, memory aside. Every figure is the least of its rounds, and in each
round all sides have their turn.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.setting import ROOT, Setting, serving
from bench.table import Row

__all__ = ["measure"]

HP, BINDFS, DISK, MEMORY = "passthrough_hp", "bindfs", "the disk itself", "tmpfs"
TARGET = 1.5  # times passthrough_hp
PROGRAM = ROOT / "bench/build/passthrough_hp"  # made by ./run bench, where Debian's source is

Work = Callable[[Path, Path], None]
"""Given the input and the side's folder; each goes on where the one before it ended."""


def measure(setting: Setting) -> Iterator[Row]:
    """Seconds for each piece of work, beside every other side."""
    given = _input(setting)
    with contextlib.ExitStack() as stack:
        tree = stack.enter_context(setting.tree())
        sides = {"": tree / "shared"}
        memory = tempfile.TemporaryDirectory(prefix="agentfs-bench-", dir="/dev/shm")
        sides[MEMORY] = Path(stack.enter_context(memory))
        sides[DISK] = setting.folder / "disk"
        sides[DISK].mkdir()
        for name, command in ((HP, [str(PROGRAM), "--foreground"]), (BINDFS, ["bindfs", "-f"])):
            if shutil.which(command[0]):
                below, above = setting.folder / f"{name}-below", setting.folder / name
                below.mkdir()
                stack.enter_context(serving([*command, str(below)], above))
                sides[name] = above
        best: dict[tuple[str, str], float] = {}
        for _ in range(setting.size(2, 1)):
            for what, work in WORK.items():
                for name, folder in sides.items():
                    os.sync()
                    started = time.perf_counter()
                    work(given, folder)
                    taken = time.perf_counter() - started
                    best[what, name] = min(taken, best.get((what, name), taken))
        for what in WORK:
            for name in sides:
                if name:
                    target = TARGET if name == HP else None
                    yield Row(
                        "files",
                        what,
                        best[what, ""] * 1e3,
                        "ms",
                        name,
                        best[what, name] * 1e3,
                        target,
                    )


def _input(setting: Setting) -> Path:
    """The standard library, three times, as a tar and as a git repository, and what to write."""
    given = setting.folder / "input"
    tree = given / "tree"
    library = Path(sysconfig.get_path("stdlib"))
    found = [file for file in sorted(library.rglob("*.py")) if "-packages" not in str(file)]
    for copy in range(setting.size(3, 1)):
        for source in found[: setting.size(1000, 30)]:
            target = tree / str(copy) / source.relative_to(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    _run("tar", "-cf", "../tree.tar", ".", cwd=tree)
    _run("git", "init", "-q", cwd=tree)
    _run("git", "add", ".", cwd=tree)
    author = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    _run("git", *author, "commit", "-qm", "all", cwd=tree)
    (given / "size").write_text(str(setting.size(1024, 1)))
    (given / "commits").write_text(str(setting.size(1000, 10)))
    return given


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def _clone(given: Path, folder: Path) -> None:
    _run("git", "clone", "-q", "--no-local", str(given / "tree"), "clone", cwd=folder)


def _status(given: Path, folder: Path) -> None:
    _run("git", "status", "--porcelain", cwd=folder / "clone")


def _unpack(given: Path, folder: Path) -> None:
    (folder / "x").mkdir()
    _run("tar", "-xf", str(given / "tree.tar"), cwd=folder / "x")


def _search(given: Path, folder: Path) -> None:
    _run("grep", "-rc", "import", ".", cwd=folder / "x")


def _walk(given: Path, folder: Path) -> None:
    _run("find", ".", "-type", "f", "-size", "+100k", cwd=folder / "x")


def _copy(given: Path, folder: Path) -> None:
    _run("rsync", "-a", "x/", "y", cwd=folder)


def _remove(given: Path, folder: Path) -> None:
    _run("rm", "-rf", "x", "y", "clone", cwd=folder)


def _write(given: Path, folder: Path) -> None:
    count = (given / "size").read_text()
    _run("dd", "if=/dev/zero", "of=big", "bs=1M", f"count={count}", "status=none", cwd=folder)
    (folder / "big").unlink()


def _commits(journal: str) -> Work:
    def work(given: Path, folder: Path) -> None:
        file = folder / "some.db"
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute(f"PRAGMA journal_mode={journal}")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute("CREATE TABLE t(a, b)")
            for number in range(int((given / "commits").read_text())):
                database.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 100))
        file.unlink()

    return work


WORK: dict[str, Work] = {
    "git clone": _clone,
    "git status": _status,
    "tar x": _unpack,
    "find -size": _walk,
    "grep -r": _search,
    "rsync -a": _copy,
    "rm -rf": _remove,
    "write 1 GiB, and rm": _write,
    "sqlite commits, WAL": _commits("WAL"),
    "sqlite commits, DELETE": _commits("DELETE"),
}
