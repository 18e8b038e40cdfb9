"""/dev/events through the mount: from a number on, over a restart, under the same keys."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from typing import Any

import pytest

from tests.tree import Tree


def after(tree: Tree, seq: int) -> list[dict[str, Any]]:
    """What a reader gets who goes on after event `seq`, until there is no more."""
    descriptor = os.open(tree / "dev/events", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(descriptor, f"since {seq}\n".encode())
        text = b""
        while True:
            try:
                text += os.read(descriptor, 1 << 16)
            except BlockingIOError:
                return [json.loads(line) for line in text.splitlines()]
    finally:
        os.close(descriptor)


def test_a_watcher_goes_on_where_it_was_and_knows_what_it_lost(tree: Tree) -> None:
    boot = tree.read("sys/boot_id").strip()
    pid = tree.spawn("alice", role="lead")
    first, *events = after(tree, 0)
    assert (first["type"], first["boot"], first["seq"]) == ("boot", boot, 0)
    assert [event["seq"] for event in events] == list(range(1, events[-1]["seq"] + 1))
    seen = events[-1]["seq"]
    assert [event["type"] for event in after(tree, seen)] == ["boot"]
    tree.write("agents/self/outbox/alice", "hello")
    arrived = [event for event in after(tree, seen) if event["type"] == "message_arrived"]
    assert [(event["agent"], event["pid"]) for event in arrived] == [("alice", pid)]

    tree.write("agents/self/outbox/alice", "the watcher does not see this one")
    tree.unmount()
    tree.mount()
    tree.write("agents/self/outbox/alice", "this one it does")
    first, gone, *events = after(tree, seen)
    assert first["boot"] == tree.read("sys/boot_id").strip() != boot
    assert gone["type"] == "lost"
    assert gone["seq"] == seen + gone["count"]
    assert events[0]["seq"] == gone["seq"] + 1
    for event in (first, gone, *events):
        assert {"seq", "time", "type", "agent", "pid"} <= event.keys()


@pytest.mark.parametrize(
    ("command", "code"),
    [("since 99999999", errno.ERANGE), ("since -1", errno.EINVAL), ("from 1", errno.EINVAL)],
)
def test_a_number_that_is_none_is_refused(tree: Tree, command: str, code: int) -> None:
    descriptor = os.open(tree / "dev/events", os.O_RDWR)
    try:
        with pytest.raises(OSError) as refused:
            os.write(descriptor, command.encode())
        assert refused.value.errno == code
    finally:
        os.close(descriptor)


def head_then_rest(path: str) -> tuple[bytes, str]:
    """What `head -n1` prints, and then what another program finds in the same open file."""
    script = "head -n1; dd bs=65536 count=1 iflag=nonblock status=none || echo"
    with open(path, "rb", buffering=0) as opened:
        done = subprocess.run(
            ["/bin/sh", "-c", script], stdin=opened, capture_output=True, timeout=30, check=True
        )
    return done.stdout, done.stderr.decode()


def test_head_takes_one_line_of_a_stream_without_a_word_and_leaves_the_others(tree: Tree) -> None:
    for agent in ("alice", "bob", "carol"):
        tree.spawn(agent)
    path = tree / "dev/events.all"
    whole = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    content = os.read(whole, 65536)
    os.close(whole)
    assert content.count(b"\n") > 1
    shown, complaint = head_then_rest(str(path))
    assert complaint == ""
    assert shown[: len(content)] == content
    done = subprocess.run(
        ["head", "-n1", tree / "dev/kmsg"], capture_output=True, timeout=30, check=True
    )
    assert done.stderr == b""
    assert b"mounted at" in done.stdout


def test_head_takes_one_line_of_a_topic_and_of_an_exit_code_without_a_word(tree: Tree) -> None:
    pid = tree.spawn("alice")
    (tree / "dev/topics/news").touch()
    with open(tree / "dev/topics/news", "rb", buffering=0) as news:
        for word in (b"one", b"two"):
            (tree / "dev/topics/news").write_bytes(word)
        done = subprocess.run(
            ["/bin/sh", "-c", "head -n1; head -n1"],
            stdin=news, capture_output=True, timeout=30, check=True,
        )  # fmt: skip
    assert done.stderr == b""
    assert [json.loads(line)["data"] for line in done.stdout.splitlines()] == ["one", "two"]
    tree.write(f"proc/{pid}/ctl", "done 3")
    done = subprocess.run(
        ["head", "-n1", tree / f"proc/{pid}/wait"], capture_output=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == (b"3\n", b"")


def test_a_shell_reads_a_stream_line_by_line(tree: Tree) -> None:
    for name in ("one", "two", "three"):
        tree.spawn(name)
    path = tree / "dev/events.all"
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    lines = os.read(descriptor, 65536).decode().splitlines()[:3]
    os.close(descriptor)
    script = 'for n in 1 2 3; do IFS= read -r line && printf "%s\\n" "$line"; done'
    with open(path, "rb", buffering=0) as opened:
        done = subprocess.run(
            ["bash", "-c", script], stdin=opened, capture_output=True, timeout=30, check=True
        )
    assert done.stdout.decode().splitlines() == lines
