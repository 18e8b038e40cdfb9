"""The configuration: `/etc/agentfs.yaml`, checked whole, in effect as soon as it is written."""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_serializer,
)

from agentfs.base.models import read_model
from agentfs.model.spec import Cost, Maximum, seconds
from agentfs.store.defaults import with_defaults, without_defaults
from agentfs.store.event_log import EventLog
from agentfs.store.live_document import LiveDocument
from agentfs.store.store import Store

__all__ = ["MOST_PARKED", "Config", "Settings"]

MOST_PARKED = 20_000
"""What `mount.max_parked` may be at most."""

Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Tokens = Annotated[int, Field(ge=0, le=10**15)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Processes(_Section):
    """Numbers of design/kernel.md, Processes. `ready_timeout`: how long a process that starts again
    may take to be ready before its children start all the same. `log_size`: bytes of output after
    which a log is begun anew, and that an agent may write within a second."""

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
    `max_hops`: a message that comes after so many answers in a row which were automatic or said
    nothing new is a dead letter; one agent can send another `answer_burst` answers at once, and
    then `answers_per_minute` (EAGAIN).
    `max_batch_bytes` is for one read of `recv.batch`, `max_broadcast_bytes` for all copies of one
    broadcast together. `stall_after`: an agent at work is stalled when mail waits for it and it has
    taken and finished none for so long."""

    max_size: Annotated[int, Field(ge=1024)] = 1024 * 1024
    max_waiting: Count = 10_000
    max_delivery_attempts: Count = 5
    ageing_per_second: Annotated[float, Field(ge=0, le=1000)] = 0.1
    max_hops: Count = 100  # RFC 5321, 6.3
    answer_burst: Count = 20_000
    answers_per_minute: Count = 600
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


class Limits(_Section):
    """The most that any process but process 1 may have, whatever its own limits say (see `limits`
    in a spec); `max` is none."""

    max_children: Maximum = None
    max_concurrent_tasks: Maximum = None
    timeout_seconds: Maximum = None
    max_tokens_per_hour: Maximum = None
    max_tokens_total: Maximum = None
    max_context_tokens: Maximum = None
    max_llm_calls: Maximum = None
    max_tool_calls: Maximum = None
    max_cost_usd: Cost = None
    messages_per_minute: Maximum = None
    max_memory_mb: Maximum = None
    max_cpu_seconds: Maximum = None
    max_pids: Maximum = None
    calls_per_minute: Maximum = None
    spawns_per_minute: Maximum = None
    signals_per_minute: Maximum = None
    claims_per_minute: Maximum = None
    artifacts_per_minute: Maximum = None
    llm_calls_per_minute: Maximum = None
    tool_calls_per_minute: Maximum = None

    @field_serializer("*")
    def _max_for_none(self, limit: float | None) -> float | str:
        return "max" if limit is None else limit


class Budgets(_Section):
    """The tokens of each tier that the whole system may use: the budget of process 1, from which
    all others come. `max_open_calls` of models and tools may one process have begun and not
    settled."""

    strategic: Tokens = 1_000_000
    tactical: Tokens = 10_000_000
    operational: Tokens = 100_000_000
    max_open_calls: Count = 1000


class Accounting(_Section):
    """`retention`: how long the record of each use of a model or a tool is kept, and with it the
    sums by hour and day; whole days go, in UTC. Totals stay."""

    retention: Duration = 90 * 86_400.0


class Groups(_Section):
    """`max_groups` of /sys/cgroup in all, nested at most `max_depth` deep."""

    max_groups: Count = 10_000
    max_depth: Annotated[int, Field(ge=1, le=100)] = 32


class Audit(_Section):
    """What `/sys/audit` keeps: records for `retention`, and at most `max_records` (350 bytes each,
    as a rule). `when_full`: `forget` the oldest, refusals first, or `stop`: what would need a
    record is refused to all but the operator (ENOSPC). A signed checkpoint is made every
    `checkpoint_every` records: if the store is put back to an older copy, so many records can be
    lost unnoticed."""

    retention: Duration = 90 * 86_400.0
    max_records: Count = 1_000_000
    when_full: Literal["forget", "stop"] = "forget"
    checkpoint_every: Count = 1000


class Approvals(_Section):
    """`max_pending` requests of one agent may wait for a decision or to be used; those that are
    closed are kept for `retention`."""

    max_pending: Count = 100
    retention: Duration = 7 * 86_400.0


Share = Annotated[float, Field(gt=0, le=1)]


class Shares(_Section):
    """How what all have together is divided; see `agentfs.quota.shares`. With the share s an
    `agent`, or all programs of a `user`, may hold s/(1-s) times what is left, and with 1
    everything; `reserve` is the operator's part.
    All together have so many `handles` (open files and directories of the tree), `definitions`,
    `reminders`, `asks` that are open, and requests for `approvals` that are; and so many `launches`
    of programs in a minute, which bounds agents only.
    `unsent`: bytes of letters and documents that are being written, in the daemon's memory;
    `contents`: of messages and values that are open to be read, there too;
    `memory`, `artifacts` and `shared`: bytes there, with `max` as many as the disk has."""

    agent: Share = 0.5
    user: Share = 0.75
    reserve: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    unsent: Count = 256 * 1024 * 1024
    contents: Count = 256 * 1024 * 1024
    handles: Count = 100_000
    launches: Count = 10_000
    definitions: Count = 200_000
    reminders: Count = 100_000
    asks: Count = 100_000
    approvals: Count = 10_000
    memory: Maximum = None
    artifacts: Maximum = None
    shared: Maximum = None

    @field_serializer("memory", "artifacts", "shared")
    def _max_for_none(self, limit: int | None) -> int | str:
        return "max" if limit is None else limit


class Mount(_Section):
    """`max_parked` counts readers and writers that wait; one more gets EAGAIN. `disk_timeout`: a
    call on files of another disk that is mounted below /shared, or a memory, is ETIMEDOUT then."""

    max_parked: Annotated[int, Field(ge=1, le=MOST_PARKED)] = 6000
    announce_queue: Count = 65_536
    disk_timeout: Duration = 10.0


class Config(_Section):
    """Everything in `/etc/agentfs.yaml`. What is left out has its default."""

    processes: Processes = Processes()
    messages: Messages = Messages()
    escalation: Escalation = Escalation()
    queues: Queues = Queues()
    topics: Topics = Topics()
    artifacts: Artifacts = Artifacts()
    reminders: Reminders = Reminders()
    limits: Limits = Limits()
    budgets: Budgets = Budgets()
    accounting: Accounting = Accounting()
    groups: Groups = Groups()
    audit: Audit = Audit()
    approvals: Approvals = Approvals()
    shares: Shares = Shares()
    mount: Mount = Mount()

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


class Settings(LiveDocument[Config]):
    """The configuration in effect, and its text as it was written; `shown` has the rest, too."""

    def __init__(self, store: Store, events: EventLog) -> None:
        self._shown: tuple[str | None, str] = (None, "")  # a text, and how that is shown
        super().__init__(
            "agentfs.yaml",
            store,
            events,
            Config.parse,
            lambda: Config().text(),
            kept_as="config",
        )

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
