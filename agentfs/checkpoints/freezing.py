"""Having everybody stand still for a moment: programs, and whoever uses the tree."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from agentfs.machine.programs import Program, Programs
from agentfs.vfs.standstill import Standstill

__all__ = ["Freezing"]

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds until we go on though one does not stand still: it waits for a disk that hangs."""

PAUSE = 0.001

AT_ONCE = 20
"""Programs between two turns of the event loop: 30 µs for each with control groups, and a
millisecond without."""


class Freezing:
    """Programs are frozen with their control groups; without those they get SIGSTOP, and one that
    forks at that very moment may get away. Attached programs, and others of this machine, are not
    ours to hold: their requests wait."""

    def __init__(self, programs: Programs, standstill: Standstill) -> None:
        self._programs = programs
        self._standstill = standstill

    @asynccontextmanager
    async def everybody(self) -> AsyncIterator[None]:
        """Nobody goes on until the block ends."""
        held: list[Program] = []
        with self._standstill.hold():
            try:
                for number, program in enumerate(tuple(self._programs)):
                    if not program.held and self._programs.hold(program):
                        held.append(program)
                    if number % AT_ONCE == AT_ONCE - 1:
                        await trio.lowlevel.checkpoint()
                await self._all_still(held)
                yield
            finally:
                for program in held:
                    self._programs.release(program)

    def close_tree(self) -> None:
        """From now on nobody but agents uses the tree: their programs are to end, and may have
        something to say before. It is not opened again."""
        self._standstill.begin(lambda principal: principal.is_agent)

    async def _all_still(self, held: list[Program]) -> None:
        with trio.move_on_after(PATIENCE):
            for program in held:
                while not self._programs.is_still(program):  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(PAUSE)
            return
        log.warning("not all programs stand still after %g s", PATIENCE)
