"""The program of a step: how it is started, and how its end outlives the daemon.

A shell waits for the program and writes how it ended to descriptor 3, which the program does not
have. So the next daemon knows the end of a program that ended while there was none, even after the
machine was started anew. A shell costs 2 ms, and executes a program: one that may execute nothing
but itself goes without, and the daemon that sees its end writes the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentfs.model.process import Process

__all__ = ["SHELL", "StepProgram"]

SHELL = "/bin/sh"

WAITING = 'trap : TERM INT HUP QUIT; "$@" 3>&-; code=$?; echo "$code" >&3; exit "$code"'
"""What the shell does. A signal for the whole group is the program's to act on: the shell waits on,
and a trap, unlike an ignored signal, is not inherited."""

NAME = "agentfs"
"""Before what the shell says: `agentfs: 1: wc: not found`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgram:
    """What to start: `exec` with `env` beside what every program gets, in `cwd` (relative to
    `home`). `input`, `output` and `code` are files; None for `input` is nothing to read. `reads`
    are files and folders of the machine that it may read besides. `home` is on the disk, `in_tree`
    the same place, relative to the mount point; `STEP` in its environment is the folder above."""

    exec: tuple[str, ...]
    output: Path
    code: Path
    home: Path
    in_tree: str
    input: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    reads: tuple[str, ...] = ()

    def of(self, process: Process, *, waited: bool) -> Process:
        """`process`, as the launch of this is to see it; `waited`: a shell waits for it."""
        command = (SHELL, "-c", WAITING, NAME, *self.exec) if waited else self.exec
        return replace(
            process,
            exec=command,
            cwd=self.cwd,
            reads=(*process.reads, *self.reads),
            own_files=None,
        )
