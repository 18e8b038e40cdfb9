"""Mail: messages are accepted here. An accepted one is in the store before the call returns, and
stays there until somebody acknowledges it, it expires, or its agent is removed.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterable
from functools import partial

from agentfs.base.errors import KernelError
from agentfs.mail.archive import Archive
from agentfs.mail.broadcast import Broadcasts
from agentfs.mail.delivery import Delivery, check_free
from agentfs.mail.events import MessageArrived, MessageGivenUp, MessageLooped
from agentfs.mail.loops import Loops
from agentfs.mail.mailbox import Mailbox
from agentfs.mail.mailboxes import Mailboxes
from agentfs.mail.message import Draft, Message, Priority, Relation, compose
from agentfs.mail.overheard import Copy, Overheard
from agentfs.mail.owners import AgentMail, Owners
from agentfs.mail.questions import NO_QUESTIONS, Questions
from agentfs.mail.receiving import Receiving
from agentfs.mail.routing import effective, overseer_of, peers, relation
from agentfs.mail.sent import Sent
from agentfs.mail.settings import MessageSettings
from agentfs.mail.tally import EVERYBODY, GROUP
from agentfs.mail.threads import Threads
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import Principal
from agentfs.model.process import Process, ProcessKind
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Action
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Mail"]

AUTOMATIC = [("Auto-Submitted", "auto-generated")]
"""No program answers a message that is marked so (RFC 3834)."""


class Mail(Part):
    """All mail. Sending is here; what was sent is claimed through `receiving`, or by the name of
    its file through `delivery`."""

    def __init__(
        self, ground: Ground, gate: Gate, table: ProcessTable, agents: Agents, node: str
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._agents = agents
        self.node = node
        self.boxes = Mailboxes(ground)
        self.owners = Owners(AgentMail(ground, table, agents))
        self.threads = Threads(self.boxes, node)
        self.loops = Loops(ground, self.boxes)
        self.delivery = Delivery(ground, gate, table, self.boxes, self.owners, self.loops)
        self.receiving = Receiving(ground, gate, table, self.boxes, self.owners, self.delivery)
        self.overheard = Overheard()
        self.sent = Sent(ground, gate, self.boxes, self.owners)
        self.broadcasts = Broadcasts(ground, gate, table, agents, self)
        self._questions = NO_QUESTIONS

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that is told of what happens. The maid goes on with the next one if one fails."""
        boxes = self.boxes
        return (
            boxes,
            self.delivery,
            self.delivery.tasks,
            self.receiving,
            self.loops,
            boxes.retention,
            self,
        )

    def keep_questions(self, questions: Questions) -> None:
        """Let `questions` know of each question and each answer from now on."""
        self._questions = questions

    # -- looking ---------------------------------------------------------------------------------

    def mailbox(self, name: str) -> Mailbox:
        """The mailbox called `name`, without what has expired. ENOENT."""
        self.boxes.expire_due()
        self.owners.of(name).check_exists(name)
        return self.boxes.box(name)

    @property
    def archive(self) -> Archive:
        """All messages by number and by sender, finished ones too."""
        return self.boxes.archive

    def content(self, message: Message) -> bytes:
        """The whole text, with the headers that change. ENOENT if it is gone."""
        return self.boxes.content(message)

    def size(self, message: Message) -> int:
        """The length of `content`, in bytes."""
        return self.boxes.size(message)

    # -- an agent is removed, or a queue ---------------------------------------------------------

    def agent_removed(self, name: str) -> None:
        self.remove(name)

    def remove(self, name: str) -> None:
        """The owner of mailbox `name` is being removed: its mail and its questions go with it."""
        with self._store.transaction():
            self._questions.mailbox_removed(name)
            self.boxes.forget(name)
            self._store.on_commit(lambda: self.overheard.removed(name))

    # -- sending ---------------------------------------------------------------------------------

    def peers(self, name: str, among: Iterable[str] | None = None) -> list[str]:
        """The agents (of all, or of those `among` which is asked) that `name` may write to now, in
        their order: sorted. Of other users' agents that wrote to it only those whose mail it has
        still: it may answer for longer."""
        names = self._agents if among is None else among
        writers = functools.cache(lambda: self.threads.writers(name))
        policy = self._gate.policy
        return peers(self._table, policy, self._agents, name, names, lambda peer: peer in writers())

    def check(self, principal: Principal, sender: str, receiver: str, size: int = 0) -> None:
        """Raise what `send` of `size` bytes would: EACCES, ENOENT, EMSGSIZE, ENOSPC, EDQUOT,
        EAGAIN. Nobody is asked to approve what is not there yet."""
        if receiver.startswith(GROUP):
            self.broadcasts.check(principal, sender, receiver, size)
            return
        self.boxes.expire_due()
        actor = self._gate.actor(principal)
        self._admit(actor, principal, sender, receiver, size)
        self.loops.count_answer(actor, receiver, 0)
        self._gate.count_message(actor, 0)

    def send(self, principal: Principal, sender: str, draft: Draft) -> Message:
        """Accept a message. EACCES, ENOENT, EINVAL, EEXIST (its file name), EMSGSIZE, ENOSPC (the
        inbox is full), EDQUOT (the sender has its share of it), EAGAIN (messages_per_minute).

        A draft that says `claimed` is delivered and claimed in one: what a mail program does that
        saves a message it has changed. One to `*` or `@GROUP` is a broadcast.
        """
        if draft.to == EVERYBODY or draft.to.startswith(GROUP):
            return self.broadcasts.send(principal, sender, draft)
        self.boxes.expire_due()
        replied = draft.in_reply_to
        self._questions.expire_due(self.threads.number(replied) if replied else 0)
        with self._gate.enter(principal) as actor:
            size = max(draft.size, len(draft.body))
            found, overseer = self._admit(actor, principal, sender, draft.to, size, draft)
            if draft.expires is not None and draft.expires <= self._clock.now():
                raise KernelError(errno.EINVAL, "the message has expired already")
            self._gate.count_message(actor)
            self.loops.count_answer(actor, draft.to)
            message = self.accept(draft.to, sender, draft, found, actor, overseer=overseer)
            if draft.claimed:
                box = self.delivery.own(principal, draft.to)
                check_free(box, "cur", message.file)
                process = self.delivery.claimant(box, actor)
                self.delivery.hand_out(box, message, message.file, actor, process)
            return message

    def _admit(
        self,
        actor: Process,
        principal: Principal,
        sender: str,
        receiver: str,
        size: int,
        draft: Draft | None = None,
    ) -> tuple[Relation, str]:
        """The relation of the sender to the receiver, and the agent that overhears it ("": nobody).

        In this order: the receiver, the role, the route, then the limits. Whether somebody approves
        `draft` is asked last, of what would go through otherwise."""
        if (
            actor.kind is not ProcessKind.AGENT and principal.name != actor.agent
        ):  # else a node of the run sends it
            raise KernelError(
                errno.EPERM,
                f"{actor.name} is a step of a run and has no mail: a node `message:` sends in the"
                f" name of {actor.agent}",
                rule="step",
            )
        self.owners.agents.require(principal, sender)
        self._agents.get(sender)
        addressed = self._agents.find(receiver)
        if addressed is None:
            raise KernelError(errno.ENOENT, f"there is no agent {receiver!r} to write to")
        # Where nobody is at work for the sender, the operator speaks for it.
        source, target = self._table.by_name(sender), self._table.by_name(receiver)
        speaker, hearer = source or actor, target or addressed
        inbox = f"/agents/{receiver}/inbox"
        wrote = partial(self.threads.wrote, receiver, sender)
        decision = self._gate.policy.decide(speaker, Action.SEND, inbox, hearer, answers=wrote)
        if not decision.allowed:
            raise decision.refusal()
        self.check_size(size)
        self.owners.agents.check_room(self.boxes.box(receiver), principal)
        if draft is not None and decision.approval is not None:
            approved = self._gate.policy.approved
            approved(speaker, Action.SEND, inbox, decision, draft.body, draft.about())
        found = relation(source, target)
        return found, overseer_of(self._table, source, found)

    def check_room(self, principal: Principal, name: str) -> None:
        """Raise ENOSPC if no more messages may wait in a mailbox, EDQUOT if no more of
        `principal` may."""
        self.owners.of(name).check_room(self.boxes.box(name), principal)

    def check_size(self, size: int) -> None:
        """EMSGSIZE if a message may not have so many bytes."""
        most = self._settings.of(MessageSettings).max_size
        if size > most:
            raise KernelError(
                errno.EMSGSIZE,
                f"the message has {size} bytes, {most} are allowed",
                rule="messages.max_size",
            )

    def is_full(self, name: str) -> bool:
        """Whether so much waits in an inbox that nothing more is accepted."""
        return self.boxes.box(name).waiting >= self._settings.of(MessageSettings).max_waiting

    def notify(
        self,
        receiver: str,
        body: bytes,
        headers: list[tuple[str, str]],
        *,
        sender: str = INIT_NAME,
        priority: Priority = Priority.HIGH,
        expires: float | None = None,
        attempt: int = 1,
        last: bool = False,
    ) -> Message | None:
        """Let an agent have a message of the kernel's own, from `sender`: no route is asked for.
        `attempt`: as if it had been delivered before; `last`: it waits behind other mail.

        It is no entry of `sent`. None if there is no such agent, or its inbox is full.
        """
        if self._agents.find(receiver) is None or self.is_full(receiver):
            return None
        relation = Relation.OTHER if sender == receiver else Relation.SYSTEM
        draft = Draft(receiver, body, [*AUTOMATIC, *headers], priority, expires)
        with self._store.transaction():
            return self.accept(
                receiver, sender, draft, relation, unlisted=True, attempt=attempt, last=last
            )

    def accept(
        self,
        mailbox: str,
        sender: str,
        draft: Draft,
        relation: Relation,
        actor: Process | None = None,
        *,
        overseer: str = "",
        unlisted: bool = False,
        broadcast: int = 0,
        attempt: int = 1,
        last: bool = False,
    ) -> Message:
        """Put a message into a mailbox, inside a transaction, after every check but that of its
        file name (EEXIST, EINVAL). A question opens an ask (EAGAIN), and a reply may answer one:
        where that is to be read from the ask alone it is done at once, in no mailbox. If it is one
        more turn of a loop of process `actor`, it is a dead letter at once. Agent `overseer`
        overhears it when it is delivered."""
        box = self.boxes.box(mailbox)
        seq, arrived = self.boxes.stamp()
        if draft.filename:
            check_free(box, "new", draft.filename)
        number = f"{seq:012d}"
        file = draft.filename or f"{number}.{sender}"
        if file in box.new:
            file = box.free_name("new", file)
        parent, ask, links = None, None, list[tuple[str, str]]()
        thread: tuple[int, ...] = ()
        if draft.in_reply_to:
            parent = self.threads.parent(sender, draft.in_reply_to)
            thread = self.threads.below(parent)
            links = self.threads.headers(thread)
            if parent is not None and not draft.claimed:
                ask = self._questions.awaiting(sender, mailbox, parent)
        origin = self.loops.origin(actor, mailbox, parent)
        hops, said = self.loops.count(draft, mailbox, origin, reply=parent is not None)
        if hops > 1:  # a plain reply need not say so
            links.append(("Hops", str(hops)))
        content = compose(
            draft,
            number,
            sender=sender,
            relation=relation,
            now=self._clock.now(),
            node=self.node,
            links=links,
        )
        expires = draft.expires
        if draft.reply_by is not None and (expires is None or draft.reply_by < expires):
            expires = draft.reply_by
        message = Message(
            seq=seq,
            mailbox=mailbox,
            sender=sender,
            relation=relation,
            level=(
                Priority.LOW
                if last
                else effective(draft.priority, relation, on_purpose=draft.on_purpose)
            ),
            attempt=attempt,
            arrived=arrived,
            size=len(content),
            file=file,
            named=file,
            expires=expires,
            unlisted=unlisted,
            broadcast=broadcast,
            thread=thread,
            awaited=draft.reply_by is not None,
            hops=hops,
            said=said,
        )
        if ask is not None and ask.apart and not draft.filename:
            self.boxes.insert_done(message, content)
            self._events.emit(MessageArrived(f"asks/{mailbox}", number, sender, ask.key))
        else:
            self.boxes.insert(message, content)
            self._events.emit(MessageArrived(mailbox, number, sender, file))
        if draft.reply_by is not None:
            self._questions.open(message, draft.reply_by, apart=draft.answer_apart)
        if ask is not None:
            self._questions.answered(ask.id, message, content)
        elif hops and not draft.claimed and (reason := self.loops.ended(hops)):
            self._events.emit(MessageLooped(mailbox, message.id, sender, hops))
            self._events.emit(MessageGivenUp(mailbox, message.id, "new", file, reason))
            self.boxes.move(message, "dead", message.id, reason=reason)
        if overseer and message.folder != "dead":
            copy = Copy(seq, arrived, sender, mailbox, content)
            self._store.on_commit(partial(self.overheard.add, overseer, copy))
        return message
