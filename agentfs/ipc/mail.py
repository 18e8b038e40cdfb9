"""Mail: messages are accepted here. What was accepted is in the store before the call returns, and
stays there until somebody acknowledges it, it expires, or its agent is removed.
"""

from __future__ import annotations

import errno

from agentfs.clock import Clock, Timers
from agentfs.config import Settings
from agentfs.errors import KernelError
from agentfs.events import CopyLeftOut, EventLog, MessageArrived
from agentfs.ipc.delivery import Delivery, check_free
from agentfs.ipc.message import Draft, Message, Priority, Relation, compose
from agentfs.ipc.routing import Route, effective, peers, route
from agentfs.process.agents import INIT_NAME, Agents
from agentfs.process.model import Process
from agentfs.process.table import ProcessTable
from agentfs.security.policy import Action
from agentfs.security.principal import Principal
from agentfs.storage.store import Store
from agentfs.syscall import Gate

__all__ = ["Mail"]


class Mail(Delivery):
    """The system calls on messages: sending here, claiming and the rest in `Delivery`."""

    def __init__(
        self,
        gate: Gate,
        table: ProcessTable,
        agents: Agents,
        store: Store,
        events: EventLog,
        clock: Clock,
        timers: Timers,
        settings: Settings,
        node: str,
    ) -> None:
        super().__init__(gate, table, agents, store, events, clock, timers, settings)
        self._node = node

    def peers(self, name: str) -> list[str]:
        """The agents that `name` may write to now, sorted."""
        return peers(self._table, name, self._agents)

    def check(self, principal: Principal, sender: str, receiver: str, size: int = 0) -> None:
        """Raise what `send` of `size` bytes would: EACCES, ENOENT, EMSGSIZE, ENOSPC."""
        self._boxes.expire_due()
        self._admit(self._gate.actor(principal), principal, sender, receiver, size)

    def send(self, principal: Principal, sender: str, draft: Draft) -> Message:
        """Accept a message. EACCES, ENOENT, EINVAL, EEXIST (its file name), EMSGSIZE, ENOSPC.

        A draft that says `claimed` is delivered and claimed in one: what a mail program does that
        saves a message it has changed.
        """
        self._boxes.expire_due()
        with self._gate.enter(principal) as actor:
            size = max(draft.size, len(draft.body))
            found = self._admit(actor, principal, sender, draft.to, size)
            if draft.expires is not None and draft.expires <= self._clock.now():
                raise KernelError(errno.EINVAL, "the message has expired already")
            message = self.accept(draft.to, sender, draft, found.relation)
            if draft.claimed:
                box = self._own(principal, draft.to)
                check_free(box, "cur", message.file)
                self._claim(box, message, message.file, actor)
            if found.copy_to is not None:
                self._copy(sender, draft, message, found.copy_to)
            return message

    def _admit(
        self, actor: Process, principal: Principal, sender: str, receiver: str, size: int
    ) -> Route:
        """The order is that of design/kernel.md: receiver, role, route; then the limits."""
        self.owners[""].require(principal, sender)
        self._agents.get(sender)
        if self._agents.find(receiver) is None:
            raise KernelError(errno.ENOENT, f"there is no agent {receiver!r} to write to")
        # Where nobody is at work for the sender, the operator speaks for it.
        self._gate.policy.require(self._table.by_name(sender) or actor, Action.SEND)
        found = route(self._table, sender, receiver)
        limits = self._settings.now.messages
        if size > limits.max_size:
            raise KernelError(
                errno.EMSGSIZE,
                f"the message has {size} bytes, {limits.max_size} are allowed",
                rule="messages.max_size",
            )
        if self._is_full(receiver):
            raise KernelError(
                errno.ENOSPC,
                f"the inbox of {receiver} is full: {limits.max_waiting} messages wait in it",
                rule="messages.max_waiting",
            )
        return found

    def _is_full(self, name: str) -> bool:
        return self._boxes.box(name).waiting >= self._settings.now.messages.max_waiting

    def notify(
        self,
        receiver: str,
        body: bytes,
        headers: list[tuple[str, str]],
        *,
        sender: str = INIT_NAME,
        priority: Priority = Priority.HIGH,
        expires: float | None = None,
    ) -> Message | None:
        """Let an agent have a message of the kernel's own, from `sender`: no route is asked for.

        It is no entry of `sent`. None if there is no such agent, or its inbox is full.
        """
        if self._agents.find(receiver) is None or self._is_full(receiver):
            return None
        relation = Relation.OTHER if sender == receiver else Relation.SYSTEM
        draft = Draft(receiver, body, list(headers), priority, expires)
        with self._store.transaction():
            return self.accept(receiver, sender, draft, relation, unlisted=True)

    def accept(
        self,
        mailbox: str,
        sender: str,
        draft: Draft,
        relation: Relation,
        *,
        unlisted: bool = False,
    ) -> Message:
        """Put a message into a mailbox, inside a transaction, after every check but that of its
        file name (EEXIST, EINVAL)."""
        box = self._boxes.box(mailbox)
        seq, arrived = self._boxes.stamp()
        if draft.filename:
            check_free(box, "new", draft.filename)
        file = draft.filename or box.free_name("new", f"{seq:012d}.{sender}")
        now = self._clock.now()
        content = compose(
            draft, seq=seq, sender=sender, relation=relation, now=now, node=self._node
        )
        message = Message(
            seq=seq,
            mailbox=mailbox,
            sender=sender,
            relation=relation,
            level=effective(draft.priority, relation),
            arrived=arrived,
            size=len(content),
            file=file,
            named=file,
            expires=draft.expires,
            unlisted=unlisted,
        )
        self._boxes.insert(message, content)
        self._events.emit(MessageArrived(mailbox, message.id, sender, file))
        return message

    def _copy(self, sender: str, draft: Draft, original: Message, overseer: str) -> None:
        """Let the parent of both have a copy. One that does not read its mail must not silence
        its children: where its inbox is full, an event says that there is no copy."""
        if self._is_full(overseer):
            reason = f"the inbox of {overseer} is full"
            self._events.emit(CopyLeftOut(overseer, original.id, sender, draft.to, reason))
            return
        marks = [
            ("Type", "sibling-traffic"),
            ("Original-Recipient", draft.to),
            ("Original-Message-ID", f"<{original.id}@{self._node}>"),
        ]
        kept = [header for header in draft.headers if header[0].lower() != "type"]
        copy = Draft(overseer, draft.body, marks + kept, Priority.LOW, draft.expires)
        self.accept(overseer, sender, copy, Relation.CHILD, unlisted=True)
