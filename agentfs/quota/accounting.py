"""Accounting: who has used how much of which model and tool, when, and what it cost.

One record for each use, and its sums by agent, user, node and tier, in all and by hour and day
(UTC), written in the transaction that settles the use. Records go after `accounting.retention`, in
batches; totals stay.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from agentfs.base.clock import Timer, change_time
from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.catalog.entries import MICROS
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.quota.events import AccountClosed, AccountOpened, UseRecorded, UsesSwept
from agentfs.quota.meter import Use
from agentfs.quota.settings import AccountingSettings
from agentfs.quota.uses import DAY, HOUR, NOBODY, TOTAL, VIEWS, Sums, UseRow, Uses
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import keep_item

__all__ = ["TOTAL", "VIEWS", "Accounting", "dollars"]

log = logging.getLogger(__name__)

# Rows of one transaction: 2 ms when all are of one agent, 7 ms when each is of another. Between two
# of them others have their turn for longer than that.
BATCH, PAUSE = 100, 0.01

# The most that one use counts for, in tokens and in millionths of a dollar (a billion dollars). A
# larger figure is wrong or meant to harm, and sums beyond 2^63 would be no sums.
MOST_TOKENS, MOST_COST = 10**12, 10**15

SECONDS_OF_A_DAY = 86_400


def dollars(micros: int) -> str:
    """Millionths of a dollar as decimal text: `1.25`, `0.000003`, `0`."""
    whole, rest = divmod(micros, MICROS)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


class Accounting(Part):
    """`record` belongs inside the transaction of the use; everything else is a call of its own.

    An account is a (view, key): an agent, a user, a node, a tier, and (total, "") of everything.
    A use is booked to the agent, user, node and tier that the process has at that moment.
    """

    def __init__(
        self, ground: Ground, catalog: Catalog, table: ProcessTable, agents: Agents
    ) -> None:
        self._parts = ground.parts
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._catalog = catalog
        self._table = table
        self._agents = agents
        self._next: Timer | None = None
        self._uses = Uses(ground.store)
        began = int(ground.clock.now() * 1e9)
        self._changed = dict.fromkeys(self._uses.keys(), began)
        self._changed.setdefault((TOTAL, ""), began)

    # -- what is read ----------------------------------------------------------------------------

    def keys(self, view: str) -> Iterator[str]:
        """The agents, users, nodes or tiers that have used something."""
        return (key for of, key in tuple(self._changed) if of == view and key != NOBODY)

    def changed(self, view: str, key: str) -> int | None:
        """When the sums of an account changed last, in ns; None if there is no such account."""
        return None if key == NOBODY and view != TOTAL else self._changed.get((view, key))

    def sums(self, view: str, key: str) -> Sums:
        """The sums of all time; zeros if there is no such account."""
        return self._uses.sums(view, key)

    def hours(self, view: str, key: str) -> Iterator[tuple[str, Sums]]:
        """Those of each hour (`2026-11-21T09`) of which records are kept, the newest last."""
        return self._uses.spans(view, key, HOUR)

    def days(self, view: str, key: str) -> Iterator[tuple[str, Sums]]:
        """The same of each day (`2026-11-21`)."""
        return self._uses.spans(view, key, DAY)

    def recent(self, view: str, key: str) -> list[UseRow]:
        """The newest uses, the newest last."""
        return self._uses.recent(view, key)

    def require_reader(self, principal: Principal, view: str, key: str = "") -> None:
        """Raise EACCES unless `principal` may read this account: an agent its own and that of its
        user, the operator all."""
        if principal.is_operator:
            return
        process = None if principal.pid is None else self._table.find(principal.pid)
        if (
            process is not None
            and key
            and (view, key)
            in (
                ("agent", process.agent),
                ("user", process.user),
            )
        ):
            return
        raise KernelError(
            errno.EACCES,
            f"{principal.name} may read what it has used itself and what its user has, not"
            f" {view} {key}".rstrip(),
            rule="accounting",
        )

    # -- what is written -------------------------------------------------------------------------

    def record(self, process: Process, use: Use) -> None:
        """Book a use that was made. Inside the transaction that settles it."""
        now = self._clock.now()
        row = UseRow(
            time=now,
            hour=datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H"),
            pid=process.pid,
            agent=process.agent,
            user=process.user,
            node=process.node,
            tier=use.tier.value,
            kind=use.kind,
            name=use.name,
            input=min(use.input, MOST_TOKENS),
            output=min(use.output, MOST_TOKENS),
            cost=min(use.cost, MOST_COST),
            unpriced=use.kind == "llm" and self._catalog.find(use.name) is None,
            cache_read=min(use.cache_read, MOST_TOKENS),
            cache_write=min(use.cache_write, MOST_TOKENS),
            estimated=use.estimated,
            provider=use.provider,
        )
        accounts = (
            ("agent", row.agent),
            ("user", row.user),
            ("node", row.node),
            ("tier", row.tier),
            (TOTAL, ""),
        )
        self._uses.add(row)
        for account in accounts:
            if account not in self._changed:
                self._open(account)
            self._touch(account, now)
        self._events.emit(UseRecorded(row.pid, row.agent, row.kind, row.name, accounts))
        self._parts.tell(Part.use_recorded, process, row.kind, row.name)

    def _open(self, account: tuple[str, str]) -> None:
        keep_item(self._store, self._changed, account)
        self._changed[account] = 0
        self._events.emit(AccountOpened(*account))

    def _touch(self, account: tuple[str, str], now: float) -> None:
        self._changed[account] = change_time(now, self._changed[account])

    # -- what goes -------------------------------------------------------------------------------

    def tidy(self) -> int:
        """Drop one batch of records from days that are over for longer than `accounting.retention`,
        and go on soon if there may be more. Returns the number dropped."""
        now = self._clock.now()
        oldest = now - self._settings.of(AccountingSettings).retention
        try:
            with self._store.transaction():
                count, accounts = self._uses.sweep(oldest - oldest % SECONDS_OF_A_DAY, BATCH)
                for account in sorted(accounts):
                    self._touch(account, now)
                if count:
                    self._events.emit(UsesSwept(count, tuple(sorted(accounts))))
                for view, key in sorted(accounts):
                    if view == "agent" and self._agents.find(key) is None:
                        self.agent_removed(key)
        except KernelError as failure:
            log.warning("old records of uses stay for now: %s", failure)
            return 0
        if count == BATCH and (self._next is None or not self._next.active):
            self._next = self._timers.call_later(PAUSE, self.tidy)
        return count

    def agent_removed(self, name: str) -> None:
        """Close the account of an agent that is no more, once no record of it is kept."""
        account = ("agent", name)
        if account not in self._changed or not self._uses.is_swept(*account):
            return
        keep_item(self._store, self._changed, account)
        del self._changed[account]
        self._uses.fold(*account)
        self._events.emit(AccountClosed(*account))
