"""What a message becomes on its way: the routing table of design/kernel.md.

Asked in this order: the receiver exists, the sender may send to it, the route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agentfs.mail.message import Priority, Relation
from agentfs.model.principal import INIT
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.rights.policy import Action, Policy

__all__ = ["Route", "effective", "peers", "relation", "route"]


@dataclass(frozen=True, slots=True)
class Route:
    """A way that is open. `overseer` is the agent that overhears what goes this way; "": nobody."""

    relation: Relation
    overseer: str = ""


def effective(priority: Priority, relation: Relation, *, on_purpose: bool = False) -> int:
    """The level a message waits at: `priority`, raised to what its sender is; unless the sender
    said on purpose that it is not urgent, normal or low."""
    if on_purpose and priority >= Priority.NORMAL:
        return int(priority)
    return min(int(priority), relation.floor)


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
    """The way from agent `sender`, who may send to it, to agent `receiver`."""
    source, target = table.by_name(sender), table.by_name(receiver)
    found = relation(source, target)
    if source is None or found is not Relation.SIBLING:
        return Route(found)
    overseer = table.find(source.ppid)
    return Route(found, "" if overseer is None else overseer.name)


def peers(
    table: ProcessTable,
    policy: Policy,
    agents: Agents,
    name: str,
    among: Iterable[str],
    wrote: Callable[[str], bool],
) -> list[str]:
    """Those of `among` to which agent `name` may send, in their order; `wrote` says who wrote to
    it before, and is asked about other users' only."""
    process = table.by_name(name)
    if process is None:
        return list(among)

    def may(peer: str) -> bool:
        target = table.by_name(peer) or agents.find(peer)
        path = f"/agents/{peer}/inbox"
        decision = policy.decide(process, Action.SEND, path, target, answers=lambda: wrote(peer))
        return decision.allowed

    return [peer for peer in among if may(peer)]
