"""Room on a full disk while a daemon starts: logs are cut, and who writes into the state stands
still.

Programs outlive a daemon that is killed, and one that writes without end takes whatever becomes
free within a millisecond. So the writers are stopped first, then their logs are cut, and they go on
when the new daemon looks after the logs (`agentfs.process.logkeeper`).
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentfs.process.logs import LEAST, is_low, rotate
from agentfs.process.proc import all_pids, is_in_execve, read_stat

__all__ = ["room"]

log = logging.getLogger(__name__)

WRITTEN = ("logs", "agents", "shared")
"""The folders of a state directory that programs write to."""

ROUNDS = 10
"""How often we look for more writers: one may have forked before it was stopped."""

PATIENCE = 1.0
"""Seconds that a writer has to stop: it ends the write that it is in first."""

PAUSE = 0.001


@contextmanager
def room(state: Path, *, always: bool = False) -> Iterator[Callable[[], object]]:
    """If the disk is full (or `always`), cut all logs, and have those that write to the state
    directory stand still until the block ends or the function that it gets is called."""
    stopped: list[int] = []

    def let_go() -> None:
        while stopped:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(stopped.pop(), signal.SIGCONT)

    try:
        if always or (state.is_dir() and is_low(state)):
            _stop_writers(state, stopped)
            for path in (state / "logs").glob("*.log"):
                rotate(path, LEAST)
        yield let_go
    finally:
        let_go()


def _stop_writers(state: Path, stopped: list[int]) -> None:
    """Stop everybody, and add them to `stopped`, so that they go on whatever happens here."""
    folders = tuple(f"{state.resolve() / folder}/" for folder in WRITTEN)
    for _ in range(ROUNDS):
        found = [ospid for ospid in all_pids() if _may_be_stopped(ospid, folders)]
        for ospid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(ospid, signal.SIGSTOP)
                stopped.append(ospid)
        _wait_stopped(found)
        if not found:
            return
    log.warning("there are always more programs that write to %s", state)


def _may_be_stopped(ospid: int, folders: tuple[str, ...]) -> bool:
    """Whether it has a file below one of the folders open for writing, and is not stopped yet."""
    if ospid == os.getpid() or is_in_execve(ospid):
        return False
    with suppress(OSError):
        if any(_writes(ospid, number, folders) for number in os.listdir(f"/proc/{ospid}/fd")):
            stat = read_stat(ospid)
            return stat is not None and stat.state not in "TtZX"
    return False


def _writes(ospid: int, number: str, folders: tuple[str, ...]) -> bool:
    with suppress(OSError):
        if os.readlink(f"/proc/{ospid}/fd/{number}").startswith(folders):
            with open(f"/proc/{ospid}/fdinfo/{number}") as file:
                flags = next(int(line[6:], 8) for line in file if line.startswith("flags:"))
            return flags & os.O_ACCMODE != os.O_RDONLY
    return False


def _wait_stopped(ospids: list[int]) -> None:
    """A signal only asks: a write of a megabyte that is under way is done to its end."""
    end = time.monotonic() + PATIENCE
    for ospid in ospids:
        while (stat := read_stat(ospid)) is not None and stat.state not in "TtZX":
            if time.monotonic() > end:
                log.warning("program %d writes on: it does not stop", ospid)
                break
            time.sleep(PAUSE)
