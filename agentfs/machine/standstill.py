"""Room on a full disk while a daemon starts: logs are cut, and programs that write into the state
stand still.

Programs outlive a daemon that is killed, and one that writes without end takes whatever becomes
free within a millisecond. So the writers are stopped first, then their logs are cut, and they go on
when the new daemon looks after the logs (`agentfs.process.logkeeper`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentfs.machine.logs import LEAST, is_low, rotate
from agentfs.machine.orphans import go_on, stop
from agentfs.machine.proc import read_status
from agentfs.machine.writers import writers

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
        go_on(stopped)
        stopped.clear()

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
        running = stop(writers(lambda path: path.startswith(folders)))
        found = [ospid for ospid in running if ospid not in stopped]  # each is waited for once
        stopped += found
        _wait_stopped(found)
        if not found:
            return
    log.warning("there are always more programs that write to %s", state)


def _wait_stopped(ospids: list[int]) -> None:
    """A signal only asks: a write of a megabyte that is under way is done to its end."""
    end = time.monotonic() + PATIENCE
    for ospid in ospids:
        while (stat := read_status(ospid)) is not None and stat.state not in "TtZX":
            if time.monotonic() > end:
                log.warning("program %d writes on: it does not stop", ospid)
                break
            time.sleep(PAUSE)
