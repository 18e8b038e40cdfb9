"""The hand-over: a message that comes while somebody waits for it in a read is claimed for that
reader at once, in the transaction that accepts it, and the read is answered without one of its own.

The claim is decided as it would be in the reader's own transaction; where that would refuse it, it
is left to that one: the reader is woken, and tries. In the audit the sender and the reader have a
record each.

Between the commit and the answer the message is `unread`: it is claimed, and if the read ends
without an answer (by a signal, or with its program), it waits again, which is no attempt. If the
daemon ends there, the message is in doubt as every other one that was claimed through `recv`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from agentfs.base.errors import KernelError
from agentfs.mail.delivery import Delivery
from agentfs.mail.mailboxes import Mailboxes
from agentfs.mail.message import Message
from agentfs.mail.readers import Reader
from agentfs.model.principal import Principal
from agentfs.store.ground import Ground
from agentfs.store.records import keep_fields

__all__ = ["HandOver", "WaitingReader"]

log = logging.getLogger(__name__)

Call = Callable[[], object]


class WaitingReader(NamedTuple):
    """A reader in the line of a mailbox, which takes up to `most` messages at once."""

    principal: Principal
    reader: Reader
    most: int


class HandOver:
    """The readers in the lines of all mailboxes (see `Waiters`), each by its call.

    `give(name, waiting)` claims what a reader gets of mailbox `name` now, inside a transaction, and
    puts it into `Reader.handed`. If the reader has to try itself, it changes nothing: False.
    """

    def __init__(
        self,
        ground: Ground,
        boxes: Mailboxes,
        delivery: Delivery,
        give: Callable[[str, WaitingReader], bool],
    ) -> None:
        self._store = ground.store
        self._boxes = boxes
        self._delivery = delivery
        self._give = give
        self._waiting: dict[Call, WaitingReader] = {}
        self._left: dict[Reader, None] = {}  # what they did not read could not be put back yet
        boxes.offer_by(self._offer)

    # -- the line --------------------------------------------------------------------------------

    def join(self, name: str, waiting: WaitingReader, call: Call) -> None:
        """Let `call()` be called when there may be a message for a reader, or one was handed over
        to it; until `leave`."""
        self._waiting[call] = waiting
        self._boxes.waiters.line(name).join(call)

    def leave(self, name: str, call: Call) -> None:
        """Do not call it any more."""
        self._waiting.pop(call, None)
        self._boxes.waiters.line(name).leave(call)

    def _offer(self, name: str) -> None:
        """What waits in mailbox `name`, beyond what those take that were woken for it, is for the
        readers in its line, in their order."""
        box, line = self._boxes.box(name), self._boxes.waiters.line(name)
        while box.waiting > line.called and (call := line.first) is not None:
            waiting = self._waiting.get(call)
            if waiting is None or not self._give(name, waiting):
                return  # it is woken after the commit
            line.leave(call)
            self._store.on_rollback(partial(self._put_first, name, call))
            self._store.on_commit(call)

    def _put_first(self, name: str, call: Call) -> None:
        self._boxes.waiters.line(name).put_first(call)

    # -- what was handed over --------------------------------------------------------------------

    def hand(self, reader: Reader, messages: Iterable[Message]) -> None:
        """These were claimed for `reader`, inside a transaction."""
        keep_fields(self._store, reader, "handed")
        reader.handed = tuple(messages)

    def collect(self, reader: Reader) -> list[Message]:
        """What was handed over to `reader`, as the answer to its read; without what has been taken
        from it since, by name or because its time was over."""
        found = _kept(reader)
        reader.handed = ()
        return found

    def put_back(self, reader: Reader) -> None:
        """No read of `reader` waits any more: what was handed over to it waits again."""
        held = _kept(reader)
        try:
            if held:
                with self._store.transaction():
                    for message in held:
                        pid = message.claimed_by
                        self._delivery.fail(message, "it was not read")
                        self._delivery.rest(pid)
        except KernelError as failure:  # a full disk
            log.warning("what was not read in %s is claimed for now: %s", reader.mailbox, failure)
            self._left[reader] = None
            return
        reader.handed = ()
        self._left.pop(reader, None)

    def tidy(self) -> None:
        """Try again where that failed, and nobody has read it by now."""
        for reader in tuple(self._left):
            self.put_back(reader)


def _kept(reader: Reader) -> list[Message]:
    """What of that which was handed over is still claimed for `reader`."""
    return [each for each in reader.handed if each.folder == "cur" and each.through is reader]
