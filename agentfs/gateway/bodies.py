"""Bodies of requests are read here. A large one does not hold up the streams of others."""

from __future__ import annotations

import trio

from agentfs.dialects.body import BadRequest
from agentfs.dialects.dialect import Dialect, Request

__all__ = ["bounded", "parsed"]

LARGE = 256 << 10
LARGE_AT_ONCE = trio.CapacityLimiter(1)

MOST_VALUES = 2_000_000
"""Commas in a body. A list of 5 million numbers takes 1.6 s to read, as many bytes of text 4 ms. A
request for embeddings has 300,000 numbers at most; text may be a table."""


def bounded(body: bytes) -> bytes:
    """Raises BadRequest for one that would take seconds."""
    if body.count(b",") > MOST_VALUES:
        raise BadRequest(f"the request has more than {MOST_VALUES} commas")
    return body


async def parsed(dialect: Dialect, body: bytes) -> Request:
    """A request; a large one is read in a thread, one at a time. Raises BadRequest."""
    if len(body) < LARGE:
        return dialect.parse(body)
    return await trio.to_thread.run_sync(dialect.parse, bounded(body), limiter=LARGE_AT_ONCE)
