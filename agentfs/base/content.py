"""A content that is to be approved: its beginning to read, its size and its hash."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

__all__ = ["SHOWN", "Content", "hashed"]

SHOWN = 4096
"""Bytes of the content that a request keeps and shows; its size and its hash are those of all."""

PART = 1 << 20


def hashed(what: bytes, about: str) -> str:
    """The SHA-256 of a content, in hex. If a call says something besides (`about`), that is hashed
    with it: as it is shown, with an empty line between."""
    return hashlib.sha256(_head(about) + what).hexdigest()


def _head(about: str) -> bytes:
    return f"{about}\n".encode() if about else b""


@dataclass(frozen=True, slots=True)
class Content:
    """`shown` is the beginning, `size` the number of all bytes. `about` is what the call says
    besides, and `sha256` is of both."""

    shown: bytes
    size: int
    sha256: str
    about: str = ""

    @classmethod
    def of(cls, what: bytes, about: str = "") -> Content:
        return cls(what[:SHOWN], len(what), hashed(what, about), about)

    @classmethod
    def of_file(cls, descriptor: int | None, about: str = "") -> Content:
        """The content of an open file; None stands for an empty one. It belongs into a thread: a
        MiB takes 1 ms where the processor has no instruction for hashing. Raises OSError."""
        if descriptor is None:
            return cls.of(b"", about)
        digest, size, shown = hashlib.sha256(_head(about)), 0, b""
        while part := os.pread(descriptor, PART, size):
            digest.update(part)
            shown = shown or part[:SHOWN]
            size += len(part)
        return cls(shown, size, digest.hexdigest(), about)
