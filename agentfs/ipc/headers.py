"""The header block of a message as a sender writes it: finding it, reading it, refusing tricks.

RFC 5322: lines `Name: text`, continued by lines that begin with a blank, ended by an empty line.
Lines end in LF or CR LF. What is refused here cannot be smuggled past the kernel's own headers.
"""

from __future__ import annotations

import errno
import functools
import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from agentfs.errors import KernelError
from agentfs.process.spec import seconds

__all__ = ["KERNELS_OWN", "expiry", "mail_date", "read_headers", "read_optional_headers"]

Headers = list[tuple[str, str]]

KERNELS_OWN = frozenset(
    {
        "from",
        "sender",
        "date",
        "relation",
        "message-id",
        "delivery-attempt",
        "return-path",
        "received",
        "original-recipient",
        "original-message-id",
        "broadcast",
        "reply-expected",
        "messages-waiting",
        "claimed-as",
        "references",
        "escalation-id",
        "escalated-from",
        "escalated-past",
    }
)
"""Headers that only the kernel writes; a sender's are dropped."""

WELL_KNOWN = (KERNELS_OWN - {"broadcast"}) | {
    "to",
    "subject",
    "priority",
    "type",
    "expires",
    "in-reply-to",
    "reply-to",
    "reply-by",
    "mime-version",
    "cc",
    "bcc",
    "user-agent",
}
"""Names that, in the first line, tell a header block from a text that happens to have a colon."""

WELL_KNOWN_PREFIXES = ("content-", "x-", "list-", "resent-")

MAX_BLOCK = 64 * 1024  # bytes; more than any mail program writes, little enough to keep in memory
MAX_NAME = 64  # bytes

# Control characters, and what some reader takes for the end of a line.
FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class _MalformedError(ValueError):
    """It is no header block; the text says which line is wrong."""


def read_headers(content: bytes) -> tuple[Headers, bytes]:
    """Headers and body of a message that must have headers. The empty line may be missing where
    there is no body. Raises EINVAL, EMSGSIZE."""
    try:
        lines, body, _ = _block(content)
    except _MalformedError as bad:
        raise KernelError(
            errno.EINVAL, f"{bad}; a message is headers, a blank line, body"
        ) from None
    if not lines:
        raise KernelError(
            errno.EINVAL, "a message begins with headers: `To: NAME`, a blank line, the body"
        )
    return _texts(lines), body


def read_optional_headers(content: bytes) -> tuple[Headers, bytes]:
    """Headers and body of a message that may be all body.

    It has headers only if the first one is well known and an empty line ends them; a leading
    empty line says that there are none. Raises EINVAL, EMSGSIZE.
    """
    for empty in (b"\n", b"\r\n"):
        if content.startswith(empty):
            return [], content[len(empty) :]
    name = content[: MAX_NAME + 1].partition(b":")[0].lower().decode("ascii", "replace")
    if name not in WELL_KNOWN and not name.startswith(WELL_KNOWN_PREFIXES):
        return [], content
    try:
        lines, body, ended = _block(content)
    except _MalformedError:
        return [], content
    return (_texts(lines), body) if ended else ([], content)


def _block(content: bytes) -> tuple[list[tuple[bytes, list[bytes]]], bytes, bool]:
    """The header lines as (name, parts of the text), the rest, and whether an empty line was there
    to end them. Raises _MalformedError, or EMSGSIZE."""
    lines: list[tuple[bytes, list[bytes]]] = []
    start, number = 0, 0
    while start < len(content):
        number += 1
        end = content.find(b"\n", start)
        following = len(content) if end < 0 else end + 1
        line = content[start : min(following, start + MAX_BLOCK)].rstrip(b"\n").removesuffix(b"\r")
        if not line:
            return lines, content[following:], True
        if line[:1] in (b" ", b"\t"):
            if not lines:
                raise _MalformedError("the first line begins with a blank")
            lines[-1][1].append(line)
        else:
            name, colon, text = line.partition(b":")
            if not colon or not _is_name(name):
                raise _MalformedError(f"line {number} is not `Name: text`")
            lines.append((name, [text]))
        if following > MAX_BLOCK:
            raise KernelError(errno.EMSGSIZE, f"headers have at most {MAX_BLOCK} bytes")
        start = following
    return lines, b"", False


def _is_name(raw: bytes) -> bool:
    """Whether `raw` can be a header's name: RFC 5322 says printable ASCII but the colon."""
    return 0 < len(raw) <= MAX_NAME and all(33 <= byte <= 126 for byte in raw)


def _texts(lines: list[tuple[bytes, list[bytes]]]) -> Headers:
    return [(name.decode("ascii"), _text(name, parts)) for name, parts in lines]


def _text(name: bytes, parts: list[bytes]) -> str:
    """A header's text on one line. Control characters would smuggle in other headers."""
    text = " ".join(part.decode("utf-8", "replace").strip(" \t") for part in parts).strip(" ")
    found = FORBIDDEN.search(text)
    if found:
        raise KernelError(
            errno.EINVAL, f"the header {name.decode()} has a control character ({found[0]!r}) in it"
        )
    return text


@functools.lru_cache(maxsize=4)
def mail_date(when: int) -> str:
    """A wall-clock time in seconds as RFC 5322 writes it; many messages come in one second."""
    return format_datetime(datetime.fromtimestamp(when, UTC))


def expiry(text: str, now: float, name: str = "Expires") -> float:
    """The wall-clock time that the header `name` means: a date (RFC 5322 or 3339) or a duration
    from now.

    Raises EINVAL if it is neither, not ahead, or beyond the year 9999.
    """
    when = _moment(text, now) if len(text) <= 64 else None
    if when is None:
        raise KernelError(
            errno.EINVAL,
            f"{name} is a duration (10m) or a date (2026-12-01T09:00:00Z), not {text[:64]!r}",
        )
    if when <= now:
        raise KernelError(errno.EINVAL, f"{name}: {text} is not in the future")
    try:
        datetime.fromtimestamp(when, UTC)
    except (ValueError, OverflowError, OSError):
        raise KernelError(errno.EINVAL, f"{name}: {text} is beyond the year 9999") from None
    return when


def _moment(text: str, now: float) -> float | None:
    try:
        return now + seconds(text)
    except ValueError:
        pass
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            return moment.timestamp()
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
            continue
    return None
