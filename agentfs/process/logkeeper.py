"""Keeps the logs of programs short while they are written, and slows down who writes too fast.

A look costs the size of one file, and there is one when inotify says that something was written, at
most every `PAUSE`. A log that was emptied within the last second is looked at every millisecond
(a program writes some gigabytes a second), and its program is held when that is over the limit
again, until the second is over. So one agent writes `processes.log_size` a second in the long run.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import trio
from inotify_simple import INotify, flags

from agentfs.config import Settings
from agentfs.process.logs import LEAST, is_low, rotate
from agentfs.process.model import State
from agentfs.process.programs import Program, Programs
from agentfs.process.table import ProcessTable

__all__ = ["LogKeeper"]

log = logging.getLogger(__name__)

PAUSE = 0.01
"""Seconds between two looks at all that was written to."""

HOT = 0.001
"""Seconds between two looks at what was emptied within the last `SECOND`."""

SECOND = 1.0
"""Within this time a program may fill its log once."""


AGAIN = 15.0
"""Seconds until it is tried again where there was no inotify to be had."""


class LogKeeper:
    """Follows the folder of logs while `run` runs. Time is trio's: what it waits for is the
    machine's."""

    def __init__(
        self, folder: Path, settings: Settings, table: ProcessTable, programs: Programs
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._table = table
        self._programs = programs
        self._emptied: dict[str, float] = {}  # by name of the file: when
        self._held: dict[str, Program] = {}
        self._low = False

    def __len__(self) -> int:
        """How many programs are held."""
        return len(self._held)

    async def run(self) -> None:
        """Until cancelled; what is held then goes on. Without it the maid rotates, later."""
        while True:
            try:
                await self._follow()
            except OSError as failure:  # no descriptors, or the folder is gone
                log.error("the logs cannot be followed: %s", failure.strerror)
                await trio.sleep(AGAIN)
            finally:
                for name in tuple(self._held):
                    self._release(name)

    async def _follow(self) -> None:
        with INotify() as watch:
            watch.add_watch(self._folder, flags.MODIFY)
            await self._look(self._all())
            while True:
                await self._wait(watch)
                names = {event.name for event in watch.read(timeout=0)}
                await self._look(names.union(self._all() if self._low else self._emptied))

    async def _wait(self, watch: INotify) -> None:
        """Until there is something to look at."""
        if any(name not in self._held for name in self._emptied):
            await trio.sleep(HOT)
            return
        await trio.sleep(PAUSE)
        # On a full disk nothing is written, and that is no event.
        wait = SECOND if self._low else math.inf
        if self._emptied:
            wait = max(0.0, min(self._emptied.values()) + SECOND - trio.current_time())
        with trio.move_on_after(wait):
            await trio.lowlevel.wait_readable(watch.fileno())

    def _all(self) -> set[str]:
        return {path.name for path in self._folder.glob("*.log")}

    async def _look(self, names: set[str]) -> None:
        now = trio.current_time()
        for name in [name for name, at in self._emptied.items() if now - at >= SECOND]:
            del self._emptied[name]
            self._release(name)
        limit = self._limit()
        for name in sorted(names):
            if name.endswith(".log"):
                await self._look_at(name, limit)

    def _limit(self) -> int:
        """How long a log may be now."""
        try:
            self._low = is_low(self._folder)
        except OSError as failure:
            log.warning("nobody knows how full the disk is: %s", failure.strerror)
        most = self._settings.now.processes.log_size
        return min(most, LEAST) if self._low else most

    async def _look_at(self, name: str, limit: int) -> None:
        path = self._folder / name
        try:
            if path.stat().st_size <= limit:
                return
        except OSError:
            return  # its agent was removed
        if name in self._emptied or self._low:
            self._hold(name)
        await trio.to_thread.run_sync(rotate, path, limit)
        self._emptied.setdefault(name, trio.current_time())

    def _hold(self, name: str) -> None:
        process = self._table.by_name(name.removesuffix(".log"))
        program = None if process is None else self._programs.find(process.ospid)
        if program is not None and self._programs.hold(program):
            log.warning("process %d writes its log too fast: it has to wait", program.pid)
            self._held[name] = program

    def _release(self, name: str) -> None:
        program = self._held.pop(name, None)
        if program is not None:
            process = self._table.find(program.pid)
            stay = process is not None and process.state is State.SLEEPING
            self._programs.release(program, stay=stay)
