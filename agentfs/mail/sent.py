"""Sent: a sender sees where a message is now, and what became of it."""

from __future__ import annotations

import errno

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.mail.archive import FINISHED
from agentfs.mail.events import SentForgotten
from agentfs.mail.mailboxes import Mailboxes
from agentfs.mail.message import Message
from agentfs.mail.owners import Owners
from agentfs.mail.tally import OUTCOMES, still_waiting
from agentfs.model.principal import Principal
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground

__all__ = ["Sent", "cover", "state"]

_STATES = {"new": "queued", "cur": "claimed"}


def state(message: Message) -> str:
    """queued, claimed, done, expired or dead. A dead letter stays one when it was dropped."""
    return "dead" if message.reason else _STATES.get(message.folder, message.folder)


def cover(message: Message) -> bytes:
    """The header lines that say it, which stand before the message as its receiver reads it."""
    lines = [f"State: {state(message)}"]
    if message.tally is None:
        if message.claimant:
            pid = "" if message.claimed_by is None else f" ({message.claimed_by})"
            lines.append(f"Claimed-By: {message.claimant}{pid}")
        lines.append(f"Attempt: {message.attempt}")
    else:
        lines.append(f"Recipients: {message.tally['recipients']}")
        lines += [f"{end.capitalize()}: {message.tally.get(end, 0)}" for end in OUTCOMES]
        lines.append(f"Waiting: {still_waiting(message.tally)}")
    if message.finished:
        lines.append(f"Finished: {rfc3339(message.finished)}")
    if message.reason:
        lines.append(f"Reason: {message.reason}")
    if message.dropped:
        lines.append(f"Body-Dropped: {message.dropped} bytes")
    return ("\n".join(lines) + "\n").encode()


class Sent:
    """The system calls on what an agent sent."""

    def __init__(self, ground: Ground, gate: Gate, boxes: Mailboxes, owners: Owners) -> None:
        self._events = ground.events
        self._gate = gate
        self._boxes = boxes
        self._owners = owners

    def content(self, message: Message) -> bytes:
        """The text of `sent/ID`. ENOENT if it is not kept any more."""
        return cover(message) + self._boxes.content(message)

    def size(self, message: Message) -> int:
        """The length of `content`, in bytes."""
        return len(cover(message)) + self._boxes.size(message)

    def forget(self, principal: Principal, sender: str, seq: int) -> None:
        """Drop the record of a message that came to its end. EACCES, ENOENT, EBUSY: it did not,
        and what was sent is not called back; or it may still be answered."""
        with self._gate.enter(principal):
            self._owners.agents.require(principal, sender)
            message = self._boxes.archive.sent(sender).get(seq)
            if message is None:
                raise KernelError(errno.ENOENT, f"{sender} sent no message {seq:012d}")
            if message.awaited:
                raise KernelError(
                    errno.EBUSY, f"an answer to {message.id} is waited for: cancel it in asks/"
                )
            if message.folder in FINISHED:
                self._boxes.retention.forget(sender, [message])
            elif message.folder == "dead":
                self._boxes.unlist(message)
                self._events.emit(SentForgotten(sender, (message.id,)))
            else:
                raise KernelError(
                    errno.EBUSY,
                    f"message {message.id} is {state(message)}: what was sent is not called back",
                )
