"""Who may write to whom, and what that makes of the message: the routing table of design/kernel.md.

Asked in this order: the receiver exists, the sender's role may send, the route.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass

from agentfs.errors import KernelError
from agentfs.ipc.message import Priority, Relation
from agentfs.process.model import Process, Role
from agentfs.process.table import ProcessTable
from agentfs.security.principal import INIT

__all__ = ["Route", "effective", "peers", "relation", "route"]


@dataclass(frozen=True, slots=True)
class Route:
    """A way that is open. `copy_to` is the agent that oversees it and gets a copy, if any."""

    relation: Relation
    copy_to: str | None = None


def effective(explicit: Priority, relation: Relation) -> int:
    """The level a message waits at: what its sender says, raised to what the sender is."""
    return min(int(explicit), relation.floor)


def relation(sender: Process | None, receiver: Process | None) -> Relation:
    """What `sender` is to `receiver`; None is an agent without a living process."""
    if sender is None or sender is receiver:
        return Relation.OTHER
    if sender.pid == INIT:
        return Relation.SYSTEM
    if receiver is None:
        return Relation.OTHER
    if sender.pid == receiver.ppid:
        return Relation.PARENT
    if sender.ppid == receiver.pid:
        return Relation.CHILD
    if sender.ppid == receiver.ppid:
        return Relation.SIBLING
    return Relation.OTHER


def route(table: ProcessTable, sender: str, receiver: str) -> Route:
    """The way from agent `sender` to agent `receiver`. Raises EACCES where there is none."""
    source, target = table.by_name(sender), table.by_name(receiver)
    found = relation(source, target)
    if source is None or sender == receiver:
        return Route(found)
    if source.role is Role.TASK and found is not Relation.CHILD:
        parent = table.find(source.ppid)
        name = "none that is alive" if parent is None else parent.name
        raise KernelError(
            errno.EACCES, f"{sender} is a task and may only write to its parent {name}", rule="task"
        )
    if found is not Relation.SIBLING:
        return Route(found)
    overseer = table.find(source.ppid)
    return Route(found, None if overseer is None else overseer.name)


def peers(table: ProcessTable, name: str, agents: Iterable[str]) -> list[str]:
    """Those of `agents` to which there is a route from agent `name`, in their order."""
    process = table.by_name(name)
    if process is None or process.role is not Role.TASK:
        return list(agents)
    parent = table.find(process.ppid)
    allowed = {name, parent.name} if parent is not None and parent.state.alive else {name}
    return [agent for agent in agents if agent in allowed]
