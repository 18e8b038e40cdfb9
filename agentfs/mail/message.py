"""A message: its headers, its two forms (as a sender writes it, as a receiver reads it).

The text is RFC 5322: headers, a blank line, the body as bytes. `From`, `Date`, `Relation` and
`Message-ID` are the kernel's word; a sender's own are dropped.
"""

from __future__ import annotations

import enum
import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from agentfs.base.errors import KernelError
from agentfs.mail.headers import (
    KERNELS_OWN,
    MAX_BLOCK,
    expiry,
    is_kernel_type,
    mail_date,
    may_go_on,
    read_headers,
    read_mail,
    read_opening,
)

if TYPE_CHECKING:
    from agentfs.mail.readers import Reader

__all__ = [
    "FLOORS",
    "Draft",
    "Message",
    "Priority",
    "Relation",
    "check_opening",
    "compose",
    "number_of",
]


class Priority(enum.IntEnum):
    """Smaller is more urgent."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class Relation(enum.Enum):
    """The sender's relation to the receiver."""

    SYSTEM = "system"
    PARENT = "parent"
    SIBLING = "sibling"
    CHILD = "child"
    OTHER = "other"

    __hash__ = object.__hash__  # that of enums is in Python, and each message asks three times


FLOORS = {
    Relation.SYSTEM: 0,
    Relation.PARENT: 1,
    Relation.SIBLING: 2,
    Relation.CHILD: 3,
    Relation.OTHER: 3,
}
"""The least level of a message whose sender said no priority."""

_RELATIONS = {relation.value: relation for relation in Relation}
"""A look-up takes a fifth of the time of Relation(value), and every start makes many."""

_WORDS = {relation: word for word, relation in _RELATIONS.items()}
_PRIORITIES = {priority: priority.name.lower() for priority in Priority}
# `value` and `name` of an enum are two calls of Python each.


@dataclass(slots=True)
class Draft:
    """A message as a sender handed it in. `headers` are kept as given, in order, without those that
    the kernel writes (its own, `To`, `Priority`).

    `priority` is what the sender said if `on_purpose`; else the relation may raise it.

    `filename` is the name that a Maildir client gave the file in new/ (empty: the kernel's,
    `<sequence>.<sender>`); `claimed` says that the client put it into cur/ at once.

    `automatic`: it says that a program sent it by itself, `Auto-Submitted`; False if it says `no`,
    None if it says nothing.

    `in_reply_to` is the text of that header, `reply_by` the wall-clock time until which an answer
    is waited for (None: it is no question), `answer_apart` says that the answer is read from the
    ask alone.
    """

    to: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)
    priority: Priority = Priority.NORMAL
    expires: float | None = None  # wall clock, seconds
    on_purpose: bool = False
    automatic: bool | None = None
    filename: str = ""
    claimed: bool = False
    size: int = 0  # bytes that were handed in
    in_reply_to: str = ""
    reply_by: float | None = None
    answer_apart: bool = False

    @classmethod
    def parse(
        cls,
        content: bytes,
        *,
        now: float,
        to: str = "",
        filename: str = "",
        claimed: bool = False,
        forwarded: bool = False,
    ) -> Draft:
        """Read what was written.

        `to` names the receiver where the path says it (`outbox/bob`): then the content is all body
        unless it opens with headers of ours (`read_opening`), and a `To` that says otherwise is
        EINVAL. Without `to` headers are required, `To` among them. With `filename` (a Maildir
        delivery) or `forwarded` (a queue) the path alone decides: any mail may lie there, whomever
        it was once addressed to. Saved as `claimed` it asks nobody anything. Raises EINVAL,
        EMSGSIZE.
        """
        if not to:
            headers, body = read_headers(content)
        elif filename:
            headers, body = read_mail(content)
        else:
            headers, body = read_opening(content, received=forwarded)
        draft = cls(to, body, filename=filename, claimed=claimed, size=len(content))
        any_mail = forwarded or bool(filename)
        seen: set[str] = set()
        for name, text in headers:
            key = name.lower()
            if key in KERNELS_OWN or (any_mail and _is_foreign(key, text)):
                continue
            if key in _ONCE:
                if key in seen:
                    raise KernelError(errno.EINVAL, f"the header {name} is there twice")
                seen.add(key)
            draft._take(key, name, text, now)
        if not draft.to:
            raise KernelError(errno.EINVAL, "the header `To: NAME` is missing")
        return draft

    def about(self) -> str:
        """The headers that matter to somebody who approves it, a line each: `Name: text`. Times are
        left out: a duration is another time with each try."""
        raised = self.priority is not Priority.NORMAL
        said = [("Priority", self.priority.name.lower())] if raised else []
        said += [("In-Reply-To", self.in_reply_to)] if self.in_reply_to else []
        said += [header for header in self.headers if header[0].lower() != "expires"]
        return "".join(f"{name}: {text}\n" for name, text in said)

    def _take(self, key: str, name: str, text: str, now: float) -> None:
        if key == "to":
            self._address(text)
        elif key == "priority":
            try:
                self.priority, self.on_purpose = Priority[text.upper()], True
            except KeyError:
                names = ", ".join(level.name.lower() for level in Priority)
                raise KernelError(errno.EINVAL, f"Priority is one of {names}") from None
        elif key == "expires":
            self.expires = expiry(text, now)
            self.headers.append((name, mail_date(int(self.expires))))
        elif key == "in-reply-to":
            self.in_reply_to = f"{self.in_reply_to} {text}".strip()
        elif key == "reply-by" and not self.claimed:
            self.reply_by = expiry(text, now, name)
        elif key == "auto-submitted":
            self._mark(name, text)
        elif key == "type" and is_kernel_type(text):
            raise KernelError(errno.EINVAL, f"Type: {text} is the kernel's word: say another")
        else:
            self.headers.append((name, text))

    def _mark(self, name: str, text: str) -> None:
        """RFC 3834, and 5436 for auto-notified; a comment or parameters may follow."""
        said = _AUTO_SUBMITTED.match(text)
        if said is None:
            words = ", ".join(("no", *AUTOMATIC))
            raise KernelError(errno.EINVAL, f"{name} is one of {words}, not {text!r}")
        self.automatic = said[1].lower() != "no"
        if self.automatic:
            self.headers.append((name, text))

    def _address(self, text: str) -> None:
        if "," in text:
            raise KernelError(
                errno.EINVAL, f"To names one agent, not {text!r}: write one message to each"
            )
        if self.to and text != self.to:
            raise KernelError(errno.EINVAL, f"the path says to {self.to}, the header {text!r}")
        self.to = text


AUTOMATIC = ("auto-generated", "auto-replied", "auto-notified")
"""The words of `Auto-Submitted` for a message that nobody sent on purpose."""

_AUTO_SUBMITTED = re.compile(rf"({'|'.join(('no', *AUTOMATIC))})(?![^\s;(])", re.IGNORECASE)

_ONCE = frozenset({"to", "priority", "expires", "reply-by", "type", "auto-submitted"})
"""Headers of which there is one."""


def _is_foreign(key: str, text: str) -> bool:
    """Whether a header says nothing in a mail that was written for somebody else."""
    match key:
        case "to":
            return True
        case "type":
            return is_kernel_type(text)
        case "auto-submitted":
            return _AUTO_SUBMITTED.match(text) is None
    return False


def check_opening(content: bytes, *, now: float, to: str) -> Draft | None:
    """Raise what `Draft.parse` will say of the headers that a text opens with, while it is still
    being written and somebody looks: EINVAL, EMSGSIZE. None if what follows may belong to them;
    else a draft that has them, and of the body what there is."""
    if may_go_on(content):
        return None
    return Draft.parse(content[: 2 * MAX_BLOCK], now=now, to=to)


@dataclass(slots=True, eq=False)
class Message:
    """A message in a mailbox. Its content is in the store; `seq` finds it there.

    `level` is the effective priority and `arrived` the wall-clock time of arrival: the order of
    delivery is made from both. `mailbox` is an agent's name or `queues/NAME`; `folder` new, cur or
    dead; `file` its name in there, `named` the name it had in new/; `size` the bytes of the stored
    content.
    `claimed_by` is the pid of the process that has it (None: nobody's process), `reader` the pid
    of the principal whose next `recv` acknowledges it (None: it was claimed by renaming), `through`
    the open file that it was read from (None: that is not known any more),
    `claimed_at` the wall-clock time of the claim, `claimed_since` when its time began to run
    (Clock.monotonic; -1: it does not), `claimant` the agent that claimed it last.

    `doubted`: it was claimed through `recv`, and then the daemon ended: whether the reader got it,
    nobody knows.

    Once it is finished its folder is done or expired, and it is in no mailbox: kept for `sent`,
    unless it is `unlisted` (a copy, a notice of the kernel). `finished` is when that was, and
    `dropped` the bytes that a long content had, of which only the headers are left.

    `revived` is the attempt after which it was a dead letter that somebody put back (0: never).
    `broadcast` is, in a copy, the number of the broadcast that it is a copy of; `tally`, in a
    broadcast, how many copies there are (`recipients`) and how many were finished in which way.

    `hops` says how many messages in a row came before it that may be a loop, `said` is a digest of
    its body and one of the body of what it comes of (0: of nothing); see `loops`.

    `thread` has the numbers of the messages that it follows, the last one being what it is a reply
    to. `awaited`: it is a question that may still be answered; `lapsed`: it was one, and nobody
    answered while somebody waited.
    """

    seq: int
    mailbox: str
    sender: str
    relation: Relation
    level: int
    arrived: float
    size: int
    folder: str = "new"
    file: str = ""
    named: str = ""
    attempt: int = 1
    expires: float | None = None
    claimed_by: int | None = None
    claimed_at: float = 0.0
    claimed_since: float = -1.0
    reader: int | None = None
    reason: str = ""  # why it is a dead letter
    claimant: str = ""
    finished: float = 0.0  # wall clock, seconds
    dropped: int = 0
    unlisted: bool = False
    revived: int = 0
    broadcast: int = 0
    tally: dict[str, int] | None = None
    thread: tuple[int, ...] = ()
    awaited: bool = False
    lapsed: bool = False
    hops: int = 0
    said: tuple[int, int] = (0, 0)
    through: Reader | None = None
    doubted: bool = False

    @property
    def id(self) -> str:
        """Unique in the system, sorts by time."""
        return f"{self.seq:012d}"

    @property
    def through_recv(self) -> bool:
        """Whether it was claimed through `recv`."""
        return self.reader is not None

    @property
    def unread(self) -> bool:
        """Whether it was handed over to a reader that waits, and no read has given it yet."""
        return self.through is not None and self in self.through.handed

    def record(self) -> dict[str, Any]:
        """The record in the store, beside the columns that it has of its own. Defaults are left
        out."""
        record: dict[str, Any] = {
            "sender": self.sender,
            "relation": _WORDS[self.relation],
            "level": self.level,
            "arrived": self.arrived,
        }
        if self.named != self.file:
            record["named"] = self.named
        if self.folder == "cur":
            if self.claimed_by is not None:
                record["claimed_by"] = self.claimed_by
            if self.claimed_at:
                record["claimed_at"] = self.claimed_at
            if self.claimed_since != -1.0:
                record["claimed_since"] = self.claimed_since
            if self.reader is not None:
                record["reader"] = self.reader
        if self.claimant:
            record["claimant"] = self.claimant
        if self.finished:
            record["finished"] = self.finished
        values = _rare(self)
        if values != _DEFAULTS:
            for slot, default, value in zip(_RARE, _DEFAULTS, values, strict=True):
                if value != default:
                    record[slot] = value
        if self.said[1]:
            record["said"] = self.said
        return record

    @classmethod
    def from_record(
        cls, seq: int, mailbox: str, folder: str, file: str, record: dict[str, Any], size: int
    ) -> Message:
        """The message of a `record`, and of the place where the store has it."""
        read = record.copy()
        read["relation"] = _RELATIONS[read["relation"]]
        if "named" not in read:
            read["named"] = file
        for several in ("thread", "said"):
            if several in read:
                read[several] = tuple(read[several])
        return cls(seq=seq, mailbox=mailbox, folder=folder, file=file, size=size, **read)

    def head(self) -> bytes:
        """The headers that can change while it waits, put before the stored content."""
        return f"Delivery-Attempt: {self.attempt}\n".encode() if self.attempt > 1 else b""


_RARE = (
    "attempt",
    "expires",
    "reason",
    "dropped",
    "unlisted",
    "revived",
    "broadcast",
    "tally",
    "thread",
    "awaited",
    "lapsed",
    "hops",
)
"""Slots that as a rule are as they were made."""
_rare = attrgetter(*_RARE)
_defaults = {field.name: field.default for field in fields(Message)}
_DEFAULTS = tuple(_defaults[name] for name in _RARE)


def number_of(name: str) -> int:
    """The number that an id says, a message's or whatever else is numbered by events; 0, which is
    nothing's, if `name` is no id."""
    if len(name) >= 12 and name.isascii() and name.isdigit() and f"{int(name):012d}" == name:
        return int(name)
    return 0


def compose(
    draft: Draft,
    number: str,
    *,
    sender: str,
    relation: Relation,
    now: float,
    node: str,
    links: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The text that the receiver reads: the kernel's headers, the sender's, the body. `number` is
    the message's id, and `links` are the headers that say which thread it belongs to."""
    head = (
        f"Message-ID: <{number}@{node}>\n"
        f"From: {sender}\n"
        f"To: {draft.to}\n"
        f"Date: {mail_date(int(now))}\n"
        f"Relation: {_WORDS[relation]}\n"
        f"Priority: {_PRIORITIES[draft.priority]}\n"
    )
    if draft.reply_by is not None:
        head += f"Reply-By: {mail_date(int(draft.reply_by))}\n"
    if not draft.body.isascii() and _is_plain_utf8(draft):
        head += "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
        head += "Content-Transfer-Encoding: 8bit\n"
    # The sender's own are the last ones: its text stands there in one piece, as it was written.
    for name, text in chain(links, draft.headers):
        head += f"{name}: {text}\n"
    return head.encode("utf-8", "replace") + b"\n" + draft.body


def _is_plain_utf8(draft: Draft) -> bool:
    """Whether the body is UTF-8 and nobody said what it is: mail programs then take it for ASCII
    unless it is said here."""
    if any(name.lower().startswith(("content-", "mime-")) for name, _ in draft.headers):
        return False
    try:
        draft.body.decode()
    except UnicodeDecodeError:
        return False
    return True
