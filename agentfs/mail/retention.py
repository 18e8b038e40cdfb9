"""Retention: how long, and how many, finished messages and dead letters are kept.

Nothing that waits or is claimed is ever touched here. The bounds on numbers hold at once; what is
too old goes in batches on the maid's rounds, so that no call waits for a long clean-up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol

from agentfs.base.clock import Timer
from agentfs.base.errors import KernelError
from agentfs.mail.archive import Archive
from agentfs.mail.events import DeadLetterDropped, SentForgotten
from agentfs.mail.mailbox import Mailbox
from agentfs.mail.message import Message
from agentfs.mail.settings import MessageSettings
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Retention"]

log = logging.getLogger(__name__)

# Rows of one transaction: about 2 ms. Between two of them others have their turn for as long.
BATCH, PAUSE = 200, 0.002
# Of a full `sent` this many records go together, at most a tenth of it: one statement for all of
# them, where one for each would double what acknowledging costs.
TOGETHER = 100


class KeptMail(Protocol):
    """All mailboxes, and the messages that are finished: `Mailboxes`, of which no more is used."""

    archive: Archive

    def __iter__(self) -> Iterator[Mailbox]: ...

    def finish(self, message: Message, state: str) -> None: ...

    def delete_finished(self, sender: str, messages: list[Message]) -> None: ...


class Retention(Part):
    """Sweeps what `boxes` keep. `bound_sent` and `bound_dead` belong inside a transaction."""

    def __init__(self, ground: Ground, boxes: KeptMail) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._timers = ground.timers
        self._settings = ground.settings
        self._boxes = boxes
        self._next: Timer | None = None

    def bound_sent(self, sender: str) -> None:
        """Keep at most `max_sent` finished messages of `sender`; the oldest go."""
        finished = self._boxes.archive.finished(sender)
        most = self._settings.of(MessageSettings).max_sent
        if len(finished) > most:
            surplus = min(len(finished) - most + min(TOGETHER, most // 10), BATCH)
            self.forget(sender, list(islice(finished.values(), surplus)))

    def bound_dead(self, box: Mailbox) -> None:
        """Keep at most `max_dead` dead letters in `box`; the oldest goes, with an event."""
        most = self._settings.of(MessageSettings).max_dead
        if len(box.dead) > most:
            oldest = min(box.dead.values(), key=lambda message: (message.finished, message.seq))
            self._drop(oldest, f"more than {most} dead letters (messages.max_dead)")

    def forget(self, sender: str, messages: list[Message]) -> None:
        """Do not keep these finished messages of `sender` any longer."""
        self._boxes.delete_finished(sender, messages)
        self._events.emit(SentForgotten(sender, tuple(message.id for message in messages)))

    def _drop(self, message: Message, reason: str) -> None:
        event = DeadLetterDropped(message.mailbox, message.id, message.file, reason)
        self._boxes.finish(message, "done")
        self._events.emit(event)

    def tidy(self) -> int:
        """Drop one batch of what is too old or too many, and go on soon if there may be more; how
        many messages were dropped."""
        try:
            with self._store.transaction():
                dropped = self._sweep_sent(BATCH)
                dropped += self._sweep_dead(BATCH - dropped)
        except KernelError as failure:
            log.warning("old messages stay for now: %s", failure)
            return 0
        if dropped >= BATCH and (self._next is None or not self._next.active):
            self._next = self._timers.call_later(PAUSE, self.tidy)
        return dropped

    def _sweep_sent(self, room: int) -> int:
        limits, archive = self._settings.of(MessageSettings), self._boxes.archive
        oldest, dropped = self._clock.now() - limits.sent_retention, 0
        for sender in archive.senders:
            going = self._too_old(archive.finished(sender), limits.max_sent, oldest)
            batch = list(islice(going, room - dropped))
            if batch:
                self.forget(sender, batch)
                dropped += len(batch)
            if dropped >= room:
                break
        return dropped

    @staticmethod
    def _too_old(finished: Mapping[int, Message], most: int, oldest: float) -> Iterator[Message]:
        """Those that are finished since `oldest` or longer, or are not among the newest `most`."""
        surplus = len(finished) - most
        for number, message in enumerate(finished.values()):
            if number >= surplus and message.finished > oldest:
                return
            yield message

    def _sweep_dead(self, room: int) -> int:
        limits = self._settings.of(MessageSettings)
        oldest = self._clock.now() - limits.dead_retention
        boxes = [box for box in self._boxes if box.dead]
        going = list(islice(_dead_since(boxes, oldest), room))
        for message in going:
            self._drop(message, "older than messages.dead_retention")
        dropped = len(going)
        for box in boxes:
            for _ in range(min(len(box.dead) - limits.max_dead, room - dropped)):
                self.bound_dead(box)
                dropped += 1
        return dropped


def _dead_since(boxes: Iterable[Mailbox], moment: float) -> Iterator[Message]:
    """The dead letters that are such since `moment` or longer."""
    for box in boxes:
        for message in box.dead.values():
            if message.finished <= moment:
                yield message
