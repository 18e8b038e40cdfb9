"""A query: headers that narrow it (`Type`, `Tags`, `Limit`), a blank line, and words."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from agentfs.base.errors import KernelError
from agentfs.recall.note import read_type, split, tagged
from agentfs.recall.words import phrases

__all__ = ["MOST_BYTES", "MemoryQuery"]

MOST_BYTES = 64 * 1024
"""Of a query; more is EMSGSIZE."""

MOST_WORDS = 256
"""FTS5 takes some ten thousand; nobody means that many."""

NARROWING = ("Type", "Tags", "Limit")

LIMIT, MOST = 10, 1000
"""The answers that a query gets unless it says otherwise, and the most that it can ask for."""


@dataclass(frozen=True, slots=True)
class MemoryQuery:
    """`phrases` are its words: see `words.phrases`. Without any it asks for the newest."""

    text: str
    phrases: tuple[tuple[str, ...], ...]
    type: str = ""
    tags: tuple[str, ...] = ()
    limit: int = LIMIT

    @classmethod
    def parse(cls, request: bytes) -> MemoryQuery:
        """Raises EINVAL: nothing is asked for, or a header that there is not; EMSGSIZE."""
        if len(request) > MOST_BYTES:
            raise KernelError(errno.EMSGSIZE, f"a query has at most {MOST_BYTES:,} bytes")
        head, text = split(request.decode("utf-8", "replace"), NARROWING)
        found = phrases(text)
        kind, tags = read_type(head.get("Type") or ""), tagged(head.get("Tags") or "")
        if not (found or kind or tags):
            raise KernelError(
                errno.EINVAL,
                "there is nothing to look for: write some words, or Type or Tags and a blank line",
            )
        count = sum(map(len, found))
        if count > MOST_WORDS:
            raise KernelError(
                errno.EMSGSIZE, f"a query has at most {MOST_WORDS} words, and this has {count:,}"
            )
        return cls(text.strip(), tuple(map(tuple, found)), kind, tags, _limit(head.get("Limit")))


def _limit(given: str | None) -> int:
    if given is None:
        return LIMIT
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) > 0):
        raise KernelError(errno.EINVAL, f"Limit is a number from 1 on, not {given[:64]!r}")
    return min(int(given), MOST)
