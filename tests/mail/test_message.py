"""Drafts as senders write them, and the text that receivers read."""

import email
import email.policy
import errno
import re
from dataclasses import fields
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentfs
from agentfs.base.errors import KernelError
from agentfs.mail.headers import _USUAL, KERNEL_TYPES, KERNELS_OWN, MAX_BLOCK, read_headers
from agentfs.mail.message import FLOORS, Draft, Message, Priority, Relation, check_opening, compose

NOW = 1_800_000_000.0


def to_bob(content: bytes, **more: str) -> Draft:
    return Draft.parse(content, now=NOW, to="bob", **more)


def sent(content: bytes) -> Draft:
    return Draft.parse(content, now=NOW)


def text_of(draft: Draft) -> bytes:
    return compose(
        draft, "000000000007", sender="alice", relation=Relation.PARENT, now=NOW, node="n1"
    )


def refused(content: bytes, *, to: str = "") -> KernelError:
    with pytest.raises(KernelError) as caught:
        Draft.parse(content, now=NOW, to=to)
    return caught.value


def test_a_message_from_draft_to_text() -> None:
    draft = sent(b"To: bob\nSubject: tea\nPriority: High\n\nat five\n")
    assert (draft.to, draft.body, draft.priority) == ("bob", b"at five\n", Priority.HIGH)
    assert draft.headers == [("Subject", "tea")]
    assert text_of(draft) == (
        b"Message-ID: <000000000007@n1>\nFrom: alice\nTo: bob\n"
        b"Date: Fri, 15 Jan 2027 08:00:00 +0000\nRelation: parent\nPriority: high\n"
        b"Subject: tea\n\nat five\n"
    )


# -- what counts as headers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"hello\n\nworld",
        b"Note: do this",
        b"Note: do this\n\nand that",
        b"Subject: no blank line follows",
        b"Subject: no blank line follows\n",
        b"To: do\nbuy milk\n\nbread",
        b"Subject : x\n\nbody",
        b"Subject\n\nbody",
        b"X-rays of hands\n\nbody",
        b" Subject: x\n\nbody",
        b"http://example.org/\n\n",
        b"\x00\xff\xfe: \n\n",
        b": \n\n",
        b"Subject: one\r\rbody",
        b"{}\n\n",
        # What mail programs, and people, write: all of it stays.
        b"Date: Friday 5 pm\n\nat the pub",
        b"Received: 3 parcels\n\nsigned",
        b"References: [1]\n\n[1] a book",
        b"References: <7@here>\nIn-Reply-To: 7\n\nx",
        b"From: eve\nSubject: x\n\nb",
        b"Subject: x\nFrom: Eve <eve@example.org>\nDate: today\n\nforwarded",
        b"From: a@example.org\nDate: Mon, 30 Nov 2026 09:00:00 +0000\nTo: b@c\n\nforwarded\n",
        b"MIME-Version: 1.0\nContent-Type: text/html\n\n<p>",
        b"Content-Type: image/png\n\n\xc3\xbc",
        b"X-Any: x\n\n\n\nbody",
        b"Note: call bob\n\nbody",
        b"Sender: eve\n\nx",
        b"To: do list\n\nmilk",
        b"To: Bob <bob@example.org>\n\nx",
        b"To: bob, and all the others\n\nx",
        b"Priority: first the milk\n\nthen bread",
        b"Type: Ford Focus\n\nred",
        b"In-Reply-To: your letter\n\nthanks",
        b"Priority: high\nRelation: system\n\nnow",
        b"Hops: 7\n\nx",
    ],
)
def test_in_an_outbox_what_is_no_header_block_is_all_body(content: bytes) -> None:
    draft = to_bob(content)
    assert (draft.headers, draft.body) == ([], content)


@pytest.mark.parametrize(
    ("content", "headers", "body"),
    [
        (b"Subject: x\n\nbody", [("Subject", "x")], b"body"),
        (b"subject:x\r\n\r\nbody\r\n", [("subject", "x")], b"body\r\n"),
        (b"Subject: x\nNote: y\n\n", [("Subject", "x"), ("Note", "y")], b""),
        (b"To: bob\nPiece: 7\n\nb", [("Piece", "7")], b"b"),
        (b"Type: job\nX-Any: x\n\n\n\nbody", [("Type", "job"), ("X-Any", "x")], b"\n\nbody"),
        (b"Priority: normal\n\nTo: do list\n\nb", [], b"To: do list\n\nb"),
        (b"\nSubject: x\n\nbody", [], b"Subject: x\n\nbody"),
        (b"\r\nNote: x", [], b"Note: x"),
        (b"\n", [], b""),
        (b"\n\n\nverse\n", [], b"\n\nverse\n"),
        (b"Subject: a\n  b\n\tc\n\nbody", [("Subject", "a b c")], b"body"),
        (b"Subject:\n\nbody", [("Subject", "")], b"body"),
    ],
)
def test_in_an_outbox_one_of_our_headers_and_a_blank_line_make_headers(
    content: bytes, headers: list[tuple[str, str]], body: bytes
) -> None:
    draft = to_bob(content)
    assert (draft.headers, draft.body) == (headers, body)


@pytest.mark.parametrize("content", [b"To: bob", b"To: bob\n", b"To: bob\nPriority: high\n"])
def test_for_send_headers_without_a_blank_line_may_be_the_half_of_a_message(content: bytes) -> None:
    assert refused(content).errno == errno.EINVAL
    assert sent(content.rstrip() + b"\n\n").body == b""


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\nTo: bob\n\nx", b"hello", b"To: bob\nhello", b"Subject: x\n\nx", b"To:\n\nx"],
)
def test_for_send_headers_with_a_receiver_are_required(content: bytes) -> None:
    assert refused(content).errno == errno.EINVAL


def test_the_header_to_may_repeat_what_the_path_says_but_not_contradict_it() -> None:
    assert to_bob(b"To: bob\n\nx").body == b"x"
    assert refused(b"To: carol\n\nx", to="bob").errno == errno.EINVAL


@pytest.mark.parametrize("said", ["alice, bob", "bob,carol", "*, bob"])
def test_a_message_has_one_receiver(said: str) -> None:
    assert "one message to each" in str(refused(f"To: {said}\n\nx".encode()))
    assert "one message to each" in str(refused(f"To: {said}\n\nx".encode(), to="bob"))


@pytest.mark.parametrize("said", sorted(KERNEL_TYPES))
def test_a_type_of_the_kernels_is_no_senders(said: str) -> None:
    wide = said.translate({ord(each): ord(each) + 0xFEE0 for each in "abcdefghijklmnopqrstuvwxyz"})
    for spelling in (said, said.upper(), f" {said} ", f"{said}-2", f"{said}/x", wide):
        content = f"To: bob\nType: {spelling}\n\nx".encode()
        assert refused(content).errno == errno.EINVAL
        assert refused(content, to="bob").errno == errno.EINVAL
        assert to_bob(content, filename="1.M2.host").headers == [], "mail from elsewhere may say so"
    if not any(said.startswith(f"{own}-") for own in KERNEL_TYPES):
        assert sent(f"To: bob\nType: {said}s\n\nx".encode()).headers == [("Type", f"{said}s")]


@pytest.mark.parametrize(
    ("said", "automatic"),
    [
        ("no", False),
        ("No", False),
        ("auto-replied", True),
        ("Auto-Generated; why=x", True),
        ("auto-notified (rss)", True),
        ("", None),
        ("yes", None),
        ("nothing", None),
        ("auto-replied-2", None),
    ],
)
def test_what_is_automatic_says_so_in_the_words_of_rfc_3834(
    said: str, automatic: bool | None
) -> None:
    content = f"To: bob\nAuto-Submitted: {said}\n\nx".encode()
    mail = to_bob(b"Subject: s\n" + content + b"\n", filename="1.M2.host")
    assert mail.automatic is automatic, "mail from elsewhere may say what it wants"
    if automatic is None:
        assert refused(content).errno == errno.EINVAL
    else:
        assert sent(content).automatic is automatic
        assert (b"Auto-Submitted" in text_of(sent(content))) is automatic


def test_every_type_that_the_kernel_writes_is_one_of_its_own() -> None:
    written = set()
    for source in Path(agentfs.__file__).parent.rglob("*.py"):
        written |= set(re.findall(r'\("Type", "([^"]*)"\)', source.read_text()))
    assert {"reminder", "escalation"} <= written <= KERNEL_TYPES


@pytest.mark.parametrize(
    "content",
    [
        b"Priority: whenever\n\nx",
        b"To: carol\n\nx",
        b"To: bob\nPiece: 1\nExpires: soon\n\n",
        b"Subject: a\rb\n\nx",
        b"Type: notice\r\n\r\nx",
        b"Subject: " + b"x" * MAX_BLOCK + b"\n\nbody",
    ],
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_what_is_wrong_with_headers_is_said_while_they_are_written(
    content: bytes, step: int
) -> None:
    step = max(step, len(content) // 50)
    wanted = refused(content, to="bob").errno
    written = b""
    with pytest.raises(KernelError) as caught:
        for start in range(0, len(content), step):
            written = content[: start + step]
            check_opening(written, now=NOW, to="bob")
    assert caught.value.errno == wanted
    block = re.search(rb"\r?\n\r?\n", content)
    assert block is not None
    assert wanted == errno.EMSGSIZE or len(written) < block.end() + step


@given(content=st.text(max_size=200) | st.sampled_from(["Subject: a\nb: c\n\nd", "To: bob\n\n"]))
def test_a_text_that_is_accepted_is_not_refused_while_it_is_written(content: str) -> None:
    data = content.encode()
    to_bob(data)
    for end in range(1, len(data) + 1):
        if check_opening(data[:end], now=NOW, to="bob") is not None:
            break


def test_any_mail_may_be_delivered_into_a_maildir() -> None:
    draft = to_bob(b"To: Carol <carol@example.org>\nSubject: x\n\ny", filename="1.M2.host")
    assert (draft.to, draft.filename, draft.body) == ("bob", "1.M2.host", b"y")


@pytest.mark.parametrize("name", ["To", "Priority", "Expires"])
def test_a_header_that_says_something_to_the_kernel_is_there_once(name: str) -> None:
    text = {"To": "bob", "Priority": "low", "Expires": "1h"}[name]
    assert refused(f"{name}: {text}\n{name}: {text}\n\n".encode(), to="bob").errno == errno.EINVAL


def test_headers_have_a_limit() -> None:
    fits = b"Subject: " + b"x" * (MAX_BLOCK - 11) + b"\n"
    assert len(to_bob(fits + b"\nbody").headers[0][1]) == MAX_BLOCK - 11
    assert refused(b"X" + fits[1:] + b"To: bob\n\nbody").errno == errno.EMSGSIZE
    long = b"Subject: " + b"x" * (2 * MAX_BLOCK) + b"\n\nbody"
    assert refused(long, to="bob").errno == errno.EMSGSIZE
    assert refused(b"To: bob\n" + b" x\n" * MAX_BLOCK, to="").errno == errno.EMSGSIZE


# -- forging -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(KERNELS_OWN))
def test_what_the_kernel_says_cannot_be_said_by_a_sender(name: str) -> None:
    for spelling in (name, name.upper(), name.title()):
        assert sent(f"To: bob\n{spelling}: forged\n\n".encode()).headers == []
        assert to_bob(f"{spelling}: forged\n\n".encode()).headers == []


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: a\rFrom: eve\n\nx",
        b"Subject: a\n \rFrom: eve\n\nx",
        b"Subject: a\x00b\n\nx",
        b"Subject: a\x0bb\n\nx",
        b"Subject: a\x7fb\n\nx",
        "Subject: a\u2028From: eve\n\nx".encode(),
        "Subject: a\x85From: eve\n\nx".encode(),
    ],
)
def test_a_control_character_in_a_header_is_refused(content: bytes) -> None:
    assert refused(content, to="bob").errno == errno.EINVAL


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: a\n From: eve\n\nx",
        b"Subject: =?utf-8?q?a=0AFrom:_eve?=\n\nx",
        b"Subject:\n From: eve\n\nx",
        b"FROM: eve\nfrom: eve\nFrOm:eve\nSubject: y\n\nx",
        b"Subject: x\n\nFrom: eve\n\nx",
        b"\nFrom: eve\n\nx",
        b"From eve Mon Jan  1\nFrom: eve\n\nx",
    ],
)
def test_from_is_the_kernels_word_whatever_was_written(content: bytes) -> None:
    parsed = email.message_from_bytes(text_of(to_bob(content)))
    assert parsed.get_all("From") == ["alice"]


HEADERISH = st.lists(
    st.sampled_from(
        [b"From", b"Subject", b"To", b"bob", b":", b" ", b"\n", b"\r", b"\t", b"\x00", b"eve"]
        + [b"=?utf-8?q?=0A?=", b"Expires", b"10m", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"X-"]
    )
).map(b"".join)


@given(content=st.binary() | HEADERISH, to=st.sampled_from(["", "bob"]))
def test_random_bytes_are_a_draft_or_refused_and_never_forge(content: bytes, to: str) -> None:
    try:
        draft = Draft.parse(content, now=NOW, to=to)
    except KernelError as refusal:
        assert refusal.errno in (errno.EINVAL, errno.EMSGSIZE)
        return
    text = text_of(draft)
    for policy in (email.policy.compat32, email.policy.default):
        parsed = email.message_from_bytes(text, policy=policy)
        assert [str(value) for value in parsed.get_all("From", [])] == ["alice"]
        assert [str(value) for value in parsed.get_all("Relation", [])] == ["parent"]
        assert str(parsed["Message-ID"]) == "<000000000007@n1>"
        assert parsed["Delivery-Attempt"] is None
    assert text.partition(b"\n\n")[2] == draft.body


@given(
    headers=st.lists(
        st.tuples(
            st.from_regex(r"\A[!-9;-~]{1,20}\Z"), st.text(st.characters(codec="utf-8"), max_size=40)
        )
    ),
    body=st.binary(),
)
def test_a_header_block_that_is_accepted_is_read_back_as_written(
    headers: list[tuple[str, str]], body: bytes
) -> None:
    block = "".join(f"{name}: {text}\n" for name, text in headers)
    try:
        draft = sent(f"To: bob\n{block}\n".encode() + body)
    except KernelError:
        return
    # A CR before the line's end is a part of that; an empty line ends the headers.
    lines = [(n, f"{t}\n".partition("\n\n")[0].removesuffix("\n")) for n, t in headers]
    written = [(name, text.removesuffix("\r").strip(" \t")) for name, text in lines]
    for name, text in draft.headers:
        if name.lower() != "expires" and text:
            assert (name, text) in written


# -- priority and expiry -------------------------------------------------------------------------


def test_a_priority_that_does_not_exist_is_refused_and_normal_is_the_default() -> None:
    assert refused(b"Priority: urgent\n\nx", to="bob").errno == errno.EINVAL
    assert refused(b"Priority:\n\nx", to="bob").errno == errno.EINVAL
    assert to_bob(b"x").priority is Priority.NORMAL
    assert b"\nPriority: normal\n" in text_of(to_bob(b"x"))


@pytest.mark.parametrize(
    ("text", "ahead"),
    [
        ("10m", 600),
        ("1.5h", 5400),
        ("90", 90),
        ("7d", 604_800),
        ("2027-01-15T09:00:00Z", 3600),
        ("2027-01-15T10:00:00+01:00", 3600),
        ("2027-01-15 09:00:00", 3600),
        ("Fri, 15 Jan 2027 09:00:00 +0000", 3600),
        ("Fri, 15 Jan 2027 09:00:00 GMT", 3600),
        ("9999-12-31T23:59:59Z", 251_602_300_799 - 0),
    ],
)
def test_expiry_is_a_duration_or_a_date(text: str, ahead: float) -> None:
    draft = to_bob(f"Expires: {text}\n\nx".encode())
    assert draft.expires is not None
    assert draft.expires - NOW == pytest.approx(ahead)
    assert email.message_from_bytes(text_of(draft))["Expires"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0s",
        "-5s",
        "nan",
        "inf",
        "NaNs",
        "1e9",
        "yesterday",
        "2020-01-01T00:00:00Z",
        "Mon, 1 Jan 2001 00:00:00 +0000",
        "9999-12-31T23:59:59-23:59",
        "Fri, 31 Dec 99999 00:00:00 +0000",
        "Fri, 31 Dec 2100 00:00:00 +999999999999",
        "0001-01-01T00:00:00+23:59",
        "999999999d",
        "9" * 400,
        "9" * 5000 + " Jan 2030",
        "²0 Jan 2030 00:00:00",
        "٣m",
    ],
)
def test_an_expiry_that_is_none_is_refused(text: str) -> None:
    try:
        draft = to_bob(f"Expires: {text}\n\nx".encode())
    except KernelError as refusal:
        assert refusal.errno == errno.EINVAL
    else:
        assert text == "٣m"
        assert draft.expires == NOW + 180


@given(st.text(max_size=40) | st.from_regex(r"[0-9:T+ .a-zA-Z,-]{0,40}", fullmatch=True))
def test_any_expiry_is_sane_or_refused(text: str) -> None:
    try:
        draft = to_bob(f"Subject: x\nExpires: {text}\n\nx".encode("utf-8", "replace"))
    except KernelError as refusal:
        assert refusal.errno == errno.EINVAL
    else:
        assert draft.expires is None or draft.expires > NOW
        text_of(draft)


# -- text ----------------------------------------------------------------------------------------


def test_a_body_in_utf8_says_so_unless_the_sender_said_what_it_is() -> None:
    text = text_of(to_bob("grüße".encode()))
    parsed = email.message_from_bytes(text, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed.get_content().rstrip("\n") == "grüße"
    assert b"Content-" not in text_of(to_bob(b"plain"))
    assert b"Content-" not in text_of(to_bob(b"\xff\xfe no utf-8"))
    assert b"charset" not in text_of(to_bob(b"Subject: s\nContent-Type: image/png\n\n\xc3\xbc"))


def test_a_message_survives_being_recorded() -> None:
    where = (7, "bob", "alice", Relation.CHILD, 2, NOW, 100, "cur", "x:2,S", "x", 3, NOW + 5)
    message = Message(
        *where, claimed_by=4, claimed_at=NOW, reader=4, thread=(1, 2), hops=3, said=(5, 6)
    )
    again = Message.from_record(7, "bob", "cur", "x:2,S", message.record(), 100)
    for slot in [each.name for each in fields(Message)]:
        assert getattr(again, slot) == getattr(message, slot)
    assert message.id == "000000000007"
    assert message.through_recv


def test_only_a_second_attempt_says_so() -> None:
    message = Message(7, "bob", "alice", Relation.CHILD, 2, NOW, 100)
    assert message.head() == b""
    message.attempt = 2
    assert message.head() == b"Delivery-Attempt: 2\n"


@pytest.mark.parametrize(
    ("relation", "floor"),
    [("system", 0), ("parent", 1), ("sibling", 2), ("child", 3), ("other", 3)],
)
def test_each_relation_has_its_floor(relation: str, floor: int) -> None:
    assert FLOORS[Relation(relation)] == floor


PIECES = [
    "To",
    "X-A",
    ":",
    ": ",
    "bob",
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "é",
    "\x7f",
    "\x0b",
    "b",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_headers_as_nearly_all_are_read_as_all_others(text: str) -> None:
    """There is a shorter way for them, of which nobody is to see anything."""
    content = text.encode()
    usual = _USUAL.match(content)
    if usual is None:
        return
    # A header that goes on in the next line has `_block` read all of them, and says nothing more.
    found, body = read_headers(content)
    again, rest = read_headers(b"A: b\n \n" + content)
    assert (again[0][0], again[1:], rest) == ("A", found, body)


def test_the_shorter_way_ends_where_headers_do() -> None:
    """More than so many bytes of headers are refused, however they are written."""
    line = b"X: " + b"a" * 96 + b"\n"
    fits = line * (MAX_BLOCK // len(line))
    assert len(read_headers(fits + b"\nbody")[0]) == MAX_BLOCK // len(line)
    with pytest.raises(KernelError) as refusal:
        read_headers(fits + line + b"\nbody")
    assert refusal.value.errno == errno.EMSGSIZE
