"""The base of all events."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["Event", "vocabulary"]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. `type` is its name on the wire, made from the class name.

    On the wire every event has the `agent` that it concerns, and `pid`, that agent's process, or
    null. `whose` is the field that names the agent; "": the event concerns none. If an event says
    only one of the two, the log finds out the other when it goes out.
    """

    type: ClassVar[str] = "event"
    whose: ClassVar[str] = "agent"

    def __init_subclass__(cls) -> None:
        cls.type = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def vocabulary(kind: type[Event] = Event) -> dict[str, type[Event]]:
    """The events of AgentFS below `kind`, by class name: those of the rooms that are imported."""
    found: dict[str, type[Event]] = {}
    for each in kind.__subclasses__():  # `slots=True` makes a class twice: the second is in use
        if each.__module__.startswith("agentfs."):
            found |= {each.__name__: each} | vocabulary(each)
    return found
