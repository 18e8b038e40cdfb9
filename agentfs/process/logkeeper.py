"""Keeps the logs of programs short while they are written; slows down a program that writes too
fast, and ends one that cannot be slowed down.

A look costs the size of one file. There is one when inotify says that something was written, at
most every `PAUSE`, and one every `POLL` at the logs of all programs: of a write of a gigabyte
inotify tells when it is over. A log that was emptied within the last second is looked at every
millisecond (a program writes some gigabytes a second), and its program is held when that is over
the limit again, until the second is over. So one agent writes some times `processes.log_size` a
second at most.

A log that grows by `ESCAPED` while its program is held is written by one that does not stand still:
it is in a write of a gigabyte, which only a KILL breaks off, or it belongs to somebody else, who
got the descriptor. The first is ended for good. Of the others, those that have the file open for
writing are stopped too, and ended if they go on all the same.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable
from contextlib import suppress

import trio
from inotify_simple import INotify, flags

from agentfs.base.errors import KernelError
from agentfs.machine import orphans
from agentfs.machine.logs import LEAST, is_low, room_of, rotate
from agentfs.machine.programs import Program, Programs
from agentfs.machine.writers import writers
from agentfs.model.process import Process, State
from agentfs.process.settings import ProcessSettings
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["LogKeeper"]

log = logging.getLogger(__name__)

PAUSE = 0.01
"""Seconds between two looks at all that was written to."""

HOT = 0.001
"""Seconds between two looks at what was emptied within the last `SECOND`."""

SECOND = 1.0
"""Within this time a program may fill its log once."""

POLL, POLL_EACH = 0.25, 0.001
"""Seconds between two looks at the logs of all programs, and for each of them: 0.3 % of a core."""

MIB = 1024 * 1024

ESCAPED = 64 * MIB
"""Bytes that a log may grow by while its program is held: writes that are under way are done."""

STRANGE = MIB
"""Bytes after which others than the program are looked for."""

CUTS_AT_ONCE = 8
"""Threads that empty logs. Linux has them wait for a write that is under way."""

AGAIN = 15.0
"""Seconds until the next try where there was no inotify."""


class _Hot:
    """A log that was over the limit within the last second. `cut_from`: its size when the thread
    began that empties it now, else None. `escaped`: what it grew by while it was `held`."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.size = 0
        self.cut_from: int | None = None
        self.program: Program | None = None
        self.held = False
        self.escaped = 0
        self.searching = False
        self.others: list[int] = []


class LogKeeper(Part):
    """Follows the folder of logs while `run` runs. `end(process, name, used, most)` ends a process
    for good. Time is trio's: what it waits for is the machine's."""

    def __init__(
        self,
        ground: Ground,
        table: ProcessTable,
        programs: Programs,
        end: Callable[[Process, str, float, float], object],
    ) -> None:
        self._folder = ground.state_dir / "logs"
        self._settings = ground.settings
        self._table = table
        self._programs = programs
        self._end = end
        self._hot: dict[str, _Hot] = {}  # by name of the file
        self._low = False
        self._polled = -math.inf
        self._limiter = trio.CapacityLimiter(CUTS_AT_ONCE)

    def __len__(self) -> int:
        """How many logs' programs are held."""
        return sum(hot.held for hot in self._hot.values())

    async def run(self) -> None:
        """Until cancelled; what is held then goes on. Without it the maid rotates, later."""
        while True:
            try:
                await self._follow()
            except* OSError as failures:  # no descriptors, or the folder is gone
                log.error("the logs cannot be followed: %s", failures)
            finally:
                for name in tuple(self._hot):
                    self._release(name)
            await trio.sleep(AGAIN)

    async def _follow(self) -> None:
        with INotify() as watch:
            watch.add_watch(self._folder, flags.MODIFY | flags.OPEN)
            async with trio.open_nursery() as nursery:
                self._look(self._all(), nursery)
                while True:
                    await self._wait(watch)
                    names = {
                        each.name for each in watch.read(timeout=0) if each.mask & flags.MODIFY
                    }
                    self._look(names.union(self._hot, self._due()), nursery)

    async def _wait(self, watch: INotify) -> None:
        """Until there is something to look at."""
        if self._hot:
            resting = all(hot.held for hot in self._hot.values())
            await trio.sleep(PAUSE if resting else HOT)
            return
        await trio.sleep(PAUSE)
        wait = math.inf
        if self._low or len(self._programs) or self._programs.launching:
            wait = max(0.0, self._polled + self._interval() - trio.current_time())
        with trio.move_on_after(wait):
            await trio.lowlevel.wait_readable(watch.fileno())

    def _interval(self) -> float:
        return max(POLL, POLL_EACH * len(self._programs))

    def _due(self) -> set[str]:
        """The logs that are due for a look although nothing tells of them."""
        if trio.current_time() < self._polled + self._interval():
            return set()
        self._polled = trio.current_time()
        if self._low:  # nothing can be written, and that is no event
            return self._all()
        found = (self._table.find(program.pid) for program in self._programs)
        return {f"{process.name.replace('/', '%')}.log" for process in found if process is not None}

    def _all(self) -> set[str]:
        return {path.name for path in self._folder.glob("*.log")}

    def _look(self, names: set[str], nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for name, hot in tuple(self._hot.items()):
            if now - hot.since >= SECOND and hot.cut_from is None and not hot.searching:
                self._release(name)
        limit = self._limit()
        for name in sorted(names):
            if name.endswith(".log"):
                self._look_at(name, limit, nursery)

    def _limit(self) -> int:
        """How long a log may be now."""
        try:
            self._low = is_low(self._folder)
        except OSError as failure:
            log.warning("nobody knows how full the disk is: %s", failure.strerror)
        most = self._settings.of(ProcessSettings).log_size
        return min(most, LEAST) if self._low else most

    def _look_at(self, name: str, limit: int, nursery: trio.Nursery) -> None:
        try:
            size = room_of((self._folder / name).stat())
        except OSError:
            return  # its agent was removed
        hot = self._hot.get(name)
        if hot is None:
            if size <= limit:
                return
            hot = self._hot[name] = _Hot(trio.current_time())
            if self._low:
                self._hold(name, hot)
        elif hot.held:
            hot.escaped += size - hot.size if size > hot.size else 0
            if hot.escaped > STRANGE and not hot.searching:
                hot.searching = True
                nursery.start_soon(self._catch, name, hot)
        elif size - (hot.cut_from or 0) > limit:
            self._hold(name, hot)
        hot.size = size
        if size > limit and hot.cut_from is None:
            hot.cut_from = size
            nursery.start_soon(self._cut, name, hot, limit)

    async def _cut(self, name: str, hot: _Hot, limit: int) -> None:
        await trio.to_thread.run_sync(
            rotate, self._folder / name, limit, limiter=self._limiter, abandon_on_cancel=True
        )
        hot.cut_from, hot.size = None, 0

    # -- writing too fast -------------------------------------------------------------------------

    def _hold(self, name: str, hot: _Hot) -> None:
        """Have its program stand still, and what that has forked since, if it is one of ours."""
        process = self._table.by_name(name.removesuffix(".log").replace("%", "/"))
        hot.program = None if process is None else self._programs.find(process.ospid)
        hot.held = True
        if hot.program is not None:
            again = hot.program.held
            if self._programs.hold(hot.program) and not again:
                log.warning("process %d writes its log too fast: it has to wait", hot.program.pid)

    def _release(self, name: str) -> None:
        hot = self._hot.pop(name)
        orphans.go_on(hot.others)
        if hot.program is not None and hot.program.held:
            process = self._table.find(hot.program.pid)
            stay = process is not None and process.state is State.SLEEPING
            self._programs.release(hot.program, stay=stay)

    async def _catch(self, name: str, hot: _Hot) -> None:
        """It grows though its program stands still: stop the others that write it. If there are
        none, or that does not help, end them."""
        self._hold(name, hot)
        own = set[int]() if hot.program is None else self._programs.standing(hot.program)
        path = os.path.realpath(self._folder / name)
        found = await trio.to_thread.run_sync(writers, path.__eq__)
        others = [ospid for ospid in found if ospid not in own]
        if hot.escaped <= ESCAPED:
            stopped = orphans.stop(others)
            hot.others += stopped
            for ospid in stopped:
                log.warning("program %d writes the log %s too fast: it has to wait", ospid, name)
        elif others:
            for ospid in others:
                log.warning("program %d, which wrote the log %s too fast, is ended", ospid, name)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(ospid, signal.SIGKILL)
            hot.escaped = STRANGE
        else:
            process = None if hot.program is None else self._table.find(hot.program.pid)
            if process is not None and process.state.alive and not process.stopping:
                try:
                    self._end(process, "log_mb", hot.escaped / MIB, ESCAPED / MIB)
                except KernelError as failure:
                    log.error("process %d cannot be ended yet: %s", process.pid, failure)
            hot.escaped = STRANGE
        hot.searching = False
