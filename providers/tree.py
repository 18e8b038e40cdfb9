"""The whole tree: its providers, in the order in which `ls` shows what they add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfs.providers.accounting import AccountingDirectory
from agentfs.providers.agent_groups import AgentGroupsDirectory
from agentfs.providers.agents import AgentsDirectory
from agentfs.providers.approvals import ApprovalsDirectory
from agentfs.providers.asks import AsksDirectory
from agentfs.providers.audit import AuditDirectory
from agentfs.providers.budget import BudgetDirectory, CallRows
from agentfs.providers.calls import CallsDirectory
from agentfs.providers.caps import CapsDirectory, SysCapsDirectory
from agentfs.providers.chats import ChatsDirectory
from agentfs.providers.checkpoints import CheckpointsDirectory
from agentfs.providers.children import ChildrenDirectory
from agentfs.providers.descriptors import divide
from agentfs.providers.dev import DevDirectory
from agentfs.providers.documents import (
    AdaptersDirectory,
    ConfigsDirectory,
    MacrosDirectory,
    PipelinesDirectory,
    PoliciesDirectory,
    PromptsDirectory,
    SystemsDirectory,
)
from agentfs.providers.entities import EntitiesDirectory
from agentfs.providers.etc import EtcDirectory
from agentfs.providers.figures import FigureRows, MountFigures, StatsDirectory
from agentfs.providers.gateway import GatewayFacts, GatewayLink
from agentfs.providers.groups import CgroupDirectory
from agentfs.providers.lib import (
    AdapterKindsDirectory,
    LibsDirectory,
    MacroListDirectory,
    NodeKindsDirectory,
    TagsDirectory,
)
from agentfs.providers.limits import BranchRows, LimitsDirectory, UsageDirectory
from agentfs.providers.llm import LlmDirectory
from agentfs.providers.locks import LocksDirectory
from agentfs.providers.log import LogRows
from agentfs.providers.mail import DeadRows, MailRows
from agentfs.providers.memory import MemoryRows
from agentfs.providers.overheard import OverheardRows
from agentfs.providers.pipes import PipesDirectory
from agentfs.providers.pools import PoolsDirectory
from agentfs.providers.ports import PortsDirectory
from agentfs.providers.proc import ProcDirectory
from agentfs.providers.process_commands import CommandRows
from agentfs.providers.process_program import ProgramRows
from agentfs.providers.process_signs import SignRows
from agentfs.providers.projects import ActiveRows, ProjectsDirectory
from agentfs.providers.queues import QueuesDirectory
from agentfs.providers.recall import RecallRows
from agentfs.providers.reminders import RemindersDirectory
from agentfs.providers.root import RootDirectory, Served
from agentfs.providers.run_groups import ByPipelineDirectory, ByRefDirectory, ByStateDirectory
from agentfs.providers.runs import RunsDirectory
from agentfs.providers.scheduled import ScheduledDirectory
from agentfs.providers.secrets import SecretsDirectory
from agentfs.providers.sent import SentDirectory
from agentfs.providers.shared import SharedRows
from agentfs.providers.shm import AgentShmDirectory, DevShmDirectory
from agentfs.providers.sys import SysDirectory
from agentfs.providers.systems import SystemRunsDirectory
from agentfs.providers.tasks import TasksByStateDirectory, TasksDirectory
from agentfs.providers.tools import LibDirectory, ToolLink, ToolsDirectory
from agentfs.providers.topics import TopicsDirectory
from agentfs.providers.turns import AgentStatsDirectory, TurnRows
from agentfs.providers.waits import WaitsDirectory
from agentfs.providers.workers import WorkersDirectory
from agentfs.vfs.index import EventIndex
from agentfs.vfs.namespace import Namespace
from agentfs.vfs.table import attach

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["build"]

attach(
    RootDirectory,
    AgentsDirectory,
    MailRows,
    SentDirectory,
    DeadRows,
    OverheardRows,
    AsksDirectory,
    RemindersDirectory,
    ChatsDirectory,
    AgentShmDirectory,
    LogRows,
    MemoryRows,
    RecallRows,
    ActiveRows,
    ProcDirectory,
    ProgramRows,
    ChildrenDirectory,
    CapsDirectory,
    PipesDirectory,
    CommandRows,
    LimitsDirectory,
    UsageDirectory,
    BranchRows,
    BudgetDirectory,
    CallRows,
    CallsDirectory,
    SignRows,
    TurnRows,
    RunsDirectory,
    ByStateDirectory,
    ByPipelineDirectory,
    ByRefDirectory,
    ScheduledDirectory,
    EntitiesDirectory,
    SystemRunsDirectory,
    DevDirectory,
    LlmDirectory,
    GatewayLink,
    QueuesDirectory,
    TopicsDirectory,
    PoolsDirectory,
    LocksDirectory,
    TasksDirectory,
    TasksByStateDirectory,
    AgentGroupsDirectory,
    WorkersDirectory,
    WaitsDirectory,
    PortsDirectory,
    DevShmDirectory,
    ApprovalsDirectory,
    EtcDirectory,
    PipelinesDirectory,
    SystemsDirectory,
    MacrosDirectory,
    AdaptersDirectory,
    PoliciesDirectory,
    ConfigsDirectory,
    SecretsDirectory,
    SysDirectory,
    AuditDirectory,
    SysCapsDirectory,
    CheckpointsDirectory,
    AccountingDirectory,
    CgroupDirectory,
    StatsDirectory,
    AgentStatsDirectory,
    FigureRows,
    GatewayFacts,
    SharedRows,
    ProjectsDirectory,
    LibDirectory,
    ToolsDirectory,
    ToolLink,
    LibsDirectory,
    NodeKindsDirectory,
    AdapterKindsDirectory,
    MacroListDirectory,
    TagsDirectory,
    PromptsDirectory,
)


def build(kernel: Kernel, figures: MountFigures = dict) -> Namespace:
    """The tree of `kernel`. `figures()` gives the mount's statistics for `/sys/metrics`."""
    divide(kernel.shares)
    root = RootDirectory(Served(kernel, figures))
    return Namespace(root, EventIndex(root).changes)
