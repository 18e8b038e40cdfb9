"""The wire of an MCP server that is a program: a JSON-RPC message a line, each way, and no line
longer than `LONGEST`.

The SDK's own transport starts the program itself and keeps whatever comes. Here the daemon starts
it, in the control group of its agent, and hands over the two pipes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import mcp_types as types
import trio
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage

__all__ = ["LONGEST", "stdio"]

log = logging.getLogger(__name__)

LONGEST = 16 * 1024 * 1024
"""Bytes of a message. A model can read a thousandth of it."""

CHUNK = 64 * 1024
SHOWN = 120
"""Characters of what is no message that are told."""


class Garbage:
    """What a server wrote that is no message: the first of it, for who asks why it is silent."""

    def __init__(self) -> None:
        self.first = ""

    def saw(self, line: bytes) -> None:
        if not self.first:
            self.first = line[:SHOWN].decode(errors="replace")


@asynccontextmanager
async def stdio(
    source: int, sink: int, garbage: Garbage, broken: Callable[[str], object]
) -> AsyncIterator[TransportStreams]:
    """Messages from the descriptor `source` and to `sink`, which are closed in the end. `broken`
    is told in words why no more will come."""
    heard, reading = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    writing, said = anyio.create_memory_object_stream[SessionMessage](0)
    async with (
        trio.lowlevel.FdStream(source) as stdout,
        trio.lowlevel.FdStream(sink) as stdin,
        trio.open_nursery() as nursery,
    ):

        async def read() -> None:
            async with heard:
                try:
                    async for line in _lines(stdout):
                        message = _message(line, garbage)
                        if message is not None:
                            await heard.send(message)
                    broken("it closed its output")
                except ValueError as bad:
                    broken(str(bad))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # nobody listens any more
                except trio.BrokenResourceError as failure:
                    broken(f"its output broke: {failure}")

        async def write() -> None:
            async with said:
                try:
                    async for message in said:
                        text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                        await stdin.send_all(text.encode() + b"\n")
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    broken("it closed its input")

        nursery.start_soon(read)
        nursery.start_soon(write)
        try:
            yield reading, writing
        finally:
            reading.close()
            writing.close()
            nursery.cancel_scope.cancel()


async def _lines(stream: trio.lowlevel.FdStream) -> AsyncIterator[bytes]:
    """Whole lines; the last one may lack its end. Raises ValueError for one that is too long."""
    kept = bytearray()
    async for chunk in stream:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            kept += chunk[start:end]
            yield bytes(kept)
            kept.clear()
            start = end + 1
        kept += chunk[start:]
        if len(kept) > LONGEST:
            raise ValueError(f"it wrote a line of more than {LONGEST // 2**20} MiB")
    if kept:
        yield bytes(kept)


def _message(line: bytes, garbage: Garbage) -> SessionMessage | None:
    if not line.strip():
        return None
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        garbage.saw(line)
        return None
