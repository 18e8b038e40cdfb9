"""Loops: answers to answers without end, which two programs make that answer whatever comes.

Mail knows two cures. RFC 3834: what a program sends by itself says so (`Auto-Submitted`), and no
program answers that by itself. RFC 5321, 6.3: each that carries it on counts the hops. Here the
first is for programs to obey, and the kernel marks what it sends itself. The second is the
kernel's, for programs that know nothing of the first, a loop in shell say.

A hop is a message that is sent while another one is held (or was put away just before), and that
says that it is a reply (`In-Reply-To`), or that it is automatic, or that answers the sender of the
other one with what was said before: the same as in that, or the same as it said itself the last
time, in what that was an answer to. So a lead that gives out one piece of work after the other,
each when the result of the one before has come, makes no hop however fast it is and however often:
what it sends is something new. One that says the same on purpose can say `Auto-Submitted: no`. Nor
does a conversation that has time: a minute takes a hop back.
"""

from __future__ import annotations

import errno
from zlib import crc32

from agentfs.base.buckets import TokenBuckets
from agentfs.base.errors import KernelError
from agentfs.mail.mailboxes import Mailboxes
from agentfs.mail.message import Draft, Message
from agentfs.mail.settings import MessageSettings
from agentfs.model.names import INIT_NAME
from agentfs.model.principal import INIT
from agentfs.model.process import Process
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Loops"]

# Claims of a process that are looked at, the newest first: a batch can be a thousand.
NEWEST = 16
# Bytes of a body that are compared, besides its length: a megabyte would take half a millisecond.
COMPARED = 4096
# Seconds that take one hop back.
PATIENCE = 60.0


class Loops(Part):
    """Counts hops, and the answers of each agent to each other one."""

    def __init__(self, ground: Ground, boxes: Mailboxes) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._settings = ground.settings
        self._boxes = boxes
        self._buckets = TokenBuckets(ground.clock)
        self._put_away: dict[int, Message] = {}  # what each process acknowledged last

    def origin(
        self, actor: Process | None, receiver: str, parent: Message | None
    ) -> Message | None:
        """The message that one of process `actor` to `receiver` comes of: the one it is a reply to,
        or the newest that it holds of that agent, or of any, or the one it has put away. None for
        process 1, which is people."""
        if actor is None or actor.pid == INIT:
            return None
        if parent is not None:
            return parent
        if actor.pid not in self._boxes.claimed.by_pid:
            return self._put_away.get(actor.pid)
        held = self._boxes.claimed.newest(actor.pid, NEWEST)
        return next((each for each in held if each.sender == receiver), held[0])

    def put_away(self, pid: int, message: Message) -> None:
        """Process `pid` has acknowledged `message`: many do so before they answer."""
        if pid != INIT:
            self._put_away[pid] = message

    def program_ended(self, process: Process, code: int) -> None:
        """Forget what it had."""
        self._put_away.pop(process.pid, None)

    def count_answer(self, actor: Process, receiver: str, count: int = 1) -> None:
        """Count an answer: a message to an agent (but process 1's) of which `actor` holds one.
        EAGAIN, and nothing is counted, if it has sent too many just now; with `count` 0 only
        ask."""
        if INIT_NAME in (actor.name, receiver):
            return
        if actor.pid not in self._boxes.claimed.by_pid:
            return
        held = self._boxes.claimed.newest(actor.pid, NEWEST)
        if not any(each.sender == receiver for each in held):
            return
        limits = self._settings.of(MessageSettings)
        pair = f"{actor.name} {receiver}"
        burst, rate = limits.answer_burst, limits.answers_per_minute
        left = self._buckets.left(pair, burst, rate)
        if left < 1 - 1e-9:
            wait = (1 - left) * 60 / rate
            raise KernelError(
                errno.EAGAIN,
                f"{actor.name} has answered {receiver} too often just now: is that a loop? The next"
                f" answer may be sent in {wait:.1f} s ({burst} at once, then {rate} a minute)",
                rule="messages.answers_per_minute",
            )
        if count:
            self._store.on_commit(lambda: self._buckets.take(pair, 1, burst, rate))

    def count(
        self, draft: Draft, receiver: str, origin: Message | None, *, reply: bool
    ) -> tuple[int, tuple[int, int]]:
        """How many hops a message to `receiver` has behind it that comes of `origin` (and says so:
        `reply`), and digests of its body and of that of `origin`."""
        said = digest(draft.body)
        if origin is None:
            return 0, (said, 0)
        before, first = origin.said
        again = draft.automatic
        if again is None:
            again = reply or (origin.sender == receiver and said in (before, first))
        if not again:
            return 0, (said, before)
        rested = int(max(0.0, self._clock.now() - origin.arrived) / PATIENCE)
        return max(0, origin.hops - rested) + 1, (said, before)

    def ended(self, hops: int) -> str:
        """Why a message with so many hops is not delivered; empty if it is."""
        most = self._settings.of(MessageSettings).max_hops
        if hops <= most:
            return ""
        return f"a loop: {most} answers in a row were automatic or said nothing new (max_hops)"

    def tidy(self) -> None:
        """Forget what is not needed any more."""
        limits = self._settings.of(MessageSettings)
        self._buckets.drop_full(limits.answer_burst, limits.answers_per_minute)


def digest(body: bytes) -> int:
    """A number that is the same for the same body, and never 0."""
    return crc32(body[:COMPARED], len(body) & 0xFFFFFFFF) or 1
