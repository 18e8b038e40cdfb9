"""A running system whose agents remember."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from agentfs.kernel import Kernel
from agentfs.vfs.caller import Caller
from agentfs.vfs.exchange import ExchangeHandle
from tests.providers.world import OPERATOR, World

__all__ = ["Remembering"]


class Remembering(World):
    """A world with what a shell does at `remember` and `recall`."""

    def memory(self, agent: str = "alice") -> Path:
        return self.kernel.agents.memory_dir(agent)

    async def remember(self, text: str, agent: str = "alice", caller: Caller | None = None) -> str:
        """Keep a note; the path of its file."""
        caller = caller or self.as_agent(agent)
        handle = self.open(f"/agents/{agent}/remember", os.O_RDWR, caller)
        try:
            await handle.write(0, text.encode())
            return (await handle.read(0, 4096)).decode().strip()
        finally:
            handle.release()

    async def recall(
        self, query: str | bytes, agent: str = "alice", caller: Caller | None = None
    ) -> list[dict[str, Any]]:
        """What is found, as the lines of JSON have it."""
        caller = caller or self.as_agent(agent)
        handle = self.open(f"/agents/{agent}/recall", os.O_RDWR, caller)
        assert isinstance(handle, ExchangeHandle)
        try:
            handle.try_write(query.encode() if isinstance(query, str) else query)
            answer = b""
            while True:
                piece = handle.try_read(65536)
                if piece == b"":
                    return [json.loads(line) for line in answer.splitlines()]
                if piece is None:
                    await woken(handle)
                else:
                    answer += piece
        finally:
            handle.release()

    async def paths(self, query: str | bytes, agent: str = "alice") -> list[str]:
        """The paths of what is found."""
        return [found["path"] for found in await self.recall(query, agent)]


async def woken(handle: ExchangeHandle) -> None:
    """Wait until there may be more to read."""
    event = trio.Event()
    forget = handle.on_wake(event.set)
    try:
        if not handle.ready():
            await event.wait()
    finally:
        forget()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Remembering]:
    """A system with the agents alice and bob, and mute, which has no memory."""
    kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        made = Remembering(kernel)
        for name in ("alice", "bob"):
            await made.spawn(name)
        await made.spawn("mute", deny=["memory"])
        yield made


__all__ += ["OPERATOR"]
