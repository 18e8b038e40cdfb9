"""The configuration: `/etc/agentfs.yaml`, checked whole, in effect as soon as it is written.

Each room declares its section, a class of its `settings.py`; `agentfs.sections` has them all, in
the order of the document.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from sys import intern
from typing import Annotated, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from agentfs.base.models import read_model
from agentfs.model.spec import seconds
from agentfs.store.defaults import with_defaults, without_defaults
from agentfs.store.event_log import EventLog
from agentfs.store.live_document import Form, LiveDocument
from agentfs.store.store import Store

__all__ = [
    "Config",
    "Count",
    "Duration",
    "Section",
    "Settings",
    "configuration",
    "configuration_form",
]

Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """One section of the configuration, called `NAME` there. A missing key has its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    NAME: ClassVar[str]


class Config(BaseModel):
    """Everything in `/etc/agentfs.yaml`: `configuration` makes the class with the sections."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def of(self, section: type[S]) -> S:
        """What one section says."""
        found: S = getattr(self, section.NAME)
        return found

    @classmethod
    def parse(cls, text: str) -> Config:
        """Raises EINVAL that names every fault."""
        return read_model(text, cls, "document") or cls()

    def text(self) -> str:
        """The configuration as a document that says everything, defaults included."""
        return (
            "# The configuration of this AgentFS. A valid write takes effect at once; an invalid\n"
            "# one is refused (EINVAL) and changes nothing. Durations in seconds, or 10m, 2h, 7d.\n"
            + str(yaml.safe_dump(self.model_dump(), sort_keys=False))
        )


@cache
def configuration(*sections: type[Section]) -> type[Config]:
    """A document of these sections, in this order."""
    fields = {section.NAME: (section, section()) for section in sections}
    made: type[Config] = create_model("Config", __base__=Config, **fields)  # type: ignore[call-overload]
    return made


@cache
def configuration_form(sections: tuple[type[Section], ...]) -> Form[Config]:
    """How `/etc/agentfs.yaml` with these sections is read."""
    config = configuration(*sections)
    default = cache(lambda: config().text())
    return Form("agentfs.yaml", config.parse, default, config, kept_as="config")


class Settings(LiveDocument[Config]):
    """The configuration in effect, and its text as it was written; `shown` has the rest, too."""

    def __init__(self, store: Store, events: EventLog, sections: tuple[type[Section], ...]) -> None:
        self._shown: tuple[str | None, str] = (None, "")  # a text, and how that is shown
        super().__init__(store, events, configuration_form(sections))

    def of(self, section: type[S]) -> S:
        """What one section says at the moment."""
        found: S = getattr(self.now, section.NAME)
        return found

    def number(self, path: str) -> int:
        """The number that is called so, as `queues.max_queues`."""
        section, name = path.split(".")
        # Interned: Python's cache of attributes keeps a name of its own for each look-up otherwise,
        # up to 4,096, and each keeps the memory around it from the machine.
        found: int = getattr(getattr(self.now, intern(section)), intern(name))
        return found

    def require(self, section: type[S], check: Callable[[S], object]) -> None:
        """Have `check` look at what one section is about to say. It raises EINVAL if the rest of
        the system does not allow that."""
        self.add_check(lambda config: check(config.of(section)))

    @property
    def shown(self) -> str:
        """The text, and what it leaves out as comments."""
        text, shown = self._shown
        if text != self.text:
            shown = with_defaults(self.text, self.now)
            self._shown = (self.text, shown)
        return shown

    def replace(self, text: str) -> None:
        super().replace(without_defaults(text))
