"""The header block of a message as a sender writes it: finding it, reading it, refusing tricks.

RFC 5322: lines `Name: text`, continued by lines that begin with a blank, ended by an empty line.
Lines end in LF or CR LF. A header that is refused here cannot be smuggled past the kernel's
own.

Where a text may be all body, as in `outbox/PEER`, it has headers only if it opens with one of OURS
in our form; see `read_opening`. A text that merely looks like mail, or has a colon in its first
line, is a body, to the last byte.
"""

from __future__ import annotations

import errno
import functools
import re
import unicodedata
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from agentfs.base.errors import KernelError
from agentfs.model.spec import NAME, seconds

__all__ = [
    "KERNELS_OWN",
    "KERNEL_TYPES",
    "MAX_BLOCK",
    "expiry",
    "is_kernel_type",
    "mail_date",
    "may_go_on",
    "read_headers",
    "read_mail",
    "read_opening",
]

Headers = list[tuple[str, str]]

KERNELS_OWN = frozenset(
    {
        "from",
        "sender",
        "date",
        "relation",
        "message-id",
        "delivery-attempt",
        "hops",
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
        "run",
        "step-key",
        "task",
    }
)
"""Headers that only the kernel writes; a sender's are dropped."""

OURS = frozenset(
    {
        "to",
        "subject",
        "priority",
        "type",
        "expires",
        "reply-by",
        "in-reply-to",
        "auto-submitted",
    }
)
"""Headers that say something to the kernel or to every reader, and that a sender may set."""

AS_RECEIVED = frozenset({"claimed-as", "messages-waiting", "delivery-attempt", "message-id"})
"""The header that a message begins with as `recv` gives it."""

KERNEL_TYPES = frozenset(
    {
        "approval-request",
        "ask-cancelled",
        "ask-expired",
        "ask-failed",
        "assigned-task",
        "cancelled-task",
        "escalation",
        "notice",
        "port-request",
        "reminder",
        "restart-notice",
        "rollback",
        "step",
        "undeliverable",
        "vote-request",
    }
)
"""Types of a message that only the kernel writes."""

WELL_KNOWN = (KERNELS_OWN | OURS | {"reply-to", "mime-version", "cc", "bcc", "user-agent"}) - {
    "broadcast"
}
"""Names that, in the first line of what a mail program wrote, tell a header block from a text that
happens to have a colon."""

WELL_KNOWN_PREFIXES = ("content-", "x-", "list-", "resent-")

_REFERENCE = re.compile("<.*>|[0-9]+")

MAX_BLOCK = 64 * 1024  # bytes; more than any mail program writes, little enough to keep in memory
MAX_NAME = 64  # bytes
NAMED = re.compile(f"@?{NAME.pattern}")  # an agent, or a group

# Control characters, and what some reader takes for the end of a line.
FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


# Headers as nearly all are, in ASCII and each on one line, with the empty line that ends them. What
# is written otherwise `_block` and `_text` read, and say what is wrong with it.
_USUAL = re.compile(rb"((?:[!-9;-~]{1,64}:[ -~]*\n)+)\n")


class _MalformedError(ValueError):
    """It is no header block; the text says which line is wrong."""


def read_headers(content: bytes) -> tuple[Headers, bytes]:
    """Headers and body of a message that must have headers, with the empty line that ends them:
    without it this may be the first half of what somebody writes. Raises EINVAL, EMSGSIZE."""
    usual = _USUAL.match(content)
    if usual is not None and usual.end() <= MAX_BLOCK:
        fields = [line.partition(":") for line in usual[1].decode("ascii").splitlines()]
        return [(name, text.strip(" ")) for name, _, text in fields], content[usual.end() :]
    try:
        lines, body, ended = _block(content)
    except _MalformedError as bad:
        raise KernelError(
            errno.EINVAL, f"{bad}; a message is headers, a blank line, body"
        ) from None
    if not lines:
        raise KernelError(
            errno.EINVAL, "a message begins with headers: `To: NAME`, a blank line, the body"
        )
    if not ended:
        raise KernelError(
            errno.EINVAL,
            "there is no blank line after the headers; one write(2) is one message: a shell's"
            " printf writes line by line, `| dd bs=1M iflag=fullblock of=send` puts it together",
        )
    return _texts(lines), body


def read_mail(content: bytes) -> tuple[Headers, bytes]:
    """Headers and body of what a mail program wrote into a Maildir. It may be all body: it has
    headers only if the first one is well known and an empty line ends them; a leading empty line
    says that there are none. Raises EINVAL, EMSGSIZE."""
    plain = _plain(content)
    if plain is not None:
        return [], plain
    name = _first_name(content)
    if name not in WELL_KNOWN and not name.startswith(WELL_KNOWN_PREFIXES):
        return [], content
    try:
        lines, body, ended = _block(content)
    except _MalformedError:
        return [], content
    return (_texts(lines), body) if ended else ([], content)


def read_opening(content: bytes, *, received: bool = False) -> tuple[Headers, bytes]:
    """Headers and body of a text that is all body unless it opens with headers of ours.

    It does if the first line is one of OURS, an empty line ends the block, no line of it is a
    header that only the kernel writes (a mail that somebody forwards has those), and each of OURS
    is in our form (`To: do list` is not). A leading empty line says that there are none.
    `received`: a message as `recv` gave it counts too. Raises EINVAL, EMSGSIZE for what is wrong
    with them.
    """
    plain = _plain(content)
    if plain is not None:
        return [], plain
    first = _first_name(content)
    again = received and first in AS_RECEIVED
    if first not in OURS and not again:
        return [], content
    try:
        lines, body, ended = _block(content)
    except _MalformedError:
        return [], content
    if not ended:
        return [], content
    for name, parts in lines:
        key = name.decode("ascii").lower()
        if not again and not _in_our_form(key, b" ".join(parts)):
            return [], content
    return _texts(lines), body


def may_go_on(content: bytes) -> bool:
    """Whether a text that begins so may still turn out to open with headers of ours: what is
    wrong with them is not known before the empty line."""
    if len(content) > MAX_BLOCK or _first_name(content) not in OURS:
        return len(content) <= MAX_NAME and b"\n" not in content
    try:
        return not _block(content)[2]
    except _MalformedError:
        return not content.endswith(b"\n")  # the last line may be half of one


def is_kernel_type(text: str) -> bool:
    """Whether only the kernel may say that a message is of this Type: one of KERNEL_TYPES, however
    it is spelt, or one that begins like it (handlers are chosen by how a Type begins)."""
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    return any(
        folded.startswith(own) and not folded[len(own) : len(own) + 1].isalnum()
        for own in KERNEL_TYPES
    )


def _plain(content: bytes) -> bytes | None:
    """The text behind a leading empty line, if there is one."""
    for empty in (b"\n", b"\r\n"):
        if content.startswith(empty):
            return content[len(empty) :]
    return None


def _first_name(content: bytes) -> str:
    return content[: MAX_NAME + 1].partition(b":")[0].lower().decode("ascii", "replace")


def _in_our_form(key: str, text: bytes) -> bool:
    """Whether a header is meant as one, right or wrong. `To`, `Priority`, `Type` and `In-Reply-To`
    have one word where people write several; what only the kernel writes is not, but for the
    `References` that a mail program puts beside `In-Reply-To`."""
    words = text.decode("utf-8", "replace").split()
    match key:
        case "to":
            names = " ".join(words).split(",")
            return all(name.strip() == "*" or NAMED.fullmatch(name.strip()) for name in names)
        case "priority" | "type":
            return len(words) <= 1
        case "in-reply-to" | "references":
            return len(words) <= 1 or all(_REFERENCE.fullmatch(word) for word in words)
        case _:
            return key not in KERNELS_OWN


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
