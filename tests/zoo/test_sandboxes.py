"""Programs that are started otherwise than by a shell: sandboxes, nohup, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import AGENTFS, Tree, eventually
from tests.zoo.programs import needs, run, waiting

pytestmark = pytest.mark.mount


@needs("bwrap")
def test_two_programs_in_a_sandbox_under_another_path_write_one_message(zoo: Tree) -> None:
    zoo.spawn("boxed")
    script = "{ /bin/echo one; /bin/echo two; } > /mnt/agents/init/outbox/boxed"
    run("bwrap", "--dev-bind", "/", "/", "--bind", zoo.path, "/mnt", "sh", "-c", script)
    assert waiting(zoo / "agents/boxed") == ["one\ntwo\n"]


@needs("bwrap")
def test_an_agent_reads_its_mail_in_a_sandbox_of_its_own(zoo: Tree) -> None:
    loop = 'while m=$(cat /mnt/recv); do echo "<$(echo "$m" | tail -n 1)>"; done'
    zoo.spawn(
        "inside",
        exec=["sh", "-c", f"exec bwrap --dev-bind / / --bind $AGENTFS/agents/inside /mnt"
              f" sh -c '{loop}'"],
    )  # fmt: skip
    for body in ("one\n", "two\n"):
        zoo.write("agents/init/outbox/inside", body)
    eventually(lambda: "<one>\n<two>\n" in zoo.read("agents/inside/log"))
    eventually(lambda: os.listdir(zoo / "agents/inside/inbox/cur") == [])


TRIO = """
import subprocess, sys, trio

async def main():
    async with await trio.open_file(sys.argv[1], "w") as file:
        await file.write("first ")
        await file.flush()
        await trio.sleep(0.2)  # the thread that opened it may end meanwhile
        subprocess.run(["true"], check=True)
        await file.write("second\\n")

trio.run(main)
"""


def test_a_file_that_trio_opened_in_a_thread_is_one_message(zoo: Tree) -> None:
    zoo.spawn("threaded")
    run(sys.executable, "-c", TRIO, zoo / "agents/init/outbox/threaded")
    assert waiting(zoo / "agents/threaded") == ["first second\n"]


@needs("nohup")
def test_an_agent_hears_hup_from_a_daemon_that_was_started_with_nohup(tmp_path: Path) -> None:
    mountpoint, state = tmp_path / "mnt", tmp_path / "state"
    mountpoint.mkdir()
    daemon = subprocess.Popen(
        ["nohup", *AGENTFS, "mount", "-f", str(mountpoint), "--state", str(state)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually((mountpoint / "proc/1/spawn").exists)
        script = "trap 'echo heard; exit 0' HUP; echo ready; while :; do sleep 0.05; done"
        made = subprocess.run(
            [*AGENTFS, "spawn", "-n", "listener", "--", "sh", "-c", script],
            env=os.environ | {"AGENTFS": str(mountpoint)}, capture_output=True, text=True,
            check=True, timeout=60,
        )  # fmt: skip
        log = mountpoint / "agents/listener/log"
        eventually(lambda: "ready" in log.read_text())
        (mountpoint / f"proc/{made.stdout.strip()}/ctl").write_text("HUP\n")
        eventually(lambda: "heard" in log.read_text())
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
        subprocess.run(["umount", "-l", str(mountpoint)], capture_output=True, check=False)
