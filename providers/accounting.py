"""/sys/accounting: who has used how much of models and tools, and what it cost."""

from __future__ import annotations

import errno
import json
from collections.abc import Hashable, Iterable, Iterator, Sequence

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.providers.system_table import SystemTable
from agentfs.quota.accounting import TOTAL, dollars
from agentfs.quota.events import AccountClosed, AccountOpened, UseRecorded
from agentfs.quota.uses import Sums, UseRow
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import directory, live, value
from agentfs.vfs.node import Directory, Node, Time
from agentfs.vfs.on import on

__all__ = ["AccountDirectory", "AccountingDirectory", "ViewDirectory"]

USED = (UseRecorded,)


class AccountDirectory(SystemTable):
    """/sys/accounting/VIEW/KEY: what one agent, user, node or tier has used, since the beginning.
    An agent reads its own and that of its user; the operator all."""

    PATH = "/sys/accounting/VIEW/KEY"
    timeout = 0.0  # who looks it up is asked for, every time

    def __init__(self, above: SystemTable, view: str, name: str) -> None:
        super().__init__(above)
        self._account = (view, name)
        self.key = self.at(view, name)

    @staticmethod
    def at(view: str, name: str) -> Hashable:
        """The key of an account's directory."""
        return ("accounting", view, name)

    def changed(self) -> Time:
        changed = self.kernel.accounting.changed(*self._account)
        if changed is None:
            raise KernelError(errno.ESTALE, f"the account of {self._account[1]} is closed")
        return changed

    def guard(self, caller: Caller) -> None:
        self.kernel.accounting.require_reader(caller.principal, *self._account)

    @property
    def sums(self) -> Sums:
        return self.kernel.accounting.sums(*self._account)

    @value("tokens", on=USED, example="41200")
    def tokens(self) -> str:
        """Tokens of models, read and written, those of a provider's cache included."""
        return str(self.sums.tokens)

    @value("input", on=USED, example="40000")
    def input(self) -> str:
        """Tokens that models read, but for those that a provider's cache gave or took."""
        return str(self.sums.input)

    @value("output", on=USED, example="1200")
    def output(self) -> str:
        """Tokens that models wrote."""
        return str(self.sums.output)

    @value("cache_read", on=USED, example="31000")
    def cache_read(self) -> str:
        """Tokens that models read out of what their provider had kept from earlier calls."""
        return str(self.sums.cache_read)

    @value("cache_write", on=USED, example="4425")
    def cache_write(self) -> str:
        """Tokens that models read, and their provider kept for later calls."""
        return str(self.sums.cache_write)

    @value("calls", on=USED, example="17")
    def calls(self) -> str:
        """Calls of models."""
        return str(self.sums.calls)

    @value("tool_calls", on=USED, example="5")
    def tool_calls(self) -> str:
        """Calls of tools."""
        return str(self.sums.tool_calls)

    @value("cost", on=USED, example="0.21")
    def cost(self) -> str:
        """US dollars, by the prices of /etc/models.yaml at the time of each call."""
        return dollars(self.sums.cost)

    @value("unpriced", on=USED, example="0")
    def unpriced(self) -> str:
        """How many of the calls were of a model that /etc/models.yaml had no price for."""
        return str(self.sums.unpriced)

    @value("estimated", on=USED, example="0")
    def estimated(self) -> str:
        """How many of the calls the provider did not say the tokens of: those that were cut. They
        count with an estimate of their input, and what had come."""
        return str(self.sums.estimated)

    @live(
        "hourly",
        example='{"hour": "2026-11-21T09", "tokens": 41200, "input": 40000, "output": 1200, …}',
    )
    def hourly(self) -> str:
        """The same for each hour (UTC) in which something was used, one JSON object a line, the
        newest last: hour, tokens, input, output, calls, tool_calls, cost, unpriced, cache_read,
        cache_write, estimated. They go with the records they are the sums of, after
        `accounting.retention`."""
        return _lines("hour", self.kernel.accounting.hours(*self._account))

    @live(
        "recent",
        example='{"time": "2026-11-21T09:10:00.000Z", "agent": "alice", "kind": "llm", …}',
    )
    def recent(self) -> str:
        """The newest uses, one JSON object a line, the newest last: time, pid, agent, user, node,
        tier, kind, name (of the model or tool), provider (that answered; empty if the process made
        the call itself), input, output, cache_read, cache_write, cost, unpriced, estimated. At most
        100, and of no use that is older than the last 10,000 of the whole system."""
        rows = self.kernel.accounting.recent(*self._account)
        return "".join(json.dumps(_told(row)) + "\n" for row in rows)

    @live("daily", example='{"day": "2026-11-21", "tokens": 41200, …}')
    def daily(self) -> str:
        """The same for each day."""
        return _lines("day", self.kernel.accounting.days(*self._account))


class ViewDirectory(SystemTable):
    """/sys/accounting/VIEW: uses by agent, user, node or tier. Only the operator lists it; agents
    find what they may read."""

    PATH = "/sys/accounting/VIEW"
    gated = True

    def __init__(self, above: SystemTable, view: str) -> None:
        super().__init__(above)
        self._view = view
        self.key = ("accounting", view)

    def changed(self) -> Time:
        changed = self.kernel.accounting.changed(TOTAL, "")
        assert changed is not None
        return changed

    def may_list(self, caller: Caller) -> None:
        self.kernel.accounting.require_reader(caller.principal, self._view)

    def admit(self, name: str, caller: Caller) -> None:
        self.kernel.accounting.require_reader(caller.principal, self._view, name)

    def find(self, name: str) -> Node | None:
        if self.kernel.accounting.changed(self._view, name) is None:
            return None
        return AccountDirectory(self, self._view, name)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.accounting.keys(self._view):
            yield name, AccountDirectory(self, self._view, name)


class AccountingDirectory(SystemTable):
    """/sys/accounting: what was used, by whom and where, and in all. All of it is counted from the
    same records, so that every view adds up to `total`, which has agents in it that are gone."""

    PATH = "/sys/accounting"
    WHAT = "Who has used how much of models and tools, and what it cost."
    EACH = AccountDirectory
    gated = True
    key = ("accounting",)

    def admit(self, name: str, caller: Caller) -> None:
        if name == TOTAL:
            self.kernel.accounting.require_reader(caller.principal, TOTAL)

    @directory("agent")
    def agent(self) -> Directory:
        """By agent."""
        return ViewDirectory(self, "agent")

    @directory("user")
    def user(self) -> Directory:
        """By the user that the agent ran as."""
        return ViewDirectory(self, "user")

    @directory("node")
    def node_(self) -> Directory:
        """By node."""
        return ViewDirectory(self, "node")

    @directory("tier")
    def tier(self) -> Directory:
        """By the tier of the model, or of the process where that has none."""
        return ViewDirectory(self, "tier")

    @directory("total")
    def total(self) -> Directory:
        """Everything together."""
        return AccountDirectory(self, TOTAL, "")

    def concerned(self, event: UseRecorded) -> Sequence[Hashable]:
        return [AccountDirectory.at(*account) for account in event.accounts]

    @on(AccountOpened)
    def _opened(self, event: AccountOpened) -> Iterator[Change]:
        view = ViewDirectory(self, event.view)
        node = AccountDirectory(self, event.view, event.key)
        node.remember()
        yield Created(view.key, event.key, node)

    @on(AccountClosed)
    def _closed(self, event: AccountClosed) -> Iterator[Change]:
        view, key = ViewDirectory(self, event.view), AccountDirectory.at(event.view, event.key)
        yield Removed(view.key, event.key, key, is_directory=True)


def _told(row: UseRow) -> dict[str, object]:
    told: dict[str, object] = row._asdict()
    del told["hour"]
    return told | {
        "time": rfc3339(row.time),
        "cost": dollars(row.cost),
        "unpriced": bool(row.unpriced),
        "estimated": bool(row.estimated),
    }


def _lines(span: str, sums: Iterable[tuple[str, Sums]]) -> str:
    lines = []
    for name, each in sums:
        figures = {
            span: name,
            "tokens": each.tokens,
            **each._asdict(),
            "cost": dollars(each.cost),
        }
        lines.append(json.dumps(figures) + "\n")
    return "".join(lines)
