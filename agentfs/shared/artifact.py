"""An artifact: its key, its owner, who may read it, and what is known of its content."""

from __future__ import annotations

import enum
import errno
import mimetypes
import re
from dataclasses import dataclass
from typing import Any

from agentfs.base.errors import KernelError

__all__ = [
    "LEAST",
    "MAX_KEY",
    "Artifact",
    "Space",
    "Visibility",
    "check_key",
    "check_type",
    "space_of",
]

MAX_KEY = 255
"""Bytes, as of a file name."""

LEAST = 4096
"""Bytes that the content of an artifact counts with at least, as a file."""

MAX_TYPE = 255
TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?")
DEFAULT_TYPE = "application/octet-stream"

Space = tuple[str, str]
"""Within a space a key means one artifact: (visibility, whose it is). Artifacts that an agent may
not read are in other spaces than those that it may: so keys do not collide, nor tell of them."""


class Visibility(enum.Enum):
    """Who may read an artifact."""

    PRIVATE = "private"
    """The agent that owns it, and nobody else; not the operator either."""
    SUBTREE = "subtree"
    """The agent that owns it, and every process that descends from its process at the moment."""
    USER = "user"
    """Everybody who runs as the same user."""
    GLOBAL = "global"
    """Everybody."""


def space_of(visibility: Visibility, owner: str, uid: int) -> Space:
    """The space of what `owner`, who runs as `uid`, stores."""
    match visibility:
        case Visibility.PRIVATE | Visibility.SUBTREE:
            return visibility.value, owner
        case Visibility.USER:
            return visibility.value, str(uid)
        case Visibility.GLOBAL:
            return visibility.value, ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of one artifact; every replacement is another, with a higher serial number.

    `owner` is an agent's name. `type` is the Content-Type as it was set, empty if it was not.
    `size` in bytes; `stored` on the wall clock, in seconds.
    """

    serial: int
    visibility: Visibility
    owner: str
    uid: int
    gid: int
    key: str
    type: str
    size: int
    stored: float

    @property
    def space(self) -> Space:
        return space_of(self.visibility, self.owner, self.uid)

    @property
    def content_type(self) -> str:
        """As it was set, or else as the end of the key says."""
        if self.type:
            return self.type
        guessed, encoding = mimetypes.guess_type(self.key, strict=False)
        return guessed if guessed and not encoding else DEFAULT_TYPE

    def record(self) -> dict[str, Any]:
        """As JSON."""
        record = {slot: getattr(self, slot) for slot in self.__slots__}
        return record | {"visibility": self.visibility.value}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Artifact:
        return cls(**record | {"visibility": Visibility(record["visibility"])})


def check_key(key: str) -> None:
    """Raise EINVAL or ENAMETOOLONG unless it is a file name of printable characters."""
    if not key or key in (".", "..") or "/" in key or not key.isprintable():
        raise KernelError(
            errno.EINVAL,
            f"{key!r} is no key: a key is a file name of printable characters, in UTF-8",
            rule="key",
        )
    if len(key.encode()) > MAX_KEY:
        raise KernelError(errno.ENAMETOOLONG, f"a key has at most {MAX_KEY} bytes", rule="key")


def check_type(content_type: str) -> None:
    """Raise EINVAL unless it is a Content-Type, with or without parameters."""
    if len(content_type) > MAX_TYPE or not TYPE.fullmatch(content_type):
        raise KernelError(
            errno.EINVAL,
            f"{content_type!r} is no content type: something like text/plain; charset=utf-8 was"
            " expected",
            rule="content type",
        )
