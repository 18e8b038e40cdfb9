"""`/etc/models.yaml` as it is read: the models that agents may use, and the providers of those."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    field_validator,
    model_validator,
)

from agentfs.base.models import check_whole, read_model
from agentfs.base.yaml_document import near
from agentfs.catalog.entries import DIALECTS, KINDS, MICROS, Key, Model, ProviderEntry, Timeouts
from agentfs.model.process import Tier
from agentfs.model.spec import Duration
from agentfs.store.live_document import Form

__all__ = ["FILE", "FORM", "SECRET_NAME", "Entries", "parse"]

FILE = "models.yaml"
"""The document's name in /etc."""

DEFAULT = """\
# The models that agents of this system use, and where they come from. A valid write takes effect at
# once; an invalid one is refused (EINVAL) and changes nothing.
#
# A provider is a server (url, without /v1), a model on this machine (run), recorded answers
# (replay), or written ones (scripted). Its key is a secret, which is set with
#     agentfs secret set anthropic
# or `echo KEY > /etc/secrets/anthropic`; nobody can read it back.
#
# Of a model, `input`, `output`, `cache_read` and `cache_write` are what a million tokens cost, in
# US dollars; `context` is how many tokens one call may have, `max_output` how many of them may be
# written. `match` are other names for it, as programs have them built in; `fallbacks` are asked
# where its provider fails before the first byte. A model without a provider has a price only; one
# that is not listed costs nothing, and is marked `unpriced` in /sys/accounting. The prices are
# examples.
providers:
  anthropic: {url: https://api.anthropic.com, speaks: [messages], key: {secret: anthropic}}
  openai: {url: https://api.openai.com, speaks: [chat, responses, embeddings],
    key: {secret: openai}}
  local: {run: smollm2, speaks: [chat, responses, messages]}
models:
  opus: {tier: strategic, provider: anthropic, id: claude-opus-4-1, input: 15, output: 75,
    cache_read: 1.5, cache_write: 18.75, context: 200000, max_output: 32000}
  sonnet: {tier: tactical, provider: anthropic, id: claude-sonnet-4-5, match: ["claude-*"],
    input: 3, output: 15, cache_read: 0.3, cache_write: 3.75, context: 200000, max_output: 64000}
  mini: {tier: operational, provider: openai, id: gpt-5-mini, match: ["gpt-*"], input: 0.25,
    output: 2, cache_read: 0.025, context: 128000, max_output: 128000}
  smollm2: {tier: operational, provider: local, context: 8192}
"""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$")]
Glob = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@/+*-]{1,128}$")]

# Of a file beside others, too: a secret, a tape.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a secret may be called."""

# Six places: with them a token costs a whole number of millionths of a millionth of a dollar.
Price = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=6, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1, le=10**12, strict=True)]
Seconds = Annotated[Duration, Field(gt=0, le=86_400)]
Most = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Dialect = Literal["chat", "responses", "messages", "embeddings"]

# Letters of a host, a port, a path; no user, no query, no fragment: a key is never part of a URL.
URL = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._~/-]*)?")

ANSWERS: tuple[Dialect, ...] = ("chat", "responses", "messages")
"""What a provider on this machine speaks if nothing else is said."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _KeyForm(_Form):
    secret: FileName | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> _KeyForm:
        if (self.secret is None) == (self.command is None):
            raise ValueError("either `secret: NAME` or `command: [PROGRAM, …]` was expected")
        return self


class _ProviderForm(_Form):
    url: str | None = None
    run: FileName | None = None
    replay: FileName | None = None
    scripted: FileName | None = None
    speaks: tuple[Dialect, ...] = ANSWERS
    key: _KeyForm | None = None
    requests_per_minute: Most | None = None
    max_in_flight: Most | None = None
    retries: Annotated[int, Field(ge=0, le=10, strict=True)] = 2
    record: FileName | None = None

    @field_validator("url")
    @classmethod
    def _is_url(cls, given: str | None) -> str | None:
        if given is None:
            return None
        url = given.rstrip("/")
        if not URL.fullmatch(url):
            raise ValueError("a URL like https://api.example.com was expected, without user or key")
        if url.endswith("/v1"):
            raise ValueError("the URL without /v1 was expected: that is a part of each request")
        return url

    @model_validator(mode="after")
    def _one_kind(self) -> _ProviderForm:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"one of {', '.join(KINDS)} was expected")
        if kinds != ["url"] and self.key is not None:
            raise ValueError("only a provider with a url has a key")
        if not self.speaks or (kinds == ["url"] and "speaks" not in self.model_fields_set):
            raise ValueError(f"`speaks` was expected: some of {', '.join(DIALECTS)}")
        return self

    def made(self, name: str) -> ProviderEntry:
        kind = next(kind for kind in KINDS if getattr(self, kind) is not None)
        key = None if self.key is None else Key(self.key.secret or "", self.key.command or ())
        return ProviderEntry(
            name,
            kind,
            getattr(self, kind),
            tuple(dict.fromkeys(self.speaks)),
            key,
            self.requests_per_minute,
            self.max_in_flight,
            self.retries,
            self.record,
        )


class _TimeoutsForm(_Form):
    connect: Seconds = Timeouts().connect
    first_byte: Seconds = Timeouts().first_byte
    idle: Seconds = Timeouts().idle


class _ModelForm(_Form):
    tier: Literal["strategic", "tactical", "operational"]
    provider: str | None = None
    id: Name | None = None
    match: tuple[Glob, ...] = ()
    input: Price = Decimal(0)
    output: Price = Decimal(0)
    cache_read: Price | None = None
    cache_write: Price | None = None
    context: Tokens | None = None
    max_output: Tokens | None = None
    fallbacks: tuple[str, ...] = ()
    timeouts: _TimeoutsForm = _TimeoutsForm()

    def made(self, name: str, providers: Mapping[str, ProviderEntry]) -> Model:
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        return Model(
            name,
            Tier(self.tier),
            int(self.input * MICROS),
            int(self.output * MICROS),
            self.context,
            int(read * MICROS),
            int(write * MICROS),
            None if self.provider is None else providers[self.provider],
            self.id or name,
            self.match,
            self.max_output,
            self.fallbacks,
            Timeouts(**dict(self.timeouts)),
        )


class _Document(_Form):
    providers: dict[FileName, _ProviderForm] = {}
    models: dict[Name, _ModelForm]

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, given: Any, check: ModelWrapValidatorHandler[_Document]) -> _Document:
        """Tell faults of one entry together with those between entries."""
        return check_whole(cls.__name__, given, check, _between(given))


def _between(given: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where entries do not fit together, and why; `given` is what somebody wrote, whatever that
    is."""
    providers, models = (_maps(given, part) for part in ("providers", "models"))
    for name, model in models.items():
        provider, fallbacks = model.get("provider"), model.get("fallbacks")
        if provider is None:
            for key in ("id", "fallbacks", "timeouts", "max_output"):
                if key in model:
                    yield ("models", name, key), "a model without a provider has a price only"
        elif isinstance(provider, str) and provider not in providers:
            words = f"there is no provider {provider}{near(provider, providers)}"
            yield ("models", name, "provider"), words
        for number, other in enumerate(fallbacks if isinstance(fallbacks, list) else ()):
            where = ("models", name, "fallbacks", number)
            if not isinstance(other, str) or other not in models:
                yield where, f"there is no model {other}{near(str(other), models)}"
            elif models[other].get("provider") is None:
                yield where, f"{other} has no provider"
            elif _leads_to(name, other, models):
                yield where, f"a loop: {other} falls back to {name}"


def _maps(given: Any, part: str) -> dict[str, dict[Any, Any]]:
    """The entries of a part that are maps."""
    found = given.get(part) if isinstance(given, dict) else None
    if not isinstance(found, dict):
        return {}
    return {str(name): entry for name, entry in found.items() if isinstance(entry, dict)}


def _leads_to(name: str, first: str, models: Mapping[str, Mapping[Any, Any]]) -> bool:
    """Whether the fallbacks of model `first`, or theirs, are `name`."""
    seen, ahead = set[str](), [first]
    while ahead:
        each = ahead.pop()
        if each == name:
            return True
        if each in models and each not in seen:
            seen.add(each)
            further = models[each].get("fallbacks")
            ahead += [one for one in further or () if isinstance(one, str)]
    return False


@dataclass(frozen=True, slots=True)
class Entries:
    """All that a document lists, by name, in its order."""

    models: Mapping[str, Model] = field(default_factory=dict)
    providers: Mapping[str, ProviderEntry] = field(default_factory=dict)


def parse(text: str) -> Entries:
    """The entries of a document; an empty one is the default. Raises EINVAL that names every
    fault."""
    document = read_model(text, _Document, "document")
    document = document or read_model(DEFAULT, _Document, "document")
    assert document is not None
    providers = {name: entry.made(name) for name, entry in document.providers.items()}
    models = {name: entry.made(name, providers) for name, entry in document.models.items()}
    return Entries(models, providers)


FORM = Form(FILE, parse, lambda: DEFAULT)
