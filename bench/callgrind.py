"""Programs whose instructions Callgrind counts.

The count hardly depends on how busy the machine is, so two versions can be compared anywhere.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["Counted", "is_there", "total", "valgrind"]

DUMP_SECONDS = 60.0
"""How long a program may take to write down what was counted: while it waits in a call of the
system it does so when the call is over, unless Valgrind may interrupt it."""


def is_there() -> bool:
    """Whether it is installed; where it is not, that is printed."""
    there = all(map(shutil.which, ("valgrind", "callgrind_control")))
    if not there:
        print("    valgrind is not installed: nothing is counted", flush=True)
    return there


def valgrind(folder: Path) -> list[str]:
    """The words before a program's own, with which it is counted; the counts go to `folder`."""
    return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.%p"]


class Counted:
    """A program that was started with `valgrind(folder)`, and has the pid `pid`."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._folder = folder
        self._pid = pid

    def count(self) -> int:
        """The instructions since the last count, or since the start."""
        before = self._dumps()
        command = ["callgrind_control", "--dump", str(self._pid)]
        subprocess.run(command, check=True, capture_output=True, timeout=DUMP_SECONDS)
        (new,) = self._dumps() - before
        return total(new.read_text())

    def _dumps(self) -> set[Path]:
        return set(self._folder.glob(f"callgrind.{self._pid}.*"))


def total(dump: str) -> int:
    """All instructions of a dump of Callgrind's."""
    for line in dump.splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise ValueError("this is no dump of Callgrind's: it has no totals")
