"""A real tree for tests: the daemon as a process of its own, and file operations on the mount."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from agentfs.machine.proc import is_in_execve

__all__ = ["AGENTFS", "BOMB", "Tree", "eventually", "small_disk", "until"]

AGENTFS = [sys.executable, "-m", "agentfs.tools.cli"]

BOMB = """
import os, time
for _ in range(6):
    try:
        os.fork()
    except OSError:
        print("refused", flush=True)
time.sleep(1000)
"""
"""Doubles until there are 64, as far as it may, and sleeps."""

PATIENCE = 60.0
"""Seconds that something may take on a busy machine before a test says that it never came."""


def eventually(what: Callable[[], object], message: str = "", patience: float = PATIENCE) -> None:
    """Wait until `what()` is true. For things that have no event to wait for."""
    deadline = time.monotonic() + patience
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError(message or "it did not happen in time")
        time.sleep(0.01)


def until(path: Path, wanted: str, patience: float = PATIENCE) -> None:
    """Wait until a file of the tree reads as `wanted`."""

    def reads() -> bool:
        try:
            return path.read_text().strip() == wanted
        except OSError:
            return False

    eventually(reads, f"{path} never became {wanted!r}", patience)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own, of `size` (24m), on `folder`; only root can mount it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Tree:
    """A mount point and a state directory below `folder`."""

    def __init__(
        self, folder: Path, *, options: tuple[str, ...] = (), command: list[str] | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "mnt"
        self.path.mkdir()
        self.state = folder / "state"
        self._options = options
        self._command = command or AGENTFS
        self.daemon: int | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self.may_hold = False
        """Whether a step of its daemon may hold the loop for long: only where a test stops the
        daemon, or leaves out what prevents it."""

    # -- the daemon --------------------------------------------------------------------------

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the agentfs command on this tree."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=os.environ | {"AGENTFS": str(self.path)},
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
        )
        if check and done.returncode:
            raise AssertionError(f"agentfs {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done

    def doctor(self) -> subprocess.CompletedProcess[str]:
        """What `agentfs doctor` says of the state."""
        return self.run("doctor", "--state", str(self.state), check=False)

    def mount(self) -> None:
        self.run("mount", str(self.path), "--state", str(self.state), *self._options)
        self.daemon = int((self.path / "proc/1/ospid").read_text())

    def unmount(self) -> None:
        self.run("umount", str(self.path))
        self.daemon = None

    def crash(self) -> None:
        """kill -9 the daemon, and wait until it is gone."""
        assert self.daemon is not None
        with self._watching(self.daemon) as ended:
            os.kill(self.daemon, signal.SIGKILL)
            ended()
        self.daemon = None

    @staticmethod
    @contextlib.contextmanager
    def _watching(pid: int) -> Iterator[Callable[[], object]]:
        descriptor = os.pidfd_open(pid)
        try:
            yield lambda: select.select([descriptor], [], [], PATIENCE)
        finally:
            os.close(descriptor)

    def clean_up(self) -> None:
        """End what was started, unmount whatever is there, and end the daemon. It must never have
        held its event loop for long."""
        for program in self._started:
            if program.poll() is None:
                program.kill()
            for pipe in (program.stdin, program.stdout, program.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            program.wait()
        if self.daemon is not None:
            with contextlib.suppress(OSError), self._watching(self.daemon) as ended:
                os.kill(self.daemon, signal.SIGTERM)
                if not ended():  # pragma: no cover
                    os.kill(self.daemon, signal.SIGKILL)
                    ended()
        if os.path.ismount(self.path) or self.is_stale():
            subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)
        self._end_leftovers()
        long = [] if self.may_hold else self.long_steps()
        assert not long, f"steps that held everybody up: {long}"

    def long_steps(self) -> list[str]:
        """The lines of the log that tell of a step that was at work for 0.1 s, or held the loop
        for 5 s: between them a busy machine may have blocked it in a call (a disk, the lock that
        control groups share: 2.4 s were seen at load 13), which no test can prevent. A lease takes
        45 s, and a disk that hangs for ever."""
        return [
            found[0]
            for found in re.finditer(r".* held the loop for (\S+) s, (\S+) at work.*", self.log())
            if float(found[1]) >= 5.0 or float(found[2]) >= 0.1
        ]

    def _end_leftovers(self) -> None:
        """After a crash nobody is left to end the agents' programs: find them by the tree."""
        mark = f"AGENTFS={self.path}".encode()
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid() or is_in_execve(int(name)):
                continue
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/environ", "rb") as file:
                    environment = file.read().split(b"\0")
                if mark in environment and any(v.startswith(b"AGENT_PID=") for v in environment):
                    os.kill(int(name), signal.SIGKILL)

    def is_stale(self) -> bool:
        try:
            os.statvfs(self.path)  # stat alone is answered from the cache
        except OSError:
            return True
        return False

    # -- files of it -------------------------------------------------------------------------

    def __truediv__(self, path: str) -> Path:
        return self.path / path

    def read(self, path: str) -> str:
        return (self.path / path).read_text()

    def write(self, path: str, text: str) -> None:
        """What `echo > path` does: one open, one write(2), one close."""
        descriptor = os.open(self.path / path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def ask(self, path: str, request: str) -> str:
        """A Transaction: write the request and read the reply on one handle."""
        descriptor = os.open(self.path / path, os.O_RDWR)
        try:
            os.write(descriptor, request.encode())
            return os.read(descriptor, 65536).decode()
        finally:
            os.close(descriptor)

    def spawn(self, name: str, parent: int = 1, **spec: object) -> int:
        """Start a process through the tree; its pid."""
        request = yaml.safe_dump({"name": name, **spec})
        return int(self.ask(f"proc/{parent}/spawn", request))

    def start(self, *command: str, **options: object) -> subprocess.Popen[bytes]:
        """A program of the test's own, ended with the tree."""
        program = subprocess.Popen(command, **options)  # type: ignore[call-overload]
        self._started.append(program)
        return program  # type: ignore[no-any-return]

    def holds(self, seconds: float = 0.1) -> list[str]:
        """What held the daemon's event loop for longer: the histograms that say so (`seconds` is
        one of their bounds), and the lines of the log that tell of holds."""
        within: dict[str, float] = {}
        every: dict[str, float] = {}
        for row in self.read("sys/metrics").splitlines():
            found = re.fullmatch(r"agentfs_loop_held_seconds_bucket\{(.*)\} (.*)", row)
            if found is None:
                continue
            labels = dict(re.findall(r'(\w+)="(.*?)"', found[1]))
            if labels["le"] == str(seconds):
                within[labels["step"]] = float(found[2])
            elif labels["le"] == "+Inf":
                every[labels["step"]] = float(found[2])
        assert within
        kinds = [step for step, count in every.items() if count > within[step]]
        lines = [line for line in self.log().splitlines() if " held the loop for " in line]
        return kinds and kinds + lines

    def log(self) -> str:
        """The daemon's log."""
        file = self.state / "kernel.log"
        return file.read_text() if file.exists() else ""
