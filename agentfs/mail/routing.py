"""The way of a message: the relation of its sender to its receiver, how urgent that makes it, and
the agent that overhears it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agentfs.mail.message import FLOORS, Priority, Relation
from agentfs.model.principal import INIT
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.rights.policy import Action, Policy

__all__ = ["effective", "overseer_of", "peers", "relation"]


def effective(priority: Priority, relation: Relation, *, on_purpose: bool = False) -> int:
    """The level a message waits at: `priority`, raised to what its sender is; unless the sender
    said on purpose that it is not urgent, normal or low."""
    if on_purpose and priority >= Priority.NORMAL:
        return int(priority)
    return min(int(priority), FLOORS[relation])


def relation(sender: Process | None, receiver: Process | None) -> Relation:
    """The relation of `sender` to `receiver`; None is an agent without a living process."""
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


def overseer_of(table: ProcessTable, sender: Process | None, relation: Relation) -> str:
    """The agent that overhears what `sender` sends to a receiver of that relation; "": nobody."""
    if sender is None or relation is not Relation.SIBLING:
        return ""
    parent = table.find(sender.ppid)
    return "" if parent is None else parent.name


def peers(
    table: ProcessTable,
    policy: Policy,
    agents: Agents,
    name: str,
    among: Iterable[str],
    wrote: Callable[[str], bool],
) -> list[str]:
    """Those of `among` to which agent `name` may send, in their order; `wrote` says
    whether one wrote to it before, and is asked about agents of other users only."""
    process = table.by_name(name)
    if process is None:
        return list(among)

    def may(peer: str) -> bool:
        target = table.by_name(peer) or agents.find(peer)
        path = f"/agents/{peer}/inbox"
        decision = policy.decide(process, Action.SEND, path, target, answers=lambda: wrote(peer))
        return decision.allowed

    return [peer for peer in among if may(peer)]
