"""Hyperhive's requirements on delivery: H20, no wake-up is lost, and H21, the loop is supervised.

H5, H8 to H11 and H14 to H16 are named in the tests of what they are about: broadcast, reminders,
batches, questions and threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

import pytest

from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

# A consumer that comes as far as its argument says, and then waits to be killed.
CONSUMER = """
import os, sys, time
tree, me = os.environ["AGENTFS"], os.environ["AGENT_NAME"]
inbox, stage = f"{tree}/agents/{me}/inbox", sys.argv[1]
if os.environ.get("AGENT_DONE") or os.path.exists(f"{tree}/agents/{me}/memory/{stage}"):
    stage = "handle"
def reached(name):
    if stage == name:
        open(f"{tree}/agents/{me}/memory/{name}", "w").close()
        time.sleep(1000)
while not (names := os.listdir(f"{inbox}/new")):
    time.sleep(0.01)
name = sorted(names)[-1]
reached("list")
open(f"{inbox}/new/{name}").read()
reached("read")
os.rename(f"{inbox}/new/{name}", f"{inbox}/cur/{name}:2,")
reached("claim")
text = open(f"{inbox}/cur/{name}:2,").read()
reached("turn")
with open(f"{tree}/agents/{me}/memory/work", "a") as work:
    work.write(text.replace("\\n", "|") + "\\n")
reached("work")
os.unlink(f"{inbox}/cur/{name}:2,")
time.sleep(1000)
"""

FAST = "processes: {restart_backoff: 10ms, maid_interval: 100ms}\n"


@pytest.mark.parametrize("stage", ["list", "read", "claim", "turn", "work"])
def test_h20_a_consumer_killed_at_any_point_loses_no_message(tree: Tree, stage: str) -> None:
    tree.write("etc/agentfs.yaml", FAST)
    pid = tree.spawn("bob", exec=[sys.executable, "-c", CONSUMER, stage], restart="always")
    tree.write("agents/init/outbox/bob", "Type: job\n\ndo it")
    reached = tree / f"agents/bob/memory/{stage}"
    eventually(reached.exists)
    before = tree.read(f"proc/{pid}/ospid")
    os.kill(int(before), signal.SIGKILL)
    # Started again, it sees the newest first: the notice of its restart, or the message.
    work = tree / "agents/bob/memory/work"
    done = "claim" if stage in ("claim", "turn", "work") else ""
    eventually(lambda: tree.read(f"proc/{pid}/ospid") not in (before, ""))
    waiting = []
    for folder in ("new", "cur"):
        for path in (tree / "agents/bob/inbox" / folder).iterdir():
            with contextlib.suppress(FileNotFoundError):  # what it takes meanwhile is found below
                waiting.append(path.read_text())
    handled = work.read_text().splitlines() if work.exists() else []
    texts = waiting + [line.replace("|", "\n") for line in handled]
    jobs = [text for text in texts if "Type: job" in text]
    assert jobs
    ids = {line for text in jobs for line in text.splitlines() if line.startswith("Message-ID")}
    assert len(ids) == 1
    if done:
        assert any("Delivery-Attempt: 2" in text for text in jobs)


def test_h20_the_death_of_a_consumer_with_pending_mail_is_an_event(tree: Tree) -> None:
    pid = tree.spawn("bob", exec=["sleep", "1000"], restart="never")
    for text in ("one", "two"):
        tree.write("agents/init/outbox/bob", text)
    events = os.open(tree / "dev/events", os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.kill(int(tree.read(f"proc/{pid}/ospid")), signal.SIGKILL)
        assert tree.read(f"proc/{pid}/wait") == "137\n"
        lines = [json.loads(line) for line in os.read(events, 1 << 20).splitlines()]
    finally:
        os.close(events)
    [ended] = [event for event in lines if event["type"] == "consumer_ended"]
    assert (ended["agent"], ended["waiting"]) == ("bob", 2)


HANGS = """
import time
from agentfs.agent import Agent

agent = Agent()

@agent.on_type("job")
def work(message):
    if message.attempt == 1:
        time.sleep(1000)
    agent.send("init", f"done at attempt {message.attempt}")

agent.run()
"""


def test_h21_a_loop_that_stops_shows_as_stalled_and_is_started_again(tree: Tree) -> None:
    tree.write(
        "etc/agentfs.yaml",
        f"messages: {{stall_after: 300ms}}\n{FAST}",
    )
    pid = tree.spawn(
        "bob", exec=[sys.executable, "-c", HANGS], restart="on-failure", heartbeat="1s"
    )
    tree.write("agents/init/outbox/bob", "Type: job\n\nhang")
    tree.write("agents/init/outbox/bob", "Type: job\n\nwait")
    eventually(lambda: "\nStalled:\tyes\n" in tree.read(f"proc/{pid}/status"))
    answers = {tree.read("agents/init/recv").rpartition("\n\n")[2] for _ in range(2)}
    assert "done at attempt 2" in answers
    assert tree.read(f"proc/{pid}/status").count("Restarts:\t0\n") == 0
