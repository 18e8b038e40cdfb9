"""The kernel: builds the subsystems, opens the store, runs the tasks. It has no rule of its own."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import agentfs
from agentfs.approvals.approvals import Approvals
from agentfs.asks.asks import Asks
from agentfs.asks.escalations import Escalations
from agentfs.audit.audit import Audit
from agentfs.audit.file_changes import FileChanges
from agentfs.audit.refusals import Refusals
from agentfs.base.clock import Clock
from agentfs.base.journal import Journal
from agentfs.base.watchdog import Watchdog
from agentfs.explain import Explanations
from agentfs.machine.lineage import Lineages
from agentfs.machine.programs import Programs
from agentfs.machine.reapers import FOLDER, Reapers
from agentfs.mail.events import MessageClaimed
from agentfs.mail.held import HeldMail
from agentfs.mail.mail import Mail
from agentfs.mail.notices import Notices
from agentfs.mail.stalls import Stalls
from agentfs.process.agents import Agents
from agentfs.process.calls import Processes
from agentfs.process.capabilities import Capabilities
from agentfs.process.ceilings import Ceilings
from agentfs.process.consumption import Consumption
from agentfs.process.grants import ProgramGrants
from agentfs.process.history import History
from agentfs.process.identity import Identity
from agentfs.process.logkeeper import LogKeeper
from agentfs.process.maid import Maid
from agentfs.process.path_rules import PathRules
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.quota.accounting import Accounting
from agentfs.quota.alerts import Alerts
from agentfs.quota.branches import Branches
from agentfs.quota.budget import Budgets
from agentfs.quota.budget_table import BudgetTable
from agentfs.quota.calls import Calls
from agentfs.quota.disk_shares import DiskShares
from agentfs.quota.enforcement import Enforcement
from agentfs.quota.group_table import GroupTable
from agentfs.quota.groups import Groups
from agentfs.quota.limits import ProcessLimits
from agentfs.quota.made import Made
from agentfs.quota.meters import Meters
from agentfs.quota.models import Models
from agentfs.quota.open_calls import OpenCalls
from agentfs.quota.rates import Rates
from agentfs.quota.shares import Shares
from agentfs.quota.spending import Spending
from agentfs.reminders.reminders import Reminders
from agentfs.rights import acl, roles
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Policy
from agentfs.sections import SECTIONS
from agentfs.shared.artifact_table import ArtifactTable
from agentfs.shared.artifacts import Artifacts
from agentfs.shared.inheritance import Inheritance
from agentfs.shared.queues import Queues
from agentfs.shared.topics import Topics
from agentfs.store.events import LoopHeld
from agentfs.store.ground import Ground
from agentfs.store.instance import Instance
from agentfs.store.layout import STORE, lay_out
from agentfs.store.live_document import LiveDocument
from agentfs.store.opening import require_whole, taking_up
from agentfs.store.part import Part
from agentfs.why import Why

__all__ = ["Kernel"]

log = logging.getLogger(__name__)


class Kernel:
    """One system: its state under `state_dir`, its tree at `mountpoint`.

    Must be made inside a trio loop. Everything is a plain attribute; what may be changed is
    changed through the system calls of `processes`, `agents`, `mail` and `settings`.
    """

    def __init__(
        self,
        state_dir: Path,
        mountpoint: str,
        clock: Clock | None = None,
        audit_key: Path | None = None,
    ) -> None:
        lay_out(state_dir)
        lost = require_whole(state_dir / STORE)
        if lost:
            log.error("%s", lost)
        self.state_dir = state_dir
        self.mountpoint = mountpoint
        self.version = agentfs.__version__
        self.node = platform.node() or "localhost"
        self.owner = (os.geteuid(), os.getegid())
        self.watchdog = Watchdog(lambda hold: self.events.emit(LoopHeld.of(hold)))
        with taking_up(state_dir / STORE):
            self.ground = Ground.open(state_dir, SECTIONS, clock)
            self.store, self.events = self.ground.store, self.ground.events
            self.clock, self.timers = self.ground.clock, self.ground.timers
            self.settings = self.ground.settings
            self.started = self.clock.now()
            self._build_records(audit_key or state_dir / "audit.key")
            self._build_permissions()
            self._build_processes()
            self._build_resources()
            self._build_mail()
            self._build_notices()
            self._build_shared()
            self._build_boundary()
            self._tell()

    def _build_records(self, audit_key: Path) -> None:
        """What happens, what is kept of it, and the numbers that all go by."""
        self.audit = Audit(self.ground, audit_key)
        self.models = Models(self.ground)

    def _build_permissions(self) -> None:
        """Who calls, and what they may do."""
        self.table = ProcessTable(self.ground)
        self.policy = Policy(self.table.find, self.ground.parts)
        self.roles = LiveDocument(self.store, self.events, roles.FORM, self.policy.use_roles)
        self.acl = LiveDocument(self.store, self.events, acl.FORM, self.policy.use_acl)
        self.gate = Gate(self.ground, self.policy, self.table.find)
        self.rules = PathRules(self.gate)
        self.capabilities = Capabilities(self.ground, self.gate, self.table)

    def _build_processes(self) -> None:
        """Agents, and the programs that work for them."""
        self.agents = Agents(self.ground, self.gate, self.table)
        self._build_shares()
        self.instance = Instance(self.ground, self.mountpoint)
        self.lineages = Lineages(lambda ospid: self.table.by_ospid(ospid) is not None)
        reapers = Reapers(self.state_dir / FOLDER)
        self.ceilings = Ceilings(self.table, self.settings)
        self.grants = ProgramGrants(self.policy, self.ceilings)
        self.programs = Programs(self.mountpoint, self.instance.name, self.grants, reapers)
        self.supervisor = Supervisor(
            self.ground, self.table, self.agents, self.programs, works=(MessageClaimed,)
        )
        self.maid = Maid(self.ground, self.table, self.agents, self.programs, self.supervisor)
        self.processes = Processes(
            self.ground, self.gate, self.table, self.agents, self.programs, self.supervisor
        )

    def _build_shares(self) -> None:
        """What all have together; what is not here is divided where it is."""
        ground, agents = self.ground, self.agents
        self.shares = Shares(ground, agents)
        self.disk = DiskShares(ground, self.shares, agents)
        self.made = Made(ground, self.shares, agents)

    def _build_resources(self) -> None:
        """What work costs, and who may have how much of it."""
        ground, gate, table = self.ground, self.gate, self.table
        ceilings, open_calls = self.ceilings, OpenCalls(ground)
        self.alerts = Alerts(ground)
        self.budgets = Budgets(ground, gate, table, BudgetTable(ground), self.alerts, open_calls)
        self.groups = Groups(ground, gate, table, GroupTable(ground), self.made)
        self.spending = Spending(ground, ceilings, self.alerts, open_calls)
        self.branches = Branches(ground, table, self.spending)
        self.rates = Rates(ground, table, ceilings, self.groups.groups)
        self.accounting = Accounting(ground, self.models, table, self.agents)
        meters = Meters(self.models, self.budgets, (self.spending, self.groups), self.accounting)
        enforcement = Enforcement(ground, gate, table, self.alerts, self.supervisor.signals)
        self.calls = Calls(ground, gate, table, meters, open_calls, enforcement)
        self.limits = ProcessLimits(ground, gate, table, ceilings, self.programs)
        self.consumption = Consumption(
            self.ground, self.table, self.programs, self.supervisor.signals
        )
        self.log_keeper = LogKeeper(self.ground, self.table, self.programs, self.consumption.end)

    def _build_mail(self) -> None:
        """Mailboxes and what is told by mail."""
        self.mail = Mail(self.ground, self.gate, self.table, self.agents, self.node)

    def _build_notices(self) -> None:
        """What is told by mail, and decided by those who are told."""
        self.notices = Notices(self.mail)
        self.approvals = Approvals(self.ground, self.gate, self.mail, self.made)
        self.stalls = Stalls(self.ground, self.table, self.mail)
        self.asks = Asks(self.ground, self.gate, self.mail, self.made)
        self.escalations = Escalations(self.ground, self.gate, self.table, self.mail, self.asks)

    def _build_shared(self) -> None:
        """What agents share, and what they ask of the clock."""
        ground, gate, table, agents = self.ground, self.gate, self.table, self.agents
        self.queues = Queues(ground, gate, table, agents, self.mail, self.made)
        self.held = HeldMail(self.ground, self.table, self.mail)
        self.topics = Topics(ground, gate, table, agents, self.made)
        self.explanations = Explanations(
            self.policy,
            self.table,
            self.agents,
            self.mail.threads,
            self.queues,
            self.topics,
        )
        artifacts = ArtifactTable(ground, table, self.disk)
        self.artifacts = Artifacts(ground, gate, table, self.disk, artifacts)
        self.inheritance = Inheritance(ground, artifacts, table, agents)
        self.reminders = Reminders(ground, gate, agents, self.mail, self.made)

    def _build_boundary(self) -> None:
        """What the tree and the daemon ask of the kernel."""
        self.identity = Identity(self.ground, self.table, self.programs, self.owner[0])
        self.refusals = Refusals(self.ground, self.gate)
        self.file_changes = FileChanges(self.ground, self.gate, self.audit)
        self.why = Why(
            self.ground, self.table, self.supervisor, self.mail, self.stalls, self.approvals
        )
        self.waits = self.why.waits
        self.history = History(self.ground, self.table)
        self.journal = Journal()

    def _tell(self) -> None:
        """The order in which services are told of everything."""
        self.ground.parts.add(
            self.instance,
            self.agents,
            *self.documents,
            self.maid,
            self.made,
            self.shares,
            self.disk,
            self.calls,
            self.budgets,
            self.alerts,
            self.groups,
            self.branches,  # while the figures of `spending` are still known
            self.spending,
            self.rates,
            self.limits,
            self.accounting,
            self.consumption,
            self.log_keeper,
            self.approvals,
            *self.mail.parts,
            self.stalls,
            self.asks,
            self.notices,
            self.held,
            self.queues,
            self.topics,
            self.inheritance,
            self.reminders,
            self.audit,
            self.history,
            self.why,
            self.refusals,
            self.file_changes,
        )

    def load(self) -> None:
        """Read from the store what was not read while everything was built. Nothing is written
        before everything is read."""
        with taking_up(self.store.path):
            self.ground.parts.tell(Part.load)
            self.ground.parts.tell(Part.take_up)

    @property
    def documents(self) -> tuple[LiveDocument[Any], ...]:
        """Those of /etc."""
        return self.settings, self.roles, self.acl, self.models

    def moved(self, mountpoint: str) -> None:
        """The tree is mounted at another path now."""
        self.mountpoint = mountpoint
        self.programs.moved(mountpoint)

    def hold_programs(self) -> None:
        """Start nothing again until `tree_is_up`: programs need the tree."""
        self.supervisor.hold_programs()

    def tree_is_up(self) -> None:
        """The tree can be used: programs that were put down with the last daemon start now, in
        it."""
        self.supervisor.tree_is_up()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take up where the last run ended, run until the block ends, then end every program."""
        self.load()
        self.journal.install()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.timers.run)
                nursery.start_soon(self.store.checkpoint_regularly)
                for work in self.ground.parts.each(Part.run):
                    nursery.start_soon(work)
                with taking_up(self.store.path):
                    await nursery.start(self.supervisor.run)
                self.audit.checkpoint()
                self.store.keep_ballast()
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self.supervisor.shutdown()
                    nursery.cancel_scope.cancel()
        finally:
            self.ground.parts.tell(Part.flush)
            self.audit.checkpoint()
            self.store.close()
            self.audit.mirror()
            self.journal.uninstall()
