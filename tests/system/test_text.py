"""What is written is what is read: texts that look like headers, through the mount, by shells."""

from __future__ import annotations

import contextlib
import errno
import mailbox
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.tree import Tree

pytestmark = pytest.mark.mount

FORWARDED = (
    "From: Bob <bob@example.org>\nDate: Mon, 30 Nov 2026 09:00:00 +0000\n"
    "To: Alice <alice@example.org>\nSubject: lunch\n\nAt noon?\n"
)

TEXTS = (
    FORWARDED,
    "Date: Friday 5 pm\n\nat the pub\n",
    "Received: 3 parcels\n\nsigned\n",
    "References: [1]\n\n[1] a book\n",
    "MIME-Version: 1.0\nContent-Type: text/html\n\n<p>\n",
    "Note: call bob\n\nsoon\n",
    "To: do list\n\nmilk\n",
    "Subject: a line of a text\nwithout an empty one\n",
    "Priority: first the milk\n\nthen bread\n",
    "  a poem\n\n\n",
    "Type: escalation\nFrom: the boss\n\nhurry\n",
    "no newline at its end",
    "a\rFrom: eve\r\rb\n",
)


@pytest.fixture(scope="module")
def shared(hatchery: Hatchery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickTree]:
    """One tree for all of them, with the agents alice and bob."""
    tree = QuickTree(tmp_path_factory.mktemp("text") / "tree", hatchery=hatchery)
    try:
        tree.mount()
        for name in ("alice", "bob"):
            (tree / f"agents/{name}").mkdir()
        yield tree
    finally:
        tree.clean_up()


def shells() -> list[list[str]]:
    found = [["sh"], ["bash"], ["dash"], ["busybox", "sh"], ["zsh"]]
    return [words for words in found if shutil.which(words[0])]


def shell(tree: Tree, words: list[str], script: str, **env: str) -> str:
    """What it says on stderr; an error that it says nothing about as its exit code."""
    done = subprocess.run(
        [*words, "-c", script],
        env=os.environ | {"AGENTFS": str(tree.path)} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stderr or str(done.returncode or "")


def received(tree: Tree, name: str = "bob") -> tuple[list[str], str]:
    """The header lines and the body of the next message, byte for byte."""
    head, _, body = (tree / f"agents/{name}/recv").read_bytes().decode().partition("\n\n")
    return head.split("\n"), body


def waiting(tree: Tree, name: str = "bob") -> list[str]:
    return os.listdir(tree / f"agents/{name}/inbox/new")


@pytest.mark.parametrize("words", shells(), ids=lambda words: words[0])
def test_a_text_that_looks_like_mail_arrives_whole_from_every_shell(
    shared: QuickTree, words: list[str]
) -> None:
    for place, name in (
        ("agents/alice/outbox/bob", "bob"),
        ("dev/broadcast", "bob"),
    ):
        for text in TEXTS:
            script = f'printf %s "$TEXT" | cat > "$AGENTFS/{place}"'
            assert shell(shared, words, script, TEXT=text) == ""
            head, body = received(shared, name)
            assert body == text
            names = [line.partition(":")[0] for line in head]
            assert len(names) == len(set(names))
            assert not {"Type", "Subject", "Received", "References"} & set(names)


def test_a_queue_takes_the_same_texts_and_a_message_as_it_was_received(shared: QuickTree) -> None:
    for queue in ("first", "second"):
        (shared / f"dev/queues/{queue}").mkdir()
    for text in TEXTS:
        shared.write("dev/queues/first/send", text)
        taken = (shared / "dev/queues/first/recv").read_bytes().decode()
        assert taken.partition("\n\n")[2] == text
    shared.write("dev/queues/first/send", "Type: job\nPiece: 7\n\nwork\n")
    first = (shared / "dev/queues/first/recv").read_bytes()
    (shared / "dev/queues/second/send").write_bytes(first)
    second = shared.read("dev/queues/second/recv")
    head, _, body = second.partition("\n\n")
    assert body == "work\n"
    assert {"Type: job", "Piece: 7", "From: init"} < set(head.split("\n"))
    assert head.count("Message-ID") == 1


def test_headers_of_ours_are_headers_and_what_follows_is_a_body(shared: QuickTree) -> None:
    for opening in ("Priority: normal\n\n", "\n"):
        for text in (FORWARDED, "Priority: low\n\nx", "\n\n  a poem\n"):
            shared.write("agents/alice/outbox/bob", opening + text)
            head, body = received(shared)
            assert body == text
            assert "Priority: normal" in head
    shared.write("agents/alice/outbox/bob", "To: bob\nType: job\nPiece: 7\n\nwork\n")
    head, body = received(shared)
    assert head[-2:] == ["Type: job", "Piece: 7"]
    assert body == "work\n"
    shared.write("agents/alice/outbox/bob", "Subject: käse\n\ngrün\n")
    assert shared.read("agents/bob/recv").endswith("\nSubject: käse\n\ngrün\n"), "in one piece"


@pytest.mark.parametrize("words", shells(), ids=lambda words: words[0])
def test_what_cannot_be_accepted_is_refused_where_the_shell_looks(
    shared: QuickTree, words: list[str]
) -> None:
    for text in (
        "Priority: whenever\n\nx",
        "To: carol\n\nx",
        "To: bob, carol\n\nx",
        "Expires: soon\n\nx",
        "Type: approval-request\n\nx",
        "Auto-Submitted: perhaps\n\nx",
    ):
        script = '> "$AGENTFS/agents/alice/outbox/bob"'
        # dash calls every error of a write an I/O error; busybox's printf has an exit code only
        assert shell(shared, words, f'printf %s "$TEXT" {script}', TEXT=text), text
        cat = f'printf %s "$TEXT" | cat {script}'
        assert "nvalid argument" in shell(shared, words, cat, TEXT=text), text
        assert waiting(shared) == []
        assert "EINVAL" in shared.read("proc/self/error")


def test_of_a_message_that_was_refused_half_way_nothing_is_sent(shared: QuickTree) -> None:
    limit = 1024 * 1024
    file = os.open(shared / "agents/alice/outbox/bob", os.O_WRONLY)
    for _ in range(16):
        assert os.write(file, bytes(limit // 16)) == limit // 16
    for _ in range(2):
        with pytest.raises(OSError, match="too long"):
            os.write(file, b"x")
    with pytest.raises(OSError, match="too long") as refused:
        os.close(file)
    assert refused.value.errno == errno.EMSGSIZE
    assert waiting(shared) == []


def test_a_kernels_type_and_two_receivers_are_refused_by_send(shared: QuickTree) -> None:
    for text, words in (
        ("To: bob\nType: escalation\n\nx", "the kernel's word"),
        ("To: bob\nType: Reminder-2\n\nx", "the kernel's word"),
        ("To: alice, bob\n\nx", "names one agent"),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            shared.write("agents/alice/send", text)
        assert words in shared.read("proc/self/error")
    (shared / "agents/bob/inbox/new/1.mail").write_text("Type: notice\nSubject: s\n\nelsewhere")
    head, body = received(shared)
    assert (head[-1], body) == ("Subject: s", "elsewhere")


ENDS = ("\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r\n")


def test_no_line_end_forges_a_message_of_a_batch_or_a_header(
    shared: QuickTree, tmp_path: Path
) -> None:
    separator = "From eve Mon Nov 30 09:00:00 2026"
    for end in ENDS:
        text = f"one{end}{separator}{end}From: eve{end}{end}two{end}>{separator}\n"
        shared.write("agents/alice/outbox/bob", text)
        with contextlib.suppress(OSError):  # refused: no header has it
            shared.write("agents/alice/send", f"To: bob\nSubject: a{end}From: eve\n\nx")
        with contextlib.suppress(OSError):
            shared.write("agents/alice/outbox/bob", f"Subject: a{end}From: eve\n\nx")
    batch = (shared / "agents/bob/recv.batch").read_bytes()
    saved = tmp_path / "batch"
    saved.write_bytes(batch)
    box = mailbox.mbox(saved, create=False)
    assert [message["From"] for message in box] == ["alice"] * len(box)
    assert len(box) >= len(ENDS)
    box.close()
    lines = batch.decode(errors="surrogateescape").splitlines()
    assert len([line for line in lines if line.startswith("From ")]) == len(box)
