"""The reapers, as daemons see them: going behind one's own, and what those of earlier daemons know.

Each has a file in the state directory, `reapers/PID`: this run of the machine and the reaper's
start time, then a line for each program that ended after its daemon (`agentfs.machine.reaper`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from agentfs.machine import reaper
from agentfs.machine.launch import become_subreaper
from agentfs.machine.proc import boot_id, mark_of, own_stat, read_stat

__all__ = ["FOLDER", "Reaper", "Reapers", "go_behind_reaper", "stand_by"]

log = logging.getLogger(__name__)

FOLDER = "reapers"
"""Of the state directory."""

UNKNOWN = (
    "how programs end that outlive this daemon will not be known, nor that what they leave behind"
    " is not the operator's"
)


@dataclass(frozen=True, slots=True)
class Reaper:
    """Ours: its pid, and when it began in clock ticks since boot."""

    pid: int
    start: int


def go_behind_reaper(state: Path, front: int = -1) -> Reaper:
    """Fork: go on as the child, and have the parent become the reaper. For a process with one
    thread. `front` gets the child's pid and exit code, see `reaper.main`."""
    become_subreaper()
    parent = Reaper(os.getpid(), own_stat().start)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return parent
    path = str(state.absolute() / FOLDER / str(os.getpid()))
    words = [str(child), path, str(front)]
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):  # a reader of what we say would wait for the reaper, too
            os.dup2(null, descriptor)
        if front >= 0:
            os.set_inheritable(front, True)
        with suppress(OSError):
            os.execv(  # noqa: S606  # no shell is needed
                sys.executable, [sys.executable, "-I", "-S", reaper.__file__, *words]
            )
        code = reaper.main(child, path, front)
    finally:
        os._exit(code)


async def stand_by(state: Path, reaper: Reaper, *, task_status: trio.TaskStatus[None]) -> None:
    """Make the file of our reaper, so that later daemons know it, and say so if it is killed while
    we live."""
    pidfd = _register(state, reaper)
    task_status.started()
    if pidfd is not None:
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    log.warning("the reaper was killed: %s", UNKNOWN)


def _register(state: Path, reaper: Reaper) -> int | None:
    """Make its file; a pidfd of it, None if it is gone."""
    try:
        pidfd = os.pidfd_open(reaper.pid)
    except ProcessLookupError:
        return None
    if os.getppid() != reaper.pid:  # the number is another's
        os.close(pidfd)
        return None
    try:
        (state / FOLDER / str(reaper.pid)).write_text(f"{boot_id()} {reaper.start}\n")
    except OSError as failure:
        log.warning("there is no room for the reaper's file (%s): %s", failure.strerror, UNKNOWN)
    return pidfd


class Reapers:
    """Those of earlier daemons: `folder` has their files, None is without any."""

    def __init__(self, folder: Path | None = None) -> None:
        self._alive: set[tuple[int, int]] = set()  # (pid, mark), see `proc.parent_of`
        self._files: list[Path] = []
        self._ended: list[Path] = []  # nothing is written to these any more
        for path in _files(folder):
            mark = _mark_of(path)
            if mark is not None:
                self._alive.add((int(path.name), mark))
            else:
                self._ended.append(path)
            self._files.append(path)

    def __contains__(self, one: tuple[int, int]) -> bool:
        """Whether (pid, mark) is a reaper. A process that descends from one, and from no program of
        an agent, was left behind by an agent."""
        return one in self._alive

    def has(self, ospid: int) -> bool:
        """Whether a process that lives has this pid and is a reaper."""
        return any(pid == ospid for pid, _ in self._alive)

    def __iter__(self) -> Iterator[int]:
        """The pids of those that lived when we began."""
        return (pid for pid, _ in self._alive)

    def code_of(self, ospid: int, start: int) -> int | None:
        """The exit code of a program that began at `start` (in clock ticks) and was waited for."""
        wanted = f"{ospid} {start} "
        for path in self._files:
            with suppress(OSError):
                whole = path.read_text().rpartition("\n")[0]
                for line in reversed(whole.split("\n")):  # one that was cut off comes again
                    if line.startswith(wanted):
                        return int(line.removeprefix(wanted))
        return None

    def forget_ended(self) -> None:
        """All that they told is in the store."""
        for path in self._ended:
            with suppress(OSError):  # at the next start, then
                path.unlink()
        self._files = [path for path in self._files if path not in self._ended]
        self._ended = []


def _files(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        with suppress(FileNotFoundError):
            yield from (path for path in folder.iterdir() if path.name.isdecimal())


def _mark_of(path: Path) -> int | None:
    """What tells the living reaper of a file from a later process of its number; None if it is
    gone."""
    try:
        boot, start = path.read_text().partition("\n")[0].split()
        pidfd = os.pidfd_open(int(path.name))
    except (OSError, ValueError):
        return None
    try:
        stat = read_stat(int(path.name))
        if boot != boot_id() or stat is None or stat.ended or stat.start != int(start):
            return None
        return mark_of(pidfd) or stat.start
    finally:
        os.close(pidfd)
