"""What happened, as values: the event vocabulary, and the log that numbers and keeps it."""

from agentfs.events.accounting import AccountClosed, AccountOpened, UseRecorded, UsesSwept
from agentfs.events.approvals import ApprovalAsked, ApprovalDecided, ApprovalDropped
from agentfs.events.artifacts import (
    ArtifactChanged,
    ArtifactEvent,
    ArtifactPassed,
    ArtifactRemoved,
    ArtifactRenamed,
    ArtifactStored,
)
from agentfs.events.asks import (
    AskAnswered,
    AskCancelled,
    AskDropped,
    AskExpired,
    AskFailed,
    AskOpened,
    Escalated,
)
from agentfs.events.base import Event
from agentfs.events.capabilities import CapabilityDropped
from agentfs.events.groups import (
    GroupCreated,
    GroupEntered,
    GroupLimitHit,
    GroupLimitSet,
    GroupRemoved,
)
from agentfs.events.lifecycle import (
    AgentResumed,
    AgentStalled,
    ConsumerEnded,
    HeartbeatMissed,
    ProcessReady,
)
from agentfs.events.limits import LimitChanged, TaskTimedOut
from agentfs.events.log import EventLog, Record
from agentfs.events.mail import (
    BroadcastChanged,
    BroadcastSent,
    DeadLetterDropped,
    MessageRevived,
    SentForgotten,
)
from agentfs.events.messages import (
    CopyLeftOut,
    MessageArrived,
    MessageClaimed,
    MessageDone,
    MessageExpired,
    MessageGivenUp,
    MessageReturned,
)
from agentfs.events.processes import (
    AgentChanged,
    AgentDefined,
    AgentRemoved,
    ChildrenChanged,
    ProcessChanged,
    ProcessExited,
    ProcessReaped,
    ProcessReparented,
    ProcessRestarted,
    ProcessSpawned,
    SignalSent,
    StateChanged,
)
from agentfs.events.queues import QueueChanged, QueueCreated, QueuePurged, QueueRemoved
from agentfs.events.reminders import (
    ReminderCancelled,
    ReminderDelayed,
    ReminderFired,
    ReminderSet,
    ReminderTallyChanged,
)
from agentfs.events.resources import (
    BudgetChanged,
    ResourceExceeded,
    ResourceRefused,
    ResourceStopped,
    ResourceWarning,  # noqa: A004  # see there
)
from agentfs.events.system import CallRefused, ConfigChanged, HealthChecked
from agentfs.events.topics import TopicChanged, TopicCreated, TopicRemoved

__all__ = [
    "AccountClosed",
    "AccountOpened",
    "AgentChanged",
    "AgentDefined",
    "AgentRemoved",
    "AgentResumed",
    "AgentStalled",
    "ApprovalAsked",
    "ApprovalDecided",
    "ApprovalDropped",
    "ArtifactChanged",
    "ArtifactEvent",
    "ArtifactPassed",
    "ArtifactRemoved",
    "ArtifactRenamed",
    "ArtifactStored",
    "AskAnswered",
    "AskCancelled",
    "AskDropped",
    "AskExpired",
    "AskFailed",
    "AskOpened",
    "BroadcastChanged",
    "BroadcastSent",
    "BudgetChanged",
    "CallRefused",
    "CapabilityDropped",
    "ChildrenChanged",
    "ConfigChanged",
    "ConsumerEnded",
    "CopyLeftOut",
    "DeadLetterDropped",
    "Escalated",
    "Event",
    "EventLog",
    "GroupCreated",
    "GroupEntered",
    "GroupLimitHit",
    "GroupLimitSet",
    "GroupRemoved",
    "HealthChecked",
    "HeartbeatMissed",
    "LimitChanged",
    "MessageArrived",
    "MessageClaimed",
    "MessageDone",
    "MessageExpired",
    "MessageGivenUp",
    "MessageReturned",
    "MessageRevived",
    "ProcessChanged",
    "ProcessExited",
    "ProcessReady",
    "ProcessReaped",
    "ProcessReparented",
    "ProcessRestarted",
    "ProcessSpawned",
    "QueueChanged",
    "QueueCreated",
    "QueuePurged",
    "QueueRemoved",
    "Record",
    "ReminderCancelled",
    "ReminderDelayed",
    "ReminderFired",
    "ReminderSet",
    "ReminderTallyChanged",
    "ResourceExceeded",
    "ResourceRefused",
    "ResourceStopped",
    "ResourceWarning",
    "SentForgotten",
    "SignalSent",
    "StateChanged",
    "TaskTimedOut",
    "TopicChanged",
    "TopicCreated",
    "TopicRemoved",
    "UseRecorded",
    "UsesSwept",
]
