"""The kernel: builds the subsystems, opens the store, runs the tasks. It has no rule of its own."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

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
from agentfs.catalog.catalog import Catalog
from agentfs.catalog.secrets import Secrets
from agentfs.chats.asking import Asking
from agentfs.chats.chats import Chats
from agentfs.checkpoints import swap
from agentfs.checkpoints.checkpoints import Checkpoints
from agentfs.checkpoints.freezing import Freezing
from agentfs.executors.agent_loops import AgentKinds
from agentfs.executors.agents import AgentNodes
from agentfs.executors.api import ApiNodes
from agentfs.executors.approvals import ApprovalNodes
from agentfs.executors.behind import (
    Behind,
    MailBehind,
    ModelBehind,
    ProgramBehind,
    ServiceBehind,
    ToolBehind,
    to_agent,
    to_queue,
)
from agentfs.executors.desk import StepDesk
from agentfs.executors.embeddings import Embeddings
from agentfs.executors.functions import Functions
from agentfs.executors.hooks import HookNodes
from agentfs.executors.messages import MessageNodes
from agentfs.executors.model_choice import ModelChoice
from agentfs.executors.models import ModelNodes
from agentfs.executors.pools import Pools
from agentfs.executors.ports import Ports
from agentfs.executors.programs import ProgramSteps
from agentfs.executors.tools import ToolNodes
from agentfs.executors.waits import WaitNodes
from agentfs.executors.wakes import Wakes
from agentfs.executors.workers import CodeWorkers
from agentfs.explain import Explanations
from agentfs.library import hooks
from agentfs.library.hooks import HookedPlans
from agentfs.library.library import Library
from agentfs.machine.lineage import Lineages
from agentfs.machine.programs import Programs
from agentfs.machine.reapers import FOLDER, Reapers
from agentfs.mail.events import MessageClaimed
from agentfs.mail.held import HeldMail
from agentfs.mail.mail import Mail
from agentfs.mail.notices import Notices
from agentfs.mail.stalls import Stalls
from agentfs.models.answers import Answers
from agentfs.models.gateway import Gateway
from agentfs.process.agents import Agents
from agentfs.process.calls import Processes
from agentfs.process.capabilities import Capabilities
from agentfs.process.ceilings import Ceilings
from agentfs.process.consumption import Consumption
from agentfs.process.grants import ProgramGrants
from agentfs.process.history import History
from agentfs.process.identity import Identity
from agentfs.process.light import Light
from agentfs.process.logkeeper import LogKeeper
from agentfs.process.maid import Maid
from agentfs.process.path_rules import PathRules
from agentfs.process.supervisor import Supervisor
from agentfs.process.table import ProcessTable
from agentfs.projects.group_tasks import GroupTasks
from agentfs.projects.groups import AgentGroups
from agentfs.projects.phase_work import PhaseWork
from agentfs.projects.projects import Projects
from agentfs.projects.seeds import Seeds
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
from agentfs.quota.open_calls import OpenCalls
from agentfs.quota.rates import Rates
from agentfs.quota.shares import Shares
from agentfs.quota.spending import Spending
from agentfs.recall.memories import Memories
from agentfs.reminders.reminders import Reminders
from agentfs.rights import acl, roles
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Policy
from agentfs.sections import SECTIONS
from agentfs.shared.artifact_table import ArtifactTable
from agentfs.shared.artifacts import Artifacts
from agentfs.shared.inheritance import Inheritance
from agentfs.shared.locks import Locks
from agentfs.shared.queues import Queues
from agentfs.shared.topics import Topics
from agentfs.store.events import KernelStarted, LoopHeld
from agentfs.store.ground import Ground
from agentfs.store.instance import Instance
from agentfs.store.later import when_there_is_room
from agentfs.store.layout import STORE, lay_out
from agentfs.store.live_document import LiveDocument
from agentfs.store.opening import require_whole, taking_up
from agentfs.store.part import Part
from agentfs.tasks import mind_document, rules
from agentfs.tasks.consensus import Consensus
from agentfs.tasks.guardian import Guardian
from agentfs.tasks.mind import Mind
from agentfs.tasks.panel import Panel
from agentfs.tasks.programs import PolicyPrograms
from agentfs.tasks.task_mail import TaskMail
from agentfs.tasks.task_runs import TaskRuns
from agentfs.tasks.task_table import TaskTable
from agentfs.tasks.tasks import Tasks
from agentfs.tasks.workers import Workers
from agentfs.tooling.sidecars import Sidecars
from agentfs.tooling.tooling import Tooling
from agentfs.triggers.entities import Entities
from agentfs.triggers.launcher import RunLauncher
from agentfs.triggers.maker import TriggerMakers
from agentfs.triggers.schedules import Schedules
from agentfs.triggers.system_parts import PartStarter
from agentfs.triggers.system_runs import SystemRuns
from agentfs.triggers.systems import Systems
from agentfs.triggers.transitions import TransitionSteps
from agentfs.turns import harnesses
from agentfs.turns.turns import TurnLog
from agentfs.vfs.standstill import Standstill
from agentfs.why import Why
from agentfs.workflow.engine import Engine
from agentfs.workflow.retention import RunRetention
from agentfs.workflow.runs import Runs
from agentfs.workflow.subruns import SubRuns

__all__ = ["Kernel"]

log = logging.getLogger(__name__)


class Kernel:
    """One system: its state under `state_dir`, its tree at `mountpoint`.

    Must be made inside a trio loop. Services are made from the ground up, and the order in which
    they are added to the parts is the order in which they are told of everything. They are plain
    attributes; nothing is changed but through their system calls.
    """

    def __init__(
        self,
        state_dir: Path,
        mountpoint: str,
        clock: Clock | None = None,
        audit_key: Path | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        lay_out(state_dir)
        swap.finish(state_dir)
        if lost := require_whole(state_dir / STORE):
            log.error("%s", lost)
        self.state_dir, self.mountpoint, self.version = state_dir, mountpoint, agentfs.__version__
        self.node, self.owner = platform.node() or "localhost", (os.geteuid(), os.getegid())
        self.watchdog = watchdog or Watchdog()
        self.watchdog.report_to(lambda hold: self.events.emit(LoopHeld.of(hold)))
        with taking_up(state_dir / STORE):
            ground = self.ground = Ground.open(state_dir, SECTIONS, clock)
            self.store, self.events, self.settings = ground.store, ground.events, ground.settings
            self.clock, self.timers, self.journal = ground.clock, ground.timers, Journal()
            self.started = self.clock.now()
            self._build_rights(ground, audit_key or state_dir / "audit.key")
            self._build_processes(ground)
            self._build_quota(ground)
            self._build_mail(ground)
            self._build_workflows(ground)
            self._build_boundary(ground)
            self._build_steps(ground)
            self._build_tasks(ground)
            self._build_projects(ground)

    def _build_rights(self, ground: Ground, audit_key: Path) -> None:
        """Who calls, what they may do, and the record of what they did."""
        add = ground.parts.add
        self.audit = add(Audit(ground, audit_key))
        self.instance = add(Instance(ground, self.mountpoint))
        self.table = ProcessTable(ground)
        self.policy = Policy(self.table.find, ground.parts)
        self.roles = LiveDocument(self.store, self.events, roles.FORM, self.policy.use_roles)
        self.acl = LiveDocument(self.store, self.events, acl.FORM, self.policy.use_acl)
        self.gate = Gate(ground, self.policy, self.table.find)
        self.catalog = Catalog(ground, Secrets(ground, self.gate))
        self.harnesses = LiveDocument(self.store, self.events, harnesses.FORM)
        self.hooks = LiveDocument(self.store, self.events, hooks.FORM)
        self.guardian_rules = LiveDocument(self.store, self.events, rules.FORM)
        self.mind_policy = LiveDocument(self.store, self.events, mind_document.FORM)
        self.documents = (
            *(self.settings, self.roles, self.acl, self.catalog, self.harnesses),
            *(self.hooks, self.guardian_rules, self.mind_policy),
        )
        add(*self.documents)
        self.rules = PathRules(self.gate)
        self.capabilities = Capabilities(ground, self.gate, self.table)

    def _build_processes(self, ground: Ground) -> None:
        """Agents, the programs that work for them, and what all have together."""
        add, gate, table = ground.parts.add, self.gate, self.table
        agents = self.agents = add(Agents(ground, gate, table))
        self.shares = Shares(ground, agents)
        self.disk = DiskShares(ground, self.shares, agents)
        self.made = add(Made(ground, self.shares, agents), self.shares, self.disk)
        self.lineages = Lineages(lambda ospid: table.by_ospid(ospid) is not None)
        self.ceilings = Ceilings(table, self.settings)
        self.grants = ProgramGrants(self.policy, self.ceilings)
        reapers = Reapers(self.state_dir / FOLDER)
        programs = Programs(self.mountpoint, self.instance.name, self.grants, reapers)
        self.programs = programs
        self.supervisor = Supervisor(ground, table, agents, programs, works=(MessageClaimed,))
        self.maid = add(Maid(ground, table, agents, programs, self.supervisor))
        self.processes = Processes(ground, gate, table, agents, programs, self.supervisor)
        self.light = Light(ground, table, agents, self.policy, programs, self.supervisor)
        self.consumption = add(Consumption(ground, table, programs, self.supervisor.signals))
        add(LogKeeper(ground, table, programs, self.consumption.end))
        self.history = add(History(ground, table))

    def _build_quota(self, ground: Ground) -> None:
        """What work costs, and who may have how much of it."""
        add, gate, table, ceilings = ground.parts.add, self.gate, self.table, self.ceilings
        open_calls = OpenCalls(ground)
        alerts = self.alerts = Alerts(ground)
        self.budgets = add(Budgets(ground, gate, table, BudgetTable(ground), alerts, open_calls))
        add(alerts)
        self.groups = add(Groups(ground, gate, table, GroupTable(ground), self.made))
        self.spending = Spending(ground, ceilings, alerts, open_calls)
        self.branches = add(Branches(ground, table, self.spending))
        add(self.spending)  # `branches` asks for its figures when a process has ended
        self.rates = add(Rates(ground, table, ceilings, self.groups.groups))
        self.limits = add(ProcessLimits(ground, gate, table, ceilings, self.programs))
        self.accounting = add(Accounting(ground, self.catalog, table, self.agents))
        meters = Meters(self.catalog, self.budgets, (self.spending, self.groups), self.accounting)
        enforcement = Enforcement(ground, gate, table, alerts, self.supervisor.signals)
        self.calls = add(Calls(ground, gate, table, meters, open_calls, enforcement))
        self.beside = add(Sidecars(ground, table, self.agents, self.programs))
        self.tooling = add(
            Tooling(ground, gate, self.calls, self.beside, self.processes, self.catalog)
        )

    def _build_mail(self, ground: Ground) -> None:
        """Mail, what is told and decided by mail, and what agents share."""
        add, gate, table, agents = ground.parts.add, self.gate, self.table, self.agents
        self.mail = Mail(ground, gate, table, agents, self.node)
        self.approvals = add(Approvals(ground, gate, self.mail, self.made))
        add(*self.mail.parts)
        self.stalls = add(Stalls(ground, table, self.mail))
        self.asks = add(Asks(ground, gate, self.mail, self.made))
        add(Notices(self.mail))
        self.held = add(HeldMail(ground, table, self.mail))
        self.escalations = Escalations(ground, gate, table, self.mail, self.asks)
        self.queues = add(Queues(ground, gate, table, agents, self.mail, self.made))
        self.topics = add(Topics(ground, gate, table, agents, self.made))
        self.locks = add(Locks(ground, gate, table, self.made))
        artifacts = ArtifactTable(ground, table, self.disk)
        self.artifacts = Artifacts(ground, gate, table, self.disk, artifacts)
        add(Inheritance(ground, artifacts, table, agents))
        self.reminders = add(Reminders(ground, gate, agents, self.mail, self.made))
        self.turns = add(TurnLog(ground, gate, table, self.mail, self.accounting))

    def _build_workflows(self, ground: Ground) -> None:
        """Documents, the runs of pipelines, and who does their steps."""
        add, gate, table = ground.parts.add, self.gate, self.table
        self.library = add(Library(ground, gate, self.made))
        engine = self.engine = add(Engine(ground, table, self.light))
        plans = HookedPlans(self.library, self.hooks)
        self.runs = add(Runs(ground, gate, table, self.light, engine, plans))
        add(RunRetention(ground, engine))
        engine.executors.add(SubRuns(engine, self.runs))
        self.desk = add(StepDesk(ground, engine))
        self.pools = add(Pools(ground, gate, table, self.agents, self.made, self.desk))
        code = add(CodeWorkers(ground, table, self.light, self.pools))
        engine.executors.add(Functions(ground, table, self.policy, self.pools, code))
        self.step_programs = add(ProgramSteps(ground, gate, self.light, engine))
        engine.executors.add(self.step_programs)
        self._build_triggers(ground)

    def _build_triggers(self, ground: Ground) -> None:
        """What starts runs by itself: schedules, entities, systems."""
        add, gate, table, runs = ground.parts.add, self.gate, self.table, self.runs
        makers = self.makers = TriggerMakers(gate, table, self.agents, self.ceilings, self.made)
        starter = PartStarter(table, self.processes, runs, makers)
        systems = add(SystemRuns(ground, makers, table, self.light, starter, self.topics))
        launcher = self.launcher = RunLauncher(ground, self.library, runs, systems, makers)
        self.schedules = add(Schedules(ground, gate, makers, launcher))
        self.entities = add(Entities(ground, gate, table, makers, launcher))
        self.systems = Systems(gate, self.library, makers, systems, self.schedules, self.entities)
        self.transitions = add(TransitionSteps(ground, self.engine, self.entities))
        self.engine.executors.add(self.transitions)

    def _build_boundary(self, ground: Ground) -> None:
        """What the tree and the daemon ask of the kernel."""
        add, table, mail = ground.parts.add, self.table, self.mail
        identity = self.identity = Identity(ground, table, self.programs, self.owner[0])
        answers = Answers(table, identity, self.programs, self.calls.relayed)
        self.gateway = add(Gateway(ground, self.instance, self.programs, self.catalog, answers))
        self.refusals = add(Refusals(ground, self.gate))
        self.file_changes = add(FileChanges(ground, self.gate, self.audit))
        self.why = add(Why(ground, table, self.supervisor, mail, self.stalls, self.approvals))
        connect, waits = self.gateway.connect, self.why.waits
        self.chats = add(Chats(ground, self.gate, self.calls, self.agents, connect, waits))
        self.standstill = Standstill()
        freezing = Freezing(self.programs, self.standstill)
        self.checkpoints = add(Checkpoints(ground, self.gate, self.agents, mail, freezing))
        self.explanations = Explanations(
            self.policy, table, self.agents, mail.threads, self.queues, self.topics
        )

    def _build_steps(self, ground: Ground) -> None:
        """Who does the steps of runs that talk: with people, agents, models, tools, services."""
        add, engine, mail, agents = ground.parts.add, self.engine, self.mail, self.agents
        asking = self.asking = add(Asking(self.gateway.connect))
        models = ModelChoice(self.calls.relayed)
        embed, caps = Embeddings(asking), self.capabilities
        self.memories = add(Memories(ground, self.gate, agents, caps, self.disk, embed))
        program = ProgramBehind(self.beside)
        service = ServiceBehind(program)
        behind: dict[str, Behind] = {
            "program": program,
            "tool": ToolBehind(self.tooling),
            "model": ModelBehind(asking),
            "url": service,
            "agent": MailBehind(ground, mail, self.asks, to_agent(mail)),
            "queue": MailBehind(ground, mail, self.asks, to_queue(self.queues)),
        }
        ports = self.ports = add(Ports(self.gate, behind, self.library.adapter))
        self.wakes = add(Wakes(ground, self.gate, engine, self.runs))
        engine.executors.add(WaitNodes(ground, engine, mail))
        engine.executors.add(MessageNodes(ground, engine, mail, agents))
        engine.executors.add(add(ApprovalNodes(ground, engine, self.approvals, agents)))
        by_mail = add(AgentNodes(ground, engine, self.table, mail, self.asks, agents))
        engine.executors.add(AgentKinds(engine, by_mail, self.step_programs, models))
        engine.executors.add(add(ModelNodes(ground, engine, models, asking, ports).nodes))
        engine.executors.add(add(ToolNodes(ground, engine, self.tooling).nodes))
        engine.executors.add(add(HookNodes(ground, engine, self.tooling).nodes))
        engine.executors.add(add(ApiNodes(ground, engine, service, ports).nodes))

    def _build_tasks(self, ground: Ground) -> None:
        """Tasks, who does them, and what decides about both."""
        add, gate, table, made = ground.parts.add, self.gate, self.table, self.made
        self.workers = add(Workers(ground, gate, table, self.agents, made, self.pools))
        letters = TaskMail(table, self.supervisor, self.mail, self.workers)
        runs = TaskRuns(table, self.runs, self.engine)
        rows = TaskTable(ground, made)
        self.tasks = add(Tasks(ground, gate, rows, self.workers, letters, runs))
        programs = PolicyPrograms(self.beside, self.processes, self.light)
        consensus = Consensus(self.mail, self.asks)
        panel = Panel(ground, rows, self.workers, table, self.approvals, consensus)
        add(Guardian(ground, self.tasks, self.guardian_rules, panel, programs))
        add(Mind(ground, self.tasks, self.mind_policy, programs, self.catalog, self.asking))

    def _build_projects(self, ground: Ground) -> None:
        """What agents do together."""
        add, gate, table, agents = ground.parts.add, self.gate, self.table, self.agents
        self.agent_groups = add(AgentGroups(ground, gate, table, agents, self.mail, self.made))
        add(GroupTasks(ground, self.agent_groups, self.tasks, self.workers))
        self.projects = add(Projects(ground, gate, table, agents, self.disk, self.made))
        work = PhaseWork(self.library, self.makers, self.launcher, self.runs, self.tasks)
        self.seeds = add(Seeds(ground, gate, self.makers, self.projects, work))

    def load(self) -> None:
        """Read the rest from the store. Nothing is written before everything is read."""
        with taking_up(self.store.path):
            self.ground.parts.tell(Part.load)
            self.ground.parts.tell(Part.take_up)

    def moved(self, mountpoint: str) -> None:
        """The tree is mounted at another path now."""
        self.mountpoint = mountpoint
        self.programs.moved(mountpoint)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take up where the last run ended, run until the block ends, then end every program."""
        self.load()
        self.journal.install()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.timers.run)
                nursery.start_soon(self.store.checkpoint_regularly)
                nursery.start_soon(self.store.fold_regularly)
                for work in self.ground.parts.each(Part.run):
                    nursery.start_soon(work)
                with taking_up(self.store.path):
                    await nursery.start(self.supervisor.run)
                self.audit.checkpoint()
                self.store.keep_ballast()
                started = KernelStarted(self.version, self.events.boot)
                when_there_is_room(self.timers, partial(self.events.emit, started), "the start")
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self.supervisor.shutdown()
                    nursery.cancel_scope.cancel()
        finally:
            self.watchdog.report_to(lambda hold: None)
            self.ground.parts.tell(Part.flush)
            self.audit.checkpoint()
            self.store.close()
            self.audit.mirror()
            self.journal.uninstall()
