"""What somebody is asked to approve: its beginning to read, its size and its hash."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

__all__ = ["SHOWN", "Content", "hashed"]

SHOWN = 4096
"""Bytes of the content that a request keeps and shows; its size and its hash are those of all."""

PART = 1 << 20


def hashed(what: bytes, about: str) -> str:
    """The SHA-256 of a content, in hex. What else a call says is hashed with it if there is any: as
    it is shown, an empty line between."""
    return hashlib.sha256(_head(about) + what).hexdigest()


def _head(about: str) -> bytes:
    return f"{about}\n".encode() if about else b""


@dataclass(frozen=True, slots=True)
class Content:
    """`shown` is the beginning, `size` the bytes of all of it, `about` what the call says beside
    it, `sha256` of both."""

    shown: bytes
    size: int
    sha256: str
    about: str = ""

    @classmethod
    def of(cls, what: bytes, about: str = "") -> Content:
        return cls(what[:SHOWN], len(what), hashed(what, about), about)

    @classmethod
    def of_file(cls, descriptor: int | None, about: str = "") -> Content:
        """That of an open file, None for an empty one. 1 ms a MiB where the processor has no
        instruction for it: for a thread. Raises OSError."""
        if descriptor is None:
            return cls.of(b"", about)
        digest, size, shown = hashlib.sha256(_head(about)), 0, b""
        while part := os.pread(descriptor, PART, size):
            digest.update(part)
            shown = shown or part[:SHOWN]
            size += len(part)
        return cls(shown, size, digest.hexdigest(), about)
