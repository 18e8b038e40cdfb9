"""What happened, as values: the event vocabulary, and the log that numbers and keeps it."""

from agentfs.events.base import Event
from agentfs.events.log import EventLog, Record
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
from agentfs.events.system import CallRefused, ConfigChanged, HealthChecked

__all__ = [
    "AgentChanged",
    "AgentDefined",
    "AgentRemoved",
    "CallRefused",
    "ChildrenChanged",
    "ConfigChanged",
    "CopyLeftOut",
    "Event",
    "EventLog",
    "HealthChecked",
    "MessageArrived",
    "MessageClaimed",
    "MessageDone",
    "MessageExpired",
    "MessageGivenUp",
    "MessageReturned",
    "ProcessChanged",
    "ProcessExited",
    "ProcessReaped",
    "ProcessReparented",
    "ProcessRestarted",
    "ProcessSpawned",
    "Record",
    "SignalSent",
    "StateChanged",
]
