"""Fixtures: a system in real time, one whose time stands still, a count of descriptors."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.clock import TrioClock
from tests.process.world import System, running


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """A system in real time."""
    async with running(tmp_path / "state") as made:
        yield made


@pytest.fixture
async def timed(tmp_path: Path, mock_clock: Any) -> AsyncIterator[System]:
    """A system whose time stands still until `mock_clock.jump`. Its programs are real."""
    async with running(tmp_path / "state", clock=TrioClock()) as made:
        yield made


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """How many file descriptors this process has open."""
    return lambda: len(os.listdir("/proc/self/fd"))
