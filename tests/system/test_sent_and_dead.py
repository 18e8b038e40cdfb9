"""What was sent and what was given up, as files on a real mount."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.system.test_identity import run_as
from tests.system.test_inotify import WRITTEN, Watcher, written
from tests.tree import Tree

pytestmark = pytest.mark.mount


def send(tree: Tree, receiver: str, text: str, sender: str = "init") -> str:
    """Send a message; its id, which is the newest in `sent`."""
    tree.write(f"agents/{sender}/outbox/{receiver}", text)
    return max(os.listdir(tree / f"agents/{sender}/sent"))


def state(tree: Tree, number: str, sender: str = "init") -> str:
    return tree.read(f"agents/{sender}/sent/{number}").splitlines()[0]


def give_up(tree: Tree, name: str, text: str = "poison") -> str:
    """A message to `name` that is a dead letter; its id."""
    tree.write("etc/agentfs.yaml", "messages: {max_delivery_attempts: 1}\n")
    number = send(tree, name, text)
    descriptor = os.open(tree / f"agents/{name}/recv", os.O_RDWR)
    try:
        assert os.read(descriptor, 65536).endswith(text.encode())
        os.write(descriptor, b"failed it makes no sense")
    finally:
        os.close(descriptor)
    return number


def test_sent_says_what_becomes_of_a_message(tree: Tree) -> None:
    pid = tree.spawn("alice")
    number = send(tree, "alice", "hello")
    path = tree / f"agents/init/sent/{number}"
    text = path.read_text()
    assert text.startswith(f"State: queued\nAttempt: 1\nMessage-ID: <{number}@")
    assert text.endswith("\n\nhello")
    assert path.stat().st_size == len(text)
    assert path.stat().st_mode & 0o7777 == 0o400
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    (new,) = (tree / "agents/alice/inbox/new").iterdir()
    claimed = tree / "agents/alice/inbox/cur" / new.name
    new.rename(claimed)
    text = path.read_text()
    assert text.startswith(f"State: claimed\nClaimed-By: alice ({pid})\nAttempt: 1\n")
    assert path.stat().st_size == len(text)
    claimed.unlink()
    assert path.read_text().startswith("State: done\nClaimed-By: alice\nAttempt: 1\nFinished: ")


def test_a_reader_that_has_it_open_sees_the_change(tree: Tree) -> None:
    tree.spawn("alice")
    number = send(tree, "alice", "hello")
    descriptor = os.open(tree / f"agents/init/sent/{number}", os.O_RDONLY)
    try:
        assert os.pread(descriptor, 13, 0) == b"State: queued"
        (new,) = (tree / "agents/alice/inbox/new").iterdir()
        new.unlink()
        assert os.pread(descriptor, 12, 0) == b"State: done\n"
        size = os.fstat(descriptor).st_size
        assert len(os.pread(descriptor, 65536, 0)) == size
    finally:
        os.close(descriptor)


def test_a_long_message_is_shown_while_it_waits_and_its_headers_after_that(tree: Tree) -> None:
    tree.spawn("alice")
    body = "x" * 200_000
    number = send(tree, "alice", body)
    assert tree.read(f"agents/init/sent/{number}").endswith(f"\n\n{body}")
    (new,) = (tree / "agents/alice/inbox/new").iterdir()
    new.unlink()
    text = tree.read(f"agents/init/sent/{number}")
    assert "\nBody-Dropped: 200" in text
    assert text.endswith("\n\n")


def test_watchers_see_sending_settling_and_dropping(tree: Tree) -> None:
    tree.spawn("alice")
    sent = tree / "agents/init/sent"
    watcher = Watcher(tree, sent)
    tree.write("agents/init/outbox/alice", "hello")
    (number,) = os.listdir(sent)
    where = f"agents/init/sent/{number}"
    assert ("CREATE", where) in watcher.until("CLOSE_WRITE", where)
    (sent / number).read_text()
    (new,) = (tree / "agents/alice/inbox/new").iterdir()
    new.unlink()
    assert watcher.until(WRITTEN[-1], where) == written(where)
    assert state(tree, number) == "State: done"
    (sent / number).unlink()
    assert watcher.until("DELETE", where) == [("DELETE", where)]


def test_what_the_kernel_sweeps_is_a_deletion(tree: Tree) -> None:
    tree.spawn("alice")
    tree.write("etc/agentfs.yaml", "messages: {max_sent: 1}\n")
    first = send(tree, "alice", "one")
    watcher = Watcher(tree, tree / "agents/init/sent")
    tree.write("agents/init/outbox/alice", "two")
    for path in sorted((tree / "agents/alice/inbox/new").iterdir()):
        path.unlink()
    watcher.until("DELETE", f"agents/init/sent/{first}")
    assert len(os.listdir(tree / "agents/init/sent")) == 1


def test_what_is_not_finished_cannot_be_removed(tree: Tree) -> None:
    tree.spawn("alice")
    number = send(tree, "alice", "hello")
    with pytest.raises(OSError) as refused:
        (tree / f"agents/init/sent/{number}").unlink()
    assert refused.value.errno == errno.EBUSY
    assert "not called back" in tree.read("proc/1/error")
    tree.read("agents/alice/recv")
    assert state(tree, number) == "State: claimed"
    with pytest.raises(PermissionError):
        (tree / "agents/init/sent/999999999999").write_text("x")


def test_a_dead_letter_that_is_moved_back_is_delivered_with_a_raised_attempt(tree: Tree) -> None:
    tree.spawn("alice")
    number = give_up(tree, "alice")
    assert os.listdir(tree / "agents/alice/dead") == [number]
    text = tree.read(f"agents/alice/dead/{number}")
    assert text.startswith("Reason: delivered 1 times, never acknowledged; last: it makes no sense")
    assert text.endswith("\n\npoison")
    assert len(text) == (tree / f"agents/alice/dead/{number}").stat().st_size
    assert state(tree, number) == "State: dead"
    watcher = Watcher(tree, tree / "agents/alice/dead", tree / "agents/alice/inbox/new")
    done = tree.start(
        "mv", str(tree / f"agents/alice/dead/{number}"), str(tree / "agents/alice/inbox/new/")
    )
    assert done.wait(20) == 0
    new = f"agents/alice/inbox/new/{number}"
    assert watcher.until("MOVED_TO", new) == [
        ("MOVED_FROM", f"agents/alice/dead/{number}"),
        ("MOVED_TO", new),
    ]
    assert state(tree, number) == "State: queued"
    assert os.listdir(tree / "agents/alice/dead") == []
    again = tree.read("agents/alice/recv")
    assert again.startswith(f"Messages-Waiting: 0\nDelivery-Attempt: 2\nMessage-ID: <{number}@")
    assert again.endswith("\n\npoison")


def test_giving_up_is_seen_as_a_move_into_dead(tree: Tree) -> None:
    tree.spawn("alice")
    watcher = Watcher(tree, tree / "agents/alice/dead")
    number = give_up(tree, "alice")
    where = f"agents/alice/dead/{number}"
    seen = watcher.until("CLOSE_WRITE", where)
    assert seen[0] == ("CREATE", where)
    (tree / where).unlink()
    assert watcher.until("DELETE", where) == [("DELETE", where)]
    with pytest.raises(FileNotFoundError):
        (tree / where).read_text()
    assert state(tree, number) == "State: dead"


def test_a_dead_letter_goes_nowhere_else(tree: Tree) -> None:
    tree.spawn("alice")
    tree.spawn("bob")
    number = give_up(tree, "alice")
    letter = tree / f"agents/alice/dead/{number}"
    for target in ("agents/bob/inbox/new/x", "agents/alice/inbox/cur/x", "agents/alice/dead/x"):
        with pytest.raises(OSError) as refused:
            letter.rename(tree / target)
        assert refused.value.errno in (errno.EPERM, errno.EXDEV), target
    assert os.listdir(tree / "agents/alice/dead") == [number]


def test_what_was_sent_and_given_up_is_there_after_kill_9(tree: Tree) -> None:
    tree.spawn("alice")
    dead = give_up(tree, "alice")
    queued = send(tree, "alice", "waits")
    before = {path: path.read_text() for path in _letters(tree)}
    assert len(before) == 3
    tree.crash()
    tree.mount()
    assert {path: path.read_text() for path in _letters(tree)} == before
    (tree / f"agents/alice/dead/{dead}").rename(tree / "agents/alice/inbox/new/again")
    tree.crash()
    tree.mount()
    assert (tree / "agents/alice/inbox/new/again").read_text().startswith("Delivery-Attempt: 2\n")
    assert state(tree, queued) == "State: queued"


def _letters(tree: Tree) -> list[Path]:
    return [*(tree / "agents/init/sent").iterdir(), *(tree / "agents/alice/dead").iterdir()]


def test_sent_and_dead_are_private(tree: Tree) -> None:
    tree.spawn("alice")
    number = give_up(tree, "alice")
    output = run_as(
        tree,
        "bob",
        f'cd "$AGENTFS/agents"; ls alice/dead; cat alice/dead/{number}; ls init/sent;'
        f" cat init/sent/{number}; rm -f alice/dead/{number}; ls alice/sent; ls bob/sent bob/dead;"
        " cat alice/recv.batch",
    )
    assert output.count("Permission denied") + output.count("Operation not permitted") == 7, output
    assert os.listdir(tree / "agents/alice/dead") == [number]


def test_an_agent_reads_what_became_of_its_own_messages(tree: Tree) -> None:
    tree.spawn("alice")
    output = run_as(
        tree,
        "bob",
        'cd "$AGENTFS/agents/self"; echo hello > outbox/alice; grep -h State sent/*; ls dead',
    )
    assert output == "State: queued\n"
