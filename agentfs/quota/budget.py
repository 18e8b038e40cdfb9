"""Budgets: tokens by tier that are handed down the tree of processes, and what is left of them.

An entry says what a process was given; it can use that, or hand it on. A process without one at a
tier draws on the nearest ancestor that has one, its *source*. Tokens are never made or lost: when a
process ends, its unused tokens go back to its grantor, and its used ones are the grantor's use.
"""

from __future__ import annotations

import errno

from agentfs.base.errors import KernelError
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process, Role, Tier
from agentfs.model.spec import ProcessSpec
from agentfs.process.rules import check_parent, own_alive
from agentfs.process.table import ProcessTable
from agentfs.quota.alerts import Alerts
from agentfs.quota.budget_table import BudgetEntry, BudgetTable
from agentfs.quota.meter import LimitError, Room, Use
from agentfs.quota.open_calls import OpenCalls
from agentfs.quota.settings import BudgetSettings
from agentfs.rights.gate import Gate
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Budgets"]

RULE = "budget"


class Budgets(Part):
    """The system calls on budgets, and the `Meter` of the tokens that models use."""

    stored_name = "Budgets"

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        entries: BudgetTable,
        alerts: Alerts,
        open_calls: OpenCalls,
    ) -> None:
        self._store = ground.store
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._entries = entries
        self._alerts = alerts
        self._open_calls = open_calls
        for tier in Tier:
            entries.set_pool(tier, _of(self._settings.of(BudgetSettings), tier))
        self._settings.require(BudgetSettings, self._check_pool)
        ground.events.listen(self._heard, ConfigChanged)

    def _check_pool(self, numbers: BudgetSettings) -> None:
        """Raise EINVAL if the settings take back tokens that are not there any more."""
        faults = []
        for tier in Tier:
            entry, wanted = self._entries.get(INIT, tier), _of(numbers, tier)
            least = entry.allocated - entry.remaining
            if wanted < min(least, entry.allocated):
                faults.append(
                    f"budgets.{tier.value}: at least {least} was expected, not {wanted}:"
                    f" {entry.granted} are granted to processes, {entry.consumed} are used and"
                    f" {entry.held} set aside for open calls"
                )
        if faults:
            raise KernelError(errno.EINVAL, "; ".join(faults), rule=RULE)

    def _heard(self, record: Record) -> None:
        """Follow the configuration."""
        with self._store.transaction():
            for tier in Tier:
                entry = self._entries.get(INIT, tier)
                more = _of(self._settings.of(BudgetSettings), tier) - entry.allocated
                if more:
                    self._entries.change(entry, allocated=more)

    # -- look-ups ----------------------------------------------------------------------------------

    def find(self, pid: int, tier: Tier) -> BudgetEntry | None:
        """The entry of a process's own."""
        return self._entries.find(pid, tier)

    def source(self, process: Process, tier: Tier) -> BudgetEntry:
        """The entry that `process` draws on: its own, or that of the nearest one above it."""
        return self._entries.nearest(process, self._table.ancestors(process.pid), tier)

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return self._entries.sizes()

    # -- spawn and end -----------------------------------------------------------------------------

    def check_grant(self, parent: Process, tier: Tier, spec: ProcessSpec) -> None:
        """Raise unless `parent` can give a child of this tier the budget that `spec` asks for:
        EPERM for a tier above the child's, EDQUOT if it has no entry of its own there, or not
        enough left."""
        for name, tokens in spec.budget.items():
            self._check_tier(Tier(name), tier, "the child")
            self._check_grant(parent, Tier(name), tokens)

    def spawned(self, process: Process, spec: ProcessSpec) -> None:
        """Give it what `check_grant` found to be there."""
        for name, tokens in spec.budget.items():
            giver = self._entries.get(process.ppid, Tier(name))
            self._grant(giver, process, tokens)

    def process_ended(self, process: Process) -> None:
        """Its tokens go back. A process whose program could not be started has ended, too."""
        for tier in Tier:
            entry = self._entries.find(process.pid, tier)
            if entry is not None:
                self._return(entry)

    def _return(self, entry: BudgetEntry) -> None:
        """Give an entry back to its grantor: unused tokens, and used ones as the grantor's use."""
        above = self._entries.get(entry.grantor, entry.tier)
        for below in self._entries.granted_by(entry):
            self._entries.pass_on(below, above.pid)
        self._entries.change(
            above,
            granted=entry.granted - entry.allocated,
            consumed=entry.consumed,
            held=entry.held,
        )
        self._entries.remove(entry)
        if entry.held:
            self._open_calls.pass_on(entry.key, above.pid)
        owner = self._table.find(above.pid)
        if owner is not None and entry.consumed:
            self._mark(owner, above)

    # -- system calls ------------------------------------------------------------------------------

    def allocate(
        self, principal: Principal, pid: int, below: int, tokens: int, tier: Tier | None = None
    ) -> None:
        """Give process `below` so many tokens of `tier` (its own one by default) out of those of
        `pid`, beside what it has. Raises ESRCH, EACCES, EDQUOT (there are not so many, or none of
        that tier), EPERM (not below, a tier above its own, or another one's grant)."""
        with self._gate.enter(principal) as actor:
            giver = own_alive(self._table, principal, pid)
            self._gate.policy.require_capability(actor, "budget_allocate")
            process = self._table.get(below)
            check_parent(process)
            tier = tier or process.tier
            if giver not in self._table.ancestors(below):
                raise KernelError(
                    errno.EPERM, f"{process.name} is not below {giver.name}", rule=RULE
                )
            self._check_tier(tier, process.tier, process.name)
            entry = self._entries.find(below, tier)
            if entry is not None and entry.grantor != pid:
                other = self._table.find(entry.grantor)
                name = f"process {entry.grantor}" if other is None else other.name
                raise KernelError(
                    errno.EPERM,
                    f"{process.name} has its {tier.value} budget from {name}, which alone may"
                    " add to it",
                    rule=RULE,
                )
            self._grant(self._check_grant(giver, tier, tokens), process, tokens)

    def release(self, principal: Principal, pid: int, tier: Tier | None = None) -> None:
        """Give the tokens that `pid` has left of `tier` (of all tiers by default) back to its
        grantor. For the process itself, the grantor, and the operator. Raises ESRCH, EACCES,
        EPERM."""
        with self._gate.enter(principal):
            process = self._table.get(pid)
            if process.role is Role.KERNEL:
                raise KernelError(
                    errno.EPERM,
                    "the budget of process 1 is that of /etc/agentfs.yaml: change it there",
                    rule=RULE,
                )
            found = [self._entries.find(pid, each) for each in ([tier] if tier else Tier)]
            entries = [entry for entry in found if entry is not None]
            if not principal.is_operator and principal.pid != pid:
                entries = [entry for entry in entries if entry.grantor == principal.pid]
                if not entries:
                    raise KernelError(
                        errno.EACCES,
                        f"only {process.name} itself, who granted its budget, and the operator"
                        f" may release it, not {principal.name}",
                        rule=RULE,
                    )
            for entry in entries:
                unused = max(0, entry.remaining)
                above = self._entries.get(entry.grantor, entry.tier)
                self._entries.change(entry, allocated=-unused)
                self._entries.change(above, granted=-unused)

    def refund(self, principal: Principal, pid: int, tokens: int, tier: Tier | None = None) -> None:
        """Count so many used tokens of the budget of `pid` (of its own tier by default) as unused
        again. For the operator: EACCES. Raises ESRCH, EDQUOT if it has not used so many."""
        with self._gate.enter(principal):
            if not principal.is_operator:
                raise KernelError(errno.EACCES, "only the operator puts a budget back", rule=RULE)
            process = self._table.get(pid)
            tier = tier or process.tier
            entry = self._entries.find(pid, tier)
            used = 0 if entry is None else entry.consumed
            if entry is None or tokens > used:
                raise KernelError(
                    errno.EDQUOT,
                    f"{process.name} has used {used} tokens of a {tier.value} budget of its own,"
                    f" not {tokens}",
                    rule=RULE,
                )
            self._entries.change(entry, consumed=-tokens)

    def _check_tier(self, tier: Tier, highest: Tier, name: str) -> None:
        if tier.rank < highest.rank:
            raise KernelError(
                errno.EPERM,
                f"{name} is {highest.value} and cannot have a budget for {tier.value} models",
                rule="tier",
            )

    def _check_grant(self, giver: Process, tier: Tier, tokens: int) -> BudgetEntry:
        """The entry from which `giver` can hand on so many tokens. Raises EDQUOT."""
        entry = self._entries.find(giver.pid, tier)
        if entry is None:
            raise KernelError(
                errno.EDQUOT,
                f"{giver.name} has no {tier.value} budget of its own to give from",
                rule=RULE,
            )
        if tokens > max(0, entry.remaining):
            raise KernelError(
                errno.EDQUOT,
                f"{giver.name} has {entry.remaining} {tier.value} tokens left, {tokens} were"
                " asked for",
                rule=RULE,
            )
        return entry

    def _grant(self, giver: BudgetEntry, process: Process, tokens: int) -> None:
        self._entries.change(giver, granted=tokens)
        entry = self._entries.find(process.pid, giver.tier)
        if entry is None:
            self._entries.add(BudgetEntry(process.pid, giver.tier, giver.pid, allocated=tokens))
        else:
            self._entries.change(entry, allocated=tokens)

    # -- the meter ---------------------------------------------------------------------------------

    def room(self, process: Process, use: Use, held: int = 0) -> Room:
        """The tokens that are left."""
        return Room(self.drawn_on(process, use).remaining if use.kind == "llm" else None)

    def hold(self, process: Process, use: Use) -> None:
        """Set the tokens of `use` aside. Raises EDQUOT if they are not there."""
        if use.kind != "llm":
            return
        entry, tokens = self.drawn_on(process, use), use.tokens
        left = entry.remaining
        if tokens > left or left <= 0:
            owner = self._table.find(entry.pid)
            raise LimitError(
                errno.EDQUOT,
                f"{process.name} asked for {tokens} tokens of {use.name}, and of the"
                f" {entry.tier.value} budget of {process.name if owner is None else owner.name}"
                f" {max(0, left)} are left",
                rule=RULE,
                resource=_resource(entry),
                used=entry.consumed,
                limit=entry.allocated - entry.granted,
            )
        self._entries.change(entry, held=tokens)

    def grow(self, process: Process, held: Use, more: Use) -> None:
        """The same of more for a call that is open."""
        self.hold(process, more)

    def settle(self, process: Process, held: Use, actual: Use | None) -> None:
        """Count the tokens that were used instead of those that were set aside, in full, also if
        they are more. Of a budget that is overdrawn already, count no more than was set aside: else
        many small calls that turn out large would sink it for all that share it. Their excess
        counts against the limits and in the account of the process that made them."""
        if held.kind != "llm":
            return
        entry, aside = self.drawn_on(process, held), held.tokens
        used = 0 if actual is None else actual.tokens
        if entry.remaining < 0:
            used = min(used, aside)
        self._entries.change(entry, held=-aside, consumed=used)
        if used:
            self._mark(process, entry)
            owner = self._table.find(entry.pid)
            if owner is not None and owner is not process:
                self._mark(owner, entry)

    def drawn_on(self, process: Process, use: Use) -> BudgetEntry:
        """The entry that `use` draws on: the one it began with, or the one in its place now."""
        entry = self._entries.find(use.source, use.tier)
        return self.source(process, use.tier) if entry is None else entry

    def _mark(self, process: Process, entry: BudgetEntry) -> None:
        resource, limit = _resource(entry), entry.allocated - entry.granted
        self._alerts.used(process, resource, entry.consumed, limit)
        if entry.remaining < 0:
            self._alerts.exceeded(process, resource, entry.consumed, limit)


def _of(numbers: BudgetSettings, tier: Tier) -> int:
    return int(getattr(numbers, tier.value))


def _resource(entry: BudgetEntry) -> str:
    return f"budget {entry.tier.value}"
