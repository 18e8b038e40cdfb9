"""Moments in which nobody uses the tree: requests wait until they are over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from agentfs.model.principal import Principal

__all__ = ["Standstill"]


MOMENT = 1.0
"""Seconds in which what it has caused may still come to light."""


def _nobody(principal: Principal) -> bool:
    return False


class Standstill:
    """Asked before each request. `on`: requests wait, but for those of whom `may_pass`."""

    def __init__(self) -> None:
        self.on = False
        self._over = trio.Event()
        self._until = 0.0
        self.may_pass: Callable[[Principal], bool] = _nobody

    @contextmanager
    def hold(self, may_pass: Callable[[Principal], bool] = _nobody) -> Iterator[None]:
        """Let requests wait until the block ends. Blocks lie within each other, or one after the
        other."""
        before = self.on, self.may_pass
        self.begin(may_pass)
        try:
            yield
        finally:
            self.on, self.may_pass = before
            if not self.on:
                self._until = time.monotonic() + MOMENT
                self._over.set()
                self._over = trio.Event()

    @property
    def lately(self) -> bool:
        """Whether it is on, or was a moment ago."""
        return self.on or time.monotonic() < self._until

    def begin(self, may_pass: Callable[[Principal], bool]) -> None:
        """Let requests wait until all of this has an end."""
        self.on, self.may_pass = True, may_pass

    async def wait(self) -> None:
        """Wait until it is over."""
        while self.on:
            await self._over.wait()
