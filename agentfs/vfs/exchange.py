"""Exchanges: a request is written, and its answer, which comes in its own time, is read on the same
open file.

All that is written before the first read is one request, in however many pieces it came. The first
read sends it; later ones give the answer as it comes, and then the end of the file. Another write
begins the next request. As long as nothing of an answer has come, a write goes on with the request:
a poll had to send it, without knowing whether it was whole. Once something has come, a write gives
up the rest of the answer.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Hashable

import trio

from agentfs.base.errors import KernelError
from agentfs.quota.shares import Charge
from agentfs.vfs.node import StreamHandle
from agentfs.vfs.written import Written

__all__ = ["ROOM", "Answerer", "ExchangeHandle", "PendingReply"]

ROOM = 16 * 1024
"""Bytes of an answer that are kept for a reader; who makes it waits then."""

POLL_SECONDS = 0.05
"""So long after a poll a request is sent: pyfuse3 does not say whether somebody polls for reading,
or only asks whether the next piece of the request may be written."""

RETRY_SECONDS = 1.0
"""When a request is sent again that was refused for a while (EAGAIN), if nobody says when."""


class PendingReply:
    """An answer on its way from whoever makes it to whoever reads it.

    `came`: something of it has come. `over`: all of it, or why not, was given.
    """

    def __init__(self, wake: Callable[[], object], delay: float) -> None:
        self._wake = wake
        self._delay = delay
        self._asked = trio.Event()
        self._content = bytearray()
        self._drained = trio.Event()
        self._ended = False
        self._failure: KernelError | None = None
        self._stop: Callable[[], object] = lambda: None
        self.came = False
        self.over = False

    # -- for whoever makes it ----------------------------------------------------------------------

    async def wanted(self) -> None:
        """Wait until it is asked for: nothing is to be spent on it before."""
        with trio.move_on_after(self._delay):
            await self._asked.wait()

    async def put(self, content: bytes) -> None:
        """Give more of it; wait while the reader has enough."""
        if self._ended or not content:
            return
        self.came = True
        self._content += content
        self._wake()
        while len(self._content) >= ROOM and not self._ended:
            self._drained = trio.Event()
            await self._drained.wait()

    def end(self, failure: KernelError | None = None) -> None:
        """That was all of it; or nothing more can come: `failure` is what the reader is told after
        what has come."""
        if not self._ended:
            self._ended, self._failure = True, failure
            self._wake()

    def on_cancel(self, stop: Callable[[], object]) -> None:
        """Call `stop()` once nobody wants the rest."""
        self._stop = stop

    # -- for whoever reads it ----------------------------------------------------------------------

    def take(self, size: int) -> bytes | None:
        """The next bytes; empty at its end; None if nothing has come. Raises what `end` said."""
        self._asked.set()
        if self._content:
            taken = bytes(self._content[:size])
            del self._content[:size]
            if len(self._content) < ROOM:
                self._drained.set()
            return taken
        if not self._ended:
            return None
        self.over = True
        if self._failure is not None:
            raise self._failure
        return b""

    def ready(self) -> bool:
        """Whether `take` would say something that it has not said yet."""
        return bool(self._content) or (self._ended and not self.over)

    def cancel(self) -> None:
        """Nobody wants the rest."""
        if not self._ended:
            self._ended = True
            self._content.clear()
            self._drained.set()
            self._stop()


class Answerer:
    """It stands behind an exchange that somebody has open: made by the open, and its own."""

    def limit(self) -> int:
        """Bytes that a request may have."""
        raise NotImplementedError

    def ask(self, request: bytes, reply: PendingReply) -> None:
        """Begin to answer a request. It may be made once more, with more behind it, if its reply
        was cancelled before anything came. Raises KernelError: the read is refused."""
        raise NotImplementedError

    def waits(self) -> Callable[[], object]:
        """A read begins to wait; what is returned is called when it waits no more."""
        return lambda: None

    def close(self) -> None:
        """Nobody has it open any more; what was asked last is cancelled."""


class ExchangeHandle(StreamHandle):
    """An open exchange.

    A refusal, or a failure, is told by every read until something is written, which is the next
    request then. There is one exception: a request that was refused for a while (EAGAIN) is made
    again by the next read, and by a poll once it may be.

    Programs that took more than they wanted go back to where they stopped (`head -n 1`): what the
    last read gave is there once more from that place on.
    """

    seekable = True

    def __init__(self, answerer: Answerer, charge: Charge) -> None:
        super().__init__()
        self._answerer = answerer
        self._request = Written(charge)
        self._refusal: KernelError | None = None  # of what was written, and no read has told it
        self._reply: PendingReply | None = None
        self._not_before = 0.0
        self._anew = False  # a write begins the next request
        self._given = b""  # by the last read
        self._end: int | None = None  # where in the file that ends; None after a write
        self._rest = b""  # what somebody went back to
        self._waiting = 0
        self._waits: Callable[[], object] = lambda: None

    # -- the request -------------------------------------------------------------------------------

    def try_write(self, data: bytes) -> int:
        if self._refusal is not None:  # half of a request would be taken for the whole
            raise self._refusal
        if self._reply is not None:
            self._interrupt(self._reply)
        if self._anew:
            self._request.replace_by(b"")
            self._anew, self._not_before = False, 0.0
        try:
            limit, size = self._answerer.limit(), len(self._request)
            if size + len(data) > limit:
                raise KernelError(errno.EMSGSIZE, f"a request has at most {limit:,} bytes")
            self._request.put(size, data)
        except KernelError as refusal:
            self._refusal = refusal
            self.wake()
            raise
        self._given, self._rest, self._end = b"", b"", None
        return len(data)

    def _interrupt(self, reply: PendingReply) -> None:
        """Something is written, and this was the last answer."""
        if self._waiting and not reply.over:
            raise KernelError(
                errno.EBUSY, "a read waits for the answer to what was written before", rule="answer"
            )
        reply.cancel()
        self._anew = self._anew or reply.came or reply.over
        self._reply = None

    def _ask(self, delay: float) -> PendingReply:
        reply = self._reply = PendingReply(self.wake, delay)
        try:
            self._answerer.ask(bytes(self._request), reply)
        except KernelError as refusal:
            reply.end(refusal)
        return reply

    # -- the answer --------------------------------------------------------------------------------

    def begin_read(self, offset: int, who: Callable[[], Hashable]) -> None:
        back = 0 if self._end is None else self._end - offset
        if 0 < back <= len(self._given):
            self._rest = self._given[-back:] + self._rest
        if back or self._end is None:
            self._given, self._end = b"", offset

    def try_read(self, size: int) -> bytes | None:
        taken, self._rest = self._rest[:size], self._rest[size:]
        given = taken or self._take(size)
        if given:
            self._given = given
            self._end = (self._end or 0) + len(given)
        return given

    def _take(self, size: int) -> bytes | None:
        if self._refusal is not None:
            told, self._refusal = self._refusal, None
            self._reply = PendingReply(self.wake, 0.0)
            self._reply.end(told)
        reply = self._reply
        if reply is None:
            if not self._request:
                raise KernelError(
                    errno.ENODATA,
                    "nothing was asked yet: write the request, then read its answer, on one open"
                    " file (exec 3<>FILE; echo REQUEST >&3; cat <&3)",
                    rule="request",
                )
            reply = self._ask(0.0)
        try:
            return reply.take(size)
        except KernelError as failure:
            if failure.errno == errno.EAGAIN and not reply.came:
                self._reply, self._anew = None, True
                self._not_before = time.monotonic() + (failure.retry_after or RETRY_SECONDS)
            raise

    def ready(self) -> bool:
        if self._refusal is not None or self._rest:
            return True
        reply = self._reply
        if reply is None:
            if not self._request:
                return False
            reply = self._ask(max(POLL_SECONDS, self._not_before - time.monotonic()))
        return reply.ready()

    def parked(self) -> None:
        self._waiting += 1
        if self._waiting == 1:
            self._waits = self._answerer.waits()

    def unparked(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._waits()

    def release(self) -> None:
        if self._reply is not None:
            self._reply.cancel()
        self._request.drop()
        self._answerer.close()
