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
    """Numbers of design/kernel.md, Processes. `ready_timeout`: how long a process that starts again
    may take to be ready before its children start all the same."""

    max_children_of_init: Count = 100
    grace_period: Duration = 10.0
    zombie_timeout: Duration = 60.0
    maid_interval: Duration = 15.0
    restart_backoff: Duration = 1.0
    restart_backoff_max: Duration = 60.0
    restart_attempts: Count = 5
    restart_window: Duration = 300.0
    heartbeats_missed: Count = 3
    ready_timeout: Duration = 10.0
    log_size: Annotated[int, Field(ge=4096)] = 10 * 1024 * 1024


class Messages(_Section):
    """Numbers of design/kernel.md, Messages. `max_sent` counts the finished messages that are kept
    for each sender, `max_dead` the dead letters of each mailbox; each goes after its retention.
    `reply_timeout`: how long a question asked through `asks/new` waits unless it says so itself;
    `max_open_asks` and `max_closed_asks` count those of each agent.
    `max_batch_bytes` is for one read of `recv.batch`, `max_broadcast_bytes` for all copies of one
    broadcast together. `stall_after`: an agent at work is stalled when mail waits for it and it has
    taken and finished none for so long."""

    max_size: Annotated[int, Field(ge=1024)] = 1024 * 1024
    max_waiting: Count = 10_000
    max_delivery_attempts: Count = 5
    ageing_per_second: Annotated[float, Field(ge=0, le=1000)] = 0.1
    claim_timeout: Duration = 3600.0
    stall_after: Duration = 300.0
    sent_retention: Duration = 86_400.0
    max_sent: Count = 1000
    dead_retention: Duration = 30 * 86_400.0
    max_dead: Count = 1000
    reply_timeout: Duration = 600.0
    max_open_asks: Count = 1000
    asks_retention: Duration = 86_400.0
    max_closed_asks: Count = 1000
    max_batch_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    max_broadcast_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024


class Escalation(_Section):
    """How long each one who is told may take to answer before it goes to the next one up: a
    warning, an error; `last_timeout` for who is the last (process 1, and the parent for info)."""

    warning_timeout: Duration = 600.0
    error_timeout: Duration = 120.0
    last_timeout: Duration = 86_400.0


class Queues(_Section):
    """`max_waiting` messages may wait in a queue that has no limit of its own; such a limit is at
    most `max_limit`."""

    max_queues: Count = 100_000
    max_waiting: Count = 10_000
    max_limit: Count = 1_000_000


class Topics(_Section):
    """`max_record` is the size of one record, `max_records` and `max_bytes` are what each topic
    keeps for readers that come late or are slow."""

    max_topics: Count = 100_000
    max_record: Annotated[int, Field(ge=1, le=1_000_000)] = 64 * 1024  # more: write(2) is split
    max_records: Count = 1000
    max_bytes: Count = 1024 * 1024


class Artifacts(_Section):
    """Shared memory: `max_size` of one artifact in bytes, `max_artifacts` of one agent."""

    max_size: Count = 256 * 1024 * 1024
    max_artifacts: Count = 10_000


class Reminders(_Section):
    """Of one agent: `burst` can be set at once, and then `per_minute`; `max_pending` wait to fire;
    `max_text` in bytes. `retry`: when one is tried again that found the inbox full."""

    burst: Count = 20
    per_minute: Count = 10
    max_pending: Count = 100
    max_text: Annotated[int, Field(ge=64, le=32 * 1024)] = 4096
    retry: Duration = 60.0


class Mount(_Section):
    """`max_parked` counts readers and writers that wait; one more gets EAGAIN."""

    max_parked: Annotated[int, Field(ge=1, le=20_000)] = 4000
    announce_queue: Count = 65_536


class Config(_Section):
    """Everything in `/etc/agentfs.yaml`. What is left out has its default."""

    processes: Processes = Processes()
    messages: Messages = Messages()
    escalation: Escalation = Escalation()
    queues: Queues = Queues()
    topics: Topics = Topics()
    artifacts: Artifacts = Artifacts()
    reminders: Reminders = Reminders()
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
