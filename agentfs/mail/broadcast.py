"""Broadcasts: one logical message, a copy for each agent, and the count of what became of them. It
goes to every agent (`*`), or to the members of a group (`@NAME`).

The logical message lies in the mailbox `*`, from which nobody takes, as long as a copy waits or is
claimed; then it is done. The copies are unlisted: the sender sees the logical one in `sent`, and
when the last copy is finished its count is what is left.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from agentfs.base.errors import KernelError
from agentfs.mail.events import BroadcastSent
from agentfs.mail.mailboxes import Mailboxes
from agentfs.mail.message import Draft, Message, Relation, compose
from agentfs.mail.owners import Owners
from agentfs.mail.routing import relation
from agentfs.mail.settings import MessageSettings
from agentfs.mail.tally import EVERYBODY, GROUP
from agentfs.mail.threads import Threads
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import STRANGERS, Action
from agentfs.store.ground import Ground

__all__ = ["Broadcasts"]


class Acceptance(Protocol):
    """Where each copy is accepted: `Mail`, of which no more is used."""

    node: str
    boxes: Mailboxes
    owners: Owners
    threads: Threads

    def check_size(self, size: int) -> None: ...

    def check_room(self, principal: Principal, name: str) -> None: ...

    def accept(
        self,
        mailbox: str,
        sender: str,
        draft: Draft,
        relation: Relation,
        actor: Process | None = None,
        *,
        unlisted: bool = False,
        broadcast: int = 0,
    ) -> Message: ...


class Addresses(Protocol):
    """Who is meant by `@NAME`."""

    def receivers(self, principal: Principal, name: str) -> Iterable[str]:
        """The members of group NAME, to whom `principal` writes. Raises ENOENT, EACCES."""


class NoGroups:
    """There are no groups, until somebody says which there are."""

    def receivers(self, principal: Principal, name: str) -> Iterable[str]:
        raise KernelError(errno.ENOENT, f"there is no group {name!r} to write to")


class Broadcasts:
    """The system call that sends one."""

    def __init__(
        self, ground: Ground, gate: Gate, table: ProcessTable, agents: Agents, mail: Acceptance
    ) -> None:
        self._events = ground.events
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._agents = agents
        self._mail = mail
        self._boxes = mail.boxes
        self._addresses: Addresses = NoGroups()

    def keep_groups(self, addresses: Addresses) -> None:
        """Let `addresses` say who is in each group from now on."""
        self._addresses = addresses

    def check(self, principal: Principal, sender: str, to: str, size: int = 0) -> None:
        """Raise what `send` of `size` bytes would; nobody is asked to approve it."""
        self._boxes.expire_due()
        self._admit(self._gate.actor(principal), principal, sender, size, to)

    def send(self, principal: Principal, sender: str, draft: Draft) -> Message:
        """Let every other agent that there is now have a copy, all of them or none, but strangers
        of other users; the message that is returned is the sender's. To a group: every other member
        has one. EACCES, EPERM (the capability `broadcast`, which a group does not take, or a rule
        on one of the inboxes), EINVAL, EMSGSIZE, ENOENT (no such group), ENOSPC (an inbox is full),
        EAGAIN (messages_per_minute: it counts as one; to a group, as one for each member)."""
        self._boxes.expire_due()
        with self._gate.enter(principal) as actor:
            size = max(draft.size, len(draft.body))
            receivers = self._admit(actor, principal, sender, size, draft.to, draft)
            if draft.reply_by is not None:
                raise KernelError(errno.EINVAL, "nobody answers a broadcast: it has no Reply-By")
            self._gate.count_message(actor, 1 if draft.to == EVERYBODY else max(1, len(receivers)))
            marks = [("Reply-Expected", "no"), *draft.headers]
            if not draft.automatic:
                marks.insert(0, ("Auto-Submitted", "auto-generated"))
            logical = Draft(draft.to, draft.body, marks, draft.priority)
            message = self._keep(sender, logical, receivers)
            marks = [("Broadcast", self._mail.threads.name(message.seq)), *marks]
            copy = replace(draft, headers=marks, in_reply_to="")
            source = self._table.by_name(sender)
            for name in receivers:
                found = relation(source, self._table.by_name(name))
                self._mail.accept(
                    name, sender, copy, found, actor, unlisted=True, broadcast=message.seq
                )
            if not receivers:
                self._boxes.finish(message, "done")
            return message

    def _admit(
        self,
        actor: Process,
        principal: Principal,
        sender: str,
        size: int,
        to: str,
        draft: Draft | None = None,
    ) -> list[str]:
        """Whom it goes to. Without a `draft` nobody is asked to approve it."""
        what, about = (b"", "") if draft is None else (draft.body, draft.about())
        self._mail.owners.agents.require(principal, sender)
        self._agents.get(sender)
        speaker = self._table.by_name(sender) or actor
        self._mail.check_size(size)
        policy, receivers = self._gate.policy, []
        group = to.removeprefix(GROUP)
        everybody: Iterable[str] = self._agents
        if to == EVERYBODY:
            policy.require(speaker, Action.SEND, "/dev/broadcast", what=what, about=about)
            policy.require_capability(speaker, "broadcast")
        else:
            everybody = self._addresses.receivers(principal, group)
        for name in everybody:
            if name == sender:
                continue
            inbox = f"/agents/{name}/inbox"
            receiver = self._table.by_name(name) or self._agents.find(name)
            decision = policy.decide(speaker, Action.SEND, inbox, receiver)
            if decision.rule == STRANGERS and to == EVERYBODY:
                continue
            if not decision.allowed:
                raise decision.refusal()
            if draft is not None:
                policy.approved(speaker, Action.SEND, inbox, decision, what, about)
            self._mail.check_room(principal, name)
            receivers.append(name)
        most = self._settings.of(MessageSettings).max_broadcast_bytes
        if size * len(receivers) > most:
            raise KernelError(
                errno.EMSGSIZE,
                f"{len(receivers)} copies of {size} bytes are more than the {most} that all copies"
                " of a broadcast may have",
                rule="messages.max_broadcast_bytes",
            )
        return receivers

    def _keep(self, sender: str, draft: Draft, receivers: list[str]) -> Message:
        """Keep the logical message."""
        seq, arrived = self._boxes.stamp()
        number = f"{seq:012d}"
        content = compose(
            draft,
            number,
            sender=sender,
            relation=Relation.OTHER,
            now=arrived,
            node=self._mail.node,
        )
        message = Message(
            seq=seq,
            mailbox=EVERYBODY,
            sender=sender,
            relation=Relation.OTHER,
            level=int(draft.priority),
            arrived=arrived,
            size=len(content),
            file=number,
            named=number,
            tally={"recipients": len(receivers)},
        )
        self._boxes.insert(message, content)
        self._events.emit(BroadcastSent(sender, number, len(receivers)))
        return message
