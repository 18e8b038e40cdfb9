"""Vectors of a provider: what is meant is found, too, at the cost of the caller."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import patch

import pytest
import trio

from agentfs.kernel import Kernel
from agentfs.recall.vectors import Vector, joined, nearest
from tests.chats.gateway import Gateway, Heard
from tests.recall.conftest import Remembering

MODELS = """
providers:
  script: {url: "http://127.0.0.1:9", speaks: [embeddings]}
models:
  vectors: {tier: operational, provider: script}
"""

SENSES = (("cat", "kitten", "feline"), ("car", "truck", "vehicle"), ("cake", "bread", "baking"))
"""What the model of this test understands: each is a direction."""


def meaning(text: str) -> list[float]:
    return [0.01 + sum(word in text.lower() for word in sense) for sense in SENSES]


async def embed(heard: Heard) -> None:
    """The gateway and a model that makes vectors."""
    assert heard.path == "/v1/embeddings"
    assert heard.asked["model"] == "vectors"
    texts = heard.asked["input"]
    data = [{"index": n, "embedding": meaning(text)} for n, text in enumerate(texts)]
    await heard.begin(200, "application/json")
    await heard.data(json.dumps({"data": data[::-1]}).encode())
    await heard.end()


@pytest.fixture
async def gateway(nursery: trio.Nursery) -> Gateway:
    return Gateway(nursery)


@pytest.fixture
async def world(tmp_path: Path, gateway: Gateway) -> AsyncIterator[Remembering]:
    with patch("agentfs.models.gateway.Gateway.connect", lambda self, pid: gateway.connect(pid)):
        kernel = Kernel(tmp_path / "state", "/run/agents")
    async with kernel.running():
        made = Remembering(kernel)
        kernel.catalog.replace(MODELS)
        await made.spawn("alice", tier="tactical")
        await made.write("/etc/agentfs.yaml", "memory: {embeddings: vectors}\n")
        yield made


def inputs(gateway: Gateway) -> list[str]:
    return [text for heard in gateway.heard for text in heard.asked["input"]]


async def test_what_is_meant_is_found(world: Remembering, gateway: Gateway) -> None:
    kitten = await world.remember("The kitten sleeps on the sofa.")
    truck = await world.remember("Type: fact\n\nThe truck is red.")
    await world.remember("Bread rises overnight.")
    gateway.then(embed)
    found = await world.recall("my feline")
    assert found[0]["path"] == kitten
    assert found[0]["snippet"] == "The kitten sleeps on the sofa."
    assert 1 >= found[0]["score"] > found[1]["score"] > 0
    assert gateway.heard[0].pid == world.pid("alice"), "it is asked, and pays"
    assert inputs(gateway)[0] == "my feline"
    assert sorted(inputs(gateway)[1:])[0] == "Bread rises overnight.\n", "without headers"
    gateway.then(embed)
    (only,) = await world.recall("Type: fact\n\nsome vehicle")
    assert only["path"] == truck
    assert inputs(gateway)[4:] == ["some vehicle"], "no file is asked about twice"
    (world.memory().parent / kitten).write_text("A vehicle, now.")
    gateway.then(embed)
    assert kitten in [hit["path"] for hit in await world.recall("Limit: 2\n\ntruck")]
    assert inputs(gateway)[5:] == ["truck", "A vehicle, now."]


async def test_words_are_found_without_vectors(world: Remembering, gateway: Gateway) -> None:
    path = await world.remember("The kitten sleeps.")

    async def wrong(heard: Heard) -> None:
        await heard.begin(200, "application/json")
        await heard.data(b'{"data": [{"index": 0, "embedding": "x"}]}')
        await heard.end()

    gateway.then(lambda heard: heard.refuse(400, errno="EDQUOT", words="the budget is used up"))
    assert await world.paths("kitten") == [path]
    gateway.then(wrong)
    assert await world.paths("kitten") == [path]
    assert await world.paths("Type: note\n\n") == [path], "nobody is asked without words"
    await world.write("/etc/agentfs.yaml", "memory: {embeddings: ''}\n")
    assert await world.paths("kitten") == [path]
    assert len(gateway.heard) == 2


async def test_a_model_that_hangs_is_not_waited_for(world: Remembering, gateway: Gateway) -> None:
    path = await world.remember("The kitten sleeps.")
    gateway.then(lambda heard: heard.gone.wait())
    with patch("agentfs.recall.memories.PATIENCE", 0.05):
        assert await world.paths("kitten") == [path]
    await gateway.heard[0].gone.wait()


async def test_many_notes_take_several_requests(world: Remembering, gateway: Gateway) -> None:
    for _ in range(70):
        await world.remember("cake")
    gateway.then(embed)
    gateway.then(embed)
    await world.recall("baking")
    assert [len(heard.asked["input"]) for heard in gateway.heard] == [65, 6]


def test_the_nearest_are_nearest() -> None:
    chance = random.Random(3)
    topics = [[chance.gauss(0, 1) for _ in range(384)] for _ in range(100)]

    def near(topic: list[float]) -> Vector:
        return Vector(number + chance.gauss(0, 0.7) for number in topic)

    made = {number: near(topics[number % 100]) for number in range(2000)}
    asked = near(topics[7])
    exact = sorted(made, key=lambda number: -asked.likeness(made[number].data))
    close = nearest(asked, ((number, each.signs) for number, each in made.items()), 200)
    assert set(exact[:20]) <= set(close)
    assert {number % 100 for number in exact[:20]} == {7}
    assert math.isclose(asked.likeness(asked.data), 1.0, abs_tol=1e-5)
    assert asked.likeness(b"") == -1.0
    assert nearest(asked, [(1, b""), (2, b"\0" * 48)], 5) == [2]
    assert joined(["a", "b"], ["a"])["a"] == 1.0
