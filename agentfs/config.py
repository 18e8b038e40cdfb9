"""The configuration: `/etc/agentfs.yaml`, checked whole, in effect as soon as it is written."""

from __future__ import annotations

import errno
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agentfs.errors import KernelError
from agentfs.events import ConfigChanged, EventLog
from agentfs.process.spec import describe, read_yaml, seconds
from agentfs.storage.store import Store

__all__ = ["Config", "Settings"]

Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Processes(_Section):
    """Numbers of design/kernel.md, Processes."""

    max_children_of_init: Count = 100
    grace_period: Duration = 10.0
    zombie_timeout: Duration = 60.0
    maid_interval: Duration = 15.0
    restart_backoff: Duration = 1.0
    restart_backoff_max: Duration = 60.0
    restart_attempts: Count = 5
    restart_window: Duration = 300.0
    heartbeats_missed: Count = 3
    log_size: Annotated[int, Field(ge=4096)] = 10 * 1024 * 1024


class Messages(_Section):
    """Numbers of design/kernel.md, Messages."""

    max_size: Annotated[int, Field(ge=1024)] = 1024 * 1024
    max_waiting: Count = 10_000
    max_delivery_attempts: Count = 5
    ageing_per_second: Annotated[float, Field(ge=0, le=1000)] = 0.1
    claim_timeout: Duration = 3600.0


class Mount(_Section):
    """`max_parked` counts readers that wait; one more gets EAGAIN."""

    max_parked: Annotated[int, Field(ge=1, le=20_000)] = 4000
    announce_queue: Count = 65_536


class Config(_Section):
    """Everything in `/etc/agentfs.yaml`. What is left out has its default."""

    processes: Processes = Processes()
    messages: Messages = Messages()
    mount: Mount = Mount()

    @classmethod
    def parse(cls, text: str) -> Config:
        """Raises EINVAL that names every fault."""
        given = read_yaml(text)
        try:
            return cls.model_validate({} if given is None else given)
        except ValidationError as bad:
            faults = "; ".join(
                f"{'.'.join(map(str, where)) or 'document'}: {what}"
                for where, what in describe(bad)
            )
            raise KernelError(errno.EINVAL, faults) from None

    def text(self) -> str:
        """The configuration as a document that says everything, defaults included."""
        return (
            "# The configuration of this AgentFS. A valid write takes effect at once; an invalid\n"
            "# one is refused (EINVAL) and changes nothing. Durations in seconds, or 10m, 2h, 7d.\n"
            + str(yaml.safe_dump(self.model_dump(), sort_keys=False))
        )


class Settings:
    """The configuration in effect, and its text as it was written."""

    def __init__(self, store: Store, events: EventLog) -> None:
        self._store = store
        self._events = events
        self.text = store.meta("config") or Config().text()
        self.now = Config.parse(self.text)
        self.changed = 0  # ns, for st_mtime; set by whoever has the clock

    def replace(self, text: str) -> None:
        """Put a new configuration in effect. Raises EINVAL and changes nothing if it is wrong."""
        now, before = Config.parse(text), (self.text, self.now)
        with self._store.transaction():
            self._store.on_rollback(lambda: self._use(*before))
            self._store.set_meta("config", text)
            self._use(text, now)  # before the event goes out: listeners look here
            self._events.emit(ConfigChanged("/etc/agentfs.yaml"))

    def _use(self, text: str, now: Config) -> None:
        self.text, self.now = text, now
