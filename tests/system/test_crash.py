"""kill -9 of the daemon, at any moment: nothing accepted is lost, nothing acknowledged returns."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tree import Tree, eventually

pytestmark = [pytest.mark.mount, pytest.mark.torture]

SENDERS = 4
MESSAGES = 500
CRASHES = 8

# A sender writes each message through `send` or `outbox` until the call says that it was taken, and
# notes in a file of its own, outside of the tree, what was taken.
SENDER = """
import os, sys, time
tree, name, count, accepted = sys.argv[1], sys.argv[2], int(sys.argv[3]), open(sys.argv[4], "w")
number = 0
while number < count:
    body = f"{name}-{number}"
    try:
        if number % 2:
            descriptor = os.open(f"{tree}/agents/{name}/outbox/reader", os.O_WRONLY)
            content = body
        else:
            descriptor = os.open(f"{tree}/agents/{name}/send", os.O_WRONLY)
            content = f"To: reader\\n\\n{body}"
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)
    except OSError as failure:
        time.sleep(0.02)
        continue
    accepted.write(body + "\\n")
    accepted.flush()
    number += 1
    time.sleep(0.01)
"""


class Reader:
    """Claims by renaming, notes, acknowledges by deleting; tells what came back.

    `bodies` has what the messages said, `returned` the ids of those that came back.
    """

    def __init__(self, tree: Tree) -> None:
        self.inbox = tree / "agents/reader/inbox"
        self.bodies: set[str] = set()
        self.acknowledged: set[str] = set()
        self.returned: list[str] = []

    def turn(self) -> None:
        """Take whatever is there; an OSError means that the daemon is down."""
        for name in sorted(path.name for path in (self.inbox / "new").iterdir()):
            claimed = self.inbox / "cur" / f"{name}:2,S"
            (self.inbox / "new" / name).rename(claimed)
            head, _, body = claimed.read_text().partition("\n\n")
            headers = dict(line.split(": ", 1) for line in head.splitlines())
            identity = headers["Message-ID"]
            self.bodies.add(body)
            if identity in self.acknowledged:
                self.returned.append(identity)
            claimed.unlink()
            self.acknowledged.add(identity)


def test_four_senders_and_a_daemon_killed_at_random_lose_nothing(
    tree: Tree, tmp_path: Path
) -> None:
    chance = random.Random(20261121)
    names = [f"s{number}" for number in range(SENDERS)]
    for name in [*names, "reader"]:
        tree.spawn(name)
    senders = [
        tree.start(
            sys.executable, "-c", SENDER, str(tree.path), name, str(MESSAGES),
            str(tmp_path / f"{name}.accepted"),
        )
        for name in names
    ]  # fmt: skip
    reader = Reader(tree)
    reports: list[str] = []

    def crash_again_and_again() -> None:
        for _ in range(CRASHES):
            time.sleep(chance.uniform(0.1, 0.6))
            tree.crash()
            report = tree.doctor()
            reports.append("" if report.returncode == 0 else report.stdout + report.stderr)
            tree.mount()

    with ThreadPoolExecutor(1) as executor:
        crashes = executor.submit(crash_again_and_again)
        while any(sender.poll() is None for sender in senders) or not crashes.done():
            with contextlib.suppress(OSError):
                reader.turn()
        crashes.result()
    assert reports == [""] * CRASHES
    assert [sender.returncode for sender in senders] == [0] * SENDERS
    reader.turn()
    # A claim that a crash interrupted before its acknowledgement is still claimed.
    for path in (reader.inbox / "cur").iterdir():
        reader.bodies.add(path.read_text().partition("\n\n")[2])
        path.unlink()
    accepted = {
        line for name in names for line in (tmp_path / f"{name}.accepted").read_text().splitlines()
    }
    assert len(accepted) == SENDERS * MESSAGES
    assert accepted - reader.bodies == set()
    assert reader.returned == []


def test_an_acknowledged_message_never_comes_back(tree: Tree) -> None:
    tree.spawn("reader")
    for number in range(50):
        tree.write("agents/init/outbox/reader", f"{number}")
    inbox = tree / "agents/reader/inbox/new"
    names = sorted(path.name for path in inbox.iterdir())
    for name in names[:25]:
        (inbox / name).unlink()
    tree.crash()
    tree.mount()
    assert sorted(path.name for path in inbox.iterdir()) == names[25:]


WORKER = """
tree=$AGENTFS
while msg=$(cat "$tree/agents/self/recv"); do
    printf '%s\\n' "$msg" | grep -E '^Delivery-Attempt|^[0-9]' | tr '\\n' ' '; echo
    case $msg in *slow*) sleep 600 ;; esac
done
"""


def test_a_message_comes_back_to_a_killed_worker_and_says_so(tree: Tree) -> None:
    pid = tree.spawn("worker", exec=["sh", "-c", WORKER], restart="always")
    tree.write("agents/init/outbox/worker", "1 slow\n")
    eventually(lambda: tree.read(f"proc/{pid}/state") == "running\n")
    eventually(lambda: "1 slow" in tree.read("agents/worker/log"))
    os.kill(int(tree.read(f"proc/{pid}/ospid")), signal.SIGKILL)
    eventually(lambda: "Delivery-Attempt: 2 1 slow" in tree.read("agents/worker/log"))
    assert "Restarts:\t1\n" in tree.read(f"proc/{pid}/status")


def test_programs_go_on_through_a_crash_and_are_adopted_again(tree: Tree) -> None:
    pid = tree.spawn("sleeper", exec=["sleep", "600"])
    ospid = tree.read(f"proc/{pid}/ospid")
    tree.crash()
    tree.mount()
    assert tree.read(f"proc/{pid}/ospid") == ospid
    assert tree.read(f"proc/{pid}/state") in ("idle\n", "running\n")
    assert tree.read(f"proc/{pid}/name") == "sleeper\n"
    tree.write(f"proc/{pid}/ctl", "KILL\n")
    assert tree.read(f"proc/{pid}/wait") == "137\n"


def test_a_stale_mount_is_replaced_at_start(tree: Tree) -> None:
    tree.crash()
    assert tree.is_stale()
    tree.mount()
    assert tree.read("proc/1/name") == "init\n"
