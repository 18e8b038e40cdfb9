"""Reading a reply that somebody makes in pieces, to its end, inside the daemon."""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from agentfs.base.errors import KernelError
from agentfs.vfs.exchange import ROOM, PendingReply

__all__ = ["read_reply"]


async def read_reply(
    ask: Callable[[PendingReply], object],
    most: int,
    heard: Callable[[bytes], object] = lambda piece: None,
) -> bytes:
    """All of the reply to what `ask(reply)` begins; `heard` is told of each piece. Raises what the
    reply ends with, and EFBIG for more than `most` bytes. Cancelled, it gives the rest up."""
    more = trio.Event()

    def wake() -> None:
        more.set()

    reply = PendingReply(wake, 0.0)
    found = bytearray()
    ask(reply)
    try:
        while True:
            piece = reply.take(ROOM)
            if piece == b"":
                return bytes(found)
            if piece is None:
                await more.wait()
                more = trio.Event()
                continue
            found += piece
            if len(found) > most:
                raise KernelError(errno.EFBIG, f"the answer has more than {most:,} bytes")
            heard(piece)
    finally:
        reply.cancel()
