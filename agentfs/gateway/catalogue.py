"""The models and providers that the daemon has told the gateway of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Catalogue", "Offer", "Patience"]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a provider has to be connected to, to send the first byte of an answer, and to
    send another one."""

    connect: float
    first_byte: float
    idle: float


@dataclass(frozen=True, slots=True)
class Offer:
    """A model of the list: `provider` has it as `id`. Where that fails, `fallbacks` are asked.
    `max_output` None: nobody has said how many tokens it writes at most."""

    name: str
    provider: str
    id: str
    max_output: int | None
    match: tuple[str, ...]
    fallbacks: tuple[str, ...]
    patience: Patience


class Catalogue:
    """What one packet said. `providers` are its words about each, by name."""

    def __init__(self, packet: Mapping[str, Any]) -> None:
        self.tapes: str = packet["tapes"]
        self.providers: dict[str, dict[str, Any]] = packet["providers"]
        self.offers = {
            name: Offer(
                name,
                said["provider"],
                said["id"],
                said["max_output"],
                tuple(said["match"]),
                tuple(said["fallbacks"]),
                Patience(**said["timeouts"]),
            )
            for name, said in packet["models"].items()
        }

    @classmethod
    def empty(cls) -> Catalogue:
        """Before anything was said."""
        return cls({"tapes": "", "providers": {}, "models": {}})

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all providers, which no text may show."""
        return tuple(said["key"] for said in self.providers.values() if said.get("key"))

    def find(self, name: str) -> Offer | None:
        """The model of that name; else the first that answers to it."""
        found = self.offers.get(name)
        if found is not None:
            return found
        return next((o for o in self.offers.values() if any(_is(g, name) for g in o.match)), None)

    def speaks(self, offer: Offer) -> tuple[str, ...]:
        """The dialects in which a model is offered."""
        provider = self.providers.get(offer.provider)
        return () if provider is None else tuple(provider["speaks"])


def _is(glob: str, name: str) -> bool:
    """Whether a name is one that a pattern means; `*` stands for any text. The daemon decides which
    model a call is of: this is asked where there is no call."""
    head, *parts = map(re.escape, re.split(r"\*+", glob))
    for part in parts[:-1]:
        head += f"(?>.*?{part})"  # the first place is as good as any: nothing is tried twice
    pattern = f"{head}.*{parts[-1]}" if parts else head
    return re.fullmatch(pattern, name, re.DOTALL) is not None
