"""The settings of budgets, their accounting, groups, and the shares of what all have together."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_serializer

from agentfs.model.spec import Maximum
from agentfs.store.settings import Count, Duration, Section

__all__ = ["AccountingSettings", "BudgetSettings", "GroupSettings", "ShareSettings"]

Tokens = Annotated[int, Field(ge=0, le=10**15)]
Share = Annotated[float, Field(gt=0, le=1)]


class BudgetSettings(Section):
    """The tokens of each tier that the whole system may use: the budget of process 1, from which
    all others come. `max_open_calls` of models and tools may one process have begun and not
    settled."""

    NAME: ClassVar = "budgets"

    strategic: Tokens = 1_000_000
    tactical: Tokens = 10_000_000
    operational: Tokens = 100_000_000
    max_open_calls: Count = 1000


class AccountingSettings(Section):
    """`retention`: how long the record of each use of a model or a tool is kept, and with it the
    sums by hour and day; whole days go, in UTC. Totals stay."""

    NAME: ClassVar = "accounting"

    retention: Duration = 90 * 86_400.0


class GroupSettings(Section):
    """`max_groups` of /sys/cgroup in all, nested at most `max_depth` deep."""

    NAME: ClassVar = "groups"

    max_groups: Count = 10_000
    max_depth: Annotated[int, Field(ge=1, le=100)] = 32


class ShareSettings(Section):
    """How what all have together is divided; see `agentfs.quota.shares`. With the share s an
    `agent`, or all programs of a `user`, may hold s/(1-s) times what is left, and with 1
    everything; `reserve` is the operator's part.
    All together have so many `handles` (open files and directories of the tree), `definitions`,
    `reminders`, `asks` that are open, and requests for `approvals` that are; and so many `launches`
    of programs in a minute, which bounds agents only.
    `unsent`: bytes of letters and documents that are being written, in the daemon's memory;
    `contents`: of messages and values that are open to be read, there too;
    `memory`, `artifacts` and `shared`: bytes there, with `max` as many as the disk has."""

    NAME: ClassVar = "shares"

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
