"""Daemons that are there at once: forked from a process that has imported everything already.

Starting Python and importing takes a second, which a test that kills the daemon a hundred times
does not have. What runs is the daemon as it is, `agentfs.tools.daemon.main`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.tree import PATIENCE, Tree

__all__ = ["QuickTree"]


class QuickTree(Tree):
    """A tree whose daemon is started, again and again, within a tenth of a second."""

    def __init__(self, folder: Path, *, options: tuple[str, ...] = ()) -> None:
        super().__init__(folder, options=options)
        self.state.mkdir()
        self._hatchery = subprocess.Popen(
            [sys.executable, "-m", "tests.hatchery"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def mount(self) -> None:
        if self.is_stale():
            subprocess.run(["umount", "-l", str(self.path)], check=True)
        assert self._hatchery.stdin is not None
        assert self._hatchery.stdout is not None
        words = [str(self.path), "--state", str(self.state), *(f"-o{o}" for o in self._options)]
        self._hatchery.stdin.write(json.dumps(words) + "\n")
        self._hatchery.stdin.flush()
        ready, _, _ = select.select([self._hatchery.stdout], [], [], PATIENCE)
        answer = self._hatchery.stdout.readline().split(maxsplit=1) if ready else ["", "no answer"]
        if answer[0] != "ok":
            raise AssertionError(
                f"the daemon did not start: {' '.join(answer)}{self.log()[-2000:]}"
            )
        self.daemon = int(answer[1])

    def clean_up(self) -> None:
        try:
            super().clean_up()
        finally:
            for pipe in (self._hatchery.stdin, self._hatchery.stdout):
                assert pipe is not None
                pipe.close()
            self._hatchery.wait(PATIENCE)


def main() -> None:
    """Start a daemon for each line of arguments (JSON), and answer `ok PID` or what went wrong."""
    import agentfs.tools.daemon as daemon

    for line in sys.stdin:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        words: list[str] = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.chdir("/")
            os.close(reader)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            null, log = os.open(os.devnull, os.O_RDWR), os.open(
                os.path.join(words[2], "kernel.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
            )  # fmt: skip
            for target, source in ((0, null), (1, log), (2, log)):
                os.dup2(source, target)
            code = 1
            try:
                code = daemon.main([*words, "--ready", str(writer)])
            finally:
                os._exit(code)
        os.close(writer)
        with open(reader, encoding="utf-8") as pipe:
            answer = pipe.readline().strip()
        print(f"ok {pid}" if answer == "ok" else f"failed {answer}", flush=True)


if __name__ == "__main__":
    main()
