"""The providers that the daemon has told of, each with its connections and its turnstile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from agentfs.dialects.clean import clean
from agentfs.gateway.catalogue import Catalogue
from agentfs.gateway.http_source import HttpSource
from agentfs.gateway.local_source import LocalSource
from agentfs.gateway.played import ScriptSource, TapeSource
from agentfs.gateway.recorder import Recorder
from agentfs.gateway.source import Source
from agentfs.gateway.turnstile import Turnstile

__all__ = ["Providers", "Upstream"]


@dataclass(frozen=True, slots=True)
class Upstream:
    """`said`: what made it so."""

    name: str
    said: dict[str, Any]
    source: Source
    turnstile: Turnstile
    retries: int


class Providers:
    """Those of the present catalogue. One that stays the same keeps its connections. `nursery` has
    their tasks; `log` is told what goes wrong with them."""

    def __init__(self, nursery: trio.Nursery, log: Callable[[str], None]) -> None:
        self._nursery, self._log = nursery, log
        self.catalogue = Catalogue.empty()
        self._providers: dict[str, Upstream] = {}
        self._keys: tuple[tuple[bytes, str], ...] = ()

    def configure(self, catalogue: Catalogue) -> None:
        """From now on these. Calls under way go on with those that they have."""
        before, self._providers = self._providers, {}
        self.catalogue = catalogue
        self._keys = tuple((key.encode(), key) for key in catalogue.keys)
        for name, said in catalogue.providers.items():
            old = before.get(name)
            if old is not None and old.said == said:
                self._providers[name] = before.pop(name)
            else:
                self._providers[name] = self._made(name, said)
        for gone in before.values():
            self._nursery.start_soon(gone.source.aclose)

    def find(self, name: str) -> Upstream | None:
        return self._providers.get(name)

    def shown(self, data: bytes) -> bytes:
        """A text of a provider without any key."""
        # JSON and URLs write some keys in another way: then the search is a longer one.
        for key, word in self._keys:
            if key in data or not word.isascii() or not word.replace("-", "").isalnum():
                return clean(data, [word for _, word in self._keys])
        return data

    def _made(self, name: str, said: dict[str, Any]) -> Upstream:
        turnstile = Turnstile(name, said.get("requests_per_minute"), said.get("max_in_flight"))
        return Upstream(name, said, self._source(name, said), turnstile, said.get("retries", 2))

    def _source(self, name: str, said: dict[str, Any]) -> Source:
        tapes = self.catalogue.tapes
        source: Source
        match said["kind"]:
            case "run":
                source = LocalSource(name, said["model"], tapes, self._nursery, self._log)
            case "replay":
                source = TapeSource(tapes, said["tape"])
            case "scripted":
                source = ScriptSource(said["file"], said["text"])
            case _:
                source = HttpSource(name, said["url"], said["key"], self._nursery)
        if said.get("record"):
            tape = f"{tapes}/{said['record']}.jsonl"
            source = Recorder(source, tape, self.shown, self._log)
        return source
