"""A running kernel whose gateway is a test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import patch

import pytest
import trio

from agentfs.kernel import Kernel
from tests.chats.gateway import Gateway
from tests.providers.world import World

MODELS = """
providers:
  script: {url: "http://127.0.0.1:9", speaks: [chat]}
  keyed: {url: "http://127.0.0.1:9", speaks: [chat], key: {secret: keyed}}
models:
  big: {tier: strategic, provider: script}
  small: {tier: operational, provider: script, match: ["tiny-*"]}
  locked: {tier: operational, provider: keyed}
  priced: {tier: operational, input: 1}
"""


@pytest.fixture
async def gateway(nursery: trio.Nursery) -> Gateway:
    return Gateway(nursery)


@pytest.fixture
async def world(tmp_path: Path, gateway: Gateway) -> AsyncIterator[World]:
    """A system with the agents alice (tactical) and mute (without `llm`)."""
    with patch("agentfs.models.gateway.Gateway.connect", lambda self, pid: gateway.connect(pid)):
        kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        made = World(kernel)
        kernel.catalog.replace(MODELS)
        await made.spawn("alice", tier="tactical")
        await made.spawn("mute", deny=["llm"])
        yield made
