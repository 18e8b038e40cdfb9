"""Daemons that are there at once: forked from a process that has imported everything already.

Starting Python and importing takes a second, which a test that kills the daemon a hundred times
does not have. What runs is the daemon as it is, `agentfs.tools.daemon.main`, behind its reaper.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from tests.tree import PATIENCE, Tree

__all__ = ["Hatchery", "QuickTree"]

DOCTOR = "doctor"
"""As first word of a request: somebody wants to know how a state is."""


class Hatchery:
    """The process that daemons are forked from; for any number of trees. `module` is what runs in
    it, and calls `main`. `environment` is what daemons and programs have beside ours."""

    def __init__(
        self, module: str = "tests.hatchery", environment: dict[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=Path(__file__).parents[1],
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *words: str) -> int:
        """Start a daemon with these arguments; its pid."""
        line = self._ask(*words)
        answer, _, rest = line.partition(" ")
        if answer != "ok":
            raise AssertionError(f"the daemon did not start: {line}")
        return int(rest)

    def doctor(self, state: Path) -> subprocess.CompletedProcess[str]:
        """What `agentfs doctor --state` says, and its exit code. The command itself takes 0.7 s of
        processor time, nearly all of it for imports."""
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as report:
            line = self._ask(DOCTOR, str(state), report.name)
            if not line.isdecimal():
                raise AssertionError(f"the doctor did not look: {line}")
            return subprocess.CompletedProcess([DOCTOR], int(line), report.read(), "")

    def _ask(self, *words: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        return self._process.stdout.readline().strip() if ready else "it gives no answer"

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(PATIENCE)


class QuickTree(Tree):
    """A tree whose daemon is started, again and again, within a tenth of a second."""

    def __init__(
        self, folder: Path, *, options: tuple[str, ...] = (), hatchery: Hatchery | None = None
    ) -> None:
        super().__init__(folder, options=options)
        self.state.mkdir()
        self.words: tuple[str, ...] = ()  # more arguments for the daemon
        self._own = Hatchery() if hatchery is None else None
        self._hatchery = hatchery or self._own

    def mount(self) -> None:
        if self.is_stale():
            subprocess.run(["umount", "-l", str(self.path)], check=True)
        assert self._hatchery is not None
        options = (f"-o{option}" for option in self._options)
        try:
            self.daemon = self._hatchery.start(
                str(self.path), "--state", str(self.state), *options, *self.words
            )
        except AssertionError as failed:
            raise AssertionError(f"{failed}{self.log()[-2000:]}") from None

    def doctor(self) -> subprocess.CompletedProcess[str]:
        assert self._hatchery is not None
        return self._hatchery.doctor(self.state)

    def clean_up(self) -> None:
        try:
            super().clean_up()
        finally:
            if self._own is not None:
                self._own.close()


def _warm_up() -> None:
    """Make a kernel and its tree once, so that what they make only once in a process (the classes
    of the configuration, the defaults of documents, who hears of which events) is there in each
    daemon: a third of its start."""
    from inotify_simple import INotify

    from agentfs.kernel import Kernel
    from agentfs.providers.tree import build

    for module in ("doctor", "repair"):  # for those who want to know how a state is
        importlib.import_module(f"agentfs.tools.{module}")
    with tempfile.TemporaryDirectory() as folder:
        kernel = Kernel(Path(folder), "/nowhere")
        build(kernel, dict)
        kernel.store.close()
        kernel.programs.close()
    INotify().close()  # it has ldconfig find the C library
    assert threading.active_count() == 1  # else a fork has locks that nobody gives back
    gc.collect()
    gc.freeze()


def _examine(state: str, report: str) -> int:
    """In a fork: have the doctor look at a state, and what it says in the file `report`."""
    from agentfs.tools import doctor

    child = os.fork()
    if child == 0:
        code = 2
        try:
            said = os.open(report, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(said, descriptor)
            code = doctor.run(state)
            sys.stdout.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(run: Callable[..., int] | None = None) -> None:
    """Start a daemon for each line of arguments (JSON), and answer `ok PID` or what went wrong; or
    have the doctor look at a state, and answer its exit code.
    `run` is called in the new process as the daemon's `main`, which it is by default."""
    import agentfs.tools.daemon as daemon

    _warm_up()
    for line in sys.stdin:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        words: list[str] = json.loads(line)
        if words[0] == DOCTOR:
            print(_examine(*words[1:]), flush=True)
            continue
        reader, writer = os.pipe()
        told, front = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.chdir("/")
            os.close(reader)
            os.close(told)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            null, log = os.open(os.devnull, os.O_RDWR), os.open(
                os.path.join(words[2], "kernel.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
            )  # fmt: skip
            for target, source in ((0, null), (1, log), (2, log)):
                os.dup2(source, target)
            code = 1
            try:
                code = (run or daemon.main)(
                    [*words, "--ready", str(writer)], behind_reaper=True, front=front
                )
            finally:
                os._exit(code)
        os.close(writer)
        os.close(front)
        with open(reader, encoding="utf-8") as pipe, open(told) as fronts:
            answer = pipe.readline().strip()
            pid = fronts.readline().strip()
        print(f"ok {pid}" if answer == "ok" else f"failed {answer}", flush=True)


if __name__ == "__main__":
    main()
