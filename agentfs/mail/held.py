"""Messages that were accepted while somebody may still be writing them.

A close(2) that may or may not be the last one has to say whether the message is accepted, and what
it says holds, whatever comes then. So what was written so far is kept here, in the store; a later
close keeps more of it. It is delivered when the open file has ended, or, if the daemon ends before,
at the next start.
"""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft, Relation
from agentfs.mail.routing import relation
from agentfs.process.table import ProcessTable
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["KIND", "Held", "HeldMail"]

KIND = "held"
"""Of the records in the store."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Held:
    """One message: what was written, by which agent, for which mailbox, and how it is read:
    `to` and `filename` are those of `Draft.parse`."""

    mailbox: str
    sender: str
    to: str
    filename: str
    content: bytes = field(repr=False)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"content": b64encode(self.content).decode()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Held:
        return cls(**record | {"content": b64decode(record["content"])})


class _TakenBackError(Exception):
    """Ends a transaction of which nothing is to remain."""


class HeldMail(Part):
    """All of them, by a number of their own."""

    def __init__(self, ground: Ground, table: ProcessTable, mail: Mail) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._table = table
        self._mail = mail
        self._last = 0

    def take_up(self) -> None:
        """Deliver what the last run held: nobody writes it any more."""
        for key, record in list(self._store.records(KIND)):
            self._last = int(key)
            self._deliver(key, Held.from_record(record))

    def keep(self, number: int, held: Held, send: Callable[[], object]) -> int:
        """Keep a message as it is now, in the place of what was kept as `number` (0: nothing);
        its number. Raises what `send()`, which sends it, would: that is tried and taken back."""
        acting = None
        with suppress(_TakenBackError), self._store.transaction():
            self._store.promise(bool(number))
            send()
            acting = self._store.acting
            raise _TakenBackError
        if not number:
            self._last = number = self._last + 1
        with self._store.transaction():
            self._store.act_for(acting)  # whose room it takes
            self._store.put_record(KIND, _key(number), held.record())
        return number

    def discard(self, number: int) -> None:
        """It was sent, or refused: in the same transaction, where it was promised."""
        if number:
            with self._store.transaction():
                self._store.promise()
                self._store.delete_record(KIND, _key(number))

    def deliver(self, number: int, send: Callable[[], object]) -> None:
        """Its open file has ended: `send()` it. If that is refused by now, because of a limit for
        one, it is delivered all the same: it was accepted."""
        key = _key(number)
        try:
            with self._store.transaction():
                self._store.promise()
                self._store.delete_record(KIND, key)
                send()
        except KernelError as refusal:
            log.info("a message that was accepted before is delivered all the same: %s", refusal)
            record = self._store.record(KIND, key)
            if record is not None:
                self._deliver(key, Held.from_record(record))

    def _deliver(self, key: str, held: Held) -> None:
        try:
            with self._store.transaction():
                self._store.delete_record(KIND, key)
                self._put(held)
        except KernelError as refusal:
            log.warning("a message of %s to %s stays for now: %s", held.sender, held.to, refusal)

    def _put(self, held: Held) -> None:
        """Into the mailbox, or, where there is none any more, back to the sender with a word."""
        try:
            box = self._mail.mailbox(held.mailbox)
        except KernelError as gone:
            text = f"{held.to} was removed before your message was delivered ({gone}).\n\n"
            self._mail.notify(
                held.sender, text.encode() + held.content, [("Type", "undeliverable")]
            )
            return
        now = self._clock.now()
        try:
            draft = Draft.parse(held.content, now=now, to=held.to, filename=held.filename)
        except KernelError as refusal:  # it was none when it was accepted: it has expired
            log.info("a message of %s to %s is dropped: %s", held.sender, held.to, refusal)
            return
        if draft.filename in box.new or not draft.filename.isprintable():
            draft = replace(draft, filename="")
        found = Relation.OTHER
        if "/" not in held.mailbox:
            sender, receiver = map(self._table.by_name, (held.sender, held.mailbox))
            found = relation(sender, receiver)
        self._mail.accept(held.mailbox, held.sender, draft, found)


def _key(number: int) -> str:
    return f"{number:012d}"
