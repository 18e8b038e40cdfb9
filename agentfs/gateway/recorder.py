"""A provider whose answers are recorded: they go on a tape as they come."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from agentfs.dialects.messages import COUNT_TOKENS
from agentfs.dialects.tape import TapeRecord
from agentfs.gateway.source import AGAIN, Deadline, Headers, Incoming, Outgoing, Source

__all__ = ["Recorder"]


OF_THE_MOMENT = AGAIN | {401, 402, 403}
"""Answers that are not about the request: the same one is answered another time, or with a key."""


class Recorder:
    """`shown` cuts keys out. A tape that cannot be written is told to `log`, and fails no call."""

    def __init__(
        self,
        source: Source,
        path: str,
        shown: Callable[[bytes], bytes],
        log: Callable[[str], None],
    ) -> None:
        self._source, self._path, self._shown, self._log = source, path, shown, log

    async def send(self, request: Outgoing, deadline: Deadline) -> Incoming:
        began = trio.current_time()
        reply = await self._source.send(request, deadline)
        if request.request.dialect is COUNT_TOKENS or reply.status in OF_THE_MOMENT:
            return reply
        return RecordedReply(self, request, reply, began)

    def write(self, request: Outgoing, reply: Incoming, chunks: list[tuple[float, bytes]]) -> None:
        """A whole answer goes on the tape."""
        cleaned = [(pause, self._shown(data)) for pause, data in chunks]
        whole = b"".join(data for _, data in cleaned)
        if self._shown(whole) != whole:  # a key lay across two pieces
            cleaned = [(sum(pause for pause, _ in chunks), self._shown(whole))]
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in reply.headers]
        line = TapeRecord.of(request.request, reply.status, headers, cleaned).line()
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            tape = os.open(self._path, flags, 0o600)
            try:
                os.write(tape, line)  # all of it, or the disk is full
            finally:
                os.close(tape)
        except OSError as failure:
            self._log(f"{self._path}: nothing is recorded: {failure.strerror}")

    async def aclose(self) -> None:
        await self._source.aclose()


class RecordedReply:
    """An answer that is coming, and is kept until it is whole."""

    def __init__(
        self, recorder: Recorder, request: Outgoing, reply: Incoming, began: float
    ) -> None:
        self._recorder, self._request, self._reply = recorder, request, reply
        self.status = reply.status
        self.headers: Headers = reply.headers
        self._chunks: list[tuple[float, bytes]] = []
        self._last = began
        self._written = False

    async def read(self) -> bytes:
        data = await self._reply.read()
        now = trio.current_time()
        if data:
            self._chunks.append((now - self._last, data))
            self._last = now
        else:
            self._write()
        return data

    def complete(self) -> None:
        self._write()
        self._reply.complete()

    def _write(self) -> None:
        if not self._written:
            self._written = True
            self._recorder.write(self._request, self._reply, self._chunks)

    def close(self) -> None:
        self._reply.close()
