"""An open `recv`: the next message, whole, and then the end of the file; and `recv.batch`: up to N
of them as an mbox.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Hashable

from agentfs.base.errors import KernelError
from agentfs.mail.mbox import entry
from agentfs.mail.readers import Reader
from agentfs.providers.maildir import Mailroom
from agentfs.vfs.caller import Caller
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import StreamHandle

__all__ = ["Recv", "RecvBatch"]


class Recv(StreamHandle):
    """An open `recv`: a file with one message, whole, and then its end, which stays: many programs
    read on after it, and are not asking for another message by that. A reader that wants one
    opens the file again; or rewinds it, says what became of the last one (by a word, or by deleting
    it), or polls; or is another process that shares the descriptor (`exec 3<recv; while
    m=$(cat <&3)`). Some shells poll before every read, so the end is told once more before a poll
    counts. A reader that opened it with O_NONBLOCK wants to know whether there is more, and is told
    of each end once.

    In packet mode each read is a message, and there is no end of file between two, unless one fills
    a read to the last byte: a read that is shorter than was asked for has the message's end.

    Nothing is claimed before somebody reads. A word that is written says what became of the message
    that was read last, if one does not simply ask for the next.

    Of those that wait in a read, the one that has waited longest gets the message that comes,
    claimed already (see `mail/hand_over.py`); or it is woken to try, and hands on if it does not
    take it. A reader that polls is woken always.
    """

    followed = True
    seekable = True
    path = "recv"
    most = 1
    """How many messages it takes at once."""

    def __init__(self, room: Mailroom, caller: Caller) -> None:
        super().__init__()
        kernel = room.kernel
        self._room = room
        self._receiving = kernel.mail.receiving
        self._name = room.name
        self._principal = caller.principal
        self._reader = Reader(
            room.name, lambda: kernel.lineages.of(caller.tid, self.path), self.path
        )
        self._content: bytes | None = None  # of what is being read
        self._base = 0  # where in the file it begins
        self._offset = 0  # of the read that is served
        self._who: Callable[[], Hashable] = lambda: None  # makes it
        self._holds = False  # it gets the end of the file again
        self._whole = False  # all of the content was read
        self._ends = 0  # how often somebody was told that it is at its end
        self._ended_for: Hashable = None  # who that was
        self._parked = 0  # reads that wait
        self._waited: Callable[[], None] = lambda: None  # ends what `parked` began
        self._polled: Callable[[], None] | None = None  # ends what a poll began
        self._unsubscribe: Callable[[], None] | None = None

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        self._offset, self._who = offset, who
        rewound = offset == 0 or offset < self._base
        if rewound and self._whole:
            self._forget()
        elif rewound:  # in the middle of a message: it begins again
            self._base = offset
        elif self._ends:
            asks = self._reader.settled or self._is_another(offset)
            self._holds = self.patient and not asks

    def _is_another(self, offset: int) -> bool:
        """Whether who reads at the end is another than who was told of it."""
        if offset != self._base + len(self._content or b""):
            return False
        who = self._who()
        return who is not None and self._ended_for is not None and who != self._ended_for

    def try_read(self, size: int) -> bytes | None:
        if self._ends and not self._holds:
            self._forget()
        if self._content is None:
            found = self._next()
            if found is None:
                if self._parked:
                    self._join()
                return None
            self._end_poll()
            self._content, self._base, self._whole = found, self._offset, False
        start = self._offset - self._base
        chunk = self._content[start : start + size]
        self._offset += len(chunk)
        self._holds = False
        self._whole = self._whole or self._offset >= self._base + len(self._content)
        if self.packets:
            if len(chunk) < size:
                self._content = None
        elif not chunk:
            self._ends += 1
            if self._ends == 1:
                self._ended_for = self._who()
        return chunk

    def _forget(self) -> None:
        """The message was read to its end, and more is asked for on purpose."""
        self._content, self._ends, self._whole = None, 0, False

    def claim(self) -> bytes | None:
        """The bytes that the next reads give; None if no message waits."""
        message = self._receiving.claim_next(self._principal, self._name, self._reader)
        return None if message is None else self._receiving.received(message)

    def _next(self) -> bytes | None:
        try:
            self._room.require_alive()
            return self.claim()
        except KernelError as refused:
            if refused.errno == errno.ENOENT:
                raise KernelError(errno.ESTALE, f"{self._name} was removed") from None
            raise

    def try_write(self, data: bytes) -> int | None:
        outcome, _, reason = as_text(data).strip().partition(" ")
        reason = " ".join(reason.split())
        self._receiving.settle(self._principal, self._name, outcome, reason, self._reader)
        self._base += len(data)  # the position in the file is further on: nothing of the message
        return len(data)

    def ready(self) -> bool:
        if self._unsubscribe is None:
            self._unsubscribe = self._receiving.on_waiting(self._name, self.wake)
        if self._ends > self.patient:
            self._forget()
        try:
            if self._content is not None or self._receiving.poll(
                self._principal, self._name, self._reader, self.wake
            ):
                return True
            if self.patient and not self._reader.began:
                # Opened for the next message: some shells poll, and read only when there is one.
                self._receiving.ask(self._principal, self._name, self._reader)
            self._polled = self._polled or self._waits()
            return False
        except KernelError:
            return True  # a read would say what is wrong

    def _join(self) -> None:
        self._receiving.wait(self._principal, self._name, self._reader, self.wake, self.most)

    def wake(self) -> None:
        self._end_poll()
        super().wake()

    def _waits(self) -> Callable[[], None]:
        """Its process waits for mail from now on; the result ends that."""
        queue = self._name.partition("/")[2]
        return self._begin_wait("mail", f"of queue {queue}" if queue else "")

    def _begin_wait(self, what: str, detail: str) -> Callable[[], None]:
        return self._room.kernel.why.waits.begin(self._principal.pid, what, detail)

    def _end_poll(self) -> None:
        """There may be a message. Linux does not say when a poll ends for another reason: until
        then a program that polled, and has no work, counts as one that waits."""
        if self._polled is not None:
            self._polled()
            self._polled = None

    def parked(self) -> None:
        self._parked += 1
        if self._parked == 1:
            self._waited = self._waits()
        self._join()
        if self._principal.is_agent:
            self._receiving.idle.begin(self._principal.name, self._reader)

    def unparked(self) -> None:
        self._parked -= 1
        if not self._parked:
            self._waited()
        self._receiving.wait_no_more(self._name, self.wake)
        if self._parked:
            self._join()
        else:
            self._receiving.idle.end(self._reader)
            self._receiving.put_back(self._reader)
        self._receiving.hand_on(self._name)

    @property
    def unflushed(self) -> bool:
        return self._reader.claimed and not self._reader.closed

    async def flush(self) -> None:
        self._receiving.leave(self._reader)

    def release(self) -> None:
        self._end_poll()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._receiving.wait_no_more(self._name, self.wake)


class RecvBatch(Recv):
    """An open `recv.batch`: up to so many messages as an mbox, the end of the file, the next …

    A number that is written says how many; what else `recv` takes is about all of the last batch.
    """

    USUAL, MOST = 10, 1000
    path = "recv.batch"

    def __init__(self, room: Mailroom, caller: Caller) -> None:
        super().__init__(room, caller)
        self.most = self.USUAL

    def claim(self) -> bytes | None:
        batch = self._receiving.claim_batch(self._principal, self._name, self.most, self._reader)
        if not batch:
            return None
        return b"".join(
            entry(message, self._receiving.received(message, message.file)) for message in batch
        )

    def try_write(self, data: bytes) -> int | None:
        wanted = as_text(data).strip()
        if wanted.partition(" ")[0] in ("done", "back", "failed"):
            return super().try_write(data)
        number = int(wanted) if re.fullmatch("[0-9]{1,9}", wanted) else 0
        if not 1 <= number <= self.MOST:
            raise KernelError(
                errno.EINVAL,
                f"the size of a batch, 1 to {self.MOST}, or done, back or failed, not {wanted!r}",
            )
        self.most = number
        self._base += len(data)
        return len(data)
