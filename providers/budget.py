"""/proc/PID/budget: what a process may use of each tier, and has used."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from agentfs.model.process import Tier
from agentfs.providers.process import ProcessDirectory, ProcessRows
from agentfs.quota.budget_table import BudgetEntry
from agentfs.quota.commands import run_budget_command, serve_call
from agentfs.quota.events import BudgetChanged, ResourceRefused, ResourceWarning
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import control, directory, transaction, value
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Directory, Node
from agentfs.vfs.table import Entry as Declared
from agentfs.vfs.table import Table

__all__ = ["BudgetDirectory", "CallRows"]


class TierDirectory(Table):
    """/proc/PID/budget/TIER: the budget of a process for models of one tier, in tokens."""

    PATH = "/proc/PID/budget/TIER"

    def __init__(self, process: ProcessDirectory, key: Hashable, tier: Tier) -> None:
        self.process = process
        self.tier = tier
        self.key = self.at(key, tier)

    @staticmethod
    def at(budget: Hashable, tier: Tier) -> Hashable:
        """The key of one tier in the directory with that key."""
        return (budget, tier.value)

    @property
    def entry(self) -> BudgetEntry | None:
        """The process's own."""
        return self.process.kernel.budgets.find(self.process.pid, self.tier)

    @property
    def source(self) -> BudgetEntry | None:
        """The entry it draws on; none once it has ended."""
        process = self.process.process
        if not process.state.alive:
            return None
        return self.process.kernel.budgets.source(process, self.tier)

    def owner(self) -> Owner:
        owner, source = self.process.owner(), self.source
        if source is not None:
            owner.mtime = max(owner.mtime, source.changed)
        return owner

    def node(self, entry: Declared) -> Node:
        """Of a process that has no entry of its own nobody announces what its source does."""
        node = super().node(entry)
        if self.entry is None:
            node.timeout = 0.0
        return node

    @value("allocated", on=(BudgetChanged,), example="50000")
    def allocated(self) -> str:
        """The tokens that it was given; of process 1, `budgets.TIER` of `/etc/agentfs.yaml`. Empty
        if it was given none: then it draws on `source`."""
        return "" if self.entry is None else str(self.entry.allocated)

    @value("consumed", on=(BudgetChanged,), example="12000")
    def consumed(self) -> str:
        """The tokens of these that were used: by the process, by those that draw on it, and by
        those that it gave some to and that ended. Empty without a budget of its own."""
        return "" if self.entry is None else str(self.entry.consumed)

    @value("reserved", on=(BudgetChanged,), example="20000")
    def reserved(self) -> str:
        """The tokens of these that are spoken for: given to processes below, or set aside by calls
        that are open. Empty without a budget of its own."""
        return "" if self.entry is None else str(self.entry.reserved)

    @value("remaining", on=(BudgetChanged,), example="18000")
    def remaining(self) -> str:
        """The tokens that are left to it: allocated − consumed − reserved, of `source` where it has
        no budget of its own. Below 0 if the last call used more than was left."""
        return "" if self.source is None else str(self.source.remaining)

    @value("source", on=(BudgetChanged,), example="7")
    def source_file(self) -> str:
        """The pid of the process whose budget it draws on: its own if it was given one, else that
        of the nearest process above it that was. Empty once it has ended."""
        return "" if self.source is None else str(self.source.pid)


class BudgetDirectory(Table):
    """/proc/PID/budget: the tokens that a process may use of models of each tier."""

    PATH = "/proc/PID/budget"
    WHAT = "The tokens that it may use of models of each tier."
    EACH = TierDirectory

    def __init__(self, process: ProcessDirectory) -> None:
        self.process = process
        self.key = process.key_of("budget")

    def concerned(self, event: BudgetChanged) -> Sequence[Hashable]:
        return (TierDirectory.at(self.key, Tier(event.tier)),)

    def owner(self) -> Owner:
        return self.process.owner()

    def _tier(self, tier: Tier) -> Directory:
        return TierDirectory(self.process, self.key, tier)

    @directory("strategic")
    def strategic(self) -> Directory:
        """For models of the highest tier, such as opus."""
        return self._tier(Tier.STRATEGIC)

    @directory("tactical")
    def tactical(self) -> Directory:
        """For models such as sonnet."""
        return self._tier(Tier.TACTICAL)

    @directory("operational")
    def operational(self) -> Directory:
        """For models such as mini."""
        return self._tier(Tier.OPERATIONAL)

    @control(
        "ctl",
        0o200,
        example="allocate 9 20000 tactical",
        errors={
            "EINVAL": "unknown command, or wrong arguments",
            "ESRCH": "it has ended, or allocate: no such process",
            "EACCES": "you are neither this process nor the operator (release: nor who granted it);"
            " the capability budget_allocate, or llm; refund: you are not the operator",
            "EPERM": "allocate: not below this process, a tier above its own, or its budget is from"
            " another one; release: process 1; report: a model above its tier",
            "EMSGSIZE": "report: more than one call can use, or than max_context_tokens",
            "EDQUOT": "there are not so many tokens left (refund: used), or none of that tier",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `allocate PID TOKENS [TIER]` (give a process below this one so many more of its
        own; its tier by default), `release [TIER]` (give what is left back to who granted it),
        `report TOKENS [MODEL]` (a call that was made already), `refund TOKENS [TIER]` (for the
        operator: so many used ones count as unused again)."""
        process = self.process.process
        run_budget_command(self.process.kernel.calls, caller.principal, process.pid, command)

    @value("events", on=(ResourceWarning, ResourceRefused), example="warned 1\nrefused 0\n")
    def events(self) -> str:
        """`name N` a line: warned (that 80 % of a budget or limit are used), refused (uses of
        models and tools that were refused, or skipped, because there was nothing left)."""
        counts = self.process.kernel.alerts.of(self.process.pid)
        return f"warned {counts.warned}\nrefused {counts.refused}\n"


class CallRows(ProcessRows):
    """How a process says what it is about to use of models and tools."""

    @transaction(
        "call",
        0o600,
        private=True,
        example="llm sonnet 4000",
        errors={
            "EINVAL": "malformed; tokens of a tool",
            "ESRCH": "it has ended",
            "ENOENT": "settle, cancel: no such call is open",
            "EACCES": "the capability llm, or tool:NAME",
            "EPERM": "a model above its tier; a capability that is denied",
            "EAGAIN": "budgets.max_open_calls are open; a rate",
            "EMSGSIZE": "more than max_context_tokens; settle: more than one call can use",
            "EDQUOT": "the budget, a limit, or the group has not so much left",
        },
    )
    async def call(self, request: bytes, caller: Caller) -> str:
        """Before a call of a model, write `llm [MODEL] [MAX_TOKENS]` (its own model by default;
        without a maximum as much is set aside as the model takes in one call, or as is left), of a
        tool `tool NAME`; read an id back, or `skipped RULE` where `on_limit: skip` applies. After
        it, `settle ID [INPUT OUTPUT]` (tokens; without them what was set aside is charged), or
        `cancel ID` if it was not made. A call that is open when the program ends is charged."""
        process = self._process.process
        return serve_call(self._kernel.calls, caller.principal, process.pid, as_text(request))
