"""Delivery: a message is claimed, and then acknowledged, put back, or returned by the kernel.
Through `recv`: see `receiving`.

At least once: what was claimed and not acknowledged when its process ends is delivered again, and
says so; after `max_delivery_attempts` it is a dead letter.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from agentfs.base.clock import Clock, Timers
from agentfs.base.errors import KernelError
from agentfs.base.wait_list import Line
from agentfs.mail.archive import Archive
from agentfs.mail.events import (
    MessageClaimed,
    MessageDone,
    MessageGivenUp,
    MessageReturned,
    MessageRevived,
)
from agentfs.mail.mailbox import FOLDERS, Mailbox
from agentfs.mail.mailboxes import Mailboxes, expired
from agentfs.mail.message import Message
from agentfs.mail.owners import AgentMail, MailboxOwner
from agentfs.mail.readers import Reader
from agentfs.mail.settings import MessageSettings
from agentfs.mail.tasks import Tasks
from agentfs.model.principal import INIT, Principal
from agentfs.model.process import Process, State
from agentfs.process.agents import Agents
from agentfs.process.ceilings import Ceilings
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.store.event_log import EventLog
from agentfs.store.part import Part
from agentfs.store.settings import Settings
from agentfs.store.store import Store

__all__ = ["Delivery", "check_free"]


class Delivery(Part):
    """Claims on messages, which end with the process that they belong to.

    Every call that takes a principal raises EACCES unless it may take from the mailbox named.
    """

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
    ) -> None:
        self._gate = gate
        self._table = table
        self._agents = agents
        self._store = store
        self._events = events
        self._clock = clock
        self._settings = settings
        self._boxes = Mailboxes(store, events, clock, timers, settings)
        self.owners: dict[str, MailboxOwner] = {"": AgentMail(table, agents, settings)}
        """Who stands behind a mailbox, by what its name begins with before a slash."""
        ceilings = Ceilings(table, settings)
        self._timers = timers
        self.tasks = Tasks(self._boxes.claimed, table, ceilings, events, self._give_back)

    def load(self) -> None:
        """Read all mail from the store."""
        self._boxes.load()

    # -- looking ---------------------------------------------------------------------------------

    def mailbox(self, name: str) -> Mailbox:
        """The mailbox called `name`, without what has expired. ENOENT."""
        self._boxes.expire_due()
        self._owner(name).check_exists(name)
        return self._boxes.box(name)

    @property
    def archive(self) -> Archive:
        """All messages by number and by sender, finished ones too."""
        return self._boxes.archive

    def peek_waiting(self, name: str) -> int:
        """How many messages wait in a mailbox; expired ones may still be among them."""
        return self._boxes.box(name).waiting

    def check_room(self, principal: Principal, name: str) -> None:
        """Raise ENOSPC if no more messages may wait in a mailbox, EDQUOT if no more of
        `principal` may."""
        self._owner(name).check_room(self._boxes.box(name), principal)

    def on_waiting(self, name: str, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call()` whenever mail comes to wait for `name`, or its mailbox is removed, until
        the function that is returned is called."""
        return self._boxes.waiters.listen(name, call)

    def line(self, name: str) -> Line:
        """Those who wait for mail of `name`, each for one message. Who joins it leaves it, and
        then calls `hand_on`."""
        return self._boxes.waiters.line(name)

    def hand_on(self, name: str) -> None:
        """Call the next in the line if mail waits."""
        self._boxes.waiters.hand_on(name)

    def content(self, message: Message) -> bytes:
        """The whole text, with the headers that change. ENOENT if it is gone."""
        try:
            return message.head() + self._store.content(message.seq)
        except KeyError:
            raise KernelError(errno.ENOENT, f"message {message.id} is gone") from None

    def size(self, message: Message) -> int:
        """The length of `content`, in bytes."""
        return len(message.head()) + message.size

    # -- claiming --------------------------------------------------------------------------------

    def claim(self, principal: Principal, name: str, file: str, renamed: str) -> None:
        """Take new/`file` as cur/`renamed`. ENOENT, EEXIST, EINVAL, EAGAIN (its process has as many
        tasks as it may have)."""
        self._boxes.expire_due()
        with self._gate.enter(principal, "claims") as actor:
            box = self._own(principal, name)
            message = _in(box, "new", file)
            if expired(message, self._clock.now()):
                raise KernelError(errno.ENOENT, f"{file} has expired")
            check_free(box, "cur", renamed)
            self.tasks.require(actor, self._claimant(box, actor))
            self._claim(box, message, renamed, actor)

    def put_back(self, principal: Principal, name: str, file: str, renamed: str) -> None:
        """Let cur/`file` wait again, as new/`renamed`. It was not lost, so this is no further
        attempt. ENOENT, EEXIST, EINVAL."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self._own(principal, name)
            message = _in(box, "cur", file)
            check_free(box, "new", renamed)
            pid = message.claimed_by
            self._wait_again(message, renamed)
            self._rest(pid)

    def flag(
        self, principal: Principal, name: str, file: str, renamed: str, folder: str = "cur"
    ) -> None:
        """Rename `file` to `renamed` in `folder` (`new` or `cur`); the claim, or the place in the
        order of delivery, stays. ENOENT, EEXIST, EINVAL."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self._own(principal, name)
            message = _in(box, folder, file)
            if renamed == file:
                return
            check_free(box, folder, renamed)
            self._boxes.move(
                message,
                folder,
                renamed,
                claimed_by=message.claimed_by,
                claimed_at=message.claimed_at,
                claimed_since=message.claimed_since,
                reader=message.reader,
                through=message.through,
            )

    def acknowledge(self, principal: Principal, name: str, folder: str, file: str) -> None:
        """It is done: remove `folder`/`file` for good. ENOENT."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self._own(principal, name)
            message = _in(box, folder, file)
            pid = message.claimed_by
            if message.through is not None:
                message.through.settled = True
            self.done(message)
            if folder == "cur":
                self._rest(pid)

    def revive(self, principal: Principal, name: str, file: str, renamed: str) -> None:
        """Put the dead letter dead/`file` back as new/`renamed`: the next attempt, and it has
        `max_delivery_attempts` of them again. ENOENT, EEXIST, EINVAL, ENOSPC or EDQUOT (as
        `check_room`), ETIMEDOUT (it has expired)."""
        self._boxes.expire_due()
        with self._gate.enter(principal):
            box = self._own(principal, name)
            message = _in(box, "dead", file)
            check_free(box, "new", renamed)
            if expired(message, self._clock.now()):
                raise KernelError(errno.ETIMEDOUT, f"{file} has expired: nobody would get it")
            self.check_room(principal, name)
            died = message.attempt
            self._boxes.move(message, "new", renamed, attempt=died + 1, revived=died)
            self._events.emit(MessageRevived(name, message.id, renamed, file, message.attempt))

    def _own(self, principal: Principal, name: str) -> Mailbox:
        owner = self._owner(name)
        owner.require(principal, name)
        owner.check_exists(name)
        return self._boxes.box(name)

    def _owner(self, name: str) -> MailboxOwner:
        return self.owners[name.partition("/")[0] if "/" in name else ""]

    def _claimant(self, box: Mailbox, actor: Process) -> Process | None:
        """The process that has what `actor` claims."""
        return self._owner(box.name).claimant(box.name, actor)

    def _claim(
        self,
        box: Mailbox,
        message: Message,
        renamed: str,
        actor: Process,
        reader: int | None = None,
        through: Reader | None = None,
    ) -> None:
        process = self._claimant(box, actor)
        pid = None if process is None else process.pid
        file = message.file
        self._boxes.move(
            message,
            "cur",
            renamed,
            claimed_by=pid,
            claimed_at=self._clock.now(),
            claimed_since=self._clock.monotonic(),
            reader=reader,
            through=through,
            claimant=actor.name if process is None else process.name,
        )
        self._events.emit(MessageClaimed(box.name, message.id, file, renamed, pid))
        self._table.follow(pid, State.RUNNING)

    def done(self, message: Message, reason: str = "") -> None:
        """Take `message` out of its mailbox: somebody acknowledged it, or who may had it dropped
        for `reason`, which `sent` tells its sender. Inside a transaction."""
        event = MessageDone(message.mailbox, message.id, message.folder, message.file)
        self._boxes.finish(message, "done", reason)
        self._events.emit(event)

    def _rest(self, pid: int | None) -> None:
        """A claim of process `pid` has ended: without another it is idle. Process 1 always runs."""
        if pid is not None and pid != INIT and not self._boxes.busy(pid):
            self._table.follow(pid, State.IDLE)

    # -- returning -------------------------------------------------------------------------------

    def program_ended(self, process: Process, code: int) -> None:
        """The program of `process` has ended: the end of a loop with code 0 acknowledges what it
        got from `recv` last; everything else that it claimed is returned."""
        with self._store.transaction():
            for message in self._boxes.claims(process.pid):
                if code == 0 and message.reader == process.pid and not self._is_over(message):
                    self.done(message)
                else:
                    self._return(message, f"{process.name} ended with code {code}")

    def release_stale(self) -> int:
        """Return the claims of processes that are no more, and those that nobody's end will
        return and that are older than `claim_timeout`; say how many."""
        oldest = self._clock.monotonic() - self._settings.of(MessageSettings).claim_timeout
        stale = [
            message
            for pid in self._boxes.claimants
            if not self._is_alive(pid)
            for message in self._boxes.claims(pid)
        ]
        stale += [
            message
            for box in self._boxes
            if box.cur
            for pid in self._owner(box.name).never_end(box.name)
            for message in box.claims(pid)
            if message.claimed_since <= oldest
        ]
        if stale:
            with self._store.transaction():
                for message in stale:
                    self._return(message, "the claim was forgotten")
        return len(stale)

    def sweep(self) -> int:
        """Drop a batch of finished messages and dead letters that are too old; say how many."""
        return self._boxes.retention.sweep()

    def _is_alive(self, pid: int) -> bool:
        process = self._table.find(pid)
        return process is not None and process.state.alive

    def _return(self, message: Message, reason: str) -> None:
        """Nobody acknowledged it: the next attempt, or the end of it."""
        box = self._boxes.box(message.mailbox)
        most = message.revived + self._settings.of(MessageSettings).max_delivery_attempts
        if message.attempt < most:
            name = box.free_name("new", message.named)
            self._wait_again(message, name, attempt=message.attempt + 1)
            return
        given_up = f"delivered {message.attempt} times, never acknowledged; last: {reason}"
        self.give_up(message, given_up)

    def give_up(self, message: Message, reason: str) -> None:
        """Let it be a dead letter. Inside a transaction."""
        folder, file = message.folder, message.file
        self._events.emit(MessageGivenUp(message.mailbox, message.id, folder, file, reason))
        self._boxes.move(message, "dead", message.id, reason=reason)

    def _give_back(self, message: Message, reason: str) -> None:
        """Its process took too long."""
        pid = message.claimed_by
        self._return(message, reason)
        self._rest(pid)

    def _is_over(self, message: Message) -> bool:
        """Whether `message` was claimed by what has ended and did not ask for it: see
        `receiving`."""
        return False

    def _wait_again(self, message: Message, name: str, attempt: int = 0, revived: int = 0) -> None:
        """Move it from cur/ to new/, if it has not expired meanwhile."""
        if expired(message, self._clock.now()):
            self._boxes.expire(message)
            return
        file = message.file
        self._boxes.move(message, "new", name, attempt=attempt, revived=revived)
        self._events.emit(MessageReturned(message.mailbox, message.id, name, file, message.attempt))

    def agent_removed(self, name: str) -> None:
        """The agent (or queue) is being removed: its mail goes with it. For `Agents.on_remove`."""
        with self._store.transaction():
            self._boxes.forget(name)


def _in(box: Mailbox, folder: str, file: str) -> Message:
    """ENOENT if it is not there: somebody else was first."""
    message = box.folder(folder).get(file) if folder in FOLDERS else None
    if message is None:
        raise KernelError(errno.ENOENT, f"{file} is not in {folder}/ of {box.name}")
    return message


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
