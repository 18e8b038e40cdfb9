"""A provider, and a gateway before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.llm.desk import Desk
from tests.llm.server import Provider

KEY = "sk-the-key-of-the-operator"

SPEAKS = ["chat", "responses", "messages", "embeddings"]


def http_provider(url: str, **more: Any) -> dict[str, Any]:
    """A provider as the daemon tells of it."""
    said = {"kind": "http", "url": url, "speaks": SPEAKS, "key": KEY, "requests_per_minute": None}
    return said | {"max_in_flight": None, "retries": 0, "record": None} | more


def model(provider: str = "test", **more: Any) -> dict[str, Any]:
    timeouts = {"connect": 5.0, "first_byte": 30.0, "idle": 30.0} | more.pop("timeouts", {})
    said = {"provider": provider, "id": "m", "context": None, "max_output": None, "match": []}
    return said | {"fallbacks": [], "timeouts": timeouts} | more


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as made:
        yield made


@pytest.fixture(scope="module")
def pool() -> Iterator[list[Desk]]:
    """Gateways that no test has at the moment: to start one takes half a second."""
    idle: list[Desk] = []
    yield idle
    for desk in idle:
        desk.__exit__()


@pytest.fixture
def desks(provider: Provider, pool: list[Desk]) -> Iterator[Callable[..., Desk]]:
    """Makes gateways: by default one model, `m`, of the provider `test`."""
    provider.reset()
    used: list[Desk] = []

    def make(
        providers: dict[str, Any] | None = None, models: dict[str, Any] | None = None, **more: Any
    ) -> Desk:
        desk = pool.pop() if pool else Desk().__enter__()
        used.append(desk)
        providers = providers or {"test": http_provider(provider.url)}
        desk.begin(providers, models or {"m": model()}, **more)
        return desk

    yield make
    for desk in used:
        if desk.alive:
            pool.append(desk)
        else:
            desk.__exit__()


@pytest.fixture
def desk(desks: Callable[..., Desk]) -> Desk:
    return desks()
