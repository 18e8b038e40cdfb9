"""Delivery: a message is claimed, and then acknowledged, put back, or returned by the kernel.
Through `recv`: see `receiving`.

At least once: what was claimed and not acknowledged when its process ends is delivered again, and
says so; after `max_delivery_attempts` it is a dead letter.
"""

from __future__ import annotations

import errno
from functools import partial

from agentfs.base.errors import KernelError
from agentfs.mail.claim_limits import ClaimLimits
from agentfs.mail.events import (
    MessageClaimed,
    MessageDone,
    MessageGivenUp,
    MessageReturned,
    MessageRevived,
)
from agentfs.mail.loops import Loops
from agentfs.mail.mailbox import FOLDERS, Mailbox
from agentfs.mail.mailboxes import Mailboxes, expired
from agentfs.mail.message import Message
from agentfs.mail.owners import Owners
from agentfs.mail.readers import Reader
from agentfs.mail.settings import MessageSettings
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process, State
from agentfs.process.ceilings import Ceilings
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Delivery", "check_free", "is_over"]


class Delivery(Part):
    """Claims on messages, which end with the process that they belong to.

    Every call that takes a principal raises EACCES unless it may take from the mailbox named.
    """

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        table: ProcessTable,
        boxes: Mailboxes,
        owners: Owners,
        loops: Loops,
    ) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._settings = ground.settings
        self._gate = gate
        self._table = table
        self._boxes = boxes
        self._owners = owners
        self._loops = loops
        ceilings = Ceilings(table, ground.settings)
        self.tasks = ClaimLimits(ground, boxes.claimed, table, ceilings, self._give_back)

    # -- claiming --------------------------------------------------------------------------------

    def claim(self, principal: Principal, name: str, file: str, renamed: str) -> None:
        """Take new/`file` as cur/`renamed`. ENOENT, EEXIST, EINVAL, EAGAIN (its process has as many
        tasks as it may have)."""
        self._boxes.expire_due()
        with self._gate.enter(principal, "claims") as actor:
            box = self.own(principal, name)
            message = _in(box, "new", file)
            if expired(message, self._clock.now()):
                raise KernelError(errno.ENOENT, f"{file} has expired")
            check_free(box, "cur", renamed)
            process = self.claimant(box, actor)
            self.tasks.require(actor, process)
            self.hand_out(box, message, renamed, actor, process)

    def put_back(self, principal: Principal, name: str, file: str, renamed: str) -> None:
        """Let cur/`file` wait again, as new/`renamed`. It was not lost, so this is no further
        attempt. ENOENT, EEXIST, EINVAL."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self.own(principal, name)
            message = _in(box, "cur", file)
            check_free(box, "new", renamed)
            pid = message.claimed_by
            self.wait_again(message, renamed)
            self.rest(pid)

    def flag(
        self, principal: Principal, name: str, file: str, renamed: str, folder: str = "cur"
    ) -> None:
        """Rename `file` to `renamed` in `folder` (`new` or `cur`); the claim, or the place in the
        order of delivery, stays. ENOENT, EEXIST, EINVAL."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self.own(principal, name)
            message = _in(box, folder, file)
            if renamed == file:
                return
            check_free(box, folder, renamed)
            self._boxes.rename(message, renamed)

    def acknowledge(self, principal: Principal, name: str, folder: str, file: str) -> None:
        """It is done: remove `folder`/`file` for good. ENOENT."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self.own(principal, name)
            message = _in(box, folder, file)
            pid = message.claimed_by
            if message.through is not None:
                message.through.settled = True
            self.done(message)
            if folder == "cur":
                self.rest(pid)
            elif folder == "new" and principal.pid is not None:  # nobody had claimed it
                self._store.on_commit(partial(self._loops.put_away, principal.pid, message))

    def revive(self, principal: Principal, name: str, file: str, renamed: str) -> None:
        """Put the dead letter dead/`file` back as new/`renamed`: the next attempt, and it has
        `max_delivery_attempts` of them again. ENOENT, EEXIST, EINVAL, ENOSPC (no more may wait),
        EDQUOT (no more of `principal` may), ETIMEDOUT (it has expired)."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self.own(principal, name)
            message = _in(box, "dead", file)
            check_free(box, "new", renamed)
            if expired(message, self._clock.now()):
                raise KernelError(errno.ETIMEDOUT, f"{file} has expired: nobody would get it")
            self._owners.of(name).check_room(box, principal)
            died = message.attempt
            self._boxes.move(message, "new", renamed, attempt=died + 1, revived=died)
            self._events.emit(MessageRevived(name, message.id, renamed, file, message.attempt))

    # -- inside a transaction --------------------------------------------------------------------

    def own(self, principal: Principal, name: str) -> Mailbox:
        """The mailbox called `name`, from which `principal` may take. EACCES, ENOENT."""
        owner = self._owners.of(name)
        owner.require(principal, name)
        owner.check_exists(name)
        return self._boxes.box(name)

    def claimant(self, box: Mailbox, actor: Process) -> Process | None:
        """The process that has what `actor` claims."""
        return self._owners.of(box.name).claimant(box.name, actor)

    def hand_out(
        self,
        box: Mailbox,
        message: Message,
        renamed: str,
        actor: Process,
        process: Process | None,
        reader: int | None = None,
        through: Reader | None = None,
    ) -> None:
        """Let `actor` have a message, as cur/`renamed`, for `process`, the `claimant`; `through`
        and `reader` say how it got it (see `Message`)."""
        pid = None if process is None else process.pid
        file = message.file
        claimant = actor.name if process is None else process.name
        self._boxes.claim(message, renamed, pid, claimant, reader, through)
        self._events.emit(MessageClaimed(box.name, message.id, file, renamed, pid))
        self._table.follow(pid, State.RUNNING)

    def done(self, message: Message, reason: str = "") -> None:
        """Take `message` out of its mailbox: it was acknowledged, or it is dropped for `reason`,
        which `sent` tells its sender."""
        if message.claimed_by is not None:
            self._loops.put_away(message.claimed_by, message)
        event = MessageDone(message.mailbox, message.id, message.folder, message.file)
        self._boxes.finish(message, "done", reason)
        self._events.emit(event)

    def rest(self, pid: int | None) -> None:
        """A claim of process `pid` has ended: without another it is idle. Process 1 always runs."""
        if pid is not None and pid != INIT and not self._boxes.busy(pid):
            self._table.follow(pid, State.IDLE)

    # -- returning -------------------------------------------------------------------------------

    def program_ended(self, process: Process, code: int) -> None:
        """The program of `process` has ended: the end of a loop with code 0 acknowledges what it
        got from `recv` last; everything else that it claimed is returned."""
        with self._store.transaction():
            for message in self._boxes.claimed.of(process.pid):
                asked = not (message.unread or is_over(message))
                if code == 0 and message.reader == process.pid and asked:
                    self.done(message)
                else:
                    self.fail(message, f"{process.name} ended with code {code}")

    def tidy(self) -> int:
        """Return the claims of processes that are no more, and those older than `claim_timeout`
        that no end of a process will return; say how many."""
        oldest = self._clock.monotonic() - self._settings.of(MessageSettings).claim_timeout
        stale = [
            message
            for pid in self._boxes.claimed.pids
            if not self._is_alive(pid)
            for message in self._boxes.claimed.of(pid)
        ]
        stale += [
            message
            for box in self._boxes
            if box.cur
            for pid in self._owners.of(box.name).never_end(box.name)
            for message in box.claims(pid)
            if message.claimed_since <= oldest
        ]
        if stale:
            with self._store.transaction():
                for message in stale:
                    self.fail(message, "the claim was forgotten")
        return len(stale)

    def _is_alive(self, pid: int) -> bool:
        process = self._table.find(pid)
        return process is not None and process.state.alive

    def fail(self, message: Message, reason: str) -> None:
        """It was not acknowledged: it waits for the next attempt, or was given up with the last. If
        no read has given it yet, this was no attempt."""
        box = self._boxes.box(message.mailbox)
        if message.unread:
            self.wait_again(message, box.free_name("new", message.named))
            return
        most = message.revived + self._settings.of(MessageSettings).max_delivery_attempts
        if message.attempt < most:
            name = box.free_name("new", message.named)
            self.wait_again(message, name, attempt=message.attempt + 1)
            return
        given_up = f"delivered {message.attempt} times, never acknowledged; last: {reason}"
        self.give_up(message, given_up)

    def give_up(self, message: Message, reason: str) -> None:
        """Let it be a dead letter."""
        folder, file = message.folder, message.file
        self._events.emit(MessageGivenUp(message.mailbox, message.id, folder, file, reason))
        self._boxes.move(message, "dead", message.id, reason=reason)

    def _give_back(self, message: Message, reason: str) -> None:
        """Its process took too long."""
        pid = message.claimed_by
        self.fail(message, reason)
        self.rest(pid)

    def wait_again(self, message: Message, name: str, attempt: int = 0, revived: int = 0) -> None:
        """Move it from cur/ to new/, if it has not expired meanwhile."""
        if expired(message, self._clock.now()):
            self._boxes.expire(message)
            return
        file = message.file
        self._boxes.move(message, "new", name, attempt=attempt, revived=revived)
        self._events.emit(MessageReturned(message.mailbox, message.id, name, file, message.attempt))


def _in(box: Mailbox, folder: str, file: str) -> Message:
    """ENOENT if it is not there: somebody else was first."""
    message = box.folder(folder).get(file) if folder in FOLDERS else None
    if message is None:
        raise KernelError(errno.ENOENT, f"{file} is not in {folder}/ of {box.name}")
    return message


def is_over(message: Message) -> bool:
    """Whether nobody asked for it: `find -exec cat` read it, which has ended, or an operator read
    it and has left. The operator may work for a queue as anybody may, and then asks for it by name;
    in an agent's inbox it is a visitor."""
    through = message.through
    if through is None or message.folder != "cur":
        return False
    visits = message.reader == INIT and message.mailbox != INIT_NAME
    if "/" in message.mailbox:
        visits = visits and not through.was_asked
    return through.is_over() or (visits and through.has_left())


def check_free(box: Mailbox, folder: str, name: str) -> None:
    """EINVAL for what cannot be a file name, EEXIST for one that is taken."""
    if (
        name in ("", ".", "..")
        or not name.isprintable()  # which lone surrogates, bytes that are no UTF-8, are not
        or "/" in name
        or len(name.encode()) > 255
    ):
        raise KernelError(errno.EINVAL, f"{name!r} cannot be the name of a message's file")
    if name in box.folder(folder):
        raise KernelError(errno.EEXIST, f"{name} is in {folder}/ of {box.name} already")
