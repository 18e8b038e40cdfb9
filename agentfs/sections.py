"""The sections of /etc/agentfs.yaml: each is declared by its room, and listed here."""

from __future__ import annotations

from agentfs.approvals.settings import ApprovalSettings
from agentfs.asks.settings import EscalationSettings
from agentfs.audit.settings import AuditSettings
from agentfs.chats.settings import ChatSettings
from agentfs.checkpoints.settings import CheckpointSettings
from agentfs.executors.settings import PoolSettings
from agentfs.library.settings import WorkflowSettings
from agentfs.mail.settings import MessageSettings
from agentfs.process.settings import LimitSettings, ProcessSettings
from agentfs.projects.settings import ProjectSettings
from agentfs.quota.settings import (
    AccountingSettings,
    BudgetSettings,
    GroupSettings,
    ShareSettings,
)
from agentfs.recall.settings import MemorySettings
from agentfs.reminders.settings import ReminderSettings
from agentfs.shared.settings import (
    ArtifactSettings,
    LockSettings,
    QueueSettings,
    TopicSettings,
)
from agentfs.store.settings import Section
from agentfs.tasks.settings import TaskSettings, WorkerSettings
from agentfs.tooling.settings import ToolSettings
from agentfs.triggers.settings import TriggerSettings
from agentfs.turns.settings import TurnSettings
from agentfs.vfs.settings import MountSettings

__all__ = ["SECTIONS"]

SECTIONS: tuple[type[Section], ...] = (
    ProcessSettings,
    MessageSettings,
    EscalationSettings,
    QueueSettings,
    TopicSettings,
    ArtifactSettings,
    LockSettings,
    ReminderSettings,
    MemorySettings,
    TurnSettings,
    WorkflowSettings,
    ChatSettings,
    LimitSettings,
    BudgetSettings,
    AccountingSettings,
    GroupSettings,
    AuditSettings,
    ApprovalSettings,
    ShareSettings,
    ToolSettings,
    PoolSettings,
    TriggerSettings,
    TaskSettings,
    WorkerSettings,
    CheckpointSettings,
    ProjectSettings,
    MountSettings,
)
"""In the order of the document."""
