"""Asks: questions that wait for their answer, with a deadline. `threads` says who may reply.

A question is a message like any other, with `Reply-By`; its receiver answers it by a reply. The
first reply is the answer. It is kept with the ask, and where the asker has said that it reads it
there (`asks/new`) it goes nowhere else. Calls without a principal belong inside a transaction.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from agentfs.asks.ask import Ask, AskState
from agentfs.asks.ask_table import AskTable
from agentfs.asks.events import (
    AskAnswered,
    AskCancelled,
    AskDropped,
    AskExpired,
    AskFailed,
    AskOpened,
)
from agentfs.base.alarm import Alarm
from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.mail.events import MessageExpired, MessageGivenUp
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft, Message
from agentfs.mail.settings import MessageSettings
from agentfs.model.principal import Principal
from agentfs.quota.made import Made
from agentfs.rights.gate import Gate
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Asks"]

log = logging.getLogger(__name__)

# Asks of one transaction: about 20 ms. Between two of them others have their turn for as long.
BATCH, PAUSE = 200, 0.02


class Asks(Part):
    """The life of an ask. Its records are in `AskTable`."""

    def __init__(self, ground: Ground, gate: Gate, mail: Mail, made: Made) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._mail = mail
        self._boxes = mail.boxes
        self._table = AskTable(ground)
        made.count_in("asks", lambda: self.open_asks, lambda: self.waiting)
        self._alarm = Alarm(ground.clock, ground.timers, self._fall_due)
        self._watching: dict[int, list[Callable[[], object]]] = {}
        self._onward: Callable[[Ask], bool] = lambda ask: False
        mail.keep_questions(self)
        ground.events.listen(self._heard, MessageGivenUp, MessageExpired)

    def load(self) -> None:
        """Read everything from the store."""
        self._table.load()
        first = self._table.due()
        if first is not None:
            self._alarm.set(first.deadline)

    def take_up(self) -> None:
        """End the asks whose questions were lost: mail tells of that after its transaction, and the
        daemon may have died between."""
        with self._store.transaction():
            for seq, ask in tuple(self._table.of_message.items()):
                message = self._boxes.archive.find(seq)
                if message is None or message.folder in ("dead", "expired"):
                    self._lost(ask, seq, "it was not taken" if message is None else message.reason)

    def pass_on(self, onward: Callable[[Ask], bool]) -> None:
        """Before an ask ends without an answer, `onward(ask)` says from now on whether it was put
        to somebody else instead."""
        self._onward = onward

    # -- looking ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many are open."""
        return self._table.waiting

    @property
    def open_asks(self) -> Mapping[str, Mapping[int, Ask]]:
        """Those that are open, by their asker."""
        return self._table.open

    def of(self, agent: str) -> Mapping[int, Ask]:
        """The asks of `agent`, by number, the open ones last."""
        self.expire_due()
        return {**self._table.closed.of(agent), **self._table.open.of(agent)}

    def find(self, number: int) -> Ask | None:
        """The ask with that number; None if there is none."""
        self.expire_due(number)
        return self._table.by_number.get(number)

    def get(self, agent: str, number: int) -> Ask:
        """Raises ENOENT."""
        ask = self.find(number)
        if ask is None or ask.asker != agent:
            raise KernelError(errno.ENOENT, f"{agent} has no question {number:012d}")
        return ask

    def question(self, ask: Ask) -> bytes:
        """The first message of it, whole. ENOENT if the ask is gone."""
        return self._table.text(ask, "question")

    def answer(self, ask: Ask) -> bytes:
        """The message that answered it, whole. ENOENT if there is none, or the ask is gone."""
        return self._table.text(ask, "answer")

    def on_end(self, ask: Ask, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call()` when `ask` is answered or ends without, until the function that is
        returned is called."""
        self._watching.setdefault(ask.id, []).append(call)

        def unsubscribe() -> None:
            calls = self._watching.get(ask.id, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self._watching.pop(ask.id, None)

        return unsubscribe

    def _wake(self, ask: Ask) -> None:
        for call in tuple(self._watching.get(ask.id, ())):
            call()

    # -- system calls ----------------------------------------------------------------------------

    def ask(self, principal: Principal, agent: str, content: bytes) -> Ask:
        """Send a question whose answer is read from the ask alone. EINVAL, EAGAIN (too many are
        open), and what sending raises."""
        now = self._clock.now()
        draft = Draft.parse(content, now=now)
        if not draft.body.strip():
            raise KernelError(errno.EINVAL, "a question is headers, a blank line and a text")
        if draft.reply_by is None:
            draft.reply_by = now + self._settings.of(MessageSettings).reply_timeout
        draft.answer_apart = True
        return self._table.by_number[self._mail.send(principal, agent, draft).seq]

    def cancel(self, principal: Principal, agent: str, number: int) -> None:
        """Drop an ask. If it is open nobody waits any more: whom it was put to is told, and where
        it still waits it is withdrawn. EACCES, ENOENT."""
        self.expire_due(number)
        with self._gate.enter(principal):
            if not principal.acts_for(agent):
                raise KernelError(
                    errno.EACCES,
                    f"the questions of {agent} are not for {principal.name}",
                    rule="private",
                )
            ask = self.get(agent, number)
            if ask.open:
                for seq, mailbox in ask.questions.items():
                    self._withdraw(ask, seq, mailbox)
                self._close(ask, AskState.CANCELLED)
                self._events.emit(AskCancelled(agent, ask.key))
            self._drop(ask)

    def _withdraw(self, ask: Ask, seq: int, mailbox: str) -> None:
        message = self._boxes.archive.find(seq)
        if message is None:
            return
        other = mailbox if "/" not in mailbox else message.claimant
        if message.folder == "new":
            event = MessageExpired(message.mailbox, message.id, message.folder, message.file)
            self._boxes.finish(message, "expired", f"cancelled by {ask.asker}")
            self._events.emit(event)
        headers = [("Type", "ask-cancelled"), ("In-Reply-To", self._mail.threads.name(seq))]
        if other:
            body = f"{ask.asker} does not wait for an answer to {message.id} any more.\n"
            self._mail.notify(other, body.encode(), headers, sender=ask.asker)

    # -- questions and answers on their way ------------------------------------------------------

    def open(
        self,
        message: Message,
        deadline: float,
        *,
        apart: bool = False,
        severity: str = "",
        pid: int = 0,
    ) -> Ask:
        """Wait for a reply to `message`, which was just accepted. EAGAIN: too many are open."""
        self.check_room(message.sender)
        ask = Ask(
            id=message.seq,
            asker=message.sender,
            asked=self._clock.now(),
            deadline=deadline,
            questions={message.seq: message.mailbox},
            to=message.mailbox,
            apart=apart,
            severity=severity,
            pid=pid,
            changed=int(self._clock.now() * 1e9),
        )
        self._table.put(ask)
        self._alarm.set(deadline)
        if not message.awaited:
            self._boxes.mark(message, awaited=True)
        self._table.keep_text(ask, "question", self._store.content(message.seq))
        self._events.emit(AskOpened(ask.asker, ask.key, ask.to, rfc3339(deadline)))
        return ask

    def check_room(self, agent: str) -> None:
        """EAGAIN if `agent` waits for as many answers as it may."""
        most = self._settings.of(MessageSettings).max_open_asks
        if len(self._table.open.of(agent)) >= most:
            raise KernelError(
                errno.EAGAIN,
                f"{agent} waits for {most} answers already",
                rule="messages.max_open_asks",
            )
        self._gate.check_making(agent, "asks", 1)

    def put_to(self, ask: Ask, message: Message, deadline: float) -> None:
        """Let `message` be a question of an open `ask` too: the first reply answers it."""
        self._boxes.mark(message, awaited=True)
        questions = ask.questions | {message.seq: message.mailbox}
        to = f"{ask.to}, {message.mailbox}"
        self._table.change(ask, questions=questions, to=to, deadline=deadline)
        self._alarm.set(deadline)

    def awaiting(self, sender: str, mailbox: str, parent: Message) -> Ask | None:
        """The open ask that a reply of `sender` to `parent`, sent to `mailbox`, answers."""
        ask = self._table.of_message.get(parent.seq)
        if ask is None or ask.asker != mailbox:
            return None
        asked = parent.claimant if "/" in parent.mailbox else parent.mailbox
        return ask if sender == asked else None

    def answered(self, question: int, message: Message, content: bytes) -> None:
        """`message` is the answer to an open ask."""
        ask = self._table.by_number[question]
        self._table.keep_text(ask, "answer", content)
        self._close(ask, AskState.ANSWERED, answer=message.seq)
        self._events.emit(AskAnswered(ask.asker, ask.key, message.id, message.sender))

    def mailbox_removed(self, name: str) -> None:
        """An agent (with what it has asked), or a queue, is being removed."""
        for ask in tuple(self.of(name).values()):
            self._drop(ask)
        for seq, ask in tuple(self._table.of_message.items()):
            if ask.questions.get(seq) == name:
                self._lost(ask, seq, f"{name} was removed")

    # -- the end of it ---------------------------------------------------------------------------

    def expire_due(self, question: int = 0) -> int:
        """Close a batch of what nobody answered in time, the ask of message `question` first; say
        how many. The alarm does it when it is time; calls that look at an ask do it before, so that
        nothing depends on when the alarm rings."""
        if not self._table.open:
            return 0
        now, ended = self._clock.now(), 0
        ask = self._table.due()
        if ask is None or ask.deadline > now or self._store.in_transaction:
            return 0
        wanted = self._table.of_message.get(question)
        if wanted is not None and wanted.deadline <= now:
            ask = wanted
        try:
            with self._store.transaction():
                while ask is not None and ask.deadline <= now and ended < BATCH:
                    if not self._onward(ask):
                        self._expire(ask)
                    ask, ended = self._table.due(), ended + 1
        except KernelError as failure:
            log.warning("expired questions stay open for now: %s", failure)
            return 0
        return ended

    def tidy(self) -> int:
        """Drop a batch of what was closed longer than `asks_retention` ago; say how many."""
        self.expire_due()
        old = self._clock.now() - self._settings.of(MessageSettings).asks_retention
        closed = (ask for of_agent in self._table.closed.values() for ask in of_agent.values())
        swept = list(islice((ask for ask in closed if ask.closed <= old), BATCH))
        if swept:
            with self._store.transaction():
                for ask in swept:
                    self._drop(ask)
        return len(swept)

    def _fall_due(self) -> float | None:
        ended = self.expire_due()
        first = self._table.due()
        if first is None:
            return None
        return max(first.deadline, self._clock.now() + PAUSE) if ended else first.deadline

    def _heard(self, record: Record) -> None:
        """A question became a dead letter, or expired before its answer was due."""
        event = record.event
        if not isinstance(event, MessageGivenUp | MessageExpired):
            return
        ask = self._table.of_message.get(int(event.id))
        if ask is not None and ask.deadline > self._clock.now():  # else the alarm is about to ring
            reason = event.reason if isinstance(event, MessageGivenUp) else ""
            with self._store.transaction():
                self._lost(ask, int(event.id), reason)

    def _lost(self, ask: Ask, seq: int, reason: str) -> None:
        """Nobody will reply to question `seq`. Without a reason: because it expired."""
        self._settle(seq, lapsed=False)
        rest = {other: name for other, name in ask.questions.items() if other != seq}
        self._table.change(ask, questions=rest)
        if self._onward(ask) or rest:
            return
        if not reason:
            self._expire(ask, "the question expired before anybody took it")
            return
        self._close(ask, AskState.FAILED, reason=reason)
        self._events.emit(AskFailed(ask.asker, ask.key, reason))
        self._tell(ask, "ask-failed", f"Nobody can answer {ask.key}: {reason}.\n")

    def _expire(self, ask: Ask, reason: str = "") -> None:
        reason = reason or f"there was no answer by {rfc3339(ask.deadline)}"
        self._close(ask, AskState.EXPIRED, reason=reason)
        self._events.emit(AskExpired(ask.asker, ask.key))
        self._tell(ask, "ask-expired", f"{ask.to} did not answer {ask.key}: {reason}.\n")

    def _tell(self, ask: Ask, kind: str, text: str) -> None:
        """Let the asker know that there is no answer, unless it looks for itself."""
        if not ask.apart and ask.severity != "info":
            headers = [("Type", kind), ("In-Reply-To", self._mail.threads.name(ask.id))]
            self._mail.notify(ask.asker, text.encode(), headers)

    def _drop(self, ask: Ask) -> None:
        self._table.drop(ask)
        self._store.on_commit(lambda: self._wake(ask))
        self._events.emit(AskDropped(ask.asker, ask.key))

    def _close(self, ask: Ask, state: AskState, **after: Any) -> None:
        self._table.change(ask, state=state, closed=self._clock.now(), **after)
        for seq in ask.questions:
            self._settle(seq, lapsed=state in (AskState.EXPIRED, AskState.CANCELLED))
        self._store.on_commit(lambda: self._wake(ask))
        closed = self._table.closed[ask.asker]
        while len(closed) > self._settings.of(MessageSettings).max_closed_asks:
            self._drop(next(iter(closed.values())))

    def _settle(self, seq: int, *, lapsed: bool) -> None:
        """No answer to message `seq` is waited for any more."""
        message = self._boxes.archive.find(seq)
        if message is not None:
            self._boxes.mark(message, awaited=False, lapsed=lapsed)
