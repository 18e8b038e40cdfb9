"""A note: headers, a blank line, the text. It is kept as the file that it was written as.

The headers are `Type` (one word: fact, episode, knowledge, skill, preference, conversation,
session, or another), `Tags` (words, with commas or blanks between), `Expires` (a date, or a
duration from now) and, in the file, `Created`. A text has headers if its first line is one of
these, and a blank line ends them; a blank first line says that it has none.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import near
from agentfs.mail.headers import expiry

__all__ = ["USUAL", "Heading", "Note", "heading", "read_type", "split", "tagged"]

USUAL = "note"
"""The Type of a note that says none."""

OWN = ("Type", "Tags", "Expires")
"""The headers that a writer sets."""

_NAMES = {name.lower(): name for name in (*OWN, "Created")}
_LINE = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,63}):[ \t]*(.*?)[ \t]*\r?")
_TYPE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TAG = re.compile(r"[^\s,]{1,64}")

MOST_TAGS = 32


@dataclass(frozen=True, slots=True)
class Heading:
    """What the headers of a file say. `lines` of the file are headers, with the blank one."""

    type: str = ""
    tags: tuple[str, ...] = ()
    expires: float | None = None
    lines: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """A note that is to be kept."""

    type: str
    tags: tuple[str, ...]
    expires: float | None
    text: str

    @classmethod
    def parse(cls, text: str, now: float) -> Note:
        """What somebody wrote. Raises EINVAL: a header that there is not, or that cannot be read,
        and no text."""
        head, body = split(text, OWN)
        given = dict.fromkeys(OWN, "") | head
        if not body.strip():
            raise KernelError(
                errno.EINVAL,
                "there is no text to remember: write headers if you like (Type, Tags, Expires),"
                " a blank line, and the text",
            )
        return cls(
            read_type(given["Type"]) or USUAL,
            tagged(given["Tags"]),
            expiry(given["Expires"], now) if given["Expires"] else None,
            body if body.endswith("\n") else f"{body}\n",
        )

    def file(self, now: float) -> bytes:
        """The file that it is kept as."""
        lines = [f"Type: {self.type}"]
        if self.tags:
            lines.append(f"Tags: {', '.join(self.tags)}")
        if self.expires is not None:
            lines.append(f"Expires: {rfc3339(self.expires)}")
        lines.append(f"Created: {rfc3339(now)}")
        return "\n".join([*lines, "", self.text]).encode("utf-8", "surrogateescape")


def split(text: str, known: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The headers of a text by name, and the rest. Raises EINVAL for a header that is not `known`,
    or is there twice, in a block that begins with one that is."""
    if text.startswith(("\n", "\r\n")):
        return {}, text.partition("\n")[2]
    names = {name.lower(): name for name in known}
    head: dict[str, str] = {}
    unknown = ""
    rest = text
    while rest:
        line, _, after = rest.partition("\n")
        if not line.strip():
            rest = after
            break
        found = _LINE.fullmatch(line)
        name = "" if found is None else found[1].lower()
        if found is None or (not head and name not in names):
            return {}, text
        if name not in names or names[name] in head:
            unknown = unknown or found[1]
        else:
            head[names[name]] = found[2]
        rest = after
    if unknown:
        words = f"there is no header {unknown}{near(unknown, names.values())}"
        if unknown.lower() in names:
            words = f"{unknown} is there twice"
        raise KernelError(
            errno.EINVAL,
            f"{words}: there are {', '.join(known)}; a blank first line says that all is text",
        )
    return head, rest


def read_type(text: str) -> str:
    """A Type, in small letters. Raises EINVAL unless it is a word."""
    word = text.strip().lower()
    if word and not _TYPE.fullmatch(word):
        raise KernelError(
            errno.EINVAL,
            f"Type is one word of letters, digits and hyphens (fact, skill), not {text[:64]!r}",
        )
    return word


def tagged(text: str) -> tuple[str, ...]:
    """Tags, in small letters, each once. Raises EINVAL: too many, or too long."""
    tags = tuple(dict.fromkeys(text.lower().replace(",", " ").split()))
    if len(tags) > MOST_TAGS or not all(map(_TAG.fullmatch, tags)):
        raise KernelError(errno.EINVAL, f"at most {MOST_TAGS} tags, each of at most 64 characters")
    return tags


def heading(text: str) -> Heading:
    """What a file says of itself; headers that cannot be read say nothing. Nothing is raised: a
    person may have written it with an editor."""
    if ":" not in text[:64].partition("\n")[0]:
        return Heading()
    said: dict[str, str] = {}
    for number, line in enumerate(text[:16384].split("\n"), start=1):
        if not line.strip():
            return _read(said, number) if said else Heading()
        found = _LINE.fullmatch(line)
        name = _NAMES.get(found[1].lower()) if found is not None else None
        if found is None or name is None:
            return Heading()
        said[name] = found[2]
    return Heading()


def _read(said: Mapping[str, str], lines: int) -> Heading:
    found = Heading(lines=lines)
    try:
        found = replace(found, type=read_type(said.get("Type") or ""))
        found = replace(found, tags=tagged(said.get("Tags") or ""))
        if "Expires" in said:
            found = replace(found, expires=datetime.fromisoformat(said["Expires"]).timestamp())
    except (KernelError, ValueError, OverflowError, OSError):
        pass
    return found
