"""Receiving: messages claimed through `recv` and `recv.batch`, where asking for the next one
acknowledges the one before, whether there is a next one or not.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from agentfs.base.errors import KernelError
from agentfs.mail.delivery import Delivery, is_over
from agentfs.mail.hand_over import HandOver, WaitingReader
from agentfs.mail.idle_readers import IdleReaders
from agentfs.mail.mailbox import Mailbox
from agentfs.mail.mailboxes import Mailboxes, expired
from agentfs.mail.message import Message
from agentfs.mail.owners import Owners
from agentfs.mail.readers import Reader
from agentfs.mail.settings import MessageSettings
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process, State
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import keep_fields

__all__ = ["Receiving"]


class Receiving(Part):
    """Delivery to readers (see `readers`), each of which acknowledges what it got itself."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        boxes: Mailboxes,
        owners: Owners,
        delivery: Delivery,
    ) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._boxes = boxes
        self._owners = owners
        self._delivery = delivery
        self.idle = IdleReaders(ground.timers, self.parked)
        """Readers of inboxes that wait in a read."""
        self._handing = HandOver(ground, boxes, delivery, self._give)

    def waiting(self, name: str, reader: int | None = None) -> bool:
        """Whether a `claim_next` (of the principal of pid `reader`) would give a message now.
        ENOENT."""
        self._boxes.expire_due()
        self._owners.of(name).check_exists(name)
        return self._waiting(self._boxes.box(name), reader)

    def _waiting(self, box: Mailbox, reader: int | None) -> bool:
        return box.waiting > 0 or self._in_doubt(box, reader) is not None

    def received(self, message: Message, claimed_as: str = "") -> bytes:
        """The text of a message that was just claimed, and how many more wait; in a batch, its
        name in cur/, too."""
        head = f"Messages-Waiting: {len(self._boxes.box(message.mailbox).new)}\n"
        if claimed_as:
            head = f"Claimed-As: {claimed_as}\n{head}"
        return head.encode() + self._boxes.content(message)

    def claim_next(
        self, principal: Principal, name: str, reader: Reader | None = None
    ) -> Message | None:
        """Claim the message that is first, and acknowledge what the `reader` (without one: the
        principal) claimed before it in this way. None if no message waits, or its process has all
        the tasks that it may have; it has asked for more all the same, so what it claimed before
        is acknowledged. A message that was handed over to the `reader` while it waited is the
        answer, without any change."""
        if reader is not None and reader.handed and (found := self._handing.collect(reader)):
            return found[0]
        self._boxes.expire_due()
        box = self._delivery.own(principal, name)
        if reader is not None and (reader.closed or not reader.began):
            self._begin(box, principal.pid, reader)
        doubted = self._in_doubt(box, principal.pid) if self._boxes.doubts else None
        first = doubted or box.first()
        if first is None or expired(first, self._clock.now()):
            self._go_without(box, principal, reader)
            return None
        process = self._claimant(box, principal)
        free = self._free(box, principal, process, reader)
        if free is not None and free < 1:
            self._go_without(box, principal, reader)
            return None
        with self._gate.enter(principal, "claims") as actor:
            self._end_before(box, actor, reader)
            if doubted is not None:
                self._delivery.wait_again(
                    doubted, box.free_name("new", doubted.named), attempt=doubted.attempt + 1
                )
            self._receive(box, first, actor, process, reader)
            return first

    def claim_batch(
        self, principal: Principal, name: str, most: int, reader: Reader | None = None
    ) -> list[Message]:
        """Claim the messages that are first, up to `most` of them and `max_batch_bytes` (one at
        least), and acknowledge what is left of those that the `reader` (without one: the
        principal) claimed before through `recv` or in this way: never more than its process may
        have at once. Empty if no message waits, or none may be claimed; what it claimed before is
        acknowledged all the same. Messages that were handed over are the answer, as in
        `claim_next`."""
        if reader is not None and reader.handed and (found := self._handing.collect(reader)):
            return found
        self._boxes.expire_due()
        box = self._delivery.own(principal, name)
        self._begin(box, principal.pid, reader)
        process = self._claimant(box, principal)
        free = self._free(box, principal, process, reader, most)
        if not self._waiting(box, principal.pid) or (free is not None and free < 1):
            self._go_without(box, principal, reader)
            return []
        with self._gate.enter(principal, "claims") as actor:
            self._end_before(box, actor, reader)
            while (doubted := self._in_doubt(box, actor.pid)) is not None:
                again = box.free_name("new", doubted.named)
                self._delivery.wait_again(doubted, again, attempt=doubted.attempt + 1)
            count = most if free is None else min(most, free)
            return self._receive_first(box, actor, process, reader, count)

    def _receive_first(
        self,
        box: Mailbox,
        actor: Process,
        process: Process | None,
        reader: Reader | None,
        most: int,
    ) -> list[Message]:
        room = self._settings.of(MessageSettings).max_batch_bytes
        batch: list[Message] = []
        while len(batch) < most and (first := box.first()) is not None:
            room -= self._boxes.size(first)
            if (batch and room < 0) or expired(first, self._clock.now()):
                break
            self._receive(box, first, actor, process, reader)
            batch.append(first)
        return batch

    def _give(self, name: str, waiting: WaitingReader) -> bool:
        """Claim for a reader that waits what its own try would give it now; False where that would
        be refused, or do more than this."""
        principal, reader, most = waiting
        box = self._boxes.box(name)
        first = box.first()
        if (
            first is None
            or expired(first, self._clock.now())
            or reader.closed
            or reader.handed
            or self._store.is_full  # what an agent may write then is less than what others may
            or self._in_doubt(box, principal.pid) is not None
        ):
            return False
        try:
            self._delivery.own(principal, name)
        except KernelError:
            return False
        process = self._claimant(box, principal)
        free = self._free(box, principal, process, reader, most)
        if free is not None and free < 1:
            return False

        def claim(actor: Process) -> None:
            self._end_before(box, actor, reader)
            keep_fields(self._store, reader, "claimed", "settled", "went_without")
            count = most if free is None else min(most, free)
            self._handing.hand(reader, self._receive_first(box, actor, process, reader, count))

        return self._gate.beside(principal, "claims", claim)

    def _begin(self, box: Mailbox, pid: int | None, reader: Reader | None) -> None:
        """Before `reader` claims: what failed loops of its principal left waits again, and what
        was read by the way."""
        if reader is None or pid is None:
            return
        if not reader.began:
            reader.begin()
            self._return_failed(box.reading(pid))
            self._return_over(box.reading(pid))
        elif reader.closed:  # by the program that opened it, but not by an heir
            self._boxes.close(reader, closed=False)

    def _before(self, box: Mailbox, actor: Process, reader: Reader | None) -> list[Message]:
        """The messages that `reader` acknowledges when it asks for the next one: those it got last,
        or if it got nothing yet, those that a closed file of the same loop got."""
        if actor.pid == INIT and self._is_onlooker(box, actor):
            return []
        if reader is None:
            held = box.reading(actor.pid)
        else:
            held = box.reading(reader)
            if not held and not reader.claimed:
                held = [each for each in box.reading(actor.pid) if reader.continues(each.through)]
        if self._boxes.doubts:
            held = [message for message in held if not self._is_doubted(message)]
        return [message for message in held if not message.unread]

    def _is_onlooker(self, box: Mailbox, actor: Process) -> bool:
        """Whether the operator, `actor`, looks at mail that a program is to work on: a message that
        it takes there waits again, unless it is settled by a word."""
        claimant = self._delivery.claimant(box, actor)
        return claimant is not None and claimant.pid != INIT and claimant.ospid is not None

    def ask(self, principal: Principal, name: str, reader: Reader) -> None:
        """`reader` has just been opened and waits for its first message without reading, and there
        is none: that acknowledges what its loop had before, as a read that waits does."""
        box = self._delivery.own(principal, name)
        self._begin(box, principal.pid, reader)
        if not self.waiting(name, principal.pid):
            self._go_without(box, principal, reader)

    def _go_without(self, box: Mailbox, principal: Principal, reader: Reader | None) -> None:
        """`reader` asks for the next, and there is none: that acknowledges the one before, or an
        agent that nobody writes to any more would do its last job again once its time is over."""
        before = self._before(box, self._gate.actor(principal), reader)
        if not before:
            return
        pids = {message.claimed_by for message in before}
        with self._gate.enter(principal) as actor:
            self._end_before(box, actor, reader)
            if reader is None or not principal.is_agent:
                for pid in pids:
                    self._delivery.rest(pid)
        if reader is not None:
            reader.went_without = True
            if principal.is_agent:
                self.idle.begin(principal.name, reader)

    def _end_before(self, box: Mailbox, actor: Process, reader: Reader | None) -> None:
        for message in self._before(box, actor, reader):
            if message.doubted:  # and expired: nobody knows that anybody got it
                self._boxes.expire(message)
            else:
                self._delivery.done(message)

    # -- no more than a process may have ---------------------------------------------------------

    def wait(
        self,
        principal: Principal,
        name: str,
        reader: Reader,
        call: Callable[[], object],
        most: int = 1,
    ) -> None:
        """Let `call()` be called when `reader` may get a message, until `wait_no_more`: one that
        comes, or where its process has all the tasks it may have, when one of these ends. Up to
        `most` that come are handed over to it (see `hand_over`)."""
        self.wait_no_more(name, call)
        held_up = self._held_up(self._boxes.box(name), principal, reader)
        if held_up is None:
            self._handing.join(name, WaitingReader(principal, reader, most), call)
        else:
            self._boxes.claimed.wait(held_up.pid, call)
            self.hand_on(name)

    def on_waiting(self, name: str, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call()` whenever mail comes to wait for `name`, or its mailbox is removed, until
        the function that is returned is called."""
        return self._boxes.waiters.listen(name, call)

    def hand_on(self, name: str) -> None:
        """Call the next in the line if mail waits."""
        self._boxes.waiters.hand_on(name)

    def wait_no_more(self, name: str, call: Callable[[], object]) -> None:
        """Take that back; then `hand_on`."""
        self._handing.leave(name, call)
        self._boxes.claimed.leave(call)

    def put_back(self, reader: Reader) -> None:
        """No read of `reader` waits any more: what was handed over to it, and no read has given,
        waits again. That was no attempt."""
        if reader.handed:
            self._handing.put_back(reader)

    def poll(
        self, principal: Principal, name: str, reader: Reader, call: Callable[[], object]
    ) -> bool:
        """Whether a `claim_next` would give a message now. Where that depends on a task of its
        process, `call()` is called once one has ended. ENOENT."""
        if reader.handed:
            return True
        if not self.waiting(name, principal.pid):
            return False
        held_up = self._held_up(self._boxes.box(name), principal, reader)
        if held_up is not None:
            self._boxes.claimed.wait(held_up.pid, call)
        return held_up is None

    def _held_up(self, box: Mailbox, principal: Principal, reader: Reader | None) -> Process | None:
        """The process that has all the tasks it may have, where `reader` can get no message
        before one of them ends."""
        process = self._claimant(box, principal)
        free = self._free(box, principal, process, reader)
        return None if free is None or free > 0 else process

    def _claimant(self, box: Mailbox, principal: Principal) -> Process | None:
        """The process that has what `principal` claims."""
        actor = None if principal.pid is None else self._table.find(principal.pid)
        return None if actor is None else self._owners.of(box.name).claimant(box.name, actor)

    def _free(
        self,
        box: Mailbox,
        principal: Principal,
        process: Process | None,
        reader: Reader | None,
        wanted: int = 1,
    ) -> int | None:
        """How many messages `reader` may claim for `process`, of those `wanted`, with what that
        acknowledges out of the way; None: any number."""
        if process is None or principal.pid is None:
            return None
        free = self._delivery.tasks.free(principal.pid, process)
        if free is None or free >= wanted:
            return free
        actor = self._table.get(principal.pid)
        doubted = [each for each in box.reading(actor.pid) if self._is_doubted(each)]
        ending = self._before(box, actor, reader) + doubted
        return free + sum(message.claimed_by == process.pid for message in ending)

    def _receive(
        self,
        box: Mailbox,
        message: Message,
        actor: Process,
        process: Process | None,
        reader: Reader | None,
    ) -> None:
        renamed = f"{message.file}:2,"
        if renamed in box.cur:
            renamed = box.free_name("cur", renamed)
        self._delivery.hand_out(box, message, renamed, actor, process, actor.pid, reader)
        if reader is not None:
            reader.claimed = True
            reader.settled = reader.went_without = False
            self.idle.end(reader)

    def leave(self, reader: Reader) -> None:
        """The open file is closed. If its program goes on, or ends with code 0, what it got is
        acknowledged by the next claim of its loop; else it is returned."""
        box = self._boxes.box(reader.mailbox)
        held = [] if reader.closed else box.reading(reader)
        if held:
            self._return_failed(held)
        self._boxes.close(reader)

    def _return_failed(self, messages: Iterable[Message]) -> int:
        """Return those of `messages` that were received by what has failed since."""
        failed = [
            (message, code)
            for message in messages
            if message.through is not None and (code := message.through.failure())
        ]
        if failed:
            with self._store.transaction():
                for message, code in failed:
                    pid = message.claimed_by
                    self._delivery.fail(message, f"its reader ended with code {code}")
                    self._delivery.rest(pid)
        return len(failed)

    def _return_over(self, messages: Iterable[Message]) -> int:
        """Return those of `messages` that nobody asked for (`is_over`). That was no attempt at the
        work, so it brings no message nearer to its death; it is counted, because somebody may have
        seen it."""
        over = [message for message in messages if is_over(message)]
        if over:
            with self._store.transaction():
                for message in over:
                    pid = message.claimed_by
                    seen = not message.unread
                    again = self._boxes.box(message.mailbox).free_name("new", message.named)
                    self._delivery.wait_again(
                        message, again, message.attempt + seen, message.revived + seen
                    )
                    self._delivery.rest(pid)
        return len(over)

    def settle(
        self,
        principal: Principal,
        name: str,
        outcome: str,
        reason: str = "",
        reader: Reader | None = None,
    ) -> None:
        """Say what became of what `reader` got last through `recv`, instead of asking for the
        next: `done`, `back` (it waits again, and this was no attempt) or `failed` (this was
        one: it waits again, or is given up for `reason`). ENOENT if there is nothing, EINVAL."""
        self._boxes.expire_due()
        with self._gate.enter(principal) as actor:
            box = self._delivery.own(principal, name)
            held = self._unsettled(box, actor.pid, reader)
            if not held and outcome == "done" and reader is not None and reader.went_without:
                return  # as it is already
            if not held:
                raise KernelError(errno.ENOENT, "nothing that was received is unsettled")
            pids = {message.claimed_by for message in held}
            for message in held:
                if message.through is not None:
                    message.through.settled = True
                match outcome:
                    case "done":
                        self._delivery.done(message)
                    case "back":
                        self._delivery.wait_again(message, box.free_name("new", message.named))
                    case "failed":
                        self._delivery.fail(message, reason or "its reader said so")
                    case _:
                        raise KernelError(errno.EINVAL, f"done, back or failed, not {outcome!r}")
            for pid in pids:
                self._delivery.rest(pid)

    def _unsettled(self, box: Mailbox, pid: int, reader: Reader | None) -> list[Message]:
        if reader is None or reader.closed:
            found = box.reading(pid)
        else:
            found = box.reading(reader)
            found = found or [each for each in box.reading(pid) if reader.follows(each.through)]
        return [message for message in found if not message.unread]

    def _in_doubt(self, box: Mailbox, reader: int | None) -> Message | None:
        """The message that the daemon may have given to that reader when it ended, or may not
        have."""
        if reader is None or not self._boxes.doubts:
            return None
        return next((each for each in box.reading(reader) if self._is_doubted(each)), None)

    def _is_doubted(self, message: Message) -> bool:
        """Whether its reader is to get it again. One that has expired meanwhile is over: the next
        claim ends it as any other."""
        return message.doubted and not expired(message, self._clock.now())

    def parked(self, name: str, reader: Reader | None = None) -> None:
        """The process of agent `name` waits in `recv` (see `IdleReaders`): it is idle, unless it
        holds other claims than those that its next one acknowledges."""
        process = self._table.by_name(name)
        if process is None or process.pid == INIT:
            return
        if not self._boxes.busy_beside(process.pid, reader):
            self._table.follow(process.pid, State.IDLE)

    def tidy(self) -> int:
        """Return what was read by programs that have failed since, and what was read by the way;
        say how many."""
        self._handing.tidy()
        received = [
            message
            for box in self._boxes
            for message in box.cur.values()
            if message.through is not None and message.through.closed
        ]
        return self._return_failed(received) + self._return_over(received)
