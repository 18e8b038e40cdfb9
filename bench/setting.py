"""Where a side of the benchmark measures: mounted trees, other servers, and turns."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.table import Row

__all__ = [
    "PATIENCE",
    "ROOT",
    "SLOW_PATIENCE",
    "Setting",
    "Side",
    "Tree",
    "file_system",
    "in_turns",
    "serving",
    "work_folder",
]

ROOT = Path(__file__).parents[1]
"""The checkout: programs of the benchmark are started there, as modules."""

PATIENCE = 30.0
"""Seconds that something may take to start or to end before the benchmark gives up."""

SLOW_PATIENCE = 300.0
"""The same where each instruction is counted."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The same for every side."""

    quick: bool
    """Tiny sizes: whether it runs at all, no figures to quote."""
    folder: Path
    """A folder for this side alone, on a disk if the machine has one; removed afterwards."""
    most: int = 100_000
    """The largest number of processes in the table."""
    make: Callable[[Path], Tree] | None = None
    """Makes the trees that are measured; by default as `agentfs mount` does."""

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @contextlib.contextmanager
    def tree(self, name: str = "agentfs") -> Iterator[Tree]:
        """A mounted tree of our own; unmounted afterwards, whatever happened."""
        tree = (self.make or Tree)(self.folder / name)
        tree.mount()
        try:
            yield tree
        finally:
            tree.unmount()


Side = Callable[[Setting], Iterator[Row]]
"""A side is a function `measure` of its module: rows are printed as they come."""


class Tree:
    """A mount point and a state directory below `folder`, and the daemon that serves them, with the
    sources of `checkout`."""

    cli = (sys.executable, "-m", "agentfs.tools.cli")

    def __init__(self, folder: Path, checkout: Path = ROOT) -> None:
        self.checkout = checkout
        self.environment = os.environ | {"PYTHONPATH": str(checkout)}
        self.path = folder / "mnt"
        self.state = folder / "state"
        self.path.mkdir(parents=True, exist_ok=True)
        self.daemon = 0
        """The daemon's pid in the machine's own /proc."""

    def mount(self) -> None:
        self._command("mount", str(self.path), "--state", str(self.state), check=True)
        self._find_daemon()

    def wait_for_mount(self, program: subprocess.Popen[bytes]) -> None:
        """Return when what `program` mounts can be used."""
        deadline = time.monotonic() + SLOW_PATIENCE
        while not os.path.ismount(self.path):
            if program.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{program.args!r} does not mount {self.path}")
            time.sleep(0.1)
        self._find_daemon()

    def _find_daemon(self) -> None:
        self.daemon = int((self.path / "proc/1/ospid").read_text())

    def _command(self, *words: str, check: bool) -> int:
        """The exit code of `agentfs` with these words."""
        return subprocess.run(
            [*self.cli, *words], check=check, cwd=self.checkout, env=self.environment
        ).returncode

    def unmount(self) -> None:
        """End the system; nothing happens if it is not mounted. A dead mount is taken away too."""
        if f" {self.path} " not in Path("/proc/self/mounts").read_text():
            return
        if self._command("umount", str(self.path), check=False):
            self._command("umount", "--lazy", str(self.path), check=True)

    def kill(self) -> None:
        """kill -9 the daemon, and wait until it is gone."""
        descriptor = os.pidfd_open(self.daemon)
        try:
            os.kill(self.daemon, signal.SIGKILL)
            select.select([descriptor], [], [], PATIENCE)
        finally:
            os.close(descriptor)

    def __truediv__(self, path: str) -> Path:
        return self.path / path

    def configure(self, **sections: Mapping[str, object]) -> None:
        """The whole of /etc/agentfs.yaml: configure(messages={"max_waiting": 1000000})."""
        (self.path / "etc/agentfs.yaml").write_text(json.dumps(sections))

    def ask(self, path: str, request: str | bytes) -> str:
        """A Transaction: write the request and read the reply on one handle."""
        descriptor = os.open(self.path / path, os.O_RDWR)
        try:
            os.write(descriptor, request.encode() if isinstance(request, str) else request)
            return os.read(descriptor, 65536).decode()
        finally:
            os.close(descriptor)

    def spawn(self, name: str, parent: int = 1, **spec: object) -> int:
        """Start a process through the tree; its pid."""
        return int(self.ask(f"proc/{parent}/spawn", json.dumps({"name": name, **spec})))


def in_turns(
    calls: Mapping[str, Callable[[], object]], times: int, rounds: int
) -> dict[str, float]:
    """Seconds a call of each: all of them measured in every round, the best round counts."""
    for call in calls.values():
        _timed(call, times)
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], _timed(call, times))
    return best


def _timed(call: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


@contextlib.contextmanager
def serving(command: list[str], mountpoint: Path) -> Iterator[int]:
    """A program that serves a mount point given as its last argument: its pid."""
    mountpoint.mkdir()
    program = subprocess.Popen([*command, str(mountpoint)])
    try:
        deadline = time.monotonic() + PATIENCE
        while not os.path.ismount(mountpoint):
            if program.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not mount {mountpoint}")
            time.sleep(0.02)
        yield program.pid
    finally:
        program.send_signal(signal.SIGTERM)
        program.wait(PATIENCE)


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for the run, on a disk where there is one; removed afterwards, unless something is
    still mounted below it."""
    folder = Path(tempfile.mkdtemp(prefix="agentfs-bench-", dir=_on_disk()))
    try:
        yield folder
    finally:
        if f" {folder}/" in Path("/proc/mounts").read_text():
            print(f"{folder} is left as it is: something below it is still mounted")
        else:
            shutil.rmtree(folder)


def _on_disk() -> str:
    """Where temporary files go, unless that is memory and /var/tmp is none."""
    usual = tempfile.gettempdir()
    return usual if file_system(usual) != "tmpfs" else "/var/tmp"


def file_system(path: str | Path) -> str:
    """The type of the file system that a path is on, as /proc/mounts names it."""
    device = os.stat(path).st_dev
    kind = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        major, minor = left.split()[2].split(":")
        if os.makedev(int(major), int(minor)) == device:
            kind = right.split()[0]
    return kind
