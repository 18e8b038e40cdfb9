"""What the catalogue has: models with their prices, and the providers that serve them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentfs.model.process import Tier

__all__ = [
    "DIALECTS",
    "KINDS",
    "MICROS",
    "Key",
    "Model",
    "ProviderEntry",
    "Timeouts",
    "wire_of_model",
    "wire_of_provider",
]

MICROS = 1_000_000
"""Costs are kept in millionths of a dollar: sums of whole numbers agree, whatever their order."""

DIALECTS = ("chat", "responses", "messages", "embeddings")
"""The requests that a provider may understand: OpenAI's chat completions and responses,
Anthropic's messages, and OpenAI's embeddings."""

KINDS = ("url", "run", "replay", "scripted")
"""What answers for a provider, by the key that says so: a server, a program that the system starts,
recorded answers, written answers."""


@dataclass(frozen=True, slots=True)
class Key:
    """Where the key of a provider comes from: a secret of that name, or the output of a command."""

    secret: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """Something that answers calls of models. `kind` is one of `KINDS`; `where` is the URL (without
    `/v1`), the model that is run, the tape, or the file of answers. `requests_per_minute` and
    `max_in_flight` None: any number. `record` names a tape that is made of what it answers."""

    name: str
    kind: str
    where: str
    speaks: tuple[str, ...]
    key: Key | None = None
    requests_per_minute: int | None = None
    max_in_flight: int | None = None
    retries: int = 2
    record: str | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds until a provider is given up: to connect, to send the first byte of an answer, and
    between two bytes of it."""

    connect: float = 10.0
    first_byte: float = 120.0
    idle: float = 60.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the list.

    The prices are what a token costs, in millionths of a millionth of a dollar. `cache_read` is
    that of a token which the provider had kept from an earlier call, `cache_write` that of one
    which it keeps; neither is counted in `input`. `context` is how many tokens one call may have,
    `max_output` how many of them it may write; None: what the caller asks for, or 16,384. A model
    whose `provider` is None has a price, and nobody who answers for it.
    """

    name: str
    tier: Tier
    input: int
    output: int
    context: int | None
    cache_read: int = 0
    cache_write: int = 0
    provider: ProviderEntry | None = None
    id: str = ""
    match: tuple[str, ...] = ()
    max_output: int | None = None
    fallbacks: tuple[str, ...] = ()
    timeouts: Timeouts = field(default_factory=Timeouts)

    def cost(self, read: int, written: int, cache_read: int = 0, cache_write: int = 0) -> int:
        """The price of so many tokens, in millionths of a dollar, rounded up: a use of a model that
        has a price is never free."""
        return _rounded_up(
            self.input * read
            + self.output * written
            + self.cache_read * cache_read
            + self.cache_write * cache_write
        )

    @property
    def dearest_input(self) -> int:
        """The price of a token that is read, if nobody knows yet whether the provider keeps it."""
        return max(self.input, self.cache_read, self.cache_write)

    def most(self, tokens: int) -> int:
        """The most that so many tokens can cost, read or written."""
        return _rounded_up(max(self.dearest_input, self.output) * tokens)

    def most_of(self, read: int, written: int) -> int:
        """The most that so many tokens can cost, of which so many are read and so many written."""
        return _rounded_up(self.dearest_input * read + self.output * written)

    def affordable(self, read: int, cost: int) -> int | None:
        """How many tokens may be written, beside so many that are read, for so many millionths of a
        dollar; None: any number. Below zero if not even those can be read."""
        left = cost * MICROS - self.dearest_input * read
        if self.output:
            return left // self.output
        return None if left >= 0 else -1


def _rounded_up(price: int) -> int:
    return -(-price // MICROS)


def wire_of_model(model: Model) -> dict[str, Any]:
    """A model that has a provider, as the gateway is told of it."""
    assert model.provider is not None
    timeouts = model.timeouts
    return {
        "provider": model.provider.name,
        "id": model.id,
        "context": model.context,
        "max_output": model.max_output,
        "match": list(model.match),
        "fallbacks": list(model.fallbacks),
        "timeouts": {
            "connect": timeouts.connect,
            "first_byte": timeouts.first_byte,
            "idle": timeouts.idle,
        },
    }


def wire_of_provider(provider: ProviderEntry, key: str | None, written: str) -> dict[str, Any]:
    """A provider, as the gateway is told of it: with its `key`, and with the `written` answers of
    a file."""
    told: dict[str, Any] = {"speaks": list(provider.speaks), "record": provider.record}
    match provider.kind:
        case "url":
            return told | {
                "kind": "http",
                "url": provider.where,
                "key": key,
                "requests_per_minute": provider.requests_per_minute,
                "max_in_flight": provider.max_in_flight,
                "retries": provider.retries,
            }
        case "run":
            return told | {"kind": "run", "model": provider.where}
        case "replay":
            return told | {"kind": "replay", "tape": provider.where}
        case _:
            return told | {"kind": "scripted", "file": provider.where, "text": written}
