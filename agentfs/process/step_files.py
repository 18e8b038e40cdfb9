"""The files of the steps of runs, below the state directory:

    runs/RUN/artifacts/                 what steps leave for whoever comes after them
    runs/RUN/NODE.ATTEMPT/input         what the program reads
    runs/RUN/NODE.ATTEMPT/output        what it writes to its output
    runs/RUN/NODE.ATTEMPT/log           and to its errors; `logs/` has a link to it while it runs
    runs/RUN/NODE.ATTEMPT/code          its exit code, a line, as soon as it has ended

The slash in the path of a node is a `%` here. Descriptors of these files are all that a program
has of them, so they are complete also if it ends while there is no daemon.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agentfs.base.errors import KernelError
from agentfs.base.within import give
from agentfs.model.process import Process, ProcessKind

__all__ = [
    "ATTEMPT",
    "NODE",
    "RUN",
    "RUNS",
    "StepFiles",
    "artifacts_of",
    "files_of",
    "run_folder",
    "run_of",
    "step_files",
]

RUNS = "runs"
"""The folder of the state directory."""

RUN, NODE, ATTEMPT = "run", "node", "attempt"
"""What the `metadata` of a step says: the number of its run, the path of its node, and which
attempt it is. Its parent is the run as long as that is there: one that is being ended outlives
it."""

LONGEST = 200
"""Bytes of a node's path in the name of a folder; a longer one is cut, and told by a hash."""


@dataclass(frozen=True, slots=True)
class StepFiles:
    """Those of one attempt, in `folder`. They may not be there."""

    folder: Path

    @property
    def input(self) -> Path:
        return self.folder / "input"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def code(self) -> Path:
        return self.folder / "code"

    def exit_code(self) -> int | None:
        """The code that its program has left; None if it has not ended, or could not say so."""
        try:
            line = self.code.read_text()
        except (OSError, ValueError):
            return None
        whole, newline, _ = line.partition("\n")
        return int(whole) if newline and whole.isascii() and whole.isdigit() else None

    def make(self, given: bytes, uid: int, gid: int) -> None:
        """Make them anew, with this input: 0.2 ms, and for a long input a thread's. Raises what the
        disk says: ENOSPC."""
        try:
            _make_artifacts(self.folder.parent, uid, gid)
            try:
                self.folder.mkdir()
            except FileExistsError:
                shutil.rmtree(self.folder)
                self.folder.mkdir()
            self.input.write_bytes(given)
            for file in (self.output, self.log, self.code):
                file.touch(mode=0o640)
        except OSError as failure:
            raise KernelError.from_os(failure, f"cannot make {self.folder.name}") from failure

    def note(self, code: int) -> None:
        """Write its exit code, if no shell has. Raises OSError."""
        if self.exit_code() is None:
            self.code.write_text(f"{code}\n")

    def keep_log(self) -> None:
        """The attempt is in the journal: keep the log alone, if there is anything in it."""
        with suppress(OSError):
            for file in (self.input, self.output, self.code):
                file.unlink(missing_ok=True)
            if not self.log.stat().st_size:
                self.log.unlink()
                self.folder.rmdir()


def run_of(process: Process) -> int:
    """The number of the run that a light process is, or is a step of."""
    return process.pid if process.kind is ProcessKind.RUN else int(process.metadata[RUN])


def files_of(state_dir: Path, step: Process) -> StepFiles:
    """Those of the attempt that a step does."""
    return step_files(state_dir, run_of(step), step.metadata[NODE], int(step.metadata[ATTEMPT]))


def run_folder(state_dir: Path, run: int) -> Path:
    """Where the files of a run are."""
    return state_dir / RUNS / str(run)


def make_artifacts(state_dir: Path, run: int, uid: int, gid: int) -> Path:
    """Make the folder for them, if it is not there, and say where it is. Raises what the disk
    says."""
    try:
        return _make_artifacts(run_folder(state_dir, run), uid, gid)
    except OSError as failure:
        raise KernelError.from_os(failure, f"cannot make the files of run {run}") from failure


def _make_artifacts(folder: Path, uid: int, gid: int) -> Path:
    artifacts = folder / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        artifacts.mkdir(mode=0o755)
        if os.geteuid() == 0:
            give(str(artifacts), uid, gid)
    return artifacts


def artifacts_of(state_dir: Path, run: int) -> Path:
    """What the steps of a run have left; made with the first program."""
    return run_folder(state_dir, run) / "artifacts"


def step_files(state_dir: Path, run: int, path: str, attempt: int) -> StepFiles:
    """Those of an attempt of the node at `path`."""
    name = path.replace("/", "%")
    if len(name.encode()) > LONGEST:
        told = sha256(name.encode()).hexdigest()[:16]
        name = name.encode()[: LONGEST - 17].decode(errors="ignore") + f"%{told}"
    return StepFiles(run_folder(state_dir, run) / f"{name}.{attempt}")
