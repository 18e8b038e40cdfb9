"""The models that agents may use: their tiers, their prices, their contexts. `/etc/models.yaml`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentfs.base.models import read_model
from agentfs.model.process import Tier
from agentfs.quota.meter import MICROS
from agentfs.store.ground import Ground
from agentfs.store.live_document import Form, LiveDocument

__all__ = ["FILE", "FORM", "Model", "Models", "parse"]

FILE = "models.yaml"
"""The document's name in /etc."""

DEFAULT = """\
# The models that agents of this system use. A valid write takes effect at once; an invalid one is
# refused (EINVAL) and changes nothing. `input` and `output` are what a million tokens cost, in US
# dollars; `context` is how many tokens one call may have. A model that is not listed costs nothing,
# and what it was used for is marked `unpriced` in /sys/accounting. The prices are examples.
models:
  opus: {tier: strategic, input: 15, output: 75, context: 200000}
  sonnet: {tier: tactical, input: 3, output: 15, context: 200000}
  mini: {tier: operational, input: 0.25, output: 2, context: 128000}
"""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$")]
# Six places: with them a token costs a whole number of millionths of a millionth of a dollar.
Price = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=6, allow_inf_nan=False)]


class _ModelEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tier: Literal["strategic", "tactical", "operational"]
    input: Price = Decimal(0)
    output: Price = Decimal(0)
    context: Annotated[int, Field(ge=1, le=10**12, strict=True)] | None = None


class _ModelsDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[Name, _ModelEntry]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the list. `input` and `output` are what a token costs, in millionths of a
    millionth of a dollar; `context` is how many tokens one call may have, None: as many as it
    takes."""

    name: str
    tier: Tier
    input: int
    output: int
    context: int | None

    def cost(self, read: int, written: int) -> int:
        """The price of reading and writing so many tokens, in millionths of a dollar, rounded up: a
        use of a model that has a price is never free."""
        return -(-(self.input * read + self.output * written) // MICROS)

    def most(self, tokens: int) -> int:
        """The most that so many tokens can cost, read or written."""
        return -(-max(self.input, self.output) * tokens // MICROS)


def parse(text: str) -> dict[str, Model]:
    """The models of a document, by name; an empty one is the default. Raises EINVAL that names
    every fault."""
    document = read_model(text, _ModelsDocument, "document")
    document = document or read_model(DEFAULT, _ModelsDocument, "document")
    assert document is not None
    return {
        name: Model(
            name,
            Tier(entry.tier),
            int(entry.input * MICROS),
            int(entry.output * MICROS),
            entry.context,
        )
        for name, entry in document.models.items()
    }


FORM = Form(FILE, parse, lambda: DEFAULT)


class Models(LiveDocument[dict[str, Model]]):
    """What `/etc/models.yaml` says at the moment."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground.store, ground.events, FORM)

    def __iter__(self) -> Iterator[Model]:
        return iter(tuple(self.now.values()))

    def find(self, name: str) -> Model | None:
        """The model called `name`; None if it is not listed."""
        return self.now.get(name)

    def cost(self, name: str, read: int, written: int) -> int:
        """The price of so many tokens that model `name` reads and writes, in millionths of a
        dollar; nothing if it is not listed."""
        model = self.now.get(name)
        return 0 if model is None else model.cost(read, written)

    def most(self, name: str, tokens: int) -> int:
        """What so many tokens of model `name` cost at most; nothing if it is not listed."""
        model = self.now.get(name)
        return 0 if model is None else model.most(tokens)
