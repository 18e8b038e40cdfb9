"""Programs that watch files see what changes in the tree, and disturb nothing."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.tree import Tree, eventually
from tests.zoo.programs import needs

pytestmark = pytest.mark.mount


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@needs("entr")
def test_entr_runs_again_when_a_value_changes(zoo: Tree, tmp_path: Path) -> None:
    pid = zoo.spawn("watched")
    seen = tmp_path / "seen"
    state = zoo / f"proc/{pid}/state"
    listed = tmp_path / "listed"
    listed.write_text(f"{state}\n")
    with listed.open() as names:  # no shell around it, which would end alone
        entr = zoo.start("entr", "-n", "sh", "-c", f"cat {state} >> {seen}", stdin=names)
    eventually(lambda: text_of(seen) != "")

    def seen_again() -> bool:
        """entr forgets what happens while its program runs: so it happens again."""
        zoo.write(f"proc/{pid}/ctl", "CONT\n")
        zoo.write(f"proc/{pid}/ctl", "STOP\n")
        time.sleep(0.5)
        return "sleeping" in text_of(seen)

    eventually(seen_again)
    entr.kill()  # it does not end by TERM


@needs("inotifywait")
def test_inotifywait_for_close_write_sees_a_value_change(zoo: Tree, tmp_path: Path) -> None:
    pid = zoo.spawn("closed")
    seen = tmp_path / "seen"
    with seen.open("wb") as output:
        zoo.start(
            "inotifywait", "-m", "-e", "close_write", str(zoo / f"proc/{pid}/state"),
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    eventually(lambda: "established" in text_of(seen))
    zoo.write(f"proc/{pid}/ctl", "STOP\n")
    eventually(lambda: "CLOSE_WRITE" in text_of(seen), text_of(seen))


@needs("tail")
def test_tail_f_follows_a_log(zoo: Tree, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    pid = zoo.spawn(
        "talker",
        exec=["sh", "-c", 'echo begun; cat "$AGENTFS/agents/self/recv" | tail -n1; exec sleep 600'],
    )
    with seen.open("wb") as output:
        zoo.start("tail", "-n", "+1", "-f", str(zoo / "agents/talker/log"), stdout=output)
    eventually(lambda: "begun" in text_of(seen))
    zoo.write("agents/init/outbox/talker", "heard\n")
    eventually(lambda: "heard" in text_of(seen), text_of(seen))
    zoo.write(f"proc/{pid}/ctl", "KILL\n")


NODE_WATCH = """
const fs = require("fs");
fs.watch(process.argv[1], (kind, name) => console.log(kind, name));
console.log("ready");
setTimeout(() => process.exit(1), 60000);
"""


@needs("node")
def test_nodes_watch_sees_mail_arrive_and_takes_none(zoo: Tree, tmp_path: Path) -> None:
    zoo.spawn("nodder")
    seen = tmp_path / "seen"
    with seen.open("wb") as output:
        zoo.start("node", "-e", NODE_WATCH, str(zoo / "agents/nodder/inbox/new"), stdout=output)
    eventually(lambda: "ready" in text_of(seen))
    zoo.write("agents/init/outbox/nodder", "hello\n")
    eventually(lambda: "rename" in text_of(seen), text_of(seen))
    assert len(os.listdir(zoo / "agents/nodder/inbox/new")) == 1
