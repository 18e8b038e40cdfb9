"""A running kernel and its tree, without FUSE."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfs.kernel import Kernel
from tests.providers.world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A system with the agents alice, bob and carol, children of process 1 without programs."""
    kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        made = World(kernel)
        for name in ("alice", "bob", "carol"):
            await made.spawn(name)
        yield made
