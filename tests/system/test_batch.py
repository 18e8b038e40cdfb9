"""recv.batch on a real mount: several messages in one read, as an mbox."""

from __future__ import annotations

import contextlib
import errno
import mailbox
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.test_blocking import ENDS_WITHIN, parked
from tests.tree import Tree, eventually
from tests.zoo.programs import run

pytestmark = pytest.mark.mount


def fill(tree: Tree, *texts: str) -> None:
    tree.spawn("alice")
    for text in texts:
        tree.write("agents/init/outbox/alice", text)


def read_all(descriptor: int) -> bytes:
    content = b""
    while chunk := os.read(descriptor, 65536):
        content += chunk
    return content


def as_mbox(content: bytes, folder: Path) -> list[mailbox.mboxMessage]:
    """What Python's own reader of mail finds in it."""
    path = folder / "batch"
    path.write_bytes(content)
    with contextlib.closing(mailbox.mbox(path, create=False)) as box:
        return list(box)


def test_h14_with_4_queued_the_first_read_says_that_3_more_wait_and_a_batch_yields_all(
    tree: Tree, tmp_path: Path
) -> None:
    """Hyperhive's H14: a hint of how many wait, and a batch that is acknowledged one by one or
    together."""
    fill(tree, "one", "two", "three", "four")
    first = tree.read("agents/alice/recv")
    assert first.startswith("Messages-Waiting: 3\n")
    # Put it back: all four in one read.
    cur, new = tree / "agents/alice/inbox/cur", tree / "agents/alice/inbox/new"
    (claimed,) = cur.iterdir()
    claimed.rename(new / claimed.name.partition(":")[0])
    descriptor = os.open(tree / "agents/alice/recv.batch", os.O_RDWR)
    try:
        os.write(descriptor, b"4\n")
        batch = as_mbox(read_all(descriptor), tmp_path)
        assert [message.get_payload() for message in batch] == [
            "one\n",
            "two\n",
            "three\n",
            "four\n",
        ]
        assert {message["Messages-Waiting"] for message in batch} == {"0"}
        names = [message["Claimed-As"] for message in batch]
        assert sorted(names) == sorted(os.listdir(cur))
        (cur / names[0]).unlink()  # one alone
        assert len(os.listdir(cur)) == 3
        tree.write("agents/init/outbox/alice", "five")
        batch = as_mbox(read_all(descriptor), tmp_path)  # all others together
        assert [message.get_payload() for message in batch] == ["five\n"]
        assert os.listdir(cur) == [message["Claimed-As"] for message in batch]
    finally:
        os.close(descriptor)


def test_cat_gives_ten_at_once_and_the_next_cat_the_next(tree: Tree, tmp_path: Path) -> None:
    fill(tree, *(f"{number}" for number in range(12)))
    sizes = []
    for _ in range(2):
        content = (tree / "agents/alice/recv.batch").read_bytes()
        sizes.append(len(as_mbox(content, tmp_path)))
    assert sizes == [10, 2]
    assert len(os.listdir(tree / "agents/alice/inbox/cur")) == 2


def test_bodies_that_look_like_separators_arrive_whole(tree: Tree, tmp_path: Path) -> None:
    fill(tree, "\nFrom me to you\n\nFrom x Mon Jan  1 00:00:00 2024\nTo: x\n", "no newline")
    content = (tree / "agents/alice/recv.batch").read_bytes()
    batch = as_mbox(content, tmp_path)
    assert len(batch) == 2
    unquoted = str(batch[0].get_payload()).replace(">From", "From")
    assert unquoted == "From me to you\n\nFrom x Mon Jan  1 00:00:00 2024\nTo: x\n"
    assert batch[1].get_from().startswith("init ")


@pytest.mark.skipif(
    None in map(shutil.which, ("mutt", "script")), reason="mutt or script is missing"
)
def test_mutt_reads_it(tree: Tree, tmp_path: Path) -> None:
    fill(tree, "Subject: first\n\nFrom one\n", "Subject: second\n\nthe other")
    path, saved, config = tmp_path / "batch", tmp_path / "saved", tmp_path / "muttrc"
    path.write_bytes((tree / "agents/alice/recv.batch").read_bytes())
    config.write_text(
        "set folder=/nonexistent\nset mbox_type=mbox\nset confirmappend=no\n"
        "set confirmcreate=no\nset quit=yes\nset wait_key=no\nset copy=no\n"
        f'push "<tag-pattern>~A<enter><tag-prefix><copy-message>{saved}<enter><quit>"\n'
    )
    run(
        "script",
        "-qec",
        f"mutt -n -R -F {config} -f {path}",
        "/dev/null",
        env={"TERM": "vt100", "HOME": str(tmp_path)},
    )
    batch = as_mbox(saved.read_bytes(), tmp_path)
    assert [message["Subject"] for message in batch] == ["first", "second"]
    assert str(batch[1].get_payload()).strip() == "the other"


def test_a_number_that_is_no_batch_is_refused(tree: Tree) -> None:
    fill(tree, "one")
    descriptor = os.open(tree / "agents/alice/recv.batch", os.O_RDWR)
    try:
        for text in (b"0", b"1001", b"-3", b"99999999999999999999", b"many", b"3 4", b"\xff"):
            with pytest.raises(OSError) as refused:
                os.write(descriptor, text)
            assert refused.value.errno == errno.EINVAL, text
        assert tree.read("proc/1/error")
        os.write(descriptor, b"1000")
        assert b"\n\none\n" in read_all(descriptor)
        os.write(descriptor, b"done")
        assert os.listdir(tree / "agents/alice/inbox/cur") == []
    finally:
        os.close(descriptor)


def test_a_thousand_messages_come_in_one_batch(tree: Tree, tmp_path: Path) -> None:
    tree.spawn("alice")
    descriptor = os.open(tree / "agents/init/send", os.O_WRONLY)
    for number in range(1000):
        os.write(descriptor, f"To: alice\n\n{number}".encode())
    os.close(descriptor)
    descriptor = os.open(tree / "agents/alice/recv.batch", os.O_RDWR)
    try:
        os.write(descriptor, b"1000")
        batch = as_mbox(read_all(descriptor), tmp_path)
    finally:
        os.close(descriptor)
    assert [str(message.get_payload()).strip() for message in batch] == [
        str(number) for number in range(1000)
    ]


def test_it_waits_for_the_first_and_can_be_polled(tree: Tree) -> None:
    fill(tree)
    descriptor = os.open(tree / "agents/alice/recv.batch", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 100)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(0) == []
        tree.write("agents/init/outbox/alice", "hello")
        assert poll.poll(20_000) == [(descriptor, select.POLLIN)]
        assert read_all(descriptor).endswith(b"\n\nhello\n\n")
    finally:
        os.close(descriptor)
    program = tree.start("cat", str(tree / "agents/alice/recv.batch"), stdout=subprocess.PIPE)
    eventually(lambda: parked(tree) == 1)
    tree.write("agents/init/outbox/alice", "late")
    assert program.communicate(timeout=20)[0].endswith(b"\n\nlate\n\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_batch_that_waits(tree: Tree, number: signal.Signals) -> None:
    fill(tree)
    program = tree.start("cat", str(tree / "agents/alice/recv.batch"), stdout=subprocess.DEVNULL)
    eventually(lambda: parked(tree) == 1)
    sent = time.monotonic()
    program.send_signal(number)
    program.wait(10)
    assert time.monotonic() - sent < ENDS_WITHIN
    assert program.returncode == -number


def test_a_batch_that_was_claimed_when_the_daemon_was_killed_comes_again(
    tree: Tree, tmp_path: Path
) -> None:
    fill(tree, "one", "two")
    (tree / "agents/alice/recv.batch").read_bytes()
    tree.crash()
    tree.mount()
    batch = as_mbox((tree / "agents/alice/recv.batch").read_bytes(), tmp_path)
    assert [(m.get_payload(), m["Delivery-Attempt"]) for m in batch] == [
        ("one\n", "2"),
        ("two\n", "2"),
    ]
