"""/dev/events through the mount: from a number on, over a restart, under the same keys."""

from __future__ import annotations

import errno
import json
import os
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
