"""Receiving: messages claimed through `recv` and `recv.batch`, where asking for the next one
acknowledges the one before.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from functools import cached_property

from agentfs.errors import KernelError
from agentfs.ipc.delivery import Delivery
from agentfs.ipc.mailbox import Mailbox
from agentfs.ipc.mailboxes import expired
from agentfs.ipc.message import Message
from agentfs.ipc.readers import Reader
from agentfs.ipc.resting import Resting
from agentfs.process.model import Process, State
from agentfs.security.principal import INIT, Principal

__all__ = ["Receiving"]


class Receiving(Delivery):
    """Delivery to readers (see `readers`), each of which acknowledges what it got itself."""

    _doubted: set[int]

    @cached_property
    def resting(self) -> Resting:
        """Readers of inboxes that wait in a read."""
        return Resting(self._timers, self.parked)

    def load(self) -> None:
        """Read all mail from the store.

        Of what was claimed through `recv` nobody knows whether the answer reached the reader
        before the daemon ended; so its reader gets it again, and then acknowledges it.
        """
        super().load()
        self._doubted = {
            message.seq
            for box in self._boxes
            for message in box.cur.values()
            if message.through_recv
        }

    def waiting(self, name: str, reader: int | None = None) -> bool:
        """Whether a `claim_next` (of the principal of pid `reader`) would give a message now.
        ENOENT."""
        box = self.mailbox(name)
        return box.waiting > 0 or self._in_doubt(box, reader) is not None

    def received(self, message: Message, claimed_as: str = "") -> bytes:
        """The text of a message that was just claimed, and how many more wait; in a batch, its
        name in cur/, too."""
        waiting = self.peek_waiting(message.mailbox)
        head = f"Claimed-As: {claimed_as}\n" if claimed_as else ""
        return f"{head}Messages-Waiting: {waiting}\n".encode() + self.content(message)

    def claim_next(
        self, principal: Principal, name: str, reader: Reader | None = None
    ) -> Message | None:
        """Claim the message that is first, and acknowledge what the `reader` (without one: the
        principal) claimed before it in this way. None, and nothing is acknowledged, if no message
        waits, or its process has all the tasks that it may have."""
        self._boxes.expire_due()
        box = self._own(principal, name)
        self._begin(box, principal.pid, reader)
        doubted = self._in_doubt(box, principal.pid)
        first = doubted or box.first()
        if first is None or expired(first, self._clock.now()):
            return None
        if self._held_up(box, principal, reader) is not None:
            return None
        with self._gate.enter(principal) as actor:
            self._end_before(box, actor.pid, reader)
            if doubted is not None:
                self._wait_again(
                    doubted, box.free_name("new", doubted.named), attempt=doubted.attempt + 1
                )
            self._receive(box, first, actor, reader)
            return first

    def claim_batch(
        self, principal: Principal, name: str, most: int, reader: Reader | None = None
    ) -> list[Message]:
        """Claim the messages that are first, up to `most` of them and `max_batch_bytes` (one at
        least), and acknowledge what is left of those that the `reader` (without one: the
        principal) claimed before through `recv` or in this way: never more than its process may
        have at once. Empty, and nothing is acknowledged, if no message waits, or none may be
        claimed."""
        self._boxes.expire_due()
        box = self._own(principal, name)
        self._begin(box, principal.pid, reader)
        if not self.waiting(name, principal.pid):
            return []
        free = self._free(box, principal, reader, most)
        if free is not None and free < 1:
            return []
        most = most if free is None else min(most, free)
        room = self._settings.now.messages.max_batch_bytes
        with self._gate.enter(principal) as actor:
            self._end_before(box, actor.pid, reader)
            while (doubted := self._in_doubt(box, actor.pid)) is not None:
                self._trust(doubted)
                again = box.free_name("new", doubted.named)
                self._wait_again(doubted, again, attempt=doubted.attempt + 1)
            batch: list[Message] = []
            while len(batch) < most and (first := box.first()) is not None:
                room -= self.size(first)
                if (batch and room < 0) or expired(first, self._clock.now()):
                    break
                self._receive(box, first, actor, reader)
                batch.append(first)
            return batch

    def _begin(self, box: Mailbox, pid: int | None, reader: Reader | None) -> None:
        """Before `reader` claims: what failed loops of its principal left waits again."""
        if reader is None or pid is None:
            return
        if not reader.began:
            reader.begin()
            self._return_failed(box.reading(pid))
        elif reader.closed:  # by who opened it, but not by an heir
            self._boxes.close(reader, closed=False)

    def _before(self, box: Mailbox, pid: int, reader: Reader | None) -> list[Message]:
        """What the next claim of `reader` acknowledges: what it got last, or if it got nothing
        yet, what a file of the same loop got that is closed."""
        if reader is None:
            held = box.reading(pid)
        else:
            held = box.reading(reader)
            if not held and not reader.claimed:
                held = [each for each in box.reading(pid) if reader.follows(each.through)]
        return [message for message in held if not self._is_doubted(message)]

    def _end_before(self, box: Mailbox, pid: int, reader: Reader | None) -> None:
        for message in self._before(box, pid, reader):
            if message.seq in self._doubted:  # and expired: nobody knows that anybody got it
                self._boxes.expire(message)
            else:
                self.done(message)

    # -- no more than a process may have ---------------------------------------------------------

    def wait(
        self, principal: Principal, name: str, reader: Reader, call: Callable[[], object]
    ) -> None:
        """Let `call()` be called when `reader` may get a message, until `wait_no_more`: one that
        comes, or where its process has all the tasks it may have, when one of these ends."""
        self.wait_no_more(name, call)
        held_up = self._held_up(self._boxes.box(name), principal, reader)
        if held_up is None:
            self.line(name).join(call)
        else:
            self._boxes.claimed.wait(held_up.pid, call)
            self.hand_on(name)

    def wait_no_more(self, name: str, call: Callable[[], object]) -> None:
        """Take that back; then `hand_on`."""
        self.line(name).leave(call)
        self._boxes.claimed.leave(call)

    def poll(
        self, principal: Principal, name: str, reader: Reader, call: Callable[[], object]
    ) -> bool:
        """Whether a `claim_next` would give a message now. Where that depends on a task of its
        process, `call()` is called once one has ended. ENOENT."""
        if not self.waiting(name, principal.pid):
            return False
        held_up = self._held_up(self._boxes.box(name), principal, reader)
        if held_up is not None:
            self._boxes.claimed.wait(held_up.pid, call)
        return held_up is None

    def _held_up(self, box: Mailbox, principal: Principal, reader: Reader | None) -> Process | None:
        """The process that has all the tasks it may have, where `reader` can get no message
        before one of them ends."""
        free = self._free(box, principal, reader)
        if free is None or free > 0 or principal.pid is None:
            return None
        return self._claimant(box, self._table.get(principal.pid))

    def _free(
        self, box: Mailbox, principal: Principal, reader: Reader | None, wanted: int = 1
    ) -> int | None:
        """How many messages `reader` may claim, of those `wanted`, with what that acknowledges out
        of the way; None: any number."""
        actor = None if principal.pid is None else self._table.find(principal.pid)
        process = None if actor is None else self._claimant(box, actor)
        if actor is None or process is None:
            return None
        free = self.tasks.free(actor, process)
        if free is None or free >= wanted:
            return free
        doubted = [each for each in box.reading(actor.pid) if self._is_doubted(each)]
        ending = self._before(box, actor.pid, reader) + doubted
        return free + sum(message.claimed_by == process.pid for message in ending)

    def _receive(
        self, box: Mailbox, message: Message, actor: Process, reader: Reader | None
    ) -> None:
        renamed = box.free_name("cur", f"{message.file}:2,")
        self._claim(box, message, renamed, actor, reader=actor.pid, through=reader)
        self._trust(message)
        if reader is not None:
            reader.claimed = True

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
                    self._return(message, f"its reader ended with code {code}")
                    self._rest(pid)
        return len(failed)

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
            box = self._own(principal, name)
            held = self._unsettled(box, actor.pid, reader)
            if not held:
                raise KernelError(errno.ENOENT, "nothing that was received is unsettled")
            pids = {message.claimed_by for message in held}
            for message in held:
                match outcome:
                    case "done":
                        self.done(message)
                    case "back":
                        self._wait_again(message, box.free_name("new", message.named))
                    case "failed":
                        self._return(message, reason or "its reader said so")
                    case _:
                        raise KernelError(errno.EINVAL, f"done, back or failed, not {outcome!r}")
            for pid in pids:
                self._rest(pid)

    def _unsettled(self, box: Mailbox, pid: int, reader: Reader | None) -> list[Message]:
        if reader is None or reader.closed:
            return box.reading(pid)
        found = box.reading(reader)
        return found or [each for each in box.reading(pid) if reader.follows(each.through)]

    def _in_doubt(self, box: Mailbox, reader: int | None) -> Message | None:
        """What that reader may have been given when the daemon ended, and may not have been."""
        if not self._doubted or reader is None:
            return None
        return next((each for each in box.reading(reader) if self._is_doubted(each)), None)

    def _is_doubted(self, message: Message) -> bool:
        """Whether its reader is to get it again. One that has expired meanwhile is over: the next
        claim ends it as any other."""
        return message.seq in self._doubted and not expired(message, self._clock.now())

    def _trust(self, message: Message) -> None:
        """What is claimed from now on was handed out for certain."""
        if message.seq in self._doubted:
            self._doubted.discard(message.seq)
            self._store.on_rollback(lambda: self._doubted.add(message.seq))

    def parked(self, name: str, reader: Reader | None = None) -> None:
        """The process of agent `name` waits in `recv` (see `resting`): it is idle, unless it holds
        other claims than those that its next one acknowledges."""
        process = self._table.by_name(name)
        if process is None or process.pid == INIT:
            return
        if not self._boxes.busy_beside(process.pid, reader):
            self._table.follow(process.pid, State.IDLE)

    def release_stale(self) -> int:
        """Also what was read by programs that have failed since."""
        received = [
            message
            for box in self._boxes
            for message in box.cur.values()
            if message.through is not None and message.through.closed
        ]
        return super().release_stale() + self._return_failed(received)
